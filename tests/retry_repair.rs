//! A retry is a new run that executes what failed and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::fs;

use harness::*;
use serde_json::{Value, json};

const LIVE: [(&str, &str); 2] = [("SBX_MODE", "live"), ("SBX_PROVIDER", "local")];

async fn run(server: &Server, recipe: &str, inputs: Value, concurrency: i64) -> String {
    let intent = server.create_intent("repair me", inputs).await;
    let request = json!({
        "intentId": intent, "queuePartitionKey": "tenant-r", "recipeName": recipe, "priority": 3, "tenantId": "acme",
        "workload": {"concurrency": concurrency, "steps": 10, "sandboxMinutes": 5}
    });
    server.post("/api/runs", &request).await.expect(202);
    intent
}

async fn retry(server: &Server, run: &str) -> Value {
    let by = json!({"actor": "ops", "reason": "the disk is back"});
    let retried = server
        .post(&format!("/api/runs/{run}/retry"), &by)
        .await
        .expect(202);
    assert_eq!(retried["accepted"], true, "{retried}");
    retried
}

/// How often each test of the command ran, counted outside the database.
fn effects(stage: &Stage) -> Vec<usize> {
    let count = |test: &str| {
        let log = fs::read_to_string(stage.dir().join(format!("effect-{test}")));
        log.unwrap_or_default().lines().count()
    };
    ["a", "b", "c"].into_iter().map(count).collect()
}

/// A command that counts its runs, and fails for `b` until it is repaired.
fn inputs(stage: &Stage) -> Value {
    let dir = stage.dir().display();
    let script =
        format!("echo ran >> {dir}/effect-$1\n[ $1 != b ] || [ -e {dir}/repaired ] || exit 7\n");
    json!({"command": "sh test.sh", "tests": ["a", "b", "c"], "files": [{"path": "test.sh", "inline": script}]})
}

