//! Labs A to E and O of the manual: their blocks pasted as they are into a shell, on both databases.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::*;
use serde_json::{Value, json};

const LAB_A_HEALTH: &str = r#"
curl -sS $BASE/healthz | jq -e '.ok==true'
"#;

const LAB_B: &str = r#"
INTENT=$(curl -sS -X POST $BASE/api/intents -H 'content-type: application/json' \
  -d '{"goal":"spec07 golden","inputs":{},"constraints":{}}' | jq -r .intentId)

WID=$(curl -sS -X POST $BASE/api/runs -H 'content-type: application/json' \
  -d "{\"intentId\":\"$INTENT\",\"queueName\":\"intentQ\",\"queuePartitionKey\":\"tenant-007\",\"recipeName\":\"sandbox-default\",\"workload\":{\"concurrency\":1,\"steps\":2,\"sandboxMinutes\":1}}" \
  | jq -r .workflowID)

echo "$INTENT $WID"
curl -sS $BASE/api/runs/$WID | jq '{workflowID,status,nextAction,lastStep}'
"#;

const LAB_C: &str = r#"
wait_next "$WID" APPROVE_PLAN
curl -sS -X POST $BASE/api/runs/$WID/approve-plan -H 'content-type: application/json' \
  -d '{"approvedBy":"po-007","notes":"ship it"}' | jq
wait_h "$WID"
curl -sS $BASE/api/runs/$WID | jq '{status,nextAction,lastStep,error}'
"#;

const LAB_D: &str = r#"
curl -sS $BASE/api/runs/$WID/steps | jq 'map({stepID,attempt,startedAt,artifacts:(.artifactRefs|length)})'
ART=$(curl -sS $BASE/api/runs/$WID/steps | jq -r 'map(.artifactRefs[]) | .[0].id')
AENC=$(printf '%s' "$ART" | jq -sRr @uri)
curl -sS -D /tmp/007-art.h "$BASE/api/artifacts/$AENC" -o /tmp/007-art.body
sed -n '1,20p' /tmp/007-art.h
head -c 300 /tmp/007-art.body; echo
"#;

const LAB_E: &str = r#"
curl -sS "$BASE/api/ops/wf?limit=5" | jq '.[0]'
curl -sS "$BASE/api/ops/wf/$WID" | jq
curl -sS "$BASE/api/ops/wf/$WID/steps" | jq '.[0]'
"#;

const LAB_E_FAIL_CLOSED: &str = r#"
curl -sS -o /tmp/007-ops400.out -w '%{http_code}\n' "$BASE/api/ops/wf?unknown=1"
cat /tmp/007-ops400.out
"#;

const LAB_O: &str = r#"
sql_app "SELECT id,intent_id,workflow_id,status,last_step,retry_count,next_action,error FROM app.runs ORDER BY created_at DESC LIMIT 20;"
sql_app "SELECT run_id,step_id,attempt,trace_id,span_id,started_at,finished_at FROM app.run_steps ORDER BY started_at DESC NULLS LAST, step_id, attempt LIMIT 40;"
sql_app "SELECT run_id,step_id,idx,kind,uri,sha256 FROM app.artifacts ORDER BY created_at DESC LIMIT 60;"
sql_app "SELECT run_id,task_key,attempt,err_code,created_at FROM app.sbx_runs ORDER BY created_at DESC LIMIT 60;"
sql_sys "SELECT workflow_uuid,status,queue_name,application_version,recovery_attempts FROM dbos.workflow_status ORDER BY updated_at DESC LIMIT 40;"
"#;

const LAB_O_EXACTLY_ONCE: &str = r#"
sql_app "SELECT run_id,count(*) dup FROM app.mock_receipts WHERE seen_count>1 GROUP BY run_id;"
sql_app "SELECT run_id,step_id,attempt,count(*) c FROM app.run_steps GROUP BY run_id,step_id,attempt HAVING count(*)>1;"
sql_app "SELECT run_id,step_id,attempt,idx,count(*) c FROM app.artifacts GROUP BY run_id,step_id,attempt,idx HAVING count(*)>1;"
"#;

/// Several JSON values one after the other, as jq prints them.
fn json_values(text: &str) -> Vec<Value> {
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect();
    values.unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
}

fn lab_tools_are_missing(backend: Backend) -> bool {
    let client = match backend {
        Backend::Sqlite => "sqlite3",
        Backend::Postgres => "psql",
    };
    missing_tools(&["bash", "curl", "jq", client])
}

async fn a_finished_golden_run(lab: &mut Lab) -> String {
    let started = lab.block(LAB_B).await.ok();
    let run = lab.variable("WID").await;
    assert!(run.starts_with("it_"), "no run to wait for: {started}");
    lab.block(LAB_C).await.ok();
    run
}

