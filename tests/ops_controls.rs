//! Labs F, G, H and J of the manual, pasted as they are; what the ops plane refuses, and that nothing is written then; its six routes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{fs, path::Path, time::Duration};

use harness::*;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const LAB_F_CANCEL: &str = r#"
WF=slow_$(date +%s)
curl -sS -X POST "$BASE/slowstep?wf=$WF&sleep=5000" | jq
until [ "$(curl -sS "$BASE/slowmarks?wf=$WF" | jq -r .s1)" = "1" ]; do sleep 0.2; done

curl -sS -X POST "$BASE/api/ops/wf/$WF/cancel" -H 'content-type: application/json' \
  -d '{"actor":"qa","reason":"boundary-proof"}' | jq
curl -sS "$BASE/api/ops/wf/$WF" | jq '{workflowID,status}'
curl -sS "$BASE/slowmarks?wf=$WF" | jq
"#;

const LAB_F_RESUME: &str = r#"
curl -sS -X POST "$BASE/api/ops/wf/$WF/resume" -H 'content-type: application/json' \
  -d '{"actor":"qa","reason":"continue"}' | jq
until [ "$(curl -sS "$BASE/slowmarks?wf=$WF" | jq -r .s2)" = "1" ]; do sleep 0.2; done
curl -sS "$BASE/api/ops/wf/$WF" | jq '{workflowID,status}'
"#;

const LAB_G_FORK: &str = r#"
MAX=$(curl -sS "$BASE/api/ops/wf/$WF/steps" | jq '[.[].functionId]|max')
FORK=$(curl -sS -X POST "$BASE/api/ops/wf/$WF/fork" -H 'content-type: application/json' \
  -d "{\"stepN\":$MAX,\"actor\":\"qa\",\"reason\":\"fork-proof\"}" | jq -r .forkedWorkflowID)
echo "$WF -> $FORK"
curl -sS "$BASE/api/ops/wf/$FORK" | jq '{workflowID,status}'
"#;

const LAB_G_GUARD: &str = r#"
curl -sS -o /tmp/007-fork409.out -w '%{http_code}\n' \
  -X POST "$BASE/api/ops/wf/$WF/fork" -H 'content-type: application/json' \
  -d '{"stepN":99999}'
cat /tmp/007-fork409.out
cat /tmp/007-fork409.out | jq -R .
"#;

const LAB_H: &str = r#"
sql_app "SELECT run_id,step_id,idx,kind,inline->>'op' op,inline->>'actor' actor,inline->>'reason' reason,inline->>'forkedWorkflowID' forked FROM app.artifacts WHERE step_id='OPS' ORDER BY created_at DESC LIMIT 20;"
"#;

const LAB_J: &str = r#"
SWF=sleep_$(date +%s)
curl -sS -X POST "$BASE/api/ops/sleep?wf=$SWF&sleep=2000" | jq
"#;

const LAB_J_SQL: &str = r#"
sql_app "SELECT run_id,step_id,created_at FROM app.artifacts WHERE run_id='$SWF' AND step_id LIKE 'sleep-%' ORDER BY created_at;"
"#;

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

