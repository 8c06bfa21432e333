//! Cancel, resume and fork in every situation that a workflow can be in, over parents and children, by us and by other clients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
#[path = "cancel_resume_fork/kit.rs"]
mod kit;
#[path = "cancel_resume_fork/situations.rs"]
mod situations;

use std::{fs, time::Duration};

use harness::*;
use kit::*;
use serde_json::{Value, json};
use situations::{Situation, all_three_hold};

macro_rules! situations {
    ($($name:ident: $situation:ident;)+) => { on_both_databases! { $(
        async fn $name(stage: Stage) {
            all_three_hold(&stage, Situation::$situation).await;
        }
    )+ } };
}

situations! {
    while_queued: Queued;
    while_a_step_runs: Running;
    while_asleep: Asleep;
    while_waiting_for_an_event: WaitingForAnEvent;
    while_waiting_for_children: WaitingForChildren;
    while_in_a_back_off: InABackOff;
    while_suspended_on_a_queued_child: Suspended;
    while_owned_by_a_dead_process: OwnedByADeadProcess;
}

on_both_databases! {
    async fn a_command_that_is_cancelled_and_resumed_at_once_never_runs_twice_at_the_same_time(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        seed_patient_recipe(&stage).await;
        let run = start(&server, "patient", json!({"command": command(&stage)})).await;
        until_started(&stage).await;

        cancel(&server, &run).await;
        resume(&server, &run).await;
        let in_progress = "SELECT count(*) FROM app.claims c JOIN dbos.workflow_status s ON s.workflow_uuid = c.workflow_id \
                           WHERE s.status = 'ENQUEUED' AND s.parent_workflow_id IS NOT NULL";
        stage.until_count("the task is queued again while its command runs", in_progress, 1).await;
        let_go(&stage);

        server.wait_status(&run, "SUCCESS").await;
        assert_never_side_by_side(&stage, 1);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.sbx_runs").await, 1, "its result counts once");
        stage.assert_no_duplicates().await;
    }

    async fn a_recipe_that_says_so_has_its_command_killed_at_once(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        let log = stage.dir().join("effects");
        let seconds = format!("77.{}", std::process::id());
        let inputs = json!({"command": format!("echo start >> {0}; [ -e {0}.go ] || sleep {seconds}; echo end >> {0}", log.display())});
        let run = start(&server, "shell-default", inputs).await;
        until_started(&stage).await;

        cancel(&server, &run).await;

        eventually(Duration::from_secs(10), "the command is gone", || async {
            let living = living_processes(&seconds);
            if living.is_empty() { Ok(()) } else { Err(format!("{living:?}")) }
        })
        .await;
        until_nobody_executes(&stage).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.sbx_runs").await, 0, "nothing of the step is recorded");
        assert_eq!(effects(&stage), ["start"]);

        fs::write(format!("{}.go", log.display()), "").unwrap();
        resume(&server, &run).await;
        server.wait_status(&run, "SUCCESS").await;
        assert_eq!(effects(&stage), ["start", "start", "end"]);
        assert_eq!(stage.sql_count("SELECT attempt FROM app.sbx_runs").await, 1);
    }

    async fn a_child_that_somebody_cancels_alone_is_an_error_of_its_parent(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        seed_patient_recipe(&stage).await;
        let run = start(&server, "patient", json!({"command": command(&stage)})).await;
        until_started(&stage).await;
        let child = children(&stage, &run).await[0].0.clone();

        cancel(&server, &child).await;

        let header = server.wait_status(&run, "ERROR").await;
        assert_eq!(header["error"]["code"], "child_cancelled", "{header}");
        // The step in progress was kept, and the child goes on alone.
        let_go(&stage);
        until_nobody_executes(&stage).await;
        resume(&server, &child).await;
        until_status(&server, &child, "SUCCESS").await;
        assert_never_side_by_side(&stage, 1);
        let audited = stage.sql_value("SELECT run_id FROM app.artifacts WHERE step_id = 'OPS' AND attempt = 1").await;
        assert_eq!(audited, child.as_str(), "a task has no run; its trail is under its own id");
    }

    async fn a_child_that_was_cancelled_alone_stays_cancelled_when_its_parent_is_resumed(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        seed_patient_recipe(&stage).await;
        pause(&stage, "sbxQ", true).await;
        let run = start(&server, "patient", json!({"command": "echo", "tests": ["a", "b"]})).await;
        stage.until_count("two children are queued", "SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'sbxQ' AND status = 'ENQUEUED'", 2).await;
        let alone = children(&stage, &run).await[0].0.clone();
        cancel(&server, &alone).await;
        cancel(&server, &run).await;
        let by = stage.sql("SELECT workflow_id, cancelled_by FROM app.cancellations ORDER BY cancelled_by").await;
        let by_parent: Vec<_> = by.iter().filter(|row| row["cancelled_by"] == run.as_str()).collect();
        assert_eq!((by.len(), by_parent.len()), (3, 1), "{by:?}");

        pause(&stage, "sbxQ", false).await;
        resume(&server, &run).await;

        let header = server.wait_status(&run, "ERROR").await;
        assert_eq!(header["error"]["code"], "child_cancelled", "{header}");
        let statuses: Vec<String> = children(&stage, &run).await.into_iter().map(|(_, status)| status).collect();
        assert!(statuses.contains(&"CANCELLED".to_owned()) && statuses.contains(&"SUCCESS".to_owned()), "{statuses:?}");
    }

    async fn a_deadline_cancels_the_children_too_and_a_resume_forgets_it(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        seed_patient_recipe(&stage).await;
        let intent = server.create_intent("late", json!({"command": command(&stage)})).await;
        let request = json!({"intentId": intent, "queuePartitionKey": "t", "recipeName": "patient", "timeoutMS": 1500});
        server.post("/api/runs", &request).await.expect(202);

        server.wait_status(&intent, "CANCELLED").await;
        assert_eq!(children(&stage, &intent).await[0].1, "CANCELLED");

        let_go(&stage);
        resume(&server, &intent).await;
        server.wait_status(&intent, "SUCCESS").await;
        assert_never_side_by_side(&stage, 1);
    }

    async fn what_another_client_cancels_and_resumes_is_carried_to_run_and_children(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        seed_patient_recipe(&stage).await;
        let run = start(&server, "patient", json!({"command": command(&stage)})).await;
        until_started(&stage).await;

        // The two statements of the official client, for the parent alone.
        let now = if stage.backend() == Backend::Sqlite { "CAST(unixepoch('subsec') * 1000 AS INTEGER)" } else { "(extract(epoch from now()) * 1000)::bigint" };
        stage.sql_execute(&format!(
            "UPDATE dbos.workflow_status SET status = 'CANCELLED', owner_xid = NULL, queue_name = NULL, deduplication_id = NULL, \
             started_at_epoch_ms = NULL, updated_at = {now}, completed_at = {now} WHERE workflow_uuid = '{run}'"
        )).await;

        let header = server.wait_status(&run, "CANCELLED").await;
        assert!(header["endedAt"].is_i64(), "{header}");
        stage.until_count("the child is cancelled", "SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id IS NOT NULL AND status = 'CANCELLED'", 1).await;
        let_go(&stage);
        until_nobody_executes(&stage).await;

        stage.sql_execute(&format!(
            "UPDATE dbos.workflow_status SET status = 'ENQUEUED', owner_xid = NULL, queue_name = '_dbos_internal_queue', recovery_attempts = 0, \
             workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL, updated_at = {now}, completed_at = NULL \
             WHERE workflow_uuid = '{run}'"
        )).await;
        until_status(&server, &run, "SUCCESS").await;
        let header = server.wait_status(&run, "SUCCESS").await;
        assert_eq!((&header["error"], &header["lastStep"]), (&Value::Null, &json!("ExecuteST")), "{header}");
        assert_never_side_by_side(&stage, 1);
        stage.assert_no_duplicates().await;
    }

    async fn runs_that_others_have_cancelled_before_the_start_are_cancelled_however_many(stage: Stage) {
        // More than one look finds, and long ago.
        const RUNS: i64 = 1_500;
        database(&stage).await;
        for (table, values) in [
            (
                "dbos.workflow_status (workflow_uuid, status, name, application_name, application_version, created_at, updated_at, completed_at)",
                "'old-' || i, 'CANCELLED', 'stepwell.run', 'stepwell', 'v1', 1, 2, 2",
            ),
            (
                "app.runs (id, intent_id, workflow_id, status, workflow_name, recipe_name, recipe_version, queue_name, request, workload, trace_id, \
                 span_id, created_at, updated_at)",
                "'old-' || i, 'intent-' || i, 'old-' || i, 'running', 'stepwell.run', 'sandbox-default', 1, 'intentQ', '{}', '{}', 't', 's', 1, 1",
            ),
        ] {
            let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {RUNS})");
            let inserted = stage.sql_execute(&format!("{numbers} INSERT INTO {table} SELECT {values} FROM n")).await;
            assert_eq!(inserted, RUNS as u64);
        }

        let _server = stage.serve().await;

        let cancelled = "SELECT count(*) FROM app.runs WHERE status = 'canceled' AND ended_at = 2";
        stage.until_count("every run is cancelled", cancelled, RUNS).await;
    }

    async fn a_fork_by_another_client_gets_a_run_of_its_own(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;

        // As the official client forks: a row on its queue, the inputs, and the records below the step.
        let now = if stage.backend() == Backend::Sqlite { "CAST(unixepoch('subsec') * 1000 AS INTEGER)" } else { "(extract(epoch from now()) * 1000)::bigint" };
        let statements = [
            format!("INSERT INTO dbos.workflow_input (workflow_uuid, inputs) SELECT 'theirs', inputs FROM dbos.workflow_input WHERE workflow_uuid = '{run}'"),
            format!("INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, serialization) SELECT 'theirs', function_id, \
                     function_name, output, serialization FROM dbos.operation_outputs WHERE workflow_uuid = '{run}' AND function_id < 1"),
            format!("INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name, application_version, forked_from, \
                     serialization, created_at, updated_at) SELECT 'theirs', 'ENQUEUED', name, '_dbos_internal_queue', application_name, \
                     application_version, workflow_uuid, serialization, {now}, {now} FROM dbos.workflow_status WHERE workflow_uuid = '{run}'"),
        ];
        for statement in statements {
            stage.sql_execute(&statement).await;
        }

        eventually(DEADLINE, "the fork has a run at its gate", || async {
            let answer = server.get("/api/runs/theirs").await;
            if answer.json()["nextAction"] == "APPROVE_PLAN" { Ok(()) } else { Err(answer) }
        })
        .await;
        server.approve("theirs").await;
        let header = server.wait_status("theirs", "SUCCESS").await;
        assert_eq!((&header["forkedFrom"], &header["intentId"], &header["lastStep"]), (&json!(run), &json!(run), &json!("ExecuteST")));
        let steps: Vec<Value> = server.steps("theirs").await.iter().map(|step| step["stepID"].clone()).collect();
        assert_eq!(steps, ["CompileST", "ApplyPatchST", "DecideST", "ExecuteST"]);
        assert_eq!(server.header(&run).await["nextAction"], "APPROVE_PLAN", "the original waits as before");
    }

    async fn a_run_that_another_client_rewinds_goes_on_and_counts_its_executions(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.approve(&run).await;
        server.wait_status(&run, "SUCCESS").await;
        let decide = recorded(&stage, &run).await.iter().position(|name| name == "DecideST").unwrap();

        // As the official clients rewind: what is recorded from the step on goes, and the workflow is on their queue.
        for statement in [
            format!("DELETE FROM dbos.operation_outputs WHERE workflow_uuid = '{run}' AND function_id >= {decide}"),
            format!("DELETE FROM dbos.workflow_output WHERE workflow_uuid = '{run}'"),
            format!("UPDATE dbos.workflow_status SET status = 'ENQUEUED', owner_xid = NULL, queue_name = '_dbos_internal_queue', recovery_attempts = 0, \
                     started_at_epoch_ms = NULL, completed_at = NULL WHERE workflow_uuid = '{run}'"),
        ] {
            stage.sql_execute(&statement).await;
        }

        until_status(&server, &run, "SUCCESS").await;
        server.wait_status(&run, "SUCCESS").await;
        let steps: Vec<(Value, Value)> = server.steps(&run).await.iter().map(|step| (step["stepID"].clone(), step["attempt"].clone())).collect();
        let expected = [("CompileST", 1), ("ApplyPatchST", 1), ("DecideST", 1), ("ExecuteST", 1), ("DecideST", 2), ("ExecuteST", 2)];
        assert_eq!(steps, expected.map(|(step, attempt)| (json!(step), json!(attempt))));
        let again = server.steps(&run).await[4]["artifactRefs"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(server.artifact(&again).await.status, 200);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.sbx_runs").await, 1, "the task had ended, and is not done again");
        stage.assert_no_duplicates().await;
    }

    async fn a_fork_of_a_task_leaves_everything_under_its_own_id(stage: Stage) {
        let server = stage.serve().await;
        seed_patient_recipe(&stage).await;
        let run = start(&server, "patient", json!({"command": "FLAKY_INFRA_FAIL"})).await;
        server.wait_status(&run, "SUCCESS").await;
        let task = children(&stage, &run).await[0].0.clone();

        let forked = fork(&server, &task, 2).await;

        until_status(&server, &forked, "SUCCESS").await;
        let attempts = stage.sql(&format!("SELECT attempt, task_key FROM app.sbx_runs WHERE run_id = '{forked}' ORDER BY attempt")).await;
        assert_eq!(attempts, [json!({"attempt": 2, "task_key": forked}), json!({"attempt": 3, "task_key": forked})]);
        assert_eq!(stage.sql_count(&format!("SELECT count(*) FROM app.sbx_runs WHERE run_id = '{run}'")).await, 3);
        stage.assert_no_duplicates().await;
    }

    async fn workflows_of_other_applications_are_cancelled_resumed_and_forked(stage: Stage) {
        let server = stage.serve().await;
        stage.sql_execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, class_name, queue_name, application_name, application_version, \
             created_at, updated_at, recovery_attempts, inputs, serialization) VALUES \
             ('order-1', 'ENQUEUED', 'order', 'Shop', 'orders', 'shop', 'x9', 1, 1, 3, '[1]', 'js_superjson'), \
             ('order-2', 'CANCELLED', 'order', 'Shop', NULL, 'shop', 'x9', 2, 2, 0, '[2]', 'js_superjson')",
        ).await;
        for (id, name) in [(0, "pick"), (1, "pack"), (2, "ship")] {
            stage.sql_execute(&format!(
                "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, serialization) \
                 VALUES ('order-1', {id}, '{name}', '{{\"json\":{id}}}', 'js_superjson')"
            )).await;
        }
        for (id, value) in [(0, "early"), (1, "late")] {
            stage.sql_execute(&format!("INSERT INTO dbos.workflow_events_history (workflow_uuid, function_id, key, value) VALUES ('order-1', {id}, 'state', '{value}')")).await;
        }

        let forked = fork(&server, "order-1", 1).await;
        cancel(&server, "order-1").await;
        let row = |id: String| {
            let stage = stage.clone();
            async move { stage.sql(&format!("SELECT status, queue_name, class_name, application_name, recovery_attempts FROM dbos.workflow_status WHERE workflow_uuid = '{id}'")).await[0].clone() }
        };
        assert_eq!(row("order-1".into()).await["status"], "CANCELLED");
        resume(&server, "order-1").await;
        resume(&server, "order-2").await;

        let foreign = |queue: &str| json!({"status": "ENQUEUED", "queue_name": queue, "class_name": "Shop", "application_name": "shop", "recovery_attempts": 0});
        assert_eq!(row("order-1".into()).await, foreign("orders"));
        assert_eq!(row("order-2".into()).await, foreign("_dbos_internal_queue"), "its queue is known to nobody");
        assert_eq!(row(forked.clone()).await, foreign("orders"));
        assert_eq!(forked.len(), 36, "a UUID: {forked}");
        assert_eq!(recorded(&stage, &forked).await, ["pick"]);
        let event = stage.sql_value(&format!("SELECT value FROM dbos.workflow_events WHERE workflow_uuid = '{forked}'")).await;
        assert_eq!(event, "early");
        let inputs = stage.sql_value(&format!("SELECT inputs FROM dbos.workflow_input WHERE workflow_uuid = '{forked}'")).await;
        assert_eq!(inputs, "[1]");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.artifacts WHERE step_id = 'OPS'").await, 4);
    }

    async fn a_fork_executes_its_step_and_what_follows_and_nothing_before(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("three tasks", json!({"command": "check", "tests": ["a", "b", "c"]})).await;
        let request = json!({"intentId": intent, "queuePartitionKey": "t", "recipeName": "sandbox-default"});
        server.post("/api/runs", &request).await.expect(202);
        server.wait_next_action(&intent, "APPROVE_PLAN").await;
        server.approve(&intent).await;
        server.wait_status(&intent, "SUCCESS").await;
        let names = recorded(&stage, &intent).await;
        let decide = names.iter().position(|name| name == "DecideST").unwrap();
        let last = names.len() - 1;

        let from_decide = fork(&server, &intent, i32::try_from(decide).unwrap()).await;
        let from_last = fork(&server, &intent, i32::try_from(last).unwrap()).await;
        let header = server.wait_status(&from_decide, "SUCCESS").await;
        server.wait_status(&from_last, "SUCCESS").await;

        assert_eq!(header["forkedFrom"], intent.as_str());
        assert_eq!((&header["intentId"], &header["runId"], &header["retryCount"]), (&json!(intent), &json!(from_decide), &json!(0)));
        assert!(header["startedAt"].as_i64() >= header["createdAt"].as_i64(), "{header}");
        // A task's key tells its run: new ones ran for the fork from DecideST, and none for the one from the merge.
        let keys = |run: String| {
            let stage = stage.clone();
            async move {
                let rows = stage.sql(&format!("SELECT task_key FROM app.sbx_runs WHERE run_id = '{run}' ORDER BY ordinal")).await;
                rows.iter().map(|row| row["task_key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            }
        };
        let (original, decided, merged) = (keys(intent.clone()).await, keys(from_decide.clone()).await, keys(from_last.clone()).await);
        assert_eq!((original.len(), decided.len()), (3, 3));
        assert!(decided.iter().all(|key| !original.contains(key)), "{decided:?}");
        assert_eq!(merged, original, "copied");
        assert_eq!((children(&stage, &from_decide).await.len(), children(&stage, &from_last).await.len()), (3, 0));
        // Each has steps and artifacts of its own; what was copied began before the fork was made.
        for (run, executed) in [(&from_decide, vec!["DecideST", "ExecuteST"]), (&from_last, vec!["ExecuteST"])] {
            let created = server.header(run).await["createdAt"].as_i64().unwrap();
            let steps = server.steps(run).await;
            assert_eq!(steps.len(), 4, "{run}");
            for step in &steps {
                let is_new = step["startedAt"].as_i64().unwrap() >= created;
                assert_eq!(is_new, executed.contains(&step["stepID"].as_str().unwrap()), "{run}: {step}");
                for artifact in step["artifactRefs"].as_array().unwrap() {
                    let id = artifact["id"].as_str().unwrap();
                    assert!(id.starts_with(&format!("artifact://run/{run}/")), "{id}");
                    assert_eq!(server.artifact(id).await.status, 200, "{id}");
                }
            }
            assert_eq!(server.view(run).await["tasks"].as_array().unwrap().len(), 3);
            assert!(server.view(run).await["approval"].is_object(), "the gate was copied, its approval too");
        }
        let view = server.view(&intent).await;
        assert_eq!(view["forks"], json!([from_decide, from_last]));
        let receipts = stage.sql_count("SELECT count(*) FROM app.mock_receipts").await;
        assert_eq!(receipts, 6, "three tasks of the original, three of the first fork");
        stage.assert_no_duplicates().await;
    }
}

/// Lets the official client of npm act on a workflow; answers the id of the workflow that goes on.
async fn official(stage: &Stage, arguments: &[&str]) -> String {
    let packages = npm_packages("dbos", include_str!("dbos_client/package.json"))
        .await
        .expect("the official client of npm");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dbos_client/act.mjs");
    let output = stage
        .tool("node")
        .arg(script)
        .arg(stage.database_url())
        .args(arguments)
        .env("STEPWELL_NPM", packages)
        .output()
        .await
        .expect("node runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

on_postgres! {
    async fn the_official_client_cancels_resumes_and_forks_our_runs(stage: Stage) {
        if missing_tools(&["node", "npm"]) {
            return;
        }
        let server = stage.serve_with(&LIVE).await;
        seed_patient_recipe(&stage).await;
        for action in ["cancel", "cancel-tree"] {
            for file in ["effects", "effects.go"] {
                let _ = fs::remove_file(stage.dir().join(file));
            }
            let run = start(&server, "patient", json!({"command": command(&stage)})).await;
            until_started(&stage).await;

            official(&stage, &[action, &run]).await;
            server.wait_status(&run, "CANCELLED").await;
            let open = format!("SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id = '{run}' AND status <> 'CANCELLED'");
            stage.until_count("the child is cancelled", &open, 0).await;
            let noted = format!("SELECT count(*) FROM app.cancellations WHERE cancelled_by = '{run}'");
            stage.until_count("its parent is noted", &noted, 1).await;

            let_go(&stage);
            official(&stage, &["resume", &run]).await;
            until_status(&server, &run, "SUCCESS").await;
            assert_never_side_by_side(&stage, 1);
            let child = stage.sql_value(&format!("SELECT queue_name FROM dbos.workflow_status WHERE parent_workflow_id = '{run}'")).await;
            assert_eq!(child, "sbxQ", "{action}: the child was put back into its own queue");

            let forked = official(&stage, &["fork", &run, "2"]).await;
            until_status(&server, &forked, "SUCCESS").await;
            // It may have ended before anybody saw that it has no run.
            let adopted = format!("SELECT count(*) FROM app.runs WHERE id = '{forked}'");
            stage.until_count("the fork has a run", &adopted, 1).await;
            let header = server.wait_status(&forked, "SUCCESS").await;
            assert_eq!(header["forkedFrom"], run.as_str());
            assert_eq!(server.steps(&forked).await.len(), 4);
        }
        stage.assert_no_duplicates().await;
    }
}
