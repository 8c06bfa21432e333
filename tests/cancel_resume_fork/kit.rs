//! What the suite of cancel, resume and fork does again and again: to act, to wait for rows, and a command whose executions can be counted.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::harness::*;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Tasks run real commands, and dead processes are noticed soon.
pub(crate) const LIVE: [(&str, &str); 3] = [
    ("SBX_MODE", "live"),
    ("SBX_PROVIDER", "local"),
    ("EXECUTOR_EXPIRY_MS", "2000"),
];

pub(crate) async fn cancel(server: &Server, id: &str) {
    let by = json!({"actor": "qa", "reason": "test"});
    server
        .post(&format!("/api/ops/wf/{id}/cancel"), &by)
        .await
        .expect(202);
}

pub(crate) async fn resume(server: &Server, id: &str) {
    server
        .send("POST", &format!("/api/ops/wf/{id}/resume"), None)
        .await
        .expect(202);
}

pub(crate) async fn fork(server: &Server, id: &str, step_n: i32) -> String {
    let answer = server
        .post(&format!("/api/ops/wf/{id}/fork"), &json!({"stepN": step_n}))
        .await
        .expect(202);
    answer["forkedWorkflowID"].as_str().unwrap().to_owned()
}

pub(crate) async fn status(server: &Server, id: &str) -> String {
    let workflow = server.get(&format!("/api/ops/wf/{id}")).await.expect(200);
    workflow["status"].as_str().unwrap().to_owned()
}

pub(crate) async fn until_status(server: &Server, id: &str, wanted: &str) {
    eventually(DEADLINE, &format!("{id} is {wanted}"), || async {
        let found = status(server, id).await;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Until no execution is left: whatever was under way has ended.
pub(crate) async fn until_nobody_executes(stage: &Stage) {
    stage
        .until_count("nothing is claimed", "SELECT count(*) FROM app.claims", 0)
        .await;
}

pub(crate) async fn recorded(stage: &Stage, id: &str) -> Vec<String> {
    let sql = format!(
        "SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = '{id}' ORDER BY function_id"
    );
    let rows = stage.sql(&sql).await;
    rows.iter()
        .map(|row| row["function_name"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) async fn children(stage: &Stage, id: &str) -> Vec<(String, String)> {
    let sql = format!(
        "SELECT workflow_uuid, status FROM dbos.workflow_status WHERE parent_workflow_id = '{id}' ORDER BY created_at, workflow_uuid"
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    stage
        .sql(&sql)
        .await
        .iter()
        .map(|row| (text(&row["workflow_uuid"]), text(&row["status"])))
        .collect()
}

/// A recipe that asks nobody, and whose running commands end by themselves after a cancel.
pub(crate) async fn seed_patient_recipe(stage: &Stage) {
    stage
        .sql_execute(
            "INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, \
             cancel, created_at) VALUES ('patient', 1, 'intentQ', 10, 10, 10, 'static', 'auto', 'configured', 'boundary', 1)",
        )
        .await;
}

pub(crate) async fn start(server: &Server, recipe: &str, inputs: Value) -> String {
    let intent = server.create_intent("cancel me", inputs).await;
    let request = json!({"intentId": intent, "queuePartitionKey": "t", "recipeName": recipe});
    server.post("/api/runs", &request).await.expect(202);
    intent
}

/// A command that says when it starts and ends, and waits between until it is let go.
pub(crate) fn command(stage: &Stage) -> String {
    let log = stage.dir().join("effects");
    format!(
        "echo start >> {0}; while [ ! -e {0}.go ]; do sleep 0.1; done; echo end >> {0}",
        log.display()
    )
}

pub(crate) fn let_go(stage: &Stage) {
    fs::write(stage.dir().join("effects.go"), "").unwrap();
}

pub(crate) fn effects(stage: &Stage) -> Vec<String> {
    let log = fs::read_to_string(stage.dir().join("effects")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

pub(crate) async fn until_started(stage: &Stage) {
    eventually(DEADLINE, "the command runs", || async {
        let found = effects(stage);
        if found.is_empty() {
            Err("nothing")
        } else {
            Ok(())
        }
    })
    .await;
}

/// No command began before the one before it had ended, or was killed.
pub(crate) fn assert_never_side_by_side(stage: &Stage, times: usize) {
    let expected: Vec<&str> = ["start", "end"]
        .into_iter()
        .cycle()
        .take(2 * times)
        .collect();
    assert_eq!(effects(stage), expected);
}

pub(crate) async fn pause(stage: &Stage, queue: &str, paused: bool) {
    stage
        .sql_execute(&format!(
            "UPDATE app.queue_limits SET paused = {paused} WHERE name = '{queue}'"
        ))
        .await;
}