async fn only_the_failed_task_runs_again(stage: &Stage, concurrency: i64) {
    let server = stage.serve_with(&LIVE).await;
    let failed = run(&server, "shell-default", inputs(stage), concurrency).await;
    let header = server.wait_status(&failed, "ERROR").await;
    assert_eq!(header["error"]["code"], "CMD_NONZERO", "{header}");
    assert_eq!(effects(stage), [1, 1, 1]);
    fs::write(stage.dir().join("repaired"), "").unwrap();

    let retried = retry(&server, &failed).await;

    assert_eq!(retried["fromStep"], "ExecuteST", "{retried}");
    let new = retried["newRunId"].as_str().unwrap();
    assert!(
        new.starts_with("rn_") && new.len() == 19,
        "rn_ and 16 hexadecimal digits: {new}"
    );
    let header = server.wait_status(new, "SUCCESS").await;
    assert_eq!(
        effects(stage),
        [1, 2, 1],
        "nothing that had ended well is done again"
    );
    for (field, value) in [
        ("workflowID", json!(new)),
        ("runId", json!(new)),
        ("intentId", json!(failed)),
        ("forkedFrom", json!(failed)),
        ("retryCount", json!(1)),
        ("queue", json!("intentQ")),
        ("queuePartitionKey", json!("tenant-r")),
        ("priority", json!(3)),
        ("tenantId", json!("acme")),
        ("error", Value::Null),
    ] {
        assert_eq!(header[field], value, "{field} in {header}");
    }
    // The original stays as it ended.
    let original = server.header(&failed).await;
    assert_eq!(
        (
            &original["status"],
            &original["retryCount"],
            &original["nextAction"]
        ),
        (&json!("ERROR"), &json!(0), &Value::Null)
    );
    let view = server.view(new).await;
    let tasks = view["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 3, "{view}");
    let codes: Vec<&str> = tasks
        .iter()
        .map(|t| t["errCode"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["NONE", "NONE", "NONE"]);
    for task in tasks {
        assert_eq!(server.task_artifact(task, "stdout").await, "");
    }
    let started = stage
        .sql(&format!(
            "SELECT priority, queue_partition_key FROM dbos.workflow_status WHERE parent_workflow_id = '{new}'"
        ))
        .await;
    assert_eq!(
        started,
        [json!({"priority": 3, "queue_partition_key": "tenant-r"})]
    );
    let operations = |run: &str| {
        let sql = format!(
            "SELECT function_id, function_name FROM dbos.operation_outputs WHERE workflow_uuid = '{run}' ORDER BY function_id"
        );
        let stage = stage.clone();
        async move { stage.sql(&sql).await }
    };
    assert_eq!(
        operations(new).await,
        operations(&failed).await,
        "the same calls in the same order"
    );
    let audit = stage
        .sql("SELECT run_id, attempt FROM app.artifacts WHERE step_id = 'OPS'")
        .await;
    assert_eq!(audit, [json!({"run_id": failed, "attempt": 1})]);
    let entry = server
        .artifact(&format!(
            "artifact://run/{failed}/step/OPS/task/-/retry-1.json"
        ))
        .await
        .expect(200);
    assert_eq!(
        (&entry["op"], &entry["forkedWorkflowID"]),
        (&json!("retry"), &json!(new))
    );
    stage.assert_no_duplicates().await;
}

on_both_databases! {
    async fn a_retry_of_three_tasks_of_which_one_failed_runs_only_that_one(stage: Stage) {
        only_the_failed_task_runs_again(&stage, 3).await;
    }

    async fn a_retry_in_waves_fills_its_hole_in_the_same_order(stage: Stage) {
        only_the_failed_task_runs_again(&stage, 1).await;
    }

    async fn a_retry_in_unequal_waves_fills_its_hole_in_the_same_order(stage: Stage) {
        only_the_failed_task_runs_again(&stage, 2).await;
    }

    async fn a_retry_with_a_hole_sleeps_until_its_last_task_has_ended(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        let dir = stage.dir().display();
        // The first and the last one fail until they are repaired; then the last one takes its time.
        let script = format!(
            "echo ran >> {dir}/effect-$1\n[ $1 = b ] || [ -e {dir}/repaired ] || exit 7\n\
             if [ $1 = c ]; then while [ ! -e {dir}/go ]; do sleep 0.1; done; fi\n"
        );
        let inputs = json!({"command": "sh test.sh", "tests": ["a", "b", "c"], "files": [{"path": "test.sh", "inline": script}]});
        let failed = run(&server, "shell-default", inputs, 3).await;
        server.wait_status(&failed, "ERROR").await;
        fs::write(stage.dir().join("repaired"), "").unwrap();

        let new = retry(&server, &failed).await["newRunId"].as_str().unwrap().to_owned();

        let alone = format!(
            "SELECT count(*) FROM app.waits w JOIN dbos.operation_outputs o ON o.workflow_uuid = w.workflow_id \
             JOIN dbos.workflow_status k ON k.workflow_uuid = o.child_workflow_id WHERE w.workflow_id = '{new}' AND k.status = 'PENDING' \
             AND w.conditions = '[{{\"kind\":\"children\",\"low\":' || o.function_id || ',\"high\":' || o.function_id || '}}]' \
             AND NOT EXISTS (SELECT 1 FROM dbos.workflow_status other WHERE other.parent_workflow_id = '{new}' \
             AND other.workflow_uuid <> k.workflow_uuid AND other.status <> 'SUCCESS')"
        );
        stage.until_count("it waits for the last task alone", &alone, 1).await;
        fs::write(stage.dir().join("go"), "").unwrap();
        server.wait_status(&new, "SUCCESS").await;
        assert_eq!(effects(&stage), [2, 1, 2]);
        stage.assert_no_duplicates().await;
    }

    async fn retries_that_are_used_up_begin_again_from_one_in_the_new_run(stage: Stage) {
        let server = stage.serve().await;
        let failed = run(&server, "sandbox-default", json!({"command": "INFRA_FAIL"}), 1).await;
        server.wait_next_action(&failed, "APPROVE_PLAN").await;
        server.approve(&failed).await;
        let header = server.wait_next_action(&failed, "REPAIR").await;
        assert_eq!((&header["status"], &header["retryCount"]), (&json!("ERROR"), &json!(0)));

        let first = retry(&server, &failed).await["newRunId"].as_str().unwrap().to_owned();
        // The approval was given before the failure, and is kept.
        let header = server.wait_next_action(&first, "REPAIR").await;
        assert_eq!((&header["status"], &header["retryCount"]), (&json!("ERROR"), &json!(1)));
        let second = retry(&server, &first).await["newRunId"].as_str().unwrap().to_owned();
        assert_eq!(server.wait_next_action(&second, "REPAIR").await["retryCount"], 2);

        for run in [&failed, &first, &second] {
            let attempts = stage.sql(&format!("SELECT attempt, err_code FROM app.sbx_runs WHERE run_id = '{run}' ORDER BY attempt")).await;
            let expected: Vec<Value> = (1..=3).map(|n| json!({"attempt": n, "err_code": "BOOT_FAIL"})).collect();
            assert_eq!(attempts, expected, "{run}");
        }
        assert_eq!(server.header(&failed).await["nextAction"], Value::Null, "it was repaired");
        let chain = stage.sql("SELECT retry_count FROM app.runs WHERE forked_from IS NOT NULL ORDER BY retry_count").await;
        assert_eq!(chain, [json!({"retry_count": 1}), json!({"retry_count": 2})]);
        stage.assert_no_duplicates().await;
    }

    async fn only_runs_that_failed_are_retried(stage: Stage) {
        let server = stage.serve().await;
        let waiting = server.start_golden_run().await;
        server.wait_next_action(&waiting, "APPROVE_PLAN").await;
        let done = server.start_golden_run().await;
        server.approve(&done).await;
        server.wait_status(&done, "SUCCESS").await;
        let before = stage.row_counts().await;

        for (run, status) in [(&waiting, "waiting_input"), (&done, "succeeded")] {
            let refusal = server.send("POST", &format!("/api/runs/{run}/retry"), None).await.expect_refusal(409);
            let message = refusal["error"].as_str().unwrap();
            assert!(message.contains(status) && message.contains("retries_exceeded"), "{message}");
        }
        server.post(&format!("/api/runs/{done}/retry"), &json!({"actor": 7})).await.expect_refusal(400);
        assert_eq!(stage.row_counts().await, before);

        server.post(&format!("/api/ops/wf/{waiting}/cancel"), &json!({})).await.expect(202);
        server.send("POST", &format!("/api/runs/{waiting}/retry"), None).await.expect_refusal(409);
    }

    async fn a_run_that_was_given_up_is_retried_or_resumed(stage: Stage) {
        let server = stage.serve_with(&[("MAX_RECOVERY_ATTEMPTS", "1"), ("EXECUTOR_EXPIRY_MS", "1000")]).await;
        let given_up = server.start_golden_run().await;
        server.wait_next_action(&given_up, "APPROVE_PLAN").await;
        // As if its process had died as often as it may.
        stage.sql_execute(&format!("UPDATE dbos.workflow_status SET recovery_attempts = 1 WHERE workflow_uuid = '{given_up}'")).await;
        server.approve(&given_up).await;
        let header = server.wait_next_action(&given_up, "REPAIR").await;
        assert_eq!((&header["status"], &header["error"]["code"]), (&json!("ERROR"), &json!("max_recovery_attempts")), "{header}");

        let retried = retry(&server, &given_up).await;
        assert_eq!(retried["fromStep"], "DecideST", "{retried}");
        server.post(&format!("/api/ops/wf/{given_up}/resume"), &json!({})).await.expect(202);

        let resumed = eventually(std::time::Duration::from_secs(60), "the resumed run succeeds", || async {
            let header = server.header(&given_up).await;
            if header["status"] == "SUCCESS" { Ok(header) } else { Err(header) }
        })
        .await;
        assert_eq!((&resumed["nextAction"], &resumed["error"]), (&Value::Null, &Value::Null), "{resumed}");
        let new = retried["newRunId"].as_str().unwrap();
        // The gate was not passed when the run was given up: the new run asks for itself.
        server.wait_next_action(new, "APPROVE_PLAN").await;
        server.approve(new).await;
        server.wait_status(new, "SUCCESS").await;
    }
}
