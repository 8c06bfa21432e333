//! The product's few verbs over HTTP: create an intent, start a run, approve it, wait for its end, read what it left.

use std::time::Duration;

use serde_json::{Value, json};

use super::eventually::eventually;
use super::http::Answer;
use super::server::Server;

const RUN_DEADLINE: Duration = Duration::from_secs(120);
const TERMINAL: [&str; 3] = ["SUCCESS", "ERROR", "CANCELLED"];

/// The value at a JSON pointer, which must be text.
fn text_at(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found
        .unwrap_or_else(|| panic!("no text at {pointer} in {value}"))
        .to_owned()
}

impl Server {
    /// Creates an intent; returns its id.
    pub(crate) async fn create_intent(&self, goal: &str, inputs: Value) -> String {
        let body = json!({"goal": goal, "inputs": inputs, "constraints": {}});
        text_at(
            &self.post_heeding("/api/intents", &body).await.expect(201),
            "/intentId",
        )
    }

    /// Posts as a caller does who is told to wait, and waits: on a crowded machine the service may be full for a while.
    async fn post_heeding(&self, path: &str, body: &Value) -> Answer {
        eventually(
            RUN_DEADLINE,
            &format!("there is room for {path}"),
            || async {
                let answer = self.post(path, body).await;
                if answer.status == 429 {
                    Err(answer)
                } else {
                    Ok(answer)
                }
            },
        )
        .await
    }

    /// The start request the manual sends: `intentQ`, partition `tenant-007`.
    pub(crate) fn start_request(intent: &str, recipe: &str) -> Value {
        json!({
            "intentId": intent, "queueName": "intentQ", "queuePartitionKey": "tenant-007", "recipeName": recipe,
            "workload": {"concurrency": 1, "steps": 2, "sandboxMinutes": 1}
        })
    }

    /// Starts a run of the intent; returns its workflow id.
    pub(crate) async fn start_run(&self, intent: &str, recipe: &str) -> String {
        let answer = self
            .post_heeding("/api/runs", &Self::start_request(intent, recipe))
            .await;
        text_at(&answer.expect(202), "/workflowID")
    }

    /// Creates an intent and starts it with `sandbox-default`: a run that waits for approval. Returns its workflow id.
    pub(crate) async fn start_golden_run(&self) -> String {
        let intent = self.create_intent("spec07 golden", json!({})).await;
        self.start_run(&intent, "sandbox-default").await
    }

    /// Runs a command with `shell-default`, which asks nobody; returns the workflow id.
    pub(crate) async fn start_job(&self, inputs: Value) -> String {
        let intent = self.create_intent("a real job", inputs).await;
        self.start_run(&intent, "shell-default").await
    }

    /// Approves as `po-007` and expects 202.
    pub(crate) async fn approve(&self, run: &str) -> Value {
        self.try_approve(run, "po-007").await.expect(202)
    }

    pub(crate) async fn try_approve(&self, run: &str, approved_by: &str) -> Answer {
        let body = json!({"approvedBy": approved_by, "notes": "ship it"});
        self.post(&format!("/api/runs/{run}/approve-plan"), &body)
            .await
    }

    pub(crate) async fn header(&self, run: &str) -> Value {
        self.get(&format!("/api/runs/{run}")).await.expect(200)
    }

    pub(crate) async fn steps(&self, run: &str) -> Vec<Value> {
        let steps = self
            .get(&format!("/api/runs/{run}/steps"))
            .await
            .expect(200);
        steps
            .as_array()
            .unwrap_or_else(|| panic!("not an array: {steps}"))
            .clone()
    }

    pub(crate) async fn view(&self, run: &str) -> Value {
        self.get(&format!("/api/runs/{run}/view")).await.expect(200)
    }

    /// Waits until something is asked of somebody: `APPROVE_PLAN`, `REPAIR`. Returns the header.
    pub(crate) async fn wait_next_action(&self, run: &str, wanted: &str) -> Value {
        eventually(
            RUN_DEADLINE,
            &format!("{run} asks for {wanted}"),
            || async {
                let header = self.header(run).await;
                if header["nextAction"] == wanted {
                    Ok(header)
                } else {
                    Err(header)
                }
            },
        )
        .await
    }

    /// Waits for SUCCESS, ERROR or CANCELLED. Returns the header.
    pub(crate) async fn wait_terminal(&self, run: &str) -> Value {
        eventually(RUN_DEADLINE, &format!("{run} ends"), || async {
            let header = self.header(run).await;
            let ended = header["status"]
                .as_str()
                .is_some_and(|status| TERMINAL.contains(&status));
            if ended { Ok(header) } else { Err(header) }
        })
        .await
    }

    /// As `wait_terminal`, and the status must be this one.
    pub(crate) async fn wait_status(&self, run: &str, wanted: &str) -> Value {
        let header = self.wait_terminal(run).await;
        assert_eq!(header["status"], wanted, "{header}");
        header
    }

    /// An artifact by its id (`artifact://…`), percent-encoded as the contract asks.
    pub(crate) async fn artifact(&self, id: &str) -> Answer {
        self.get(&format!("/api/artifacts/{}", percent_encoded(id)))
            .await
    }

    /// The content of the one artifact of this kind that the view's task holds.
    pub(crate) async fn task_artifact(&self, task: &Value, kind: &str) -> String {
        let refs = task["artifactRefs"]
            .as_array()
            .unwrap_or_else(|| panic!("no artifactRefs in {task}"));
        let found: Vec<_> = refs
            .iter()
            .filter(|artifact| artifact["kind"] == kind)
            .collect();
        assert_eq!(found.len(), 1, "one {kind} artifact in {task}");
        let answer = self.artifact(&text_at(found[0], "/id")).await;
        assert_eq!(answer.status, 200, "{answer}");
        answer.text()
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