async fn until_workflow(server: &Server, id: &str, wanted: &str) {
    eventually(DEADLINE, &format!("{id} is {wanted}"), || async {
        let found = server.get(&format!("/api/ops/wf/{id}")).await.json();
        if found["status"] == wanted {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
}

async fn until_marked(server: &Server, id: &str, s1: i64, s2: i64) {
    let wanted = json!({"s1": s1, "s2": s2});
    eventually(DEADLINE, &format!("{id} has {wanted}"), || async {
        let found = server.get(&format!("/slowmarks?wf={id}")).await.expect(200);
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

on_both_databases! {
    async fn labs_f_g_and_h_cancel_resume_and_fork_at_boundaries_and_are_audited(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let mut lab = stage.lab(&server).await;

        let output = json_values(&lab.block(LAB_F_CANCEL).await.ok());
        let wf = lab.variable("WF").await;
        let [started, cancelled, workflow, marks] = output.as_slice() else { panic!("four JSON values: {output:?}") };
        assert_eq!(started, &json!({"accepted": true, "workflowID": wf}));
        assert_eq!(cancelled, &json!({"accepted": true, "workflowID": wf}));
        assert_eq!(workflow, &json!({"workflowID": wf, "status": "CANCELLED"}));
        assert_eq!(marks, &json!({"s1": 1, "s2": 0}));

        lab.block(LAB_F_RESUME).await.ok();
        until_workflow(&server, &wf, "SUCCESS").await;
        until_marked(&server, &wf, 1, 1).await;

        lab.block(LAB_G_FORK).await.ok();
        let fork = lab.variable("FORK").await;
        assert_eq!(lab.variable("MAX").await, "2");
        assert!(fork.starts_with("rn_") && fork.len() == 19, "rn_ and 16 hexadecimal digits: {fork}");
        until_workflow(&server, &fork, "SUCCESS").await;
        // The step before was copied, and not done again.
        until_marked(&server, &fork, 0, 1).await;
        until_marked(&server, &wf, 1, 1).await;
        let forked_from = stage.sql_value(&format!("SELECT forked_from FROM dbos.workflow_status WHERE workflow_uuid = '{fork}'")).await;
        assert_eq!(forked_from, wf.as_str());
        let guarded = lab.block(LAB_G_GUARD).await.ok();
        assert!(guarded.starts_with("409\n"), "{guarded}");

        let audit = lab.block(LAB_H).await.ok();
        assert!(audit.contains("(3 rows)"), "{audit}");
        for (op, reason) in [("cancel", "boundary-proof"), ("resume", "continue"), ("fork", "fork-proof")] {
            let line = audit.lines().find(|line| line.contains(reason)).unwrap_or_else(|| panic!("no {reason}: {audit}"));
            assert!(line.contains(op) && line.contains("json_diagnostic") && line.contains(&wf), "{line}");
            assert_eq!(line.contains(&fork), op == "fork", "{line}");
        }
        let attempts = stage.sql("SELECT attempt, idx FROM app.artifacts WHERE step_id = 'OPS' ORDER BY attempt").await;
        assert_eq!(attempts, [json!({"attempt": 1, "idx": 0}), json!({"attempt": 2, "idx": 0}), json!({"attempt": 3, "idx": 0})]);
        let artifact = server.artifact(&format!("artifact://run/{wf}/step/OPS/task/-/cancel-1.json")).await.expect(200);
        assert_eq!((&artifact["op"], &artifact["targetWorkflowID"]), (&json!("cancel"), &json!(wf)));
        stage.assert_no_duplicates().await;
    }

    async fn lab_j_a_durable_sleep_leaves_an_artifact_before_and_after(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let mut lab = stage.lab(&server).await;

        let started = json_values(&lab.block(LAB_J).await.ok());
        let wf = lab.variable("SWF").await;
        assert_eq!(started, [json!({"accepted": true, "workflowID": wf})]);
        until_workflow(&server, &wf, "SUCCESS").await;

        let rows = lab.block(LAB_J_SQL).await.ok();
        let (before, after) = (rows.find("sleep-before-sleep"), rows.find("sleep-after-sleep"));
        assert!(before.is_some() && before < after, "{rows}");
        let slept = stage
            .sql_count(&format!("SELECT max(created_at) - min(created_at) FROM app.artifacts WHERE run_id = '{wf}'"))
            .await;
        assert!(slept >= 2_000, "{slept} ms");
    }

    async fn the_crash_demo_survives_its_crash_with_one_mark_each(stage: Stage) {
        let quick = [("EXECUTOR_EXPIRY_MS", "1000")];
        let server = stage.serve_with(&quick).await;
        for _ in 0..2 {
            let started = server.post("/crashdemo?wf=crash-1", &Value::Null).await;
            assert_eq!(started.status, 400, "a body that is no object: {started}");
            server.send("POST", "/crashdemo?wf=crash-1", None).await.expect(202);
        }
        until_marked(&server, "crash-1", 1, 0).await;
        server.kill_9().await;
        server.start_again().await;
        until_marked(&server, "crash-1", 1, 1).await;
        assert_eq!(server.get("/marks?wf=crash-1").await.expect(200), json!({"s1": 1, "s2": 1}));
        assert_eq!(server.get("/marks?wf=nobody").await.expect(200), json!({"s1": 0, "s2": 0}));
    }

    async fn what_is_refused_writes_nothing(stage: Stage) {
        let server = stage.serve().await;
        server.send("POST", "/slowstep?wf=done&sleep=0", None).await.expect(202);
        until_workflow(&server, "done", "SUCCESS").await;
        server.send("POST", "/slowstep?wf=asleep&sleep=600000", None).await.expect(202);
        until_marked(&server, "asleep", 1, 0).await;
        let before = stage.row_counts().await;

        let long = "x".repeat(201);
        let very_long = "x".repeat(2_001);
        let refused: Vec<(u16, &str, String)> = vec![
            // Bad bodies first, whatever the workflow.
            (400, "/api/ops/wf/nobody/cancel", "{\"actor\":1}".into()),
            (400, "/api/ops/wf/asleep/cancel", "{\"extra\":true}".into()),
            (400, "/api/ops/wf/asleep/cancel", json!({"actor": long}).to_string()),
            (400, "/api/ops/wf/asleep/cancel", json!({"reason": very_long}).to_string()),
            (400, "/api/ops/wf/asleep/cancel", "{bad".into()),
            (400, "/api/ops/wf/asleep/fork", String::new()),
            (400, "/api/ops/wf/asleep/fork", "{}".into()),
            (400, "/api/ops/wf/asleep/fork", "{\"stepN\":0}".into()),
            (400, "/api/ops/wf/asleep/fork", "{\"stepN\":\"1\"}".into()),
            (400, "/api/ops/wf/asleep/fork", "{\"stepN\":1,\"appVersion\":\" \"}".into()),
            (400, "/api/ops/wf/asleep/fork?x=1", "{\"stepN\":1}".into()),
            // Then who is not there.
            (404, "/api/ops/wf/nobody/cancel", String::new()),
            (404, "/api/ops/wf/nobody/resume", "{}".into()),
            (404, "/api/ops/wf/nobody/fork", "{\"stepN\":1}".into()),
            (404, "/api/runs/nobody/retry", "{}".into()),
            (404, "/api/runs/asleep/retry", "{}".into()),
            // Then the state.
            (409, "/api/ops/wf/done/cancel", "{}".into()),
            (409, "/api/ops/wf/done/resume", "{}".into()),
            (409, "/api/ops/wf/asleep/resume", "{}".into()),
            (409, "/api/ops/wf/done/fork", "{\"stepN\":3}".into()),
            // And the labs' own routes.
            (400, "/slowstep", String::new()),
            (400, "/slowstep?wf=", String::new()),
            (400, "/slowstep?wf=%20", String::new()),
            (400, "/slowstep?wf=x&sleep=-1", String::new()),
            (400, "/slowstep?wf=x&sleep=soon", String::new()),
            (400, "/api/ops/sleep?wf=x&nap=1", String::new()),
            (409, "/api/ops/sleep?wf=asleep", String::new()),
        ];
        for (status, path, body) in refused {
            let body = (!body.is_empty()).then_some(body);
            server.send("POST", path, body).await.expect_refusal(status);
        }
        server.get("/marks").await.expect_refusal(400);

        let refusal = server.send("POST", "/api/ops/wf/done/cancel", None).await.expect_refusal(409);
        let message = refusal["error"].as_str().unwrap();
        assert!(message.contains("SUCCESS") && message.contains("legal from"), "{message}");
        assert_eq!(stage.row_counts().await, before);
        assert_eq!(server.get("/api/ops/wf/asleep").await.expect(200)["status"], "PENDING");
    }

    async fn bodies_are_optional_and_what_they_say_is_data(stage: Stage) {
        let server = stage.serve().await;
        server.send("POST", "/slowstep?wf=w&sleep=600000", None).await.expect(202);
        until_marked(&server, "w", 1, 0).await;

        server.send("POST", "/api/ops/wf/w/cancel", None).await.expect(202);
        let reason = "'); DROP TABLE app.artifacts; -- \u{1F9E8} \"quoted\" \\ \n".repeat(20);
        server.post("/api/ops/wf/w/resume", &json!({"actor": "a".repeat(200), "reason": reason})).await.expect(202);

        let kept = server.artifact("artifact://run/w/step/OPS/task/-/resume-2.json").await.expect(200);
        assert_eq!(kept["reason"], reason);
        let first = server.artifact("artifact://run/w/step/OPS/task/-/cancel-1.json").await.expect(200);
        assert_eq!((&first["actor"], &first["reason"]), (&Value::Null, &Value::Null));
    }
}

/// The files that the policy reads, copied, with one of them changed.
fn checkout_with(directory: &Path, file: &str, from: &str, to: &str) {
    let files = [
        "openapi/openapi.yaml",
        "openapi/src/generated/routes.rs",
        "openapi/src/generated/tables.rs",
    ];
    for name in files {
        let mut text = fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
        if name == file {
            assert!(text.contains(from), "{file} has no {from}");
            text = text.replacen(from, to, 1);
        }
        let target = directory.join(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, text).unwrap();
    }
    fs::create_dir_all(directory.join("src")).unwrap();
}

fn policy(directory: &Path) -> std::process::Output {
    std::process::Command::new(Path::new(ROOT).join("scripts/policy-ops-surface.sh"))
        .arg(directory)
        .output()
        .unwrap()
}

#[test]
fn the_ops_plane_is_exactly_six_routes() {
    let output = policy(Path::new(ROOT));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_seventh_route_fails_the_policy_wherever_it_appears() {
    let directory = tempfile::tempdir().unwrap();
    checkout_with(directory.path(), "", "", "");
    assert!(policy(directory.path()).status.success());
    let seventh = [
        (
            "openapi/openapi.yaml",
            "  /api/ops/wf/{wid}/steps:\n    get:",
            "  /api/ops/wf/{wid}/steps:\n    delete:\n      operationId: x\n    get:",
        ),
        (
            "openapi/openapi.yaml",
            "  /api/ops/sleep:",
            "  /api/ops/wf/{wid}/pause:",
        ),
        (
            "openapi/src/generated/routes.rs",
            "path = \"/api/ops/sleep\"",
            "path = \"/api/ops/wf/all\"",
        ),
        (
            "openapi/src/generated/tables.rs",
            "path: \"/api/ops/sleep\"",
            "path: \"/api/ops/wf/all\"",
        ),
    ];
    for (file, from, to) in seventh {
        checkout_with(directory.path(), file, from, to);
        let output = policy(directory.path());
        assert_eq!(output.status.code(), Some(1), "{file}: {output:?}");
    }
    checkout_with(directory.path(), "", "", "");
    fs::write(
        directory.path().join("src/api.rs"),
        "routes.at(\"/api/ops/wf/{wid}/pause\", pause)",
    )
    .unwrap();
    assert_eq!(policy(directory.path()).status.code(), Some(1));
}
