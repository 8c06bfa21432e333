//! Owns the workflow of a task: one command in a sandbox, tried again when the infrastructure failed.

use std::{
    io,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::io::StreamReader;

use super::{
    Sandboxes, artifacts as kept_artifacts,
    rows::{self, TaskAttempt},
    run_workflow::now,
    task_artifacts::{artifacts, keep},
    task_output::Recorder,
    trace::attempt_span,
};
use crate::{
    canonical::{canonical_json, sha256_hex},
    config::Config,
    engine::{Context, StepFailure, Workflow, WorkflowError},
    planner::{InputContent, InputLimits, JobInputs},
    sandbox::{ErrorCode, FileContent, FileIn, Finished, Limits, Sandbox, SandboxRequest},
    store::{Database, app_rows::Row, backend::persist, intents},
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
/// Pieces of output on their way from the sandbox to the stream; who stores them slowly slows the command.
const PIECES: usize = 16;

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
    /// Whether the intent says that time-out: then it is also what the task may be expected to take.
    #[serde(default)]
    pub(super) declared: bool,
    pub(super) sandbox: String,
    #[serde(default)]
    pub(super) cancel: OnCancel,
    /// The span of the step that it is a part of, as W3C's `traceparent`; tasks of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
}

impl TaskInput {
    /// What is told to the workflow `id`. A fork of a task belongs to no run: what it leaves is under its own id.
    fn executed_by(self, id: &str) -> Self {
        if self.task_key == id {
            return self;
        }
        Self {
            run_id: id.to_owned(),
            task_key: id.to_owned(),
            ..self
        }
    }
}

/// What becomes of a command that runs while its task is cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnCancel {
    /// It ends by itself, and its result is kept.
    #[default]
    Boundary,
    /// It is killed, and nothing of it is kept.
    Kill,
}

impl OnCancel {
    /// Reads a recipe's column.
    pub(super) fn of_recipe(text: &str) -> Self {
        if text == "kill" {
            Self::Kill
        } else {
            Self::Boundary
        }
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<i32>,
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
    /// Whether tasks that do not say may use the network.
    net: bool,
}

impl TaskWorkflow {
    pub(super) fn new(db: Database, sandboxes: Sandboxes, config: &Config) -> Self {
        let net = config.sandbox_net;
        Self { db, sandboxes, net }
    }
}

impl Workflow for TaskWorkflow {
    const NAME: &'static str = "stepwell.task";
    type Input = TaskInput;
    type Output = TaskOutput;

    async fn run(&self, ctx: &Context, task: TaskInput) -> Result<TaskOutput, WorkflowError> {
        let task = task.executed_by(ctx.workflow_id());
        if task.cancel == OnCancel::Kill {
            ctx.stop_at_once_when_cancelled();
        }
        let step = task.traceparent.as_deref().and_then(TraceContext::parse);
        if let Some(step) = step {
            ctx.traced(step);
        }
        tracing::Span::current().record("run", &task.run_id);
        let mut attempt = 1;
        let mut pause = FIRST_PAUSE;
        let longest = task
            .declared
            .then(|| Duration::from_millis(task.timeout_ms));
        loop {
            let output: TaskOutput = ctx
                .step_lasting(TASK_STEP, longest, || async {
                    let began = SystemTime::now();
                    let done = self.attempt(ctx, &task, attempt).await;
                    if let Some(step) = step.filter(|step| spans::takes(*step)) {
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
        ctx: &Context,
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
        let described = request.describe();
        let mut finished = self.execute(ctx, sandbox, request, task, attempt).await;
        let left = keep(&self.db, &mut finished).await;
        let result = &finished.result;
        let at = now();
        let output = TaskOutput {
            task_key: task.task_key.clone(),
            ordinal: task.ordinal,
            attempt,
            err_code: result.err_code,
            exit: result.exit,
            signal: result.signal,
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
            request: &described,
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
            rows.extend(artifacts(task, result, &left, at));
        }
        Ok((output, rows))
    }

    /// Runs the command, and lets those who follow the run see what it prints.
    async fn execute(
        &self,
        ctx: &Context,
        sandbox: &Sandbox,
        request: SandboxRequest,
        task: &TaskInput,
        attempt: u32,
    ) -> Finished {
        if let Sandbox::Mock(_) = sandbox {
            // It has ended as soon as it began: whoever wants to know finds the artifact.
            return sandbox.run(request, attempt, None).await;
        }
        let (sender, pieces) = mpsc::channel(PIECES);
        let recorder = Recorder::begin(&self.db, ctx.claim(), task, attempt);
        let (finished, recorder) = tokio::join!(
            sandbox.run(request, attempt, Some(sender)),
            recorder.record(pieces)
        );
        recorder.end(&finished.result).await;
        finished
    }

    async fn request(&self, task: &TaskInput) -> Result<SandboxRequest, WorkflowError> {
        let intent = persist("read what a task is for", || async {
            intents::find(&self.db.read(), &task.intent_id).await
        })
        .await;
        let intent = intent.ok_or_else(|| {
            WorkflowError::new("intent_gone", format!("intent {} is gone", task.intent_id))
        })?;
        let inputs: Map<String, Value> = serde_json::from_str(&intent.inputs).unwrap_or_default();
        let job = JobInputs::parse(&inputs)
            .map_err(|e| WorkflowError::new("inputs_invalid", e.to_string()))?;
        let mut files_in = Vec::with_capacity(job.files.len());
        for file in job.files {
            files_in.push(FileIn {
                path: file.path,
                content: self.content(file.content).await?,
            });
        }
        Ok(SandboxRequest {
            env_ref: task.sandbox.clone(),
            cmd: task.cmd.clone(),
            files_in,
            out: job.out,
            env: job.env,
            workdir: job.workdir,
            timeout_ms: task.timeout_ms,
            limits: limits(&job.limits),
            net: job.net.unwrap_or(self.net),
            task_key: task.task_key.clone(),
        })
    }

    /// The content of a file that is handed in. An artifact is read as it is needed; one that is gone is an error of the one who reads.
    async fn content(&self, content: InputContent) -> Result<FileContent, WorkflowError> {
        Ok(match content {
            InputContent::Inline(text) => FileContent::Text(text),
            InputContent::Data(bytes) => FileContent::Reader(Box::new(io::Cursor::new(bytes))),
            InputContent::Artifact(id) => {
                let kept = persist("find a file that is handed in", || {
                    kept_artifacts::content(&self.db, &id)
                })
                .await;
                let pieces = match kept {
                    Some(content) => {
                        let all = 0..content.size;
                        content.read(all).map_err(io::Error::other).boxed()
                    }
                    None => {
                        let gone = io::Error::other(format!("there is no artifact {id}"));
                        stream::iter([Err(gone)]).boxed()
                    }
                };
                let pieces = pieces.map_ok(io::Cursor::new);
                let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(StreamReader::new(pieces));
                FileContent::Reader(reader)
            }
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

fn limits(asked: &InputLimits) -> Limits {
    Limits {
        cpu: asked.cpu,
        mem_mb: asked.mem_mb,
        cpu_seconds: asked.cpu_seconds,
        file_mb: asked.file_mb,
        open_files: asked.open_files,
        processes: asked.processes,
        disk_mb: asked.disk_mb,
        entries: asked.entries,
    }
}
