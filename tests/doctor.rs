//! `stepwell doctor`: it finds each way in which an invariant can be broken, explains it with its SQL, and changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::collections::BTreeSet;

use harness::*;
use serde_json::{Value, json};

async fn findings(stage: &Stage) -> (i32, Vec<Value>) {
    let output = stage.command(&["doctor", "--json"]).output().await.unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (
        output.status.code().unwrap(),
        document["findings"].as_array().unwrap().clone(),
    )
}

fn names(findings: &[Value]) -> BTreeSet<String> {
    findings
        .iter()
        .map(|finding| finding["check"].as_str().unwrap().to_owned())
        .collect()
}

/// A finding, and statements that plant it. `{run}` has succeeded with two tasks, `{waiting}` is at its gate, `{task}` is a task of the first.
const PLANTS: [(&str, &[&str]); 38] = [
    (
        "run_without_intent",
        &["DELETE FROM app.intents WHERE id = '{run}'"],
    ),
    (
        "run_without_workflow",
        &[
            "DELETE FROM app.waits WHERE workflow_id = '{waiting}'",
            "DELETE FROM dbos.workflow_status WHERE workflow_uuid = '{waiting}'",
        ],
    ),
    (
        "workflow_without_run",
        &[
            "DELETE FROM app.runs WHERE id = '{run}'",
            "DELETE FROM app.run_steps WHERE run_id = '{run}'",
        ],
    ),
    (
        "workflow_without_input",
        &["DELETE FROM dbos.workflow_input WHERE workflow_uuid = '{waiting}'"],
    ),
    (
        "child_that_is_gone",
        &[
            "UPDATE dbos.operation_outputs SET child_workflow_id = 'nobody' WHERE workflow_uuid = '{waiting}' AND function_id = 0",
        ],
    ),
    (
        "approval_without_message",
        &[
            "INSERT INTO app.plan_approvals (run_id, approved_by, approved_at) VALUES ('{waiting}', 'po', 1)",
        ],
    ),
    (
        "open_run_of_an_ended_workflow",
        &[
            "UPDATE app.runs SET status = 'running' WHERE id = '{run}'",
            "UPDATE dbos.workflow_status SET completed_at = 1 WHERE workflow_uuid = '{run}'",
        ],
    ),
    (
        "ended_run_of_a_suspended_workflow",
        &[
            "UPDATE app.runs SET status = 'failed', ended_at = 1 WHERE id = '{waiting}'",
            "UPDATE dbos.workflow_status SET updated_at = 1 WHERE workflow_uuid = '{waiting}'",
        ],
    ),
    (
        "run_that_ended_otherwise",
        &["UPDATE app.runs SET status = 'failed' WHERE id = '{run}'"],
    ),
    (
        "ended_without_time",
        &["UPDATE dbos.workflow_status SET completed_at = NULL WHERE workflow_uuid = '{run}'"],
    ),
    (
        "success_without_output",
        &["DELETE FROM dbos.workflow_output WHERE workflow_uuid = '{run}'"],
    ),
    (
        "owner_of_an_ended_workflow",
        &["UPDATE dbos.workflow_status SET owner_xid = 'x' WHERE workflow_uuid = '{run}'"],
    ),
    (
        "receipt_seen_twice",
        &[
            "INSERT INTO app.mock_receipts (run_id, task_key, attempt, seen_count, created_at) VALUES ('{run}', 't', 1, 2, 1)",
        ],
    ),
    (
        "artifact_number_given_twice",
        &["UPDATE app.artifacts SET idx = 5 WHERE run_id = '{run}' AND kind = 'stdout'"],
    ),
    (
        "step_without_checkpoint",
        &[
            "DELETE FROM dbos.operation_outputs WHERE workflow_uuid = '{run}' AND function_name = 'DecideST'",
        ],
    ),
    (
        "checkpoint_without_step",
        &["DELETE FROM app.run_steps WHERE run_id = '{run}' AND step_id = 'DecideST'"],
    ),
    (
        "task_rows_differ_from_checkpoints",
        &["DELETE FROM app.sbx_runs WHERE task_key = '{task}'"],
    ),
    (
        "claim_without_workflow",
        &[
            "INSERT INTO app.claims (workflow_id, token, executor_id, queue_name, outputs_at_claim, claimed_at) VALUES ('nobody', 't', 'e', 'q', 0, 99999999999999)",
        ],
    ),
    (
        "claim_of_an_ended_workflow",
        &[
            "INSERT INTO app.claims (workflow_id, token, executor_id, queue_name, outputs_at_claim, claimed_at) VALUES ('{run}', 't', 'e', 'q', 0, 99999999999999)",
        ],
    ),
    (
        "claim_without_its_fence",
        &[
            "INSERT INTO app.claims (workflow_id, token, executor_id, queue_name, outputs_at_claim, claimed_at) VALUES ('{waiting}', 't', 'e', 'q', 0, 99999999999999)",
        ],
    ),
    (
        "claim_of_nobody",
        &[
            "INSERT INTO app.claims (workflow_id, token, executor_id, queue_name, outputs_at_claim, claimed_at) VALUES ('nobody', 't', 'e', 'q', 0, 1)",
        ],
    ),
    (
        "more_live_than_the_queue_allows",
        &[
            OWNED,
            CLAIMED,
            "UPDATE app.queue_limits SET concurrency = 0, updated_at = 1 WHERE name = 'intentQ'",
        ],
    ),
    (
        "more_live_than_a_worker_may",
        &[
            OWNED,
            CLAIMED,
            "UPDATE app.queue_limits SET worker_concurrency = 0, updated_at = 1 WHERE name = 'intentQ'",
        ],
    ),
    (
        "more_live_than_a_partition_may",
        &[
            OWNED,
            CLAIMED,
            "UPDATE app.queue_limits SET partition_concurrency = 0, updated_at = 1 WHERE name = 'intentQ'",
        ],
    ),
    (
        "more_started_than_the_rate_allows",
        &[
            "UPDATE app.queue_limits SET window_count = 999, window_started_at = 2, updated_at = 1 WHERE name = 'sbxQ'",
        ],
    ),
    (
        "slot_executed_twice",
        &[
            "INSERT INTO app.artifacts (run_id, step_id, task_key, idx, attempt, kind, name, uri, mime, size, sha256, created_at) \
        SELECT 'sched-1', 'ScheduledTick', '-', a.idx, 1, 'none', 'n', 'u' || a.idx, 'm', 0, a.sha256, 1 FROM app.artifacts a WHERE a.run_id = '{run}' AND a.step_id = 'ExecuteST' AND a.idx < 2",
        ],
    ),
    (
        "attempts_above_the_cap",
        &[
            "UPDATE dbos.workflow_status SET recovery_attempts = 21 WHERE workflow_uuid = '{waiting}'",
        ],
    ),
    (
        "artifact_without_hash",
        &["UPDATE app.artifacts SET sha256 = '' WHERE run_id = '{run}' AND kind = 'stdout'"],
    ),
    (
        "artifact_without_content",
        &[
            "UPDATE app.artifacts SET inline = NULL, content = NULL, size = 7 WHERE run_id = '{run}' AND kind = 'stdout'",
        ],
    ),
    (
        "artifact_of_another_size",
        &[
            "UPDATE app.artifacts SET size = 12345 WHERE run_id = '{run}' AND kind = 'stdout' AND content IS NOT NULL",
        ],
    ),
    (
        "artifact_whose_content_is_gone",
        &[
            "UPDATE app.artifacts SET storage_key = 'blob:nothing' WHERE run_id = '{run}' AND kind = 'raw'",
        ],
    ),
    (
        "content_with_a_gap",
        &["INSERT INTO app.blobs (sha256, size, used_at) VALUES ('aa', 5, 99999999999999)"],
    ),
    (
        "ops_action_without_its_data",
        &[
            "INSERT INTO app.artifacts (run_id, step_id, task_key, idx, attempt, kind, name, uri, mime, size, sha256, created_at) \
        SELECT a.run_id, 'OPS', '-', 0, 1, 'json_diagnostic', 'n', 'u', 'm', 0, a.sha256, 1 FROM app.artifacts a WHERE a.run_id = '{run}' AND a.kind = 'raw' AND a.idx < 1000",
        ],
    ),
    (
        "suspended_without_wait",
        &[
            "DELETE FROM app.waits WHERE workflow_id = '{waiting}'",
            "UPDATE dbos.workflow_status SET updated_at = 1 WHERE workflow_uuid = '{waiting}'",
        ],
    ),
    (
        "wait_of_a_workflow_that_is_not_suspended",
        &[
            "INSERT INTO app.waits (workflow_id, queue_name, conditions, created_at) VALUES ('{run}', 'intentQ', '[]', 1)",
            "UPDATE dbos.workflow_status SET updated_at = 1 WHERE workflow_uuid = '{run}'",
        ],
    ),
    ("wait_beside_a_claim", &[OWNED, CLAIMED]),
    (
        "owner_without_claim",
        &[
            OWNED,
            "UPDATE dbos.workflow_status SET updated_at = 1 WHERE workflow_uuid = '{waiting}'",
        ],
    ),
    (
        "dead_process_that_nobody_buried",
        &[
            "INSERT INTO app.executors (id, app_version, hostname, pid, started_at, heartbeat_at) VALUES ('e', 'v', 'h', 1, 1, 1)",
        ],
    ),
];
const OWNED: &str =
    "UPDATE dbos.workflow_status SET owner_xid = 't' WHERE workflow_uuid = '{waiting}'";
