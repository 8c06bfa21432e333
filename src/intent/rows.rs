//! Owns the rows that the product's workflows leave in their checkpoints: their tables, and how they are built.

use serde_json::{Map, Value, json};

use super::ids;
use crate::{
    canonical::{canonical_json, hex, sha256_hex},
    store::{
        app_rows::{Row, RowChange},
        dialect::TableShape,
    },
};

pub(super) const RUNS: TableShape = TableShape {
    name: "runs",
    key: &["id"],
    bytes: &[],
    json: &[],
};
const RUN_STEPS: TableShape = TableShape {
    name: "run_steps",
    key: &["run_id", "step_id", "attempt"],
    bytes: &[],
    json: &[],
};
const ARTIFACTS: TableShape = TableShape {
    name: "artifacts",
    key: &["run_id", "step_id", "task_key", "idx", "attempt"],
    bytes: &["content"],
    json: &["inline"],
};
const OPENCODE_CALLS: TableShape = TableShape {
    name: "opencode_calls",
    key: &["op_key"],
    bytes: &[],
    json: &[],
};
const SBX_RUNS: TableShape = TableShape {
    name: "sbx_runs",
    key: &["run_id", "step_id", "task_key", "attempt"],
    bytes: &[],
    json: &[],
};
const MOCK_RECEIPTS: TableShape = TableShape {
    name: "mock_receipts",
    key: &["run_id", "task_key", "attempt"],
    bytes: &[],
    json: &[],
};

const MARKS: TableShape = TableShape {
    name: "marks",
    key: &["workflow_id", "mark"],
    bytes: &[],
    json: &[],
};

/// In the place of a task's key, for artifacts of a whole step.
pub(super) const NO_TASK: &str = "-";
/// The place of the artifact of a step that has no output.
pub(super) const NONE_IDX: i32 = 999;

fn row(table: &'static TableShape, change: RowChange, values: Value) -> Row {
    let values = if let Value::Object(map) = values {
        map
    } else {
        Map::new()
    };
    Row {
        table,
        change,
        values,
        body: false,
    }
}

/// Changes `columns` of a run.
pub(super) fn run_update(run: &str, at: i64, columns: Value) -> Row {
    let mut row = row(&RUNS, RowChange::Update, columns);
    row.values.insert("id".into(), run.into());
    row.values.insert("updated_at".into(), at.into());
    row
}

/// One execution of a product step.
pub(super) struct StepRun<'a> {
    pub(super) run: &'a str,
    pub(super) step: &'a str,
    pub(super) phase: &'a str,
    pub(super) trace_id: &'a str,
    pub(super) span_id: &'a str,
    pub(super) started_at: i64,
    pub(super) finished_at: i64,
    pub(super) error: Option<String>,
}

pub(super) fn step_run(step: &StepRun) -> Row {
    let values = json!({
        "run_id": step.run, "step_id": step.step, "attempt": 1, "name": step.phase, "trace_id": step.trace_id, "span_id": step.span_id,
        "started_at": step.started_at, "finished_at": step.finished_at, "error": step.error,
    });
    row(&RUN_STEPS, RowChange::Again, values)
}

/// What an artifact holds.
pub(super) enum Payload<'a> {
    /// A JSON document. Its bytes are its canonical form: the database keeps the document, not the text.
    Json(&'a Value),
    /// Anything else.
    Bytes(&'a [u8], &'a str),
}

/// An artifact's place and content.
pub(super) struct Artifact<'a> {
    pub(super) run: &'a str,
    pub(super) step: &'a str,
    pub(super) task: &'a str,
    pub(super) idx: i32,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) payload: Payload<'a>,
    pub(super) created_at: i64,
}

pub(super) fn artifact(artifact: &Artifact) -> Row {
    let (inline, content, mime, bytes) = match artifact.payload {
        Payload::Json(value) => (
            value.clone(),
            Value::Null,
            "application/json",
            canonical_json(value).into_bytes(),
        ),
        Payload::Bytes(bytes, mime) => (
            Value::Null,
            Value::String(format!("\\x{}", hex(bytes))),
            mime,
            bytes.to_vec(),
        ),
    };
    let values = json!({
        "run_id": artifact.run, "step_id": artifact.step, "task_key": artifact.task, "idx": artifact.idx, "attempt": 1,
        "kind": artifact.kind, "name": artifact.name, "uri": ids::artifact_uri(artifact.run, artifact.step, artifact.task, artifact.name),
        "mime": mime, "size": bytes.len(), "sha256": sha256_hex(&bytes), "inline": inline, "content": content,
        "created_at": artifact.created_at,
    });
    row(&ARTIFACTS, RowChange::Again, values)
}

/// A call of the planner and its answer.
pub(super) struct PlannerCall<'a> {
    pub(super) op_key: &'a str,
    pub(super) request_hash: &'a str,
    pub(super) run: &'a str,
    pub(super) step: &'a str,
    pub(super) request: &'a Value,
    pub(super) response: &'a Value,
    pub(super) created_at: i64,
}

pub(super) fn planner_call(call: &PlannerCall) -> Row {
    let values = json!({
        "op_key": call.op_key, "request_hash": call.request_hash, "run_id": call.run, "step_id": call.step, "mode": "replay",
        "request": call.request.to_string(), "response": call.response.to_string(), "created_at": call.created_at,
    });
    row(&OPENCODE_CALLS, RowChange::Insert, values)
}

/// One attempt of a task.
pub(super) struct TaskAttempt<'a> {
    pub(super) run: &'a str,
    pub(super) step: &'a str,
    pub(super) task: &'a str,
    pub(super) attempt: u32,
    pub(super) ordinal: usize,
    pub(super) err_code: &'a str,
    pub(super) exit: Option<i32>,
    pub(super) wall_ms: u64,
    pub(super) request: &'a Value,
    pub(super) response: &'a Value,
    pub(super) created_at: i64,
}

pub(super) fn task_attempt(task: &TaskAttempt) -> Row {
    let values = json!({
        "run_id": task.run, "step_id": task.step, "task_key": task.task, "attempt": task.attempt, "ordinal": task.ordinal,
        "err_code": task.err_code, "exit": task.exit, "wall_ms": task.wall_ms, "request": task.request.to_string(),
        "response": task.response.to_string(), "created_at": task.created_at,
    });
    row(&SBX_RUNS, RowChange::Again, values)
}

/// The mock's receipt for one attempt: seen twice, the attempt's effect was committed twice.
pub(super) fn mock_receipt(run: &str, task: &str, attempt: u32, created_at: i64) -> Row {
    let values = json!({"run_id": run, "task_key": task, "attempt": attempt, "seen_count": 1, "created_at": created_at});
    row(&MOCK_RECEIPTS, RowChange::Count("seen_count"), values)
}

/// A mark: set twice, the step that set it was committed twice.
pub(super) fn mark(workflow: &str, name: &str) -> Row {
    let values = json!({"workflow_id": workflow, "mark": name, "count": 1});
    row(&MARKS, RowChange::Count("count"), values)
}
