//! The split topology of the manual's lab P: the API in one process, execution in another.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use harness::*;
use sea_orm::sqlx::{self, Connection};
use serde_json::json;

fn listens(base: &str) -> bool {
    TcpStream::connect(base.trim_start_matches("http://")).is_ok()
}

on_both_databases! {
    async fn the_api_takes_in_what_a_worker_executes(stage: Stage) {
        let version = [("DBOS__APPVERSION", "v1")];
        let worker = stage.start("worker", &version).await;
        let api = stage.start("api", &version).await;
        assert_eq!(api.get("/healthz").await.expect(200)["ok"], true);

        let run = api.start_golden_run().await;
        api.wait_next_action(&run, "APPROVE_PLAN").await;
        api.approve(&run).await;
        api.wait_status(&run, "SUCCESS").await;

        let claimed = stage.sql_count("SELECT count(*) FROM app.executors").await;
        assert_eq!(claimed, 1, "the API is no executor");
        assert!(worker.terminate().await.success() && api.terminate().await.success());
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn the_manuals_scripts_start_both_on_the_same_variables(stage: Stage) {
        let (port, admin_port) = (free_port().to_string(), free_port().to_string());
        let start = |script: &str| {
            stage
                .tool("bash")
                .arg(format!("{}/scripts/{script}", env!("CARGO_MANIFEST_DIR")))
                .envs([("OC_MODE", "replay"), ("SBX_MODE", "mock"), ("DBOS__APPVERSION", "v1"), ("PORT", &port), ("ADMIN_PORT", &admin_port)])
                .env("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell"))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        };
        let _worker = start("start-worker.sh");
        let _api = start("start-api-shim.sh");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for port in [&port, &admin_port] {
            eventually(Duration::from_secs(60), "both are healthy", || async {
                let health = client.get(format!("http://127.0.0.1:{port}/healthz")).send().await.map_err(|e| e.to_string())?;
                let body: serde_json::Value = health.json().await.map_err(|e| e.to_string())?;
                if body["ok"] == true { Ok(()) } else { Err(body.to_string()) }
            })
            .await;
        }
    }

    async fn each_binds_its_own_port_and_no_other(stage: Stage) {
        let (port, admin_port) = (free_port().to_string(), free_port().to_string());
        let same = [("PORT", port.as_str()), ("ADMIN_PORT", admin_port.as_str())];
        let (api_base, admin_base) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{admin_port}"));

        let worker = stage.spawn("worker", &same).await;
        eventually(Duration::from_secs(30), "the worker listens", || async { if listens(&admin_base) { Ok(()) } else { Err(worker.log_tail()) } }).await;
        assert!(!listens(&api_base), "a worker binds ADMIN_PORT alone");
        worker.terminate().await;

        let api = stage.spawn("api", &same).await;
        eventually(Duration::from_secs(30), "the API listens", || async { if listens(&api_base) { Ok(()) } else { Err(api.log_tail()) } }).await;
        assert!(!listens(&admin_base), "the API binds PORT alone");
    }

    async fn without_a_worker_nothing_moves_and_explain_says_so(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let run = api.start_job(json!({"command": "true"})).await;

        let explain = api.view(&run).await["explain"].clone();
        assert_eq!(explain["reason"], "no_worker_with_version", "{explain}");

        let worker = stage.start("worker", &[]).await;
        api.wait_status(&run, "SUCCESS").await;
        drop(worker);
    }

    async fn workers_serve_the_queues_they_are_told_to(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let runs = stage.start("worker --queues intentQ", &[]).await;
        let run = api.start_job(json!({"command": "true", "tests": ["a", "b"]})).await;
        eventually(Duration::from_secs(60), "the tasks are queued", || async {
            let queued = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'sbxQ' AND status = 'ENQUEUED'").await;
            if queued > 0 { Ok(()) } else { Err(queued) }
        })
        .await;
        assert_eq!(api.header(&run).await["status"], "PENDING");

        let tasks = stage.start("worker --queues sbxQ --concurrency 2", &[]).await;
        api.wait_status(&run, "SUCCESS").await;

        let unknown = stage.command(&["worker", "--queues", "sbxQ,otherQ"]).output().await.unwrap();
        let message = String::from_utf8_lossy(&unknown.stderr).into_owned();
        assert_eq!(unknown.status.code(), Some(78), "{unknown:?}");
        assert!(message.contains("--queues") && message.contains("intentQ, compileQ, controlQ, sbxQ"), "{message}");
        drop((runs, tasks));
    }

    async fn a_killed_workers_work_goes_on_within_a_second_of_its_expiry(stage: Stage) {
        const EXPIRY: Duration = Duration::from_millis(3_000);
        let expiry = ("EXECUTOR_EXPIRY_MS", "3000");
        let api = stage.start("api", &[]).await;
        let victim = stage.start("worker", &[expiry, ("CHAOS_SLEEP_EXECUTE", "600000")]).await;
        let run = api.start_job(json!({"command": "true"})).await;
        let claim = "SELECT count(*) FROM app.claims WHERE queue_name = 'sbxQ'";
        eventually(Duration::from_secs(60), "the task runs", || async {
            let found = stage.sql_count(claim).await;
            if found == 1 { Ok(()) } else { Err(found) }
        })
        .await;
        let heir = stage.start("worker", &[expiry]).await;

        victim.kill_9().await;
        let killed = Instant::now();
        api.wait_status(&run, "SUCCESS").await;

        let took = killed.elapsed();
        assert!(took <= EXPIRY + Duration::from_secs(1), "recovery took {took:?}");
        drop(heir);
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn a_worker_that_wakes_up_after_its_expiry_writes_nothing(stage: Stage) {
        let quick = ("EXECUTOR_EXPIRY_MS", "1500");
        let api = stage.start("api", &[]).await;
        let live = [("SBX_MODE", "live"), ("SBX_PROVIDER", "local")];
        // Long enough that it is stopped in the middle, short enough that it would have written after it wakes up.
        let zombie = stage.start("worker", &[live.as_slice(), &[quick, ("CHAOS_SLEEP_EXECUTE", "2000")]].concat()).await;
        let run = api.start_job(json!({"command": "echo $PPID", "tests": ["a"]})).await;
        let claim = "SELECT count(*) FROM app.claims WHERE queue_name = 'sbxQ'";
        eventually(Duration::from_secs(60), "the task runs", || async {
            let found = stage.sql_count(claim).await;
            if found == 1 { Ok(()) } else { Err(found) }
        })
        .await;

        freeze(&stage, &zombie).await;
        let heir = stage.start("worker", &[live.as_slice(), &[quick]].concat()).await;
        api.wait_status(&run, "SUCCESS").await;
        let before = product_rows(&stage).await;
        zombie.signal("CONT").await;

        eventually(Duration::from_secs(60), "the zombie knows that it was declared dead, and lives again", || async {
            let alive = stage.sql_count("SELECT count(*) FROM app.executors").await;
            if alive == 2 && zombie.log().contains("declared dead") { Ok(()) } else { Err(format!("{alive} executors: {}", zombie.log_tail())) }
        })
        .await;
        // It has ended what it was in the middle of; a run of its own shows that it works again.
        assert!(heir.terminate().await.success());
        let next = api.start_job(json!({"command": "true"})).await;
        api.wait_status(&next, "SUCCESS").await;
        let mut after = product_rows(&stage).await;
        after.retain(|row| !row.contains(&next));
        assert_eq!(before, after);
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }
}

/// Stops a process while it does not write: who is frozen with the lock of a SQLite file holds up everybody for as long as it is frozen, and
/// only whoever wakes or kills it can help.
async fn freeze(stage: &Stage, server: &Server) {
    eventually(
        Duration::from_secs(60),
        "it is frozen and holds no lock",
        || async {
            server.signal("STOP").await;
            if stage.backend() == Backend::Postgres {
                return Ok(());
            }
            let mut writer = sqlx::SqliteConnection::connect(stage.database_url())
                .await
                .unwrap();
            let free = sqlx::raw_sql("PRAGMA busy_timeout = 1000; BEGIN IMMEDIATE; ROLLBACK")
                .execute(&mut writer)
                .await;
            if free.is_err() {
                server.signal("CONT").await;
            }
            free.map(drop)
        },
    )
    .await;
}

/// Every row that the life of runs leaves, as text that can be compared; times of heartbeats and versions aside.
async fn product_rows(stage: &Stage) -> Vec<String> {
    let mut rows = Vec::new();
    for (table, owner) in [
        ("app.runs", "id"),
        ("app.run_steps", "run_id"),
        ("app.artifacts", "run_id"),
        ("app.sbx_runs", "run_id"),
        ("app.run_stream_chunks", "run_id"),
        ("app.mock_receipts", "run_id"),
        ("dbos.workflow_status", "workflow_uuid"),
        ("dbos.workflow_output", "workflow_uuid"),
        ("dbos.operation_outputs", "workflow_uuid"),
    ] {
        // The rows of a task belong to the run that started it.
        let of_run = if owner == "workflow_uuid" {
            format!(
                "SELECT t.*, COALESCE((SELECT p.parent_workflow_id FROM dbos.workflow_status p WHERE p.workflow_uuid = t.{owner}), t.{owner}) AS run_of_row FROM {table} t"
            )
        } else {
            format!("SELECT t.*, t.{owner} AS run_of_row FROM {table} t")
        };
        rows.extend(
            stage
                .sql(&of_run)
                .await
                .into_iter()
                .map(|row| format!("{table} {row}")),
        );
    }
    // The built-in tick is nobody's run and fires whenever a minute begins.
    rows.retain(|row| !row.contains("sched-"));
    rows.sort();
    rows
}