const CLAIMED: &str = "INSERT INTO app.claims (workflow_id, token, executor_id, queue_name, queue_partition_key, outputs_at_claim, claimed_at) \
                       VALUES ('{waiting}', 't', 'e', 'intentQ', 'p', 0, 99999999999999)";
/// What the keys of the tables rule out, or another check finds first.
const NOT_PLANTED: [&str; 2] = ["step_recorded_twice", "step_of_a_run_that_is_gone"];

/// The tables that plants change, restored from copies after each.
const TABLES: [&str; 16] = [
    "app.intents",
    "app.runs",
    "app.run_steps",
    "app.artifacts",
    "app.plan_approvals",
    "app.mock_receipts",
    "app.sbx_runs",
    "app.claims",
    "app.waits",
    "app.queue_limits",
    "app.blobs",
    "app.executors",
    "dbos.workflow_status",
    "dbos.workflow_input",
    "dbos.workflow_output",
    "dbos.operation_outputs",
];

fn copy_of(table: &str) -> String {
    let (schema, name) = table.split_once('.').unwrap();
    format!("{schema}.copy_of_{name}")
}

on_both_databases! {
    async fn each_violation_is_found_and_explained(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_job(json!({"command": "echo", "tests": ["a", "b"]})).await;
        let waiting = server.start_golden_run().await;
        server.wait_status(&run, "SUCCESS").await;
        server.wait_next_action(&waiting, "APPROVE_PLAN").await;
        assert!(server.terminate().await.success());
        let task = stage.sql_value(&format!("SELECT min(workflow_uuid) AS id FROM dbos.workflow_status WHERE parent_workflow_id = '{run}'")).await;
        let task = task.as_str().unwrap();
        for table in TABLES {
            stage.sql_execute(&format!("CREATE TABLE {} AS SELECT * FROM {table}", copy_of(table))).await;
        }
        assert_eq!(findings(&stage).await, (0, Vec::new()));

        let mut planted: BTreeSet<&str> = NOT_PLANTED.into();
        for (name, statements) in PLANTS {
            for statement in statements {
                let statement = statement.replace("{run}", &run).replace("{waiting}", &waiting).replace("{task}", task);
                assert!(stage.sql_execute(&statement).await > 0, "{name}: {statement}");
            }
            let (code, found) = findings(&stage).await;
            let finding = found.iter().find(|finding| finding["check"] == name);
            let finding = finding.unwrap_or_else(|| panic!("{name} is not among {:?}", names(&found)));
            assert!(code == 1 && finding["rows"].as_i64().unwrap() > 0, "{finding}");
            // The statement that explains it finds it, too.
            let sql = finding["sql"].as_str().unwrap().replace("\"app\".", "app.").replace("\"dbos\".", "dbos.");
            let rows = stage.sql(&sql).await;
            assert_eq!((rows.len() as i64, &rows[0]["subject"].is_string()), (finding["rows"].as_i64().unwrap(), &true), "{sql}");
            planted.insert(name);
            restore(&stage).await;
        }

        assert_eq!(findings(&stage).await, (0, Vec::new()), "everything is as it was");
        let output = stage.command(&["doctor", "--json"]).output().await.unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["checks"].as_u64().unwrap() as usize, planted.len(), "a check without a plant");
    }

    async fn it_speaks_to_people_and_changes_nothing(stage: Stage) {
        stage.migrate().await;
        stage.sql_execute("INSERT INTO app.executors (id, app_version, hostname, pid, started_at, heartbeat_at) VALUES ('dead-1', 'v', 'attic', 7, 1, 1)").await;
        let rows = stage.row_counts().await;

        let output = stage.command(&["doctor"]).output().await.unwrap();

        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in ["1 finding", "dead_process_that_nobody_buried (invariant 11): 1 row", "dead-1: attic, pid 7", "SELECT e.id AS subject"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(stage.row_counts().await, rows);
    }

    async fn a_database_that_is_not_ready_is_no_clean_one(stage: Stage) {
        let output = stage.command(&["doctor"]).output().await.unwrap();
        let expected = if stage.backend() == Backend::Sqlite { 69 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }

    async fn a_live_database_under_load_has_no_finding(stage: Stage) {
        let server = stage.serve_with(&[("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "100000"), ("CHAOS_SLEEP_EXECUTE", "50")]).await;
        let mut runs = Vec::new();
        for _ in 0..30 {
            runs.push(server.start_job(json!({"command": "echo", "tests": ["a", "b"]})).await);
        }
        let mut open = true;
        while open {
            assert_eq!(findings(&stage).await, (0, Vec::new()));
            open = stage.sql_count("SELECT count(*) FROM app.runs WHERE status NOT IN ('succeeded')").await > 0;
        }
    }
}

async fn restore(stage: &Stage) {
    // The statuses last on the way out and first on the way in: others refer to them.
    for table in TABLES {
        stage.sql_execute(&format!("DELETE FROM {table}")).await;
    }
    for table in TABLES.iter().rev() {
        stage
            .sql_execute(&format!(
                "INSERT INTO {table} SELECT * FROM {}",
                copy_of(table)
            ))
            .await;
    }
}
