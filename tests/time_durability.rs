//! Time that outlives processes: sleeps that a kill -9 neither shortens nor restarts, deadlines and delays, ticks that are caught up.
//! `mise run wf:time:sleep` runs the tests named `sleep_…`, `mise run wf:time:scheduler` those named `scheduler_…`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use harness::*;
use serde_json::json;
use stepwell::{
    engine::{
        Client, Context, Engine, EngineOptions, StartOptions, Workflow, WorkflowError, migrate,
    },
    store::{Database, DatabaseOptions, queue_limits::QueueSettings, workflows},
};
use tokio::process::Child;

const QUEUE: &str = "testQ";
const VERSION: &str = "v1";
const DEADLINE: Duration = Duration::from_secs(60);
/// What an idle system may be late by.
const LATE_MS: i64 = 1_000;
/// The time after which a process that was killed is known to be dead, and a look at it.
const EXPIRY_MS: i64 = 1_000;
const YEAR: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Sleepers that wake in one minute.
const SLEEPERS: i64 = 5_000;
const SLEEPERS_LONG: i64 = 100_000;
/// Delayed starts in one statement: enough that a millisecond passes while one of their rows is made.
const DELAYED: i64 = 20_000;

/// A step, a sleep, a step. Answers when it woke.
struct Sleeper;

impl Workflow for Sleeper {
    const NAME: &'static str = "test.sleeper";
    type Input = u64;
    type Output = i64;

    async fn run(&self, ctx: &Context, milliseconds: u64) -> Result<i64, WorkflowError> {
        ctx.step("before", || async { Ok(now()) }).await?;
        ctx.sleep(Duration::from_millis(milliseconds)).await?;
        ctx.step("after", || async { Ok(now()) }).await
    }
}

async fn engine(url: &str) -> Engine {
    let db = Database::connect(&DatabaseOptions::new(url)).await.unwrap();
    migrate(&db).await.unwrap();
    let options = EngineOptions {
        queues: vec![QueueSettings::unlimited(QUEUE)],
        executor_expiry_ms: EXPIRY_MS,
        ..EngineOptions::default()
    };
    Engine::builder(db, options)
        .register(Sleeper)
        .unwrap()
        .launch()
}

async fn client(stage: &Stage) -> Client {
    let options = DatabaseOptions::new(stage.database_url());
    let db = Database::connect(&options).await.unwrap();
    migrate(&db).await.unwrap();
    Client::without_engine(db, VERSION.into())
}

fn start(id: impl Into<String>) -> StartOptions {
    in_queue(QUEUE, id)
}

/// Not a test: what the process does that the tests kill. It executes sleepers until then.
#[test]
#[ignore = "a process that other tests start"]
fn executes_sleepers_until_it_is_killed() {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let _engine = engine(&url).await;
        std::future::pending::<()>().await;
    });
}

