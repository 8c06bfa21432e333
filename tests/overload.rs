//! More callers than there is room for: every answer is a yes or a 429, every yes is kept, and who only reads hardly notices.
//! `STEPWELL_TEST_LONG=1` loads for 30 s instead of 8, and holds the service to its promise about reads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::*;
use sea_orm::sqlx::{self, Connection};
use serde_json::{Value, json};

const CALLERS: usize = 200;
/// How many times slower the slowest hundredth of reads may be under load.
const MOST_RATIO: f64 = 10.0;
const READS_WHEN_IDLE: usize = 500;
const BETWEEN_READS: Duration = Duration::from_millis(5);

/// A connection that posts, and what it was answered.
struct Caller {
    wire: Wire,
    created: i64,
    started: i64,
    refused: i64,
}

impl Caller {
    async fn open(server: &Server) -> Self {
        Self {
            wire: server.wire().await,
            created: 0,
            started: 0,
            refused: 0,
        }
    }

    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.wire.send(request.as_bytes()).await;
        self.wire.answer(path).await
    }

    /// The answer's body, or none for a refusal; anything else is a failed test.
    fn accepted(&mut self, answer: &Answer, status: u16) -> Option<Value> {
        if answer.status == 429 {
            assert_eq!(answer.expect_refusal(429)["code"], "overloaded");
            assert_eq!(answer.header("retry-after"), Some("1"), "{answer}");
            self.refused += 1;
            return None;
        }
        Some(answer.expect(status))
    }

    /// Posts an intent and a run of it, again and again, and pays no heed to what `Retry-After` says.
    async fn insist(&mut self, until: Instant) {
        let intent =
            json!({"goal": "one of many", "inputs": {"command": "echo"}, "constraints": {}});
        while Instant::now() < until {
            let answer = self.post("/api/intents", &intent).await;
            let Some(created) = self.accepted(&answer, 201) else {
                continue;
            };
            self.created += 1;
            let start = json!({"intentId": created["intentId"], "queuePartitionKey": "crowd", "recipeName": "mock-auto"});
            while Instant::now() < until {
                let answer = self.post("/api/runs", &start).await;
                if self.accepted(&answer, 202).is_some() {
                    self.started += 1;
                    break;
                }
            }
        }
    }
}

