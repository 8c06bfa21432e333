//! Why a run is where it is, asked of the real service in every situation that can be brought about from outside.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use harness::*;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Milliseconds in a day, for what must not happen during a test.
const DAY_MS: i64 = 86_400_000;

async fn seed_patient_recipe(stage: &Stage) {
    stage
        .sql_execute(
            "INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, \
             cancel, created_at) VALUES ('patient', 1, 'intentQ', 10, 10, 10, 'static', 'auto', 'configured', 'boundary', 1)",
        )
        .await;
}

async fn start(server: &Server, command: &str) -> String {
    let intent = server
        .create_intent("explain me", json!({"command": command}))
        .await;
    let request = json!({"intentId": intent, "queuePartitionKey": "t", "recipeName": "patient", "timeoutMS": DAY_MS});
    server.post("/api/runs", &request).await.expect(202);
    intent
}

/// Waits until the run stands for this reason; answers the data. The sentence is never empty.
async fn until_explained(server: &Server, run: &str, reason: &str) -> Value {
    eventually(
        DEADLINE,
        &format!("{run} is explained by {reason}"),
        || async {
            let explain = server.view(run).await["explain"].clone();
            assert!(
                explain["sentence"].as_str().is_some_and(|s| s.len() > 10),
                "{explain}"
            );
            assert_ne!(explain["reason"], "unknown");
            if explain["reason"] == reason {
                Ok(explain["data"].clone())
            } else {
                Err(explain)
            }
        },
    )
    .await
}

/// A server on which nothing starts in `intentQ`, and a run that waits there.
async fn a_run_in_a_paused_queue(stage: &Stage, env: &[(&str, &str)]) -> (Server, String) {
    let server = stage.serve_with(env).await;
    seed_patient_recipe(stage).await;
    server.kill_9().await;
    stage
        .sql_execute("UPDATE app.queue_limits SET paused = true WHERE name = 'intentQ'")
        .await;
    server.start_again().await;
    let run = start(&server, "echo").await;
    (server, run)
}

/// Two runs of long tasks, of which a limit of `sbxQ` lets one go on. Answers the second and the first one's task.
async fn two_runs(
    stage: &Stage,
    env: &[(&str, &str)],
    partition_concurrency: bool,
) -> (Server, String, String) {
    let slow = [("CHAOS_SLEEP_EXECUTE", "600000")];
    let server = stage.serve_with(&[env, slow.as_slice()].concat()).await;
    seed_patient_recipe(stage).await;
    if partition_concurrency {
        stage
            .sql_execute(
                "UPDATE app.queue_limits SET partition_concurrency = 1 WHERE name = 'sbxQ'",
            )
            .await;
    }
    let first = start(&server, "first").await;
    let data = until_explained(&server, &first, "waiting_for_children").await;
    let task = data["children"][0]["workflowID"]
        .as_str()
        .unwrap()
        .to_owned();
    eventually(DEADLINE, "the first task is in execution", || async {
        let view = server.view(&first).await["explain"].clone();
        if view["data"]["children"][0]["executing"] == true {
            Ok(())
        } else {
            Err(view)
        }
    })
    .await;
    let second = start(&server, "second").await;
    (server, second, task)
}