/// Starts a process that executes sleepers.
fn executing(stage: &Stage) -> Child {
    let this = std::env::current_exe().unwrap();
    stage
        .tool(this.to_str().unwrap())
        .args([
            "--ignored",
            "--exact",
            "executes_sleepers_until_it_is_killed",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The time to wake that is recorded, once the workflow has let go of its process.
async fn until_asleep(stage: &Stage, id: &str) -> i64 {
    eventually(DEADLINE, &format!("{id} is asleep"), || async {
        let rows = stage
            .sql(&format!(
                "SELECT o.output AS wake, w.due_at FROM app.waits w JOIN dbos.operation_outputs o ON o.workflow_uuid = w.workflow_id \
                 WHERE w.workflow_id = '{id}' AND o.function_name = 'DBOS.sleep'"
            ))
            .await;
        match rows.as_slice() {
            [row] => Ok(row["wake"].as_str().unwrap().parse().unwrap()),
            _ => Err(format!("{rows:?}")),
        }
    })
    .await
}

async fn woken_at(stage: &Stage, id: &str) -> i64 {
    eventually(DEADLINE, &format!("{id} has ended"), || async {
        let rows = stage
            .sql(&format!(
                "SELECT output FROM dbos.workflow_output WHERE workflow_uuid = '{id}'"
            ))
            .await;
        match rows.as_slice() {
            [row] => Ok(row["output"].as_str().unwrap().parse().unwrap()),
            _ => Err(status(stage, id).await),
        }
    })
    .await
}

async fn status(stage: &Stage, id: &str) -> String {
    let sql = format!("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = '{id}'");
    stage.sql_value(&sql).await.as_str().unwrap().to_owned()
}

async fn until_status(stage: &Stage, id: &str, wanted: &str) {
    eventually(DEADLINE, &format!("{id} is {wanted}"), || async {
        let found = status(stage, id).await;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

/// How many steps are recorded under a name.
async fn recorded(stage: &Stage, id: &str, step: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = '{id}' AND function_name = '{step}'"
    );
    stage.sql_count(&sql).await
}

on_both_databases! {
    async fn sleep_is_neither_shortened_nor_restarted_by_a_kill(stage: Stage) {
        let client = client(&stage).await;
        client.start::<Sleeper>(&8_000, start("s")).await.unwrap();
        let mut process = executing(&stage);
        let wake = until_asleep(&stage, "s").await;
        for _ in 0..2 {
            process.kill().await.unwrap();
            process = executing(&stage);
            eventually(DEADLINE, "the new process beats", || async {
                let alive = stage.sql_count("SELECT count(*) FROM app.executors").await;
                if alive > 0 { Ok(()) } else { Err("nobody does") }
            })
            .await;
        }

        let woken = woken_at(&stage, "s").await;

        assert!((0..=LATE_MS).contains(&(woken - wake)), "woken {} ms after its time", woken - wake);
        for step in ["before", "DBOS.sleep", "after"] {
            assert_eq!(recorded(&stage, "s", step).await, 1, "{step}");
        }
        process.kill().await.unwrap();
    }

    async fn sleep_that_ends_while_nothing_runs_ends_at_the_next_start(stage: Stage) {
        let client = client(&stage).await;
        client.start::<Sleeper>(&2_000, start("s")).await.unwrap();
        let mut process = executing(&stage);
        let wake = until_asleep(&stage, "s").await;
        process.kill().await.unwrap();
        eventually(DEADLINE, "its time has passed", || async {
            if now() > wake + 500 { Ok(()) } else { Err(wake - now()) }
        })
        .await;
        assert_eq!(status(&stage, "s").await, "PENDING");

        let (began, mut process) = (now(), executing(&stage));
        let woken = woken_at(&stage, "s").await;

        assert!(woken >= began && woken < began + 10_000, "it does not sleep again");
        assert_eq!(recorded(&stage, "s", "before").await, 1);
        process.kill().await.unwrap();
    }

    async fn sleep_whose_process_dies_while_it_goes_to_sleep_is_kept(stage: Stage) {
        let client = client(&stage).await;
        for n in 0..40 {
            client.start::<Sleeper>(&1_500, start(format!("s{n}"))).await.unwrap();
        }
        // Wherever they are just then.
        for _ in 0..3 {
            let mut process = executing(&stage);
            eventually(DEADLINE, "somebody executes", || async {
                let claims = stage.sql_count("SELECT count(*) FROM app.claims").await;
                let waits = stage.sql_count("SELECT count(*) FROM app.waits").await;
                if claims + waits > 0 { Ok(()) } else { Err("nobody does") }
            })
            .await;
            process.kill().await.unwrap();
        }
        let mut process = executing(&stage);
        for n in 0..40 {
            woken_at(&stage, &format!("s{n}")).await;
        }
        let early = "SELECT count(*) FROM dbos.operation_outputs s JOIN dbos.operation_outputs a ON a.workflow_uuid = s.workflow_uuid \
                     WHERE s.function_name = 'DBOS.sleep' AND a.function_name = 'after' AND CAST(a.output AS bigint) < CAST(s.output AS bigint)";
        assert_eq!(stage.sql_count(early).await, 0, "nobody wakes early");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.waits").await, 0);
        process.kill().await.unwrap();
    }

    async fn sleep_on_an_idle_system_ends_within_a_second_of_its_time(stage: Stage) {
        let engine = engine(stage.database_url()).await;
        for n in 0..30_u64 {
            engine.client().start::<Sleeper>(&(1_100 + n * 137), start(format!("s{n}"))).await.unwrap();
        }
        let mut latest = 0;
        for n in 0..30 {
            let id = format!("s{n}");
            let woken = woken_at(&stage, &id).await;
            let wake = stage.sql_value(&format!("SELECT output FROM dbos.operation_outputs WHERE workflow_uuid = '{id}' AND function_name = 'DBOS.sleep'")).await;
            let wake: i64 = wake.as_str().unwrap().parse().unwrap();
            assert!(woken >= wake, "{id} woke early");
            latest = latest.max(woken - wake);
        }
        assert!(latest <= LATE_MS, "{latest} ms late");
        engine.shutdown().await;
    }

    async fn sleep_of_a_year_is_one_row_that_nothing_can_shorten(stage: Stage) {
        let engine = engine(stage.database_url()).await;
        let year = u64::try_from(YEAR.as_millis()).unwrap();
        engine.client().start::<Sleeper>(&year, start("s")).await.unwrap();
        let wake = until_asleep(&stage, "s").await;
        assert!((wake - now() - i64::try_from(year).unwrap()).abs() < 60_000);
        for (table, rows) in [("app.waits", 1), ("app.claims", 0)] {
            assert_eq!(stage.sql_count(&format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
        }

        // Woken before its time it sleeps on.
        stage.sql_execute("UPDATE app.waits SET due_at = 1").await;
        eventually(DEADLINE, "it has gone to sleep again", || async {
            let rows = stage.sql("SELECT due_at FROM app.waits").await;
            if rows.first().is_some_and(|row| row["due_at"] == wake) { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        assert_eq!((status(&stage, "s").await.as_str(), recorded(&stage, "s", "after").await), ("PENDING", 0));
        engine.shutdown().await;
    }

    async fn sleep_ends_at_a_deadline_and_at_a_cancel(stage: Stage) {
        let engine = engine(stage.database_url()).await;
        let hour = 3_600_000;
        let limited = StartOptions { timeout: Some(Duration::from_secs(2)), ..start("limited") };
        engine.client().start::<Sleeper>(&hour, limited).await.unwrap();
        for id in ["cancelled", "elsewhere"] {
            engine.client().start::<Sleeper>(&hour, start(id)).await.unwrap();
        }
        for id in ["limited", "cancelled", "elsewhere"] {
            until_asleep(&stage, id).await;
        }

        let server = stage.serve().await;
        let by = json!({"actor": "po", "reason": "not needed any more"});
        server.post("/api/ops/wf/cancelled/cancel", &by).await.expect(202);
        // Its time is an hour away, and nobody has to come by for its end.
        assert_eq!(status(&stage, "cancelled").await, "CANCELLED");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.waits WHERE workflow_id = 'cancelled'").await, 0);
        // An official client leaves the wait behind, and whatever wakes it then finds that it has ended.
        stage.sql_execute("UPDATE dbos.workflow_status SET status = 'CANCELLED', completed_at = 1, owner_xid = NULL, queue_name = NULL WHERE workflow_uuid = 'elsewhere'").await;
        stage.sql_execute("UPDATE app.waits SET due_at = 1 WHERE workflow_id = 'elsewhere'").await;
        until_status(&stage, "limited", "CANCELLED").await;

        let times = stage.sql("SELECT completed_at - workflow_deadline_epoch_ms AS late FROM dbos.workflow_status WHERE workflow_uuid = 'limited'").await;
        let late = times[0]["late"].as_i64().unwrap();
        assert!((0..=2 * LATE_MS).contains(&late), "{late} ms after the deadline");
        for id in ["cancelled", "elsewhere"] {
            assert_eq!((status(&stage, id).await.as_str(), recorded(&stage, id, "after").await), ("CANCELLED", 0), "{id}");
        }
        engine.shutdown().await;
    }

    async fn sleep_is_not_needed_to_start_later(stage: Stage) {
        let engine = engine(stage.database_url()).await;
        let delayed = StartOptions { delay: Some(Duration::from_secs(2)), ..start("later") };
        let asked = now();
        engine.client().start::<Sleeper>(&0, delayed).await.unwrap();
        assert_eq!(status(&stage, "later").await, "DELAYED");

        let woken = woken_at(&stage, "later").await;

        let until = stage.sql_count("SELECT delay_until_epoch_ms FROM dbos.workflow_status WHERE workflow_uuid = 'later'").await;
        assert!((until - asked - 2_000).abs() < 1_000);
        assert!((0..=2 * LATE_MS).contains(&(woken - until)), "started {} ms after its time", woken - until);
        engine.shutdown().await;
    }

    async fn delays_are_to_the_millisecond(stage: Stage) {
        let client = client(&stage).await;
        let hour = StartOptions { delay: Some(Duration::from_secs(3_600)), ..start("") };
        let put_off: Vec<_> = (0..DELAYED)
            .map(|i| client.prepare::<Sleeper>(&0, StartOptions { id: Some(format!("d{i}")), ..hour.clone() }).unwrap())
            .collect();

        let tx = client.database().begin().await.unwrap();
        workflows::insert(&tx, &put_off).await.unwrap();
        tx.commit().await.unwrap();

        let exact = "SELECT count(*) FROM dbos.workflow_status WHERE delay_until_epoch_ms = created_at + 3600000 AND updated_at = created_at";
        assert_eq!(stage.sql_count(exact).await, DELAYED);
    }

    async fn sleepers_that_wake_in_one_minute_are_all_finished(stage: Stage) {
        let count = if long_tests_are_wanted() { SLEEPERS_LONG } else { SLEEPERS };
        drop(client(&stage).await);
        // As so many suspended workflows leave it, due within a minute that has just passed.
        let wake = format!("{} + n.i % 60000", now() - 60_000);
        let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})");
        for insert in [
            format!("{numbers} INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_version, application_name, serialization, recovery_attempts, priority, created_at, updated_at) \
                     SELECT 's' || n.i, 'PENDING', 'test.sleeper', '{QUEUE}', '{VERSION}', 'stepwell', 'portable_json', 0, 0, n.i, 1 FROM n"),
            format!("{numbers} INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp) SELECT 's' || n.i, '{{\"positionalArgs\":[60000],\"namedArgs\":{{}}}}', 1 FROM n"),
            format!("{numbers} INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, serialization, retention_timestamp) SELECT 's' || n.i, 0, 'before', '1', 'portable_json', 1 FROM n"),
            format!("{numbers} INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, serialization, retention_timestamp) SELECT 's' || n.i, 1, 'DBOS.sleep', CAST({wake} AS text), 'portable_json', 1 FROM n"),
            format!("{numbers} INSERT INTO app.waits (workflow_id, queue_name, conditions, due_at, created_at) SELECT 's' || n.i, '{QUEUE}', '[]', {wake}, 1 FROM n"),
        ] {
            assert_eq!(stage.sql_execute(&insert).await, u64::try_from(count).unwrap());
        }
        let began = Instant::now();
        let (one, two) = (engine(stage.database_url()).await, engine(stage.database_url()).await);

        let patience = Duration::from_secs(if long_tests_are_wanted() { 540 } else { 120 });
        eventually(patience, "every sleeper has ended", || async {
            let done = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'").await;
            if done == count { Ok(()) } else { Err(format!("{done} have")) }
        })
        .await;

        let took = began.elapsed();
        report(&format!("{count} sleepers that woke in one minute were finished in {} ms on {}", took.as_millis(), stage.backend().name()));
        for (table, rows) in [("app.waits", 0), ("app.claims", 0), ("dbos.operation_outputs", 3 * count)] {
            assert_eq!(stage.sql_count(&format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
        }
        one.shutdown().await;
        two.shutdown().await;
    }

    async fn scheduler_that_was_killed_catches_up_its_ticks_once(stage: Stage) {
        let server = stage.serve_with(&[("EXECUTOR_EXPIRY_MS", "1000")]).await;
        server.kill_9().await;
        // An hour without anybody: 120 ticks.
        let missed = now() - 3_600_000;
        let stands = chrono::DateTime::from_timestamp_millis(missed - missed.rem_euclid(30_000)).unwrap();
        stage.sql_execute(&format!("UPDATE dbos.workflow_schedules SET last_fired_at = '{}' WHERE schedule_name = 'tick'", stands.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))).await;
        stage.sql_execute("DELETE FROM app.artifacts WHERE step_id = 'ScheduledTick'").await;

        let mortal = stage.spawn("serve", &[("EXECUTOR_EXPIRY_MS", "1000"), ("STEPWELL_DIE_AT", "after-step:ScheduledTick")]).await;
        assert!(!mortal.wait_exit().await.success());
        server.start_again().await;

        let ticked = "SELECT count(*) FROM app.artifacts WHERE step_id = 'ScheduledTick'";
        eventually(DEADLINE, "the ticks of an hour have left their artifacts", || async {
            let found = stage.sql_count(ticked).await;
            if found >= 120 { Ok(()) } else { Err(found) }
        })
        .await;
        let per_tick = "SELECT count(*) FROM (SELECT run_id FROM app.artifacts WHERE step_id = 'ScheduledTick' GROUP BY run_id HAVING count(*) > 1) AS twice";
        assert_eq!(stage.sql_count(per_tick).await, 0, "no tick leaves two");
        assert!(stage.sql_count(ticked).await <= 124);
        stage.assert_no_duplicates().await;
    }

    async fn scheduler_ticks_as_lab_k_of_the_manual_says(stage: Stage) {
        let client = if stage.backend() == Backend::Sqlite { "sqlite3" } else { "psql" };
        if missing_tools(&["bash", "curl", "jq", client]) {
            return;
        }
        let server = stage.serve().await;
        let mut lab = stage.lab(&server).await;
        let block = "sql_app \"DELETE FROM app.artifacts WHERE step_id='ScheduledTick';\"\n\
                     sleep 35\n\
                     sql_app \"SELECT count(*) FROM app.artifacts WHERE step_id='ScheduledTick';\"";
        let printed = lab.block(block).await.ok();
        let counted = printed.lines().filter_map(|line| line.trim().parse::<i64>().ok()).next_back();
        assert!(matches!(counted, Some(1 | 2)), "{printed}");
    }
}