on_both_databases! {
    async fn lab_a_the_monolith_answers_healthz(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve_with(&[("OC_MODE", "replay"), ("SBX_MODE", "mock")]).await;
        let mut lab = stage.lab(&server).await;

        assert_eq!(lab.block(LAB_A_HEALTH).await.ok(), "true\n");
    }

    async fn labs_b_and_c_a_golden_run_is_approved_and_succeeds(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let mut lab = stage.lab(&server).await;

        let started = lab.block(LAB_B).await.ok();
        let (intent, run) = (lab.variable("INTENT").await, lab.variable("WID").await);
        assert_eq!(intent, run, "workflowID is the intent's id");
        assert!(intent.len() == 19 && intent.starts_with("it_"), "it_ and 16 hexadecimal digits: {intent}");
        let (ids, header) = started.split_once('\n').expect("two outputs");
        assert_eq!(ids, format!("{intent} {run}"));
        let header = &json_values(header)[0];
        assert_eq!(header["workflowID"], run.as_str());
        assert!(["ENQUEUED", "PENDING"].contains(&header["status"].as_str().unwrap()), "{header}");

        let approved = json_values(&lab.block(LAB_C).await.ok());
        let [acceptance, header] = approved.as_slice() else { panic!("two JSON values: {approved:?}") };
        assert_eq!(acceptance["accepted"], true);
        assert_eq!(acceptance["runId"], run.as_str());
        assert!(acceptance["approvedAt"].as_i64().is_some_and(|at| at > 1_700_000_000_000), "{acceptance}");
        assert_eq!(header["status"], "SUCCESS");
        assert_eq!(header["lastStep"], "ExecuteST");
        assert_eq!(header["error"], Value::Null);
    }

    async fn lab_d_steps_come_in_order_and_artifacts_resolve(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let mut lab = stage.lab(&server).await;
        let run = a_finished_golden_run(&mut lab).await;

        let output = lab.block(LAB_D).await.ok();
        let (steps, rest) = output.split_once("\n]\n").expect("an array, then the headers");
        let steps = &json_values(&format!("{steps}\n]"))[0];
        let names: Vec<_> = steps.as_array().unwrap().iter().map(|step| step["stepID"].as_str().unwrap()).collect();
        assert_eq!(names, ["CompileST", "ApplyPatchST", "DecideST", "ExecuteST"]);
        let started: Vec<_> = steps.as_array().unwrap().iter().map(|step| step["startedAt"].as_i64().unwrap()).collect();
        assert!(started.is_sorted_by(|earlier, later| earlier < later), "strictly increasing: {started:?}");
        for step in steps.as_array().unwrap() {
            assert_eq!(step["attempt"], 1, "{step}");
            assert!(step["artifacts"].as_i64().unwrap() >= 1, "every step leaves an artifact: {step}");
        }

        let headers = rest.to_lowercase();
        assert!(headers.starts_with("http/1.1 200"), "{rest}");
        assert!(headers.contains("x-content-type-options: nosniff"), "{rest}");
        let artifact = server.steps(&run).await[0]["artifactRefs"][0].clone();
        let sha256 = artifact["sha256"].as_str().unwrap();
        assert!(headers.lines().any(|line| line.starts_with("etag:") && line.contains(sha256)), "{rest}");
        let body = server.artifact(artifact["id"].as_str().unwrap()).await;
        assert_eq!(body.header("content-type"), artifact["mime"].as_str());
        assert_eq!(body.bytes.len() as u64, artifact["size"].as_u64().unwrap());
        assert_eq!(sha256_of(&body.bytes), sha256);
    }

    async fn lab_e_the_ops_plane_reads_and_fails_closed(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let mut lab = stage.lab(&server).await;
        let run = a_finished_golden_run(&mut lab).await;

        let answers = json_values(&lab.block(LAB_E).await.ok());
        let [newest, workflow, first_step] = answers.as_slice() else { panic!("three JSON values: {answers:?}") };
        assert!(newest["workflowID"].is_string(), "{newest}");
        assert_eq!(workflow["workflowID"], run.as_str());
        assert_eq!(workflow["status"], "SUCCESS");
        assert_eq!(workflow["queueName"], "intentQ");
        assert_eq!(first_step["functionId"], 0);
        assert_eq!(first_step["stepId"], "CompileST");
        assert_eq!(first_step["status"], "SUCCESS");

        let refused = lab.block(LAB_E_FAIL_CLOSED).await.ok();
        let (status, body) = refused.split_once('\n').expect("a status and a body");
        assert_eq!(status, "400");
        assert!(json_values(body)[0]["error"].is_string(), "{body}");
        server.get("/api/ops/wf/nobody").await.expect_refusal(404);
    }

    async fn lab_o_the_sql_oracle_finds_the_run_once(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        stage.pause_ticks().await;
        let mut lab = stage.lab(&server).await;
        let run = a_finished_golden_run(&mut lab).await;

        let tables = lab.block(LAB_O).await.ok();
        assert_eq!(tables.matches("(4 rows)").count() + tables.matches("(1 row)").count(), 3, "{tables}");
        assert!(tables.contains(&run), "{tables}");
        let exactly_once = lab.block(LAB_O_EXACTLY_ONCE).await.ok();
        assert_eq!(exactly_once.matches("(0 rows)").count(), 3, "{exactly_once}");

        stage.assert_no_duplicates().await;
        let runs = stage.sql("SELECT id, workflow_id, intent_id, status, last_step, retry_count FROM app.runs").await;
        let expected = json!({
            "id": run, "workflow_id": run, "intent_id": run, "status": "succeeded", "last_step": "ExecuteST", "retry_count": 0
        });
        assert_eq!(runs, [expected]);
        let queues = stage.sql("SELECT DISTINCT queue_name, status FROM dbos.workflow_status WHERE queue_name <> 'controlQ' ORDER BY queue_name").await;
        assert_eq!(queues[0], json!({"queue_name": "intentQ", "status": "SUCCESS"}));
        assert_eq!(queues[1], json!({"queue_name": "sbxQ", "status": "SUCCESS"}));
    }
}

fn sha256_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