on_both_databases! {
    async fn a_run_at_its_gate_and_at_its_end(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        let data = until_explained(&server, &run, "waiting_for_approval").await;
        assert_eq!(data["nextAction"], "APPROVE_PLAN");
        server.approve(&run).await;
        server.wait_status(&run, "SUCCESS").await;
        assert_eq!(until_explained(&server, &run, "ended").await["status"], "succeeded");
    }

    async fn a_view_says_the_same_of_the_run_and_of_its_workflow(stage: Stage) {
        let server = stage.serve().await;
        // Asked again and again, some of them are met while they end.
        for _ in 0..40 {
            let run = server.start_job(json!({"command": "true"})).await;
            let last = loop {
                let view = server.view(&run).await;
                let ended = view["header"]["status"] == "SUCCESS";
                assert_eq!(view["explain"]["reason"] == "ended", ended, "{view}");
                if ended {
                    break view;
                }
            };
            assert_eq!((last["steps"].as_array().unwrap().len(), &last["tasks"][0]["errCode"]), (4, &json!("NONE")), "{last}");
        }
    }

    async fn a_paused_queue_a_delay_and_a_dead_owner(stage: Stage) {
        let (server, run) = a_run_in_a_paused_queue(&stage, &[]).await;
        let data = until_explained(&server, &run, "queue_paused").await;
        assert_eq!(data["queue"], "intentQ");

        let at = 95_000_000_000_000_i64;
        stage.sql_execute(&format!("UPDATE dbos.workflow_status SET status = 'DELAYED', delay_until_epoch_ms = {at} WHERE workflow_uuid = '{run}'")).await;
        assert_eq!(until_explained(&server, &run, "delayed").await["startsAt"], at);

        // Claimed by a process that is not there, and too lately for anybody to have noticed.
        stage.sql_execute(&format!("INSERT INTO app.claims VALUES ('{run}', 'token', 'ghost', 'intentQ', 't', 0, {at})")).await;
        stage.sql_execute(&format!("UPDATE dbos.workflow_status SET status = 'PENDING', owner_xid = 'token' WHERE workflow_uuid = '{run}'")).await;
        let data = until_explained(&server, &run, "owner_dead").await;
        assert_eq!(data["executor"], "ghost");
        assert!(data["takenOverAt"].is_i64(), "{data}");
    }

    async fn a_process_that_has_fallen_silent_is_told_long_before_its_expiry(stage: Stage) {
        const EXPIRY_MS: i64 = 3_600_000;
        let (server, run) = a_run_in_a_paused_queue(&stage, &[("EXECUTOR_EXPIRY_MS", &EXPIRY_MS.to_string())]).await;
        until_explained(&server, &run, "queue_paused").await;

        let last_beat = now() - EXPIRY_MS / 2 - 60_000;
        stage
            .sql_execute(&format!(
                "INSERT INTO app.executors (id, app_version, hostname, pid, started_at, heartbeat_at) VALUES ('silent', 'v1', 'h', 1, {last_beat}, {last_beat})"
            ))
            .await;
        stage.sql_execute(&format!("INSERT INTO app.claims VALUES ('{run}', 'token', 'silent', 'intentQ', 't', 0, {last_beat})")).await;
        stage.sql_execute(&format!("UPDATE dbos.workflow_status SET status = 'PENDING', owner_xid = 'token' WHERE workflow_uuid = '{run}'")).await;

        let data = until_explained(&server, &run, "owner_dead").await;
        assert_eq!((&data["executor"], &data["takenOverAt"]), (&json!("silent"), &json!(last_beat + EXPIRY_MS)));
        let sentence = server.view(&run).await["explain"]["sentence"].as_str().unwrap().to_owned();
        assert!(sentence.contains("has not been heard of for"), "{sentence}");

        // It beats again: nothing has changed hands.
        stage.sql_execute(&format!("UPDATE app.executors SET heartbeat_at = {} WHERE id = 'silent'", now())).await;
        assert_eq!(until_explained(&server, &run, "executing").await["executor"], "silent");
    }

    async fn a_version_that_nobody_runs(stage: Stage) {
        let quick = [("EXECUTOR_EXPIRY_MS", "1000")];
        let (server, run) = a_run_in_a_paused_queue(&stage, &quick).await;
        server.kill_9().await;
        server.start_again_with(&[("DBOS__APPVERSION", "v2")]).await;

        let data = until_explained(&server, &run, "no_worker_with_version").await;
        assert_eq!((&data["applicationVersion"], &data["liveVersions"]), (&json!("v1"), &json!(["v2"])));
    }

    async fn a_full_queue_names_its_holder(stage: Stage) {
        let (server, second, task) = two_runs(&stage, &[("SBX_QUEUE_CONCURRENCY", "1")], false).await;
        let data = until_explained(&server, &second, "queue_concurrency").await;
        assert_eq!((&data["queue"], &data["limit"], &data["live"]), (&json!("sbxQ"), &json!(1), &json!(1)));
        assert_eq!(data["holders"][0]["workflowID"], task.as_str(), "{data}");
        assert!(data["task"].is_string() && data["deadlineAt"].is_i64(), "{data}");
    }

    async fn a_full_partition_names_its_holder(stage: Stage) {
        let (server, second, task) = two_runs(&stage, &[], true).await;
        let data = until_explained(&server, &second, "partition_concurrency").await;
        assert_eq!((&data["partition"], &data["limit"]), (&json!("t"), &json!(1)));
        assert_eq!(data["holders"][0]["workflowID"], task.as_str(), "{data}");
    }

    async fn a_full_process_is_named(stage: Stage) {
        let (server, second, task) = two_runs(&stage, &[("SBX_QUEUE_WORKER_CONCURRENCY", "1")], false).await;
        let data = until_explained(&server, &second, "worker_concurrency").await;
        assert_eq!((&data["limit"], &data["workers"][0]["live"]), (&json!(1), &json!(1)));
        assert_eq!(data["holders"][0]["workflowID"], task.as_str(), "{data}");
    }

    async fn a_used_up_rate_says_when_it_opens(stage: Stage) {
        let limits = [("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "1"), ("SBX_QUEUE_RATE_LIMIT_PERIOD_SEC", "3600")];
        let (server, second, _) = two_runs(&stage, &limits, false).await;
        let data = until_explained(&server, &second, "rate_limit").await;
        let window = stage.sql_count("SELECT window_started_at FROM app.queue_limits WHERE name = 'sbxQ'").await;
        assert_eq!(data["opensAt"], window + 3_600_000);
    }

    async fn a_back_off_says_when_the_next_attempt_is(stage: Stage) {
        let server = stage.serve().await;
        seed_patient_recipe(&stage).await;
        let run = start(&server, "INFRA_FAIL").await;
        let data = until_explained(&server, &run, "retry_backoff").await;
        assert!(data["nextAttemptAt"].as_i64() > server.header(&run).await["createdAt"].as_i64(), "{data}");
        server.wait_next_action(&run, "REPAIR").await;
        assert_eq!(until_explained(&server, &run, "ended").await["nextAction"], "REPAIR");
    }

    async fn a_resumed_task_waits_for_its_previous_execution(stage: Stage) {
        let server = stage.serve_with(&[("CHAOS_SLEEP_EXECUTE", "5000")]).await;
        seed_patient_recipe(&stage).await;
        let run = start(&server, "slow").await;
        eventually(DEADLINE, "the task is in execution", || async {
            let explain = server.view(&run).await["explain"].clone();
            if explain["data"]["children"][0]["executing"] == true { Ok(()) } else { Err(explain) }
        })
        .await;

        for action in ["cancel", "resume"] {
            server.send("POST", &format!("/api/ops/wf/{run}/{action}"), None).await.expect(202);
        }

        let data = until_explained(&server, &run, "previous_execution").await;
        assert!(data["executor"].is_string() && data["deadlineAt"].is_null(), "a resume forgets the deadline: {data}");
        server.wait_status(&run, "SUCCESS").await;
    }

    async fn a_deadline_is_told(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("late", json!({})).await;
        let request = json!({"intentId": intent, "queuePartitionKey": "t", "recipeName": "sandbox-default", "timeoutMS": DAY_MS});
        server.post("/api/runs", &request).await.expect(202);
        let data = until_explained(&server, &intent, "waiting_for_approval").await;
        assert!(data["deadlineAt"].as_i64() > server.header(&intent).await["createdAt"].as_i64(), "{data}");
    }
}
