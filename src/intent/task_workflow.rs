//! Owns the workflow of a task: one command in a sandbox, tried again when the infrastructure failed.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Sandboxes,
    rows::{self, Artifact, Payload, TaskAttempt},
    run_workflow::now,
    trace::attempt_span,
};
use crate::{
    canonical::{canonical_json, sha256_hex},
    engine::{Context, StepFailure, Workflow, WorkflowError},
    planner::{JobInputs, NOT_KEPT},
    sandbox::{ErrorCode, FileIn, Limits, Sandbox, SandboxRequest, SandboxResult},
    store::{Database, app_rows::Row, intents},
    telemetry::{
        instruments::RETRIES,
        spans::{self, Span, TraceContext},
    },
};

/// Executions of a task, the first one included.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What the records of a task's attempts are called.
const TASK_STEP: &str = "ExecuteTask";
/// Artifact numbers that each task owns.
const IDX_PER_TASK: usize = 1_000;

/// What a task is told. The files it needs are in its intent, which never changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskInput {
    pub(super) run_id: String,
    pub(super) intent_id: String,
    pub(super) step_id: String,
    pub(super) task_key: String,
    pub(super) ordinal: usize,
    pub(super) cmd: String,
    pub(super) timeout_ms: u64,
    pub(super) sandbox: String,
    /// The span of the step that it is a part of, as W3C's `traceparent`; tasks of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
}

/// How a task ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskOutput {
    pub(super) task_key: String,
    pub(super) ordinal: usize,
    pub(super) attempt: u32,
    pub(super) err_code: ErrorCode,
    pub(super) exit: Option<i32>,
    pub(super) wall_ms: u64,
    pub(super) cpu_ms: u64,
    pub(super) mem_peak_mb: u64,
}

/// The id of a task: the same command in the same place of the same run is the same task.
pub(super) fn task_key(
    intent: &str,
    run: &str,
    step: &str,
    ordinal: usize,
    cmd: &str,
    inputs: &Map<String, Value>,
) -> String {
    let request = json!({"ordinal": ordinal, "cmd": cmd, "files": inputs.get("files"), "env": inputs.get("env")});
    let document =
        json!({"intentId": intent, "runId": run, "stepId": step, "normalizedReq": request});
    sha256_hex(canonical_json(&document).as_bytes())
}

/// The workflow of a task.
pub(super) struct TaskWorkflow {
    db: Database,
    sandboxes: Sandboxes,
}

impl TaskWorkflow {
    pub(super) fn new(db: Database, sandboxes: Sandboxes) -> Self {
        Self { db, sandboxes }
    }
}

impl Workflow for TaskWorkflow {
    const NAME: &'static str = "stepwell.task";
    type Input = TaskInput;
    type Output = TaskOutput;

    async fn run(&self, ctx: &Context, task: TaskInput) -> Result<TaskOutput, WorkflowError> {
        let step = task.traceparent.as_deref().and_then(TraceContext::parse);
        if let Some(step) = step {
            ctx.traced(step);
        }
        tracing::Span::current().record("run", &task.run_id);
        let mut attempt = 1;
        let mut pause = FIRST_PAUSE;
        loop {
            let output: TaskOutput = ctx
                .step_with_rows(TASK_STEP, || async {
                    let began = SystemTime::now();
                    let done = self.attempt(&task, attempt).await;
                    if let Some(step) = step.filter(|_| spans::wanted()) {
                        ctx.step_span(span_of_attempt(&task, step, began, attempt, &done));
                    }
                    done
                })
                .await?;
            if !output.err_code.is_retryable() || attempt >= ATTEMPTS {
                return Ok(output);
            }
            ctx.sleep(pause).await?;
            pause *= 2;
            attempt += 1;
        }
    }
}

impl TaskWorkflow {
    /// Runs the command once. Its artifacts are written with the attempt that counts.
    async fn attempt(
        &self,
        task: &TaskInput,
        attempt: u32,
    ) -> Result<(TaskOutput, Vec<Row>), StepFailure> {
        if attempt > 1 {
            RETRIES.add(&[TASK_STEP], 1);
        }
        let request = self.request(task).await?;
        let sandbox = if task.sandbox == "local" {
            &self.sandboxes.local
        } else {
            &self.sandboxes.configured
        };
        let result = sandbox.run(&request, attempt).await;
        let at = now();
        let output = TaskOutput {
            task_key: task.task_key.clone(),
            ordinal: task.ordinal,
            attempt,
            err_code: result.err_code,
            exit: result.exit,
            wall_ms: result.metrics.wall_ms,
            cpu_ms: result.metrics.cpu_ms,
            mem_peak_mb: result.metrics.mem_peak_mb,
        };
        let mut rows = vec![rows::task_attempt(&TaskAttempt {
            run: &task.run_id,
            step: &task.step_id,
            task: &task.task_key,
            attempt,
            ordinal: task.ordinal,
            err_code: result.err_code.as_str(),
            exit: result.exit,
            wall_ms: result.metrics.wall_ms,
            request: &stored_request(&request),
            response: &json!(output),
            created_at: at,
        })];
        if matches!(**sandbox, Sandbox::Mock(_)) {
            rows.push(rows::mock_receipt(
                &task.run_id,
                &task.task_key,
                attempt,
                at,
            ));
        }
        if !result.err_code.is_retryable() || attempt >= ATTEMPTS {
            rows.extend(artifacts(task, &result, at));
        }
        Ok((output, rows))
    }

