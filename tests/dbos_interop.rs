//! DBOS tools in both directions: the official clients and command lines of npm and `PyPI` on our database, where our workers act on what they
//! did; and our ops plane on a database that applications of theirs wrote. What cannot be fetched is skipped, loudly.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod dbos_interop {
    pub(crate) mod sdk;
}

use std::time::Duration;

use dbos_interop::sdk::Sdk;
use harness::*;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Everything that distinguishes one `dbos` schema from another.
const FACTS: &str = include_str!("../migration/tests/dbos_facts.sql");
/// What our plans wait for.
const APPROVAL: &str = "approve-plan";

async fn workflow(server: &Server, id: &str) -> Value {
    server.get(&format!("/api/ops/wf/{id}")).await.expect(200)
}

async fn until(server: &Server, id: &str, wanted: &str) -> Value {
    eventually(DEADLINE, &format!("{id} is {wanted}"), || async {
        let found = server.get(&format!("/api/ops/wf/{id}")).await.json();
        if found["status"] == wanted {
            Ok(found)
        } else {
            Err(found)
        }
    })
    .await
}

/// Waits until the run's header says so.
async fn until_run(server: &Server, id: &str, wanted: &str) -> Value {
    eventually(DEADLINE, &format!("run {id} is {wanted}"), || async {
        let answer = server.get(&format!("/api/runs/{id}")).await;
        let found = answer.json();
        if found["status"] == wanted {
            Ok(found)
        } else {
            Err(found)
        }
    })
    .await
}

/// A run that waits for its approval.
async fn waiting_run(server: &Server) -> String {
    let run = server.start_golden_run().await;
    server.wait_next_action(&run, "APPROVE_PLAN").await;
    run
}

fn fields<'a>(rows: &'a Value, name: &str) -> Vec<&'a Value> {
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| &row[name])
        .collect()
}

async fn facts(stage: &Stage) -> Vec<Value> {
    stage.sql(FACTS).await
}

