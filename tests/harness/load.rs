//! Callers who insist while things go wrong, what they were told, and whether every yes was kept.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::eventually::eventually;
use super::http::Answer;
use super::server::Server;
use super::stage::Stage;

/// No request may take longer, whatever happens to the database.
const LONGEST_REQUEST: Duration = Duration::from_secs(29);
/// A run that has not ended so long after the trouble is lost.
const END_DEADLINE: Duration = Duration::from_secs(150);
const BEFORE_AGAIN: Duration = Duration::from_millis(150);
/// Tasks of each run.
const TASKS: i64 = 2;
const RECIPE: &str = "lab";

/// Limits that let a test be over soon, and short lives of the dead.
pub(crate) const ROOMY: [(&str, &str); 4] = [
    ("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "1000000"),
    ("SBX_QUEUE_CONCURRENCY", "1000"),
    ("SBX_QUEUE_WORKER_CONCURRENCY", "100"),
    ("EXECUTOR_EXPIRY_MS", "4000"),
];

/// What callers were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Runs whose start was answered with 202.
    pub(crate) accepted: Vec<String>,
    /// Answers 429 and 503.
    pub(crate) refused: usize,
    /// The longest that an answer took.
    pub(crate) slowest: Duration,
}

impl Stage {
    /// A recipe whose runs ask nobody and touch no machine, and no ticks beside them: for counting rows. Call it when a server has started.
    pub(crate) async fn prepare_load(&self) {
        self.pause_ticks().await;
        self.sql_execute(&format!(
            "INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, created_at) \
             VALUES ('{RECIPE}', 1, 'intentQ', 5, 5, 5, 'configured', 'auto', 'configured', 0)"
        ))
        .await;
    }

    /// Every accepted run ends in success, each thing was done once, nothing is left behind, and `doctor` agrees.
    pub(crate) async fn assert_kept(&self, accepted: &[String]) {
        let count = i64::try_from(accepted.len()).expect("a count");
        eventually(END_DEADLINE, "every accepted run ends", || async {
            let ended = "SELECT count(*) AS n FROM app.runs WHERE status = 'succeeded' AND id NOT LIKE 'sched-%'";
            let ended = self.sql_count(ended).await;
            if ended == count {
                return Ok(());
            }
            let left = "SELECT r.id, r.status, w.status AS workflow, w.owner_xid, w.recovery_attempts, w.error, v.conditions, c.executor_id AS claimed_by \
                        FROM app.runs r JOIN dbos.workflow_status w ON w.workflow_uuid = r.id LEFT JOIN app.waits v ON v.workflow_id = r.id \
                        LEFT JOIN app.claims c ON c.workflow_id = r.id WHERE r.status <> 'succeeded' LIMIT 3";
            Err(format!("{ended} of {count}; {:?}", self.sql(left).await))
        })
        .await;
        let workflows = "dbos.workflow_status WHERE workflow_uuid NOT LIKE 'sched-%'";
        for (what, rows) in [
            ("app.runs WHERE id NOT LIKE 'sched-%'", count),
            ("app.run_steps", 4 * count),
            ("app.sbx_runs", TASKS * count),
            (workflows, (1 + TASKS) * count),
            (&format!("{workflows} AND status <> 'SUCCESS'"), 0),
            ("app.claims", 0),
            ("app.waits", 0),
        ] {
            // What has ended is released in the moment it is read.
            eventually(
                Duration::from_secs(10),
                &format!("{rows} rows of {what}"),
                || async {
                    let found = self
                        .sql_count(&format!("SELECT count(*) AS n FROM {what}"))
                        .await;
                    if found == rows { Ok(()) } else { Err(found) }
                },
            )
            .await;
        }
        self.assert_no_duplicates().await;
        self.assert_sound().await;
    }
}

impl Server {
    /// Has `callers` start `count` runs, each asking again until it is told yes. Any answer but yes, 429 and 503 fails the test, and so does
    /// one that does not come.
    pub(crate) async fn load(&self, count: usize, callers: usize, pause: Duration) -> Told {
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let server = self.clone();
            let share = count / callers + usize::from(caller < count % callers);
            calling.spawn(async move {
                let mut told = Told::default();
                for _ in 0..share {
                    server.start_one(&mut told).await;
                    tokio::time::sleep(pause).await;
                }
                told
            });
        }
        let mut all = Told::default();
        while let Some(told) = calling.join_next().await {
            let told = told.expect("a caller met something that no caller may meet");
            all.accepted.extend(told.accepted);
            all.refused += told.refused;
            all.slowest = all.slowest.max(told.slowest);
        }
        assert_eq!(all.accepted.len(), count);
        all
    }

    async fn start_one(&self, told: &mut Told) {
        let intent = json!({"goal": "one of many", "inputs": {"command": "echo", "tests": ["a", "b"]}, "constraints": {}});
        let intent = self.insist("/api/intents", &intent, 201, told).await;
        let start = json!({"intentId": intent["intentId"], "queuePartitionKey": "lab", "recipeName": RECIPE});
        let started = self.insist("/api/runs", &start, 202, told).await;
        let run = started["workflowID"].as_str().expect("an id").to_owned();
        told.accepted.push(run);
    }

    async fn insist(&self, path: &str, body: &Value, wanted: u16, told: &mut Told) -> Value {
        loop {
            let asked = Instant::now();
            let answer: Answer = self.post(path, body).await;
            told.slowest = told.slowest.max(asked.elapsed());
            assert!(
                asked.elapsed() < LONGEST_REQUEST,
                "{answer} after {:?}",
                asked.elapsed()
            );
            if !matches!(answer.status, 429 | 503) {
                return answer.expect(wanted);
            }
            assert!(answer.header("retry-after").is_some(), "{answer}");
            told.refused += 1;
            tokio::time::sleep(BEFORE_AGAIN).await;
        }
    }

    /// How many lines of its log warn or worse.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let warns = |line: &&str| {
            line.contains("WARN") || line.contains("ERROR") || line.contains("panicked")
        };
        log.lines().filter(warns).map(str::to_owned).collect()
    }

    /// Until the admin port's health is this status.
    pub(crate) async fn wait_health(&self, wanted: u16) {
        let url = format!("{}/healthz", self.admin_base());
        eventually(
            Duration::from_secs(20),
            &format!("{url} is {wanted}"),
            || async {
                let asked = Instant::now();
                let answer = self
                    .client()
                    .get(&url)
                    .send()
                    .await
                    .map_err(|e| e.to_string())?;
                assert!(
                    asked.elapsed() < Duration::from_secs(5),
                    "health took {:?}",
                    asked.elapsed()
                );
                if answer.status().as_u16() == wanted {
                    Ok(())
                } else {
                    Err(answer.status().to_string())
                }
            },
        )
        .await;
    }
}
