//! Old and new code side by side: each version executes its own, and what nobody executes says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{sync::Arc, time::Duration};

use harness::*;
use serde_json::json;
use stepwell::store::{
    Database, DatabaseOptions, StoreError, candidates, claims::Claimer, executors, stalled,
};
use tokio::{sync::Barrier, task::JoinSet};

/// Workflows of a version that nobody serves, an hour old.
const STALLED: i64 = 2_000;

async fn stall(stage: &Stage) {
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {STALLED} - 1) INSERT INTO dbos.workflow_status \
         (workflow_uuid, status, name, queue_name, application_version, application_name, serialization, priority, recovery_attempts, created_at, updated_at) \
         SELECT 'stalled-' || i, 'ENQUEUED', 'stepwell.run', 'intentQ', 'gone', 'stepwell', 'portable_json', 0, 0, {} + i, 1 FROM n",
        now() - 3_600_000
    );
    assert_eq!(
        stage.sql_execute(&insert).await,
        u64::try_from(STALLED).unwrap()
    );
}

on_both_databases! {
    async fn a_mismatch_stalls_and_explain_names_the_versions_that_live(stage: Stage) {
        let api = stage.start("api", &[("DBOS__APPVERSION", "v1")]).await;
        let v2 = stage.start("worker", &[("DBOS__APPVERSION", "v2")]).await;
        let v3 = stage.start("worker", &[("DBOS__APPVERSION", "v3")]).await;

        let run = api.start_job(json!({"command": "true"})).await;
        // A worker answers before its first heartbeat is written.
        let explain = eventually(Duration::from_secs(20), "both are known to live", || async {
            let explain = api.view(&run).await["explain"].clone();
            if explain["sentence"].to_string().contains("v2, v3") { Ok(explain) } else { Err(explain) }
        })
        .await;

        assert_eq!(explain["reason"], "no_worker_with_version", "{explain}");
        assert!(explain["sentence"].as_str().unwrap().contains("\"v1\""), "{explain}");
        assert_eq!(api.header(&run).await["status"], "ENQUEUED");
        drop((v2, v3));

        let v1 = stage.start("worker", &[("DBOS__APPVERSION", "v1")]).await;
        api.wait_status(&run, "SUCCESS").await;
        drop(v1);
    }

    async fn a_deploy_runs_old_and_new_side_by_side(stage: Stage) {
        let old = stage.serve_with(&[("DBOS__APPVERSION", "v1")]).await;
        let waiting = old.start_golden_run().await;
        old.wait_next_action(&waiting, "APPROVE_PLAN").await;
        let new = stage.serve_with(&[("DBOS__APPVERSION", "v2")]).await;
        let fresh = new.start_golden_run().await;
        new.wait_next_action(&fresh, "APPROVE_PLAN").await;

        // Whichever front is asked: each run goes on under the version it began with.
        new.approve(&waiting).await;
        old.approve(&fresh).await;
        new.wait_status(&waiting, "SUCCESS").await;
        old.wait_status(&fresh, "SUCCESS").await;
        let version = async |run: &str| stage.sql_value(&format!("SELECT application_version FROM dbos.workflow_status WHERE workflow_uuid = '{run}'")).await;
        assert_eq!((version(&waiting).await, version(&fresh).await), (json!("v1"), json!("v2")));
        let of_children = "SELECT count(*) FROM dbos.workflow_status k JOIN dbos.workflow_status p ON p.workflow_uuid = k.parent_workflow_id \
                           WHERE k.application_version <> p.application_version";
        assert_eq!(stage.sql_count(of_children).await, 0, "children run the version of their parent");
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn what_waits_of_a_version_that_is_gone_waits_on(stage: Stage) {
        let old = stage.serve_with(&[("DBOS__APPVERSION", "v1")]).await;
        let run = old.start_golden_run().await;
        old.wait_next_action(&run, "APPROVE_PLAN").await;
        old.terminate().await;

        let new = stage.serve_with(&[("DBOS__APPVERSION", "v2")]).await;
        new.approve(&run).await;
        let other = new.start_job(json!({"command": "true"})).await;
        new.wait_status(&other, "SUCCESS").await;
        assert_eq!(new.header(&run).await["status"], "PENDING");

        old.start_again().await;
        old.wait_status(&run, "SUCCESS").await;
    }

    async fn what_an_old_version_has_left_is_moved_to_the_new_one(stage: Stage) {
        let old = stage.serve_with(&[("DBOS__APPVERSION", "v1")]).await;
        let suspended = old.start_golden_run().await;
        old.wait_next_action(&suspended, "APPROVE_PLAN").await;
        let ended = old.start_job(json!({"command": "true"})).await;
        old.wait_status(&ended, "SUCCESS").await;
        old.terminate().await;
        let api = stage.start("api", &[("DBOS__APPVERSION", "v1")]).await;
        let awaiting = api.start_job(json!({"command": "true"})).await;
        // Its task is queued when its only worker goes.
        api.send("POST", "/api/queues/sbxQ/pause", None).await.expect(200);
        let worker = stage.start("worker", &[("DBOS__APPVERSION", "v1")]).await;
        let task = format!("SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id = '{awaiting}'");
        stage.until_count("its task is queued", &task, 1).await;
        worker.terminate().await;
        let queued = api.start_job(json!({"command": "true"})).await;

        let new = stage.serve_with(&[("DBOS__APPVERSION", "v2")]).await;
        let moved = async |arguments: &[&str]| stage.command(&[&["ops", "move"], arguments].concat()).output().await.unwrap();
        let rows = stage.row_counts().await;
        let versions = "SELECT workflow_uuid, application_version, updated_at FROM dbos.workflow_status WHERE workflow_uuid NOT LIKE 'sched-%' ORDER BY workflow_uuid";
        let before = stage.sql(versions).await;
        let (long, longer) = ("x".repeat(201), "x".repeat(2_001));
        for (arguments, code, text) in [
            (vec![ended.as_str(), "--app-version", "v2"], 1, "is SUCCESS"),
            (vec!["nobody", "--app-version", "v2"], 1, "workflow not found: nobody"),
            (vec![&queued, "--app-version", ""], 2, "--app-version"),
            (vec![&queued, "--app-version", " "], 1, "must not be blank"),
            (vec![&queued, "--app-version", &long], 1, "the version has 201 characters"),
            (vec![&queued, "--app-version", "v2", "--actor", &long], 1, "the actor has 201 characters"),
            (vec![&queued, "--app-version", "v2", "--reason", &longer], 1, "the reason has 2001 characters"),
            (vec![&queued, "--app-version", " ", "--dry-run"], 1, "must not be blank"),
            (vec![&queued], 2, "--app-version"),
            (vec![&queued, "--app-version", "v2", "--dry-run"], 0, ""),
            (vec![&queued, "--app-version", "v2", "--server", "http://127.0.0.1:9"], 2, "leave --server"),
        ] {
            let refused = moved(&arguments).await;
            assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains(text), "{arguments:?}: {refused:?}");
        }
        assert_eq!((stage.row_counts().await, stage.sql(versions).await), (rows, before), "a refusal writes nothing");

        let done = moved(&[&suspended, &queued, &awaiting, "--app-version", "v2", "--actor", "ops", "--reason", "v1 is gone"]).await;
        assert!(done.status.success(), "{done:?}");
        new.send("POST", "/api/queues/sbxQ/resume", None).await.expect(200);
        new.approve(&suspended).await;
        for run in [&suspended, &queued, &awaiting] {
            new.wait_status(run, "SUCCESS").await;
        }
        let of_moved = format!("SELECT count(*) FROM dbos.workflow_status WHERE application_version = 'v1' AND workflow_uuid <> '{ended}' AND \
                                COALESCE(parent_workflow_id, '') <> '{ended}' AND workflow_uuid NOT LIKE 'sched-%'");
        assert_eq!(stage.sql_count(&of_moved).await, 0, "the tasks have moved with their run");
        let trail = stage.command(&["ops", "log", "--json"]).output().await.unwrap();
        let trail = String::from_utf8(trail.stdout).unwrap();
        assert_eq!(trail.matches(r#""op":"move""#).count(), 3, "{trail}");
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    /// Whoever starts first with a new version enters it, and those that start in the same instant find it.
    async fn a_new_version_is_entered_once_by_whoever_starts_at_once(stage: Stage) {
        const AT_ONCE: usize = 6;
        const VERSIONS: usize = 60;
        stage.migrate().await;
        let together = Arc::new(Barrier::new(AT_ONCE));
        let mut processes = JoinSet::new();
        for process in 0..AT_ONCE {
            let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
            let together = Arc::clone(&together);
            processes.spawn(async move {
                let mut refused = Vec::new();
                for version in 0..VERSIONS {
                    together.wait().await;
                    let entered = async {
                        let tx = db.begin().await?;
                        executors::register(&tx, &format!("{process}-{version}"), &format!("v{version}"), "here").await?;
                        tx.commit().await
                    };
                    let entered: Result<(), StoreError> = entered.await;
                    refused.extend(entered.err());
                }
                refused
            });
        }
        let refused: Vec<_> = processes.join_all().await.into_iter().flatten().collect();
        assert!(refused.is_empty(), "{} refused, as {}", refused.len(), refused[0]);
        let rows = |count: usize| i64::try_from(count).unwrap();
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.application_versions").await, rows(VERSIONS));
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.executors").await, rows(VERSIONS * AT_ONCE));
    }

    async fn a_stalled_backlog_is_passed_over_and_what_becomes_ours_in_it_is_not(stage: Stage) {
        stage.migrate().await;
        stall(&stage).await;
        let server = stage.serve().await;
        let run = server.start_job(json!({"command": "true"})).await;
        server.wait_status(&run, "SUCCESS").await;

        // It belongs to no run, so it can only fail, once somebody claims it.
        let ours = format!("stalled-{}", STALLED / 2);
        stage.sql_execute(&format!("UPDATE dbos.workflow_status SET application_version = 'v1' WHERE workflow_uuid = '{ours}'")).await;
        eventually(Duration::from_secs(30), "what became ours was claimed", || async {
            let left = stage.sql_count(&format!("SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = '{ours}' AND status = 'ENQUEUED'")).await;
            if left == 0 { Ok(()) } else { Err("it is queued") }
        })
        .await;
        let untouched = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE application_version = 'gone' AND status = 'ENQUEUED'").await;
        assert_eq!(untouched, STALLED - 1);
    }

    async fn a_stalled_front_ends_where_something_is_ours_ahead_or_young(stage: Stage) {
        stage.migrate().await;
        stall(&stage).await;
        let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
        let claimer = Claimer {
            executor_id: "e".into(),
            app_version: "v1".into(),
            newest_version: false,
            names: vec!["stepwell.run".into()],
            max_recovery_attempts: 20,
        };
        let look = async || stalled::look(&db.read(), &claimer, "intentQ").await.unwrap();
        let found = async |front| {
            let tx = db.begin().await.unwrap();
            let rows = candidates::lock_queued(&tx, &claimer, "intentQ", 10, front).await.unwrap();
            tx.rollback().await.unwrap();
            rows.into_iter().map(|row| row.workflow_uuid).collect::<Vec<_>>()
        };
        let change = async |id: &str, columns: &str| {
            let text = format!("UPDATE dbos.workflow_status SET {columns} WHERE workflow_uuid = '{id}'");
            assert_eq!(stage.sql_execute(&text).await, 1);
        };
        let all = look().await.expect("nothing in it is ours");
        assert!(all.before > now() - 60_000 && all.before < now() - 20_000, "the young are looked at");
        assert!(found(Some(all)).await.is_empty());

        change("stalled-1998", &format!("application_version = 'v1', created_at = {}", now())).await;
        change("stalled-1999", "application_version = 'v1', priority = -1").await;
        assert_eq!(found(Some(all)).await, ["stalled-1999", "stalled-1998"], "the young one, and the one ahead");
        assert_eq!(found(None).await, ["stalled-1999", "stalled-1998"]);
        assert_eq!(look().await, None, "the first is ours");

        change("stalled-1999", "application_version = 'gone'").await;
        change("stalled-1500", "application_version = 'v1'").await;
        let shorter = look().await;
        assert_eq!(found(shorter).await, ["stalled-1500", "stalled-1998"]);
        change("stalled-500", "application_version = 'v1'").await;
        assert_eq!(look().await, None, "a walk so short needs no front");
    }
}