on_both_databases! {
    async fn the_official_clients_list_our_runs_and_their_steps(stage: Stage) {
        let server = stage.serve().await;
        let run = waiting_run(&server).await;
        server.approve(&run).await;
        server.wait_status(&run, "SUCCESS").await;

        for sdk in Sdk::of(&stage).await {
            let answers = sdk.client(&stage, json!([["list"], ["get", run], ["steps", run]])).await;
            let [list, parent, steps] = answers.as_slice() else { panic!("{answers:?}") };

            let listed = list.as_array().unwrap();
            assert!(listed.contains(parent), "our run is listed");
            assert_eq!((&parent["status"], &parent["queueName"]), (&json!("SUCCESS"), &json!("intentQ")), "{parent}");
            assert!(parent["workflowName"].as_str().unwrap().starts_with("stepwell."), "{parent}");
            assert_eq!(parent["output"]["failed"], 0, "{parent}");
            let child = listed.iter().find(|workflow| workflow["queueName"] == "sbxQ").expect("its task is listed");
            assert_eq!((&child["status"], &child["parentWorkflowID"]), (&json!("SUCCESS"), &json!(run)), "{child}");

            let names = fields(steps, "name");
            assert_eq!(names[..5], ["CompileST", "ApplyPatchST", "DBOS.recv", "DBOS.sleep", "DecideST"], "{steps}");
            assert_eq!(names.last().unwrap().as_str(), Some("ExecuteST"), "{steps}");
            assert!(names.contains(&&json!("DBOS.getResult")), "{steps}");
            let ids: Vec<_> = fields(steps, "functionID").into_iter().map(|id| id.as_u64().unwrap()).collect();
            assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>());
            assert!(fields(steps, "childWorkflowID").contains(&&child["workflowID"]), "{steps}");
            assert!(fields(steps, "error").iter().all(|error| error.is_null()), "{steps}");
        }
    }

    async fn their_clients_cancel_and_resume_our_waiting_run(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::of(&stage).await {
            let run = waiting_run(&server).await;
            sdk.call(&stage, json!(["cancel", run])).await;
            let cancelled = until_run(&server, &run, "CANCELLED").await;
            assert_eq!(cancelled["nextAction"], Value::Null);
            server.try_approve(&run, "late").await.expect_refusal(409);

            // Ours puts it back where it was.
            server.post(&format!("/api/ops/wf/{run}/resume"), &json!({})).await.expect(202);
            server.wait_next_action(&run, "APPROVE_PLAN").await;
            let row = stage.sql(&format!("SELECT queue_name, queue_partition_key FROM dbos.workflow_status WHERE workflow_uuid = '{run}'")).await;
            assert_eq!(row, [json!({"queue_name": "intentQ", "queue_partition_key": "tenant-007"})]);

            // Theirs into the internal queue, which we serve; of one that waits, too.
            sdk.call(&stage, json!(["cancel", run])).await;
            until_run(&server, &run, "CANCELLED").await;
            sdk.client(&stage, json!([["resume", run], ["resume", run]])).await;
            server.wait_next_action(&run, "APPROVE_PLAN").await;
            server.approve(&run).await;
            server.wait_status(&run, "SUCCESS").await;
            assert_eq!(server.steps(&run).await.len(), 4, "each step once");
        }
        stage.assert_no_duplicates().await;
    }

    async fn their_clients_cancel_and_resume_our_running_run(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::of(&stage).await {
            let run = server.start_job(json!({"command": "sleep 12; echo done"})).await;
            eventually(DEADLINE, "its task runs", || async {
                let sql = format!("SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id = '{run}' AND status = 'PENDING'");
                if stage.sql_count(&sql).await == 1 { Ok(()) } else { Err("no task") }
            })
            .await;

            sdk.call(&stage, json!(["cancel", run])).await;
            until_run(&server, &run, "CANCELLED").await;
            // The client cancels the parent alone; the child is cancelled with it.
            let child = format!("SELECT status FROM dbos.workflow_status WHERE parent_workflow_id = '{run}'");
            eventually(DEADLINE, "the child is cancelled", || async {
                let status = stage.sql_value(&child).await;
                if status == "CANCELLED" { Ok(()) } else { Err(status) }
            })
            .await;
            sdk.call(&stage, json!(["resume", run])).await;
            until_run(&server, &run, "SUCCESS").await;
            let tasks = stage.sql(&format!("SELECT attempt, err_code FROM app.sbx_runs WHERE run_id = '{run}'")).await;
            assert_eq!(tasks, [json!({"attempt": 1, "err_code": "NONE"})], "the command ran once, and its result was kept");
        }
        stage.assert_no_duplicates().await;
    }

    async fn their_clients_act_on_our_queued_run(stage: Stage) {
        stage.migrate().await;
        for sdk in Sdk::of(&stage).await {
            let (run, other) = {
                let api = stage.start("api", &[]).await;
                let run = api.start_golden_run().await;
                let other = api.start_golden_run().await;
                assert_eq!(api.header(&run).await["status"], "ENQUEUED", "nobody executes it");
                sdk.client(&stage, json!([["cancel", run], ["resume", other], ["fork", other, 0, format!("copy-{}", sdk.name())]])).await;
                api.kill_9().await;
                (run, other)
            };
            let server = stage.serve().await;
            until_run(&server, &run, "CANCELLED").await;
            server.wait_next_action(&other, "APPROVE_PLAN").await;
            let copy = format!("copy-{}", sdk.name());
            eventually(DEADLINE, "the copy waits", || async {
                let header = server.get(&format!("/api/runs/{copy}")).await.json();
                if header["nextAction"] == "APPROVE_PLAN" { Ok(()) } else { Err(header) }
            })
            .await;
            sdk.call(&stage, json!(["resume", run])).await;
            server.wait_next_action(&run, "APPROVE_PLAN").await;
            for run in [&run, &other, &copy] {
                server.approve(run).await;
                server.wait_status(run, "SUCCESS").await;
            }
            server.kill_9().await;
        }
        stage.assert_no_duplicates().await;
    }

    async fn a_fork_of_theirs_gets_a_run_of_its_own(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::of(&stage).await {
            let run = waiting_run(&server).await;
            let early = format!("early-{}", sdk.name());
            sdk.call(&stage, json!(["fork", run, 1, early])).await;
            let header = eventually(DEADLINE, "the fork waits", || async {
                let header = server.get(&format!("/api/runs/{early}")).await.json();
                if header["nextAction"] == "APPROVE_PLAN" { Ok(header) } else { Err(header) }
            })
            .await;
            assert_eq!((&header["forkedFrom"], &header["intentId"], &header["runId"]), (&json!(run), &json!(run), &json!(early)));
            let steps = server.steps(&early).await;
            let artifacts: Vec<_> = steps.iter().map(|step| step["artifactRefs"].as_array().unwrap().len()).collect();
            assert_eq!(artifacts, [1, 1], "what was copied and what was done: {steps:?}");
            let copied = steps[0]["artifactRefs"][0]["id"].as_str().unwrap().to_owned();
            assert!(copied.starts_with(&format!("artifact://run/{early}/")), "{copied}");
            server.artifact(&copied).await.expect(200);
            server.approve(&early).await;
            server.wait_status(&early, "SUCCESS").await;

            // Of a run that has ended, past its gate: nothing is asked again.
            server.approve(&run).await;
            server.wait_status(&run, "SUCCESS").await;
            let late = format!("late-{}", sdk.name());
            sdk.call(&stage, json!(["fork", run, 4, late])).await;
            let header = until_run(&server, &late, "SUCCESS").await;
            assert_eq!((&header["lastStep"], &header["forkedFrom"]), (&json!("ExecuteST"), &json!(run)));
            assert!(header["output"]["failed"] == 0 && !header["endedAt"].is_null(), "{header}");
            let view = server.view(&late).await;
            assert_eq!(view["steps"].as_array().unwrap().len(), 4, "{view}");
            assert_eq!(view["approval"]["approvedBy"], "po-007", "the approval was copied: {view}");
        }
        stage.assert_no_duplicates().await;
    }

    async fn a_rewind_of_theirs_is_a_second_execution_of_the_run(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::of(&stage).await {
            let run = waiting_run(&server).await;
            server.approve(&run).await;
            server.wait_status(&run, "SUCCESS").await;

            sdk.call(&stage, json!(["rewind", run, 4])).await;
            eventually(DEADLINE, "it has executed again", || async {
                let steps = server.steps(&run).await;
                if steps.len() == 6 { Ok(()) } else { Err(format!("{steps:?}")) }
            })
            .await;
            let header = server.wait_status(&run, "SUCCESS").await;
            assert_eq!(header["error"], Value::Null);
            let steps: Vec<_> = server.steps(&run).await.iter().map(|step| format!("{} {}", step["stepID"].as_str().unwrap(), step["attempt"])).collect();
            assert_eq!(steps, ["CompileST 1", "ApplyPatchST 1", "DecideST 1", "ExecuteST 1", "DecideST 2", "ExecuteST 2"]);

            // To before the gate: it is asked again.
            sdk.call(&stage, json!(["rewind", run, sdk.first_function_id()])).await;
            server.wait_next_action(&run, "APPROVE_PLAN").await;
            server.approve(&run).await;
            server.wait_status(&run, "SUCCESS").await;
        }
        stage.assert_no_duplicates().await;
    }

    async fn a_message_of_theirs_is_received_however_it_is_written(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::of(&stage).await {
            for verb in ["send", "sendPortable"] {
                let run = waiting_run(&server).await;
                sdk.call(&stage, json!([verb, run, {"approvedBy": "their client"}, APPROVAL])).await;
                server.wait_status(&run, "SUCCESS").await;
            }
        }
    }

    async fn what_their_clients_enqueue_is_executed_here(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::of(&stage).await {
            let id = format!("enqueued-{}", sdk.name());
            sdk.call(&stage, json!(["enqueue", "stepwell.marks", "controlQ", id, {"sleepMs": 10}])).await;
            until(&server, &id, "SUCCESS").await;
            assert_eq!(server.get(&format!("/marks?wf={id}")).await.expect(200), json!({"s1": 1, "s2": 1}));
            assert_eq!(sdk.call(&stage, json!(["result", id])).await, Value::Null);
        }
    }

    async fn attaching_needs_tables_of_dbos_and_leaves_no_trace_without(stage: Stage) {
        let output = stage.command(&["serve", "--attach", stage.database_url()]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        match stage.backend() {
            Backend::Sqlite => assert!(!stage.dir().join("stepwell.db").exists(), "not even a file was created"),
            Backend::Postgres => assert!(stage.row_counts().await.is_empty(), "nothing was created"),
        }
        let output = stage.command(&["serve", "--attach", "mysql://x"]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let secret = stage.command(&["serve", "--attach", "mysql://me:sentinel@x"]).output().await.unwrap();
        assert!(!String::from_utf8_lossy(&secret.stderr).contains("sentinel"), "{secret:?}");
    }

    async fn what_nobody_would_execute_is_not_taken_beside_an_application(stage: Stage) {
        stage.migrate().await;
        let attached = stage.serve_attached(stage.database_url()).await;
        let intent = attached.create_intent("in vain", json!({})).await;
        let schedule = json!({"name": "nightly", "everyMS": 60_000, "intent": {"goal": "g", "inputs": {}, "constraints": {}}, "run": {"queuePartitionKey": "k"}});
        let before = stage.row_counts().await;
        for (path, body) in [
            ("/api/runs", Server::start_request(&intent, "sandbox-default")),
            ("/api/schedules", schedule),
            ("/slowstep?wf=a&sleep=0", Value::Null),
        ] {
            let body = (!body.is_null()).then(|| body.to_string());
            let refused = attached.send("POST", path, body).await;
            assert_eq!(refused.expect_refusal(409)["code"], "nothing_executes_here", "{path}");
        }
        attached.put("/api/queues/intentQ", &json!({"paused": true})).await.expect_refusal(404);
        assert_eq!(stage.row_counts().await, before);
    }
}

on_postgres! {
    async fn their_command_lines_do_what_their_clients_do(stage: Stage) {
        let server = stage.serve().await;
        for sdk in Sdk::both().await {
            let run = waiting_run(&server).await;
            let list: Value = serde_json::from_str(&sdk.command_line(&stage, &["list", "--limit", "100"]).await).unwrap();
            assert!(list.to_string().contains(&run), "{list}");
            let got = sdk.command_line(&stage, &["get", &run]).await;
            assert!(got.contains("PENDING") && got.contains("stepwell.run"), "{got}");
            let steps = sdk.command_line(&stage, &["steps", &run]).await;
            assert!(steps.contains("CompileST") && steps.contains("ApplyPatchST"), "{steps}");

            sdk.command_line(&stage, &["cancel", &run]).await;
            until_run(&server, &run, "CANCELLED").await;
            sdk.command_line(&stage, &["resume", &run]).await;
            server.wait_next_action(&run, "APPROVE_PLAN").await;
            let copy = format!("cli-{}", sdk.name());
            sdk.command_line(&stage, &["fork", &run, "--step", "1", "--forked-workflow-id", &copy]).await;
            until_run(&server, &copy, "PENDING").await;
            for run in [&run, &copy] {
                server.approve(run).await;
                server.wait_status(run, "SUCCESS").await;
            }
        }
        stage.assert_no_duplicates().await;
    }

    async fn the_official_client_lists_pauses_and_resumes_our_schedules(stage: Stage) {
        let Some(sdk) = Sdk::typescript().await else { return };
        let server = stage.serve().await;
        let body = json!({
            "name": "nightly", "cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "intent": {"goal": "report", "inputs": {"command": "true"}},
            "run": {"recipeName": "shell-default", "queuePartitionKey": "t"},
        });
        server.post("/api/schedules", &body).await.expect(201);

        let calls = json!([["schedules"], ["pauseSchedule", "nightly"], ["schedules"], ["resumeSchedule", "nightly"]]);
        let answers = sdk.client(&stage, calls).await;

        let (before, paused) = (&answers[0][0], &answers[2][0]);
        assert_eq!((&answers[0][1]["scheduleName"], answers[0].as_array().map(Vec::len)), (&json!("tick"), Some(2)), "{}", answers[0]);
        assert_eq!((&before["scheduleName"], &before["schedule"]), (&json!("nightly"), &json!("0 9 * * MON-FRI")));
        assert_eq!((&before["cronTimezone"], &before["status"]), (&json!("Europe/Berlin"), &json!("ACTIVE")));
        assert_eq!(before["context"]["goal"], "report");
        assert_eq!(paused["status"], "PAUSED");
        assert_eq!(server.get("/api/schedules/nightly").await.expect(200)["status"], "ACTIVE");
    }

    async fn plain_sql_enqueues_for_our_workers(stage: Stage) {
        let server = stage.serve().await;
        let enqueue = "SELECT dbos.enqueue_workflow('stepwell.marks', 'controlQ', ARRAY['{\"sleepMs\": 10}']::json[], workflow_id => 'by-sql')";
        stage.sql_value(enqueue).await;
        until(&server, "by-sql", "SUCCESS").await;
        assert_eq!(server.get("/marks?wf=by-sql").await.expect(200), json!({"s1": 1, "s2": 1}));
    }

    async fn our_schema_is_the_one_that_their_command_makes(stage: Stage) {
        if missing_tools(&["node", "npm"]) {
            return;
        }
        let Some(packages) = npm_packages("dbos", include_str!("dbos_client/package.json")).await else { return };
        let program = packages.join("node_modules/.bin/dbos");
        let made = stage.tool(program.to_str().unwrap()).args(["schema", stage.database_url()]).current_dir(stage.dir()).output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let theirs = facts(&stage).await;
        // Nothing of ours is created in it, and the very same is made by us where there is none.
        stage.migrate().await;
        assert_eq!(facts(&stage).await, theirs);
        stage.sql_execute("DROP SCHEMA dbos CASCADE; DROP SCHEMA app CASCADE; DROP SCHEMA manual CASCADE").await;
        stage.migrate().await;
        assert_eq!(facts(&stage).await, theirs);
    }

    async fn our_ops_plane_works_on_what_their_applications_wrote(stage: Stage) {
        for sdk in Sdk::both().await {
            let (one, two) = (format!("{}-1", sdk.name()), format!("{}-2", sdk.name()));
            let _app = sdk.app(&stage, "shop", "shop-1", &[&one, &two]).await;
            let faulty = format!("faulty-{one}");
            let first = sdk.first_function_id();
            let waits = |id: String| {
                let sql = format!("SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = '{id}' AND function_name = 'DBOS.sleep'");
                let stage = stage.clone();
                async move {
                    eventually(DEADLINE, &format!("{id} waits to be told to go"), || async {
                        if stage.sql_count(&sql).await == 1 { Ok(()) } else { Err("not yet") }
                    })
                    .await;
                }
            };
            waits(one.clone()).await;
            waits(two.clone()).await;
            let before = (facts(&stage).await, stage.sql("SELECT * FROM dbos.application_versions").await, stage.sql("SELECT * FROM dbos.queues").await);

            // Attached, and then on the plain URL.
            for attached in [true, false] {
                let server = if attached { stage.serve_attached(stage.database_url()).await } else { stage.serve().await };
                let list = server.get("/api/ops/wf?name=order").await.expect(200);
                assert!(fields(&list, "workflowID").contains(&&json!(one)), "{list}");
                assert_eq!(workflow(&server, &one).await["applicationVersion"], "shop-1");
                until(&server, &faulty, "ERROR").await;
                let steps = server.get(&format!("/api/ops/wf/{faulty}/steps")).await.expect(200);
                assert_eq!((&steps[0]["status"], &steps[0]["functionId"]), (&json!("ERROR"), &json!(first)), "{steps}");
                server.get("/api/ops/wf/nobody").await.expect_refusal(404);
                server.post(&format!("/api/ops/wf/{faulty}/resume"), &json!({})).await.expect_refusal(409);

                server.post(&format!("/api/ops/wf/{one}/cancel"), &json!({"actor": "qa"})).await.expect(202);
                assert_eq!(workflow(&server, &one).await["status"], "CANCELLED");
                server.post(&format!("/api/ops/wf/{one}/resume"), &json!({})).await.expect(202);
                until(&server, &one, "PENDING").await;
                let fork = server.post(&format!("/api/ops/wf/{two}/fork"), &json!({"stepN": first + 1})).await.expect(202);
                let fork = fork["forkedWorkflowID"].as_str().unwrap().to_owned();
                waits(fork.clone()).await;
                let row = stage.sql(&format!("SELECT application_name, queue_name FROM dbos.workflow_status WHERE workflow_uuid = '{fork}'")).await;
                assert_eq!(row, [json!({"application_name": "shop", "queue_name": "orders"})]);
                assert_eq!(stage.sql_count("SELECT count(*) FROM app.claims").await, 0, "nothing of theirs is claimed");
                let done = sdk.client(&stage, json!([["send", fork, "go", "go"], ["result", fork]])).await;
                assert_eq!(done[1], "shipped tea: go", "{done:?}");
                if attached {
                    let after = (facts(&stage).await, stage.sql("SELECT * FROM dbos.application_versions").await, stage.sql("SELECT * FROM dbos.queues").await);
                    assert_eq!(after, before, "nothing of ours in their schema");
                }
                server.kill_9().await;
            }
            assert_eq!(facts(&stage).await, before.0);

            // The same from the command line.
            let act = async |arguments: &[&str]| {
                let output = stage.command(arguments).output().await.unwrap();
                assert!(output.status.success(), "{arguments:?}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            assert!(act(&["ops", "ls", "--name", "order", "--ids"]).await.contains(&two));
            assert!(act(&["ops", "steps", &two]).await.contains("reserve"));
            act(&["ops", "cancel", &two]).await;
            act(&["ops", "resume", &two]).await;
            let done = sdk.client(&stage, json!([["send", one, "go", "go"], ["send", two, "go", "go"], ["result", one], ["result", two]])).await;
            assert_eq!(done[2..], [json!("shipped tea: go"), json!("shipped tea: go")]);
            let trail = act(&["ops", "log"]).await;
            assert!(trail.lines().filter(|line| line.contains(&one) || line.contains(&two)).count() >= 8, "{trail}");
        }
    }

    async fn an_application_without_a_name_does_us_no_harm(stage: Stage) {
        let quick = [("EXECUTOR_EXPIRY_MS", "2000")];
        let server = stage.serve_with(&quick).await;
        if let Some(sdk) = Sdk::typescript().await {
            // The very same version: it may take what lies in the internal queue.
            let app = sdk.app(&stage, "", "v1", &[]).await;
            let waiting = waiting_run(&server).await;
            let job = server.start_job(json!({"command": "sleep 1; echo done"})).await;
            server.wait_status(&job, "SUCCESS").await;
            // Their client puts it into the internal queue, which that application serves, too.
            sdk.client(&stage, json!([["cancel", waiting], ["resume", waiting]])).await;
            server.wait_next_action(&waiting, "APPROVE_PLAN").await;
            server.post(&format!("/api/ops/wf/{waiting}/cancel"), &json!({})).await.expect(202);
            server.post(&format!("/api/ops/wf/{waiting}/resume"), &json!({})).await.expect(202);
            server.wait_next_action(&waiting, "APPROVE_PLAN").await;

            // With nobody of ours there it does take the row. Once we are back, so is the row.
            server.terminate().await;
            sdk.client(&stage, json!([["cancel", waiting], ["resume", waiting]])).await;
            let row = format!("SELECT status, executor_id, owner_xid IS NOT NULL AS owned FROM dbos.workflow_status WHERE workflow_uuid = '{waiting}'");
            eventually(DEADLINE, "the application takes the row", || async {
                let found = stage.sql(&row).await;
                if found[0]["status"] == "ENQUEUED" { Err(format!("{found:?}")) } else { Ok(()) }
            })
            .await;
            server.start_again().await;
            server.wait_next_action(&waiting, "APPROVE_PLAN").await;
            server.approve(&waiting).await;
            let header = server.wait_terminal(&waiting).await;
            assert_eq!(header["status"], "SUCCESS", "{header}; the application: {}", app.log());
        }
        stage.assert_no_duplicates().await;
    }
}