    async fn request(&self, task: &TaskInput) -> Result<SandboxRequest, WorkflowError> {
        let intent = intents::find(&self.db.read(), &task.intent_id).await?;
        let intent = intent.ok_or_else(|| {
            WorkflowError::new("intent_gone", format!("intent {} is gone", task.intent_id))
        })?;
        let inputs: Map<String, Value> = serde_json::from_str(&intent.inputs).unwrap_or_default();
        let job = JobInputs::parse(&inputs)
            .map_err(|e| WorkflowError::new("inputs_invalid", e.to_string()))?;
        Ok(SandboxRequest {
            env_ref: task.sandbox.clone(),
            cmd: task.cmd.clone(),
            files_in: job
                .files
                .into_iter()
                .map(|file| FileIn {
                    path: file.path,
                    inline: Some(file.inline),
                    uri: None,
                })
                .collect(),
            env: job.env,
            workdir: None,
            timeout_ms: task.timeout_ms,
            limits: Limits::default(),
            net: true,
            task_key: task.task_key.clone(),
        })
    }
}

fn span_of_attempt(
    task: &TaskInput,
    step: TraceContext,
    began: SystemTime,
    attempt: u32,
    done: &Result<(TaskOutput, Vec<Row>), StepFailure>,
) -> Span {
    let span_id = attempt_span(step.trace_id, &task.task_key, attempt);
    let mut span = Span::below(step, span_id, "task", began)
        .with("stepwell.run.id", task.run_id.as_str())
        .with("stepwell.task.key", task.task_key.as_str())
        .with(
            "stepwell.task.ordinal",
            i64::try_from(task.ordinal).unwrap_or(i64::MAX),
        )
        .with("stepwell.task.attempt", i64::from(attempt));
    span.error = match done {
        Ok((output, _)) if output.err_code == ErrorCode::None => None,
        Ok((output, _)) => Some(output.err_code.as_str().to_owned()),
        Err(failure) => Some(failure.error.code().to_owned()),
    };
    if let Ok((output, _)) = done
        && let Some(exit) = output.exit
    {
        span = span.with("stepwell.task.exit", i64::from(exit));
    }
    span
}

/// A request as its row keeps it: the files' contents and the values of variables, which may be secrets, are in the intent alone.
fn stored_request(request: &SandboxRequest) -> Value {
    let mut document = json!(request);
    for value in document["env"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
    {
        *value = NOT_KEPT.into();
    }
    for file in document["filesIn"].as_array_mut().into_iter().flatten() {
        if let Some(file) = file.as_object_mut() {
            file.remove("inline");
        }
    }
    document
}

/// What a task leaves: an index first, then its output, its files, and its figures.
fn artifacts(task: &TaskInput, result: &SandboxResult, at: i64) -> Vec<Row> {
    let base = i32::try_from(task.ordinal * IDX_PER_TASK).unwrap_or(i32::MAX - 1_000);
    let timings = json!(result.metrics);
    let raw = result.raw.clone().unwrap_or_else(|| json!({"errCode": result.err_code, "exit": result.exit, "sandboxRef": result.sandbox_ref}));
    let text = "text/plain; charset=utf-8";
    let mut parts: Vec<(&str, &str, Payload)> = vec![
        ("stdout", "stdout", Payload::Bytes(&result.stdout, text)),
        ("stderr", "stderr", Payload::Bytes(&result.stderr, text)),
    ];
    parts.extend(result.files_out.iter().map(|file| {
        (
            "file",
            file.path.as_str(),
            Payload::Bytes(&file.content, "application/octet-stream"),
        )
    }));
    parts.push(("raw", "raw.json", Payload::Json(&raw)));
    parts.push(("timings", "timings.json", Payload::Json(&timings)));
    let index = json!(
        parts
            .iter()
            .zip(base + 1..)
            .map(|((kind, name, _), idx)| json!({"idx": idx, "kind": kind, "name": name}))
            .collect::<Vec<_>>()
    );
    std::iter::once((
        "artifact_index",
        "artifact_index.json",
        Payload::Json(&index),
    ))
    .chain(parts)
    .zip(base..)
    .map(|((kind, name, payload), idx)| {
        let (run, step, task) = (
            task.run_id.as_str(),
            task.step_id.as_str(),
            task.task_key.as_str(),
        );
        // A file may be called like one of ours: its place in the address keeps them apart.
        let address = if kind == "file" {
            format!("files/{name}")
        } else {
            name.to_owned()
        };
        rows::artifact(&Artifact {
            run,
            step,
            task,
            idx,
            kind,
            name: &address,
            payload,
            created_at: at,
        })
    })
    .collect()
}