/// Reads a run and answers how long that took.
async fn read(wire: &mut Wire, run: &str) -> Duration {
    let begun = Instant::now();
    wire.send(format!("GET /api/runs/{run} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .await;
    wire.answer("GET").await.expect(200);
    begun.elapsed()
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// A transaction that lets nobody else write, until it is dropped.
enum WriteLock {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl WriteLock {
    async fn take(stage: &Stage) -> Self {
        match stage.backend() {
            Backend::Sqlite => {
                let mut db = sqlx::SqliteConnection::connect(stage.database_url())
                    .await
                    .unwrap();
                sqlx::raw_sql("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE")
                    .execute(&mut db)
                    .await
                    .unwrap();
                Self::Sqlite(db)
            }
            Backend::Postgres => {
                let mut db = sqlx::PgConnection::connect(stage.database_url())
                    .await
                    .unwrap();
                sqlx::raw_sql("BEGIN; LOCK TABLE app.intents IN SHARE ROW EXCLUSIVE MODE")
                    .execute(&mut db)
                    .await
                    .unwrap();
                Self::Postgres(db)
            }
        }
    }

    async fn release(self) {
        match self {
            Self::Sqlite(db) => db.close().await.unwrap(),
            Self::Postgres(db) => db.close().await.unwrap(),
        }
    }
}

on_both_databases! {
    async fn while_nothing_can_be_written_reads_are_answered_and_writes_are_refused(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        let before = stage.sql_count("SELECT count(*) FROM app.intents").await;

        let lock = WriteLock::take(&stage).await;
        let mut posting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let mut caller = Caller::open(&server).await;
            posting.spawn(async move {
                let intent = json!({"goal": "one of many", "inputs": {}, "constraints": {}});
                let answer = caller.post("/api/intents", &intent).await;
                caller.accepted(&answer, 201).is_some()
            });
        }
        // All but the few in the lane are refused while the lock is held.
        let mut refused = 0;
        while refused < 90 {
            let ended = tokio::time::timeout(Duration::from_secs(20), posting.join_next()).await;
            let accepted = ended.expect("the refused are told").unwrap().unwrap();
            assert!(!accepted, "nothing can be written now");
            refused += 1;
        }
        assert_eq!(server.get("/healthz").await.status, 200);
        assert_eq!(server.get(&format!("/api/runs/{run}")).await.status, 200);
        lock.release().await;
        let mut accepted = 0;
        while let Some(ended) = posting.join_next().await {
            accepted += i64::from(ended.unwrap());
        }

        assert!(accepted >= 1, "who was in the lane got through");
        let stored = stage.sql_count("SELECT count(*) FROM app.intents").await;
        assert_eq!(stored - before, accepted, "a refusal has written nothing");
        server.create_intent("after the storm", json!({})).await;
    }

    async fn of_two_hundred_callers_every_one_is_served_or_told_to_wait(stage: Stage) {
        // Two such crowds at once would be measured against each other.
        let _alone = machine_lock("overload").await;
        let server = stage
            .serve_with(&[
                ("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "1000000"),
                ("SBX_QUEUE_CONCURRENCY", "1000"),
                ("SBX_QUEUE_WORKER_CONCURRENCY", "100"),
            ])
            .await;
        stage
            .sql_execute(
                "INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, created_at) \
                 VALUES ('mock-auto', 1, 'intentQ', 5, 5, 5, 'configured', 'auto', 'configured', 0)",
            )
            .await;
        let watched = server.start_golden_run().await;
        server.wait_next_action(&watched, "APPROVE_PLAN").await;
        let intents = stage.sql_count("SELECT count(*) FROM app.intents").await;
        let runs = stage.sql_count("SELECT count(*) FROM app.runs").await;
        let mut reader = server.wire().await;
        let mut idle = Vec::new();
        for _ in 0..READS_WHEN_IDLE {
            idle.push(read(&mut reader, &watched).await);
            tokio::time::sleep(BETWEEN_READS).await;
        }

        let duration = Duration::from_secs(if long_tests_are_wanted() { 30 } else { 8 });
        let until = Instant::now() + duration;
        let mut calling = tokio::task::JoinSet::new();
        for _ in 0..CALLERS {
            let mut caller = Caller::open(&server).await;
            calling.spawn(async move {
                caller.insist(until).await;
                (caller.created, caller.started, caller.refused)
            });
        }
        let mut loaded = Vec::new();
        while Instant::now() < until {
            loaded.push(read(&mut reader, &watched).await);
            tokio::time::sleep(BETWEEN_READS).await;
        }
        let (mut created, mut started, mut refused) = (0, 0, 0);
        while let Some(told) = calling.join_next().await {
            let (c, s, r) = told.unwrap();
            (created, started, refused) = (created + c, started + s, refused + r);
        }

        let reads = loaded.len();
        let (idle, loaded) = (p99(idle), p99(loaded));
        let ratio = loaded.as_secs_f64() / idle.as_secs_f64();
        report(&format!(
            "{}: {CALLERS} callers for {} s: {created} intents, {started} runs, {refused} refusals; {reads} reads, p99 {idle:?} idle, {loaded:?} under load, ratio {ratio:.1}",
            stage.backend().name(),
            duration.as_secs()
        ));
        assert!(started > 0 && refused > 0, "{started} started, {refused} refused");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.intents").await - intents, created);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs").await - runs, started);
        eventually(Duration::from_secs(300), "every run that was accepted ends", || async {
            let ended = stage.sql_count("SELECT count(*) FROM app.runs WHERE status = 'succeeded'").await;
            if ended == started { Ok(()) } else { Err(format!("{ended} of {started}")) }
        })
        .await;
        stage.assert_no_duplicates().await;
        if long_tests_are_wanted() {
            assert!(ratio < MOST_RATIO, "p99 of reads: {idle:?} idle, {loaded:?} under load");
        }
    }
}
