//! Owns the workflow of a run: compile a plan, apply its patch, wait for a human, decide, execute, merge.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    TASK_QUEUE, Trace, Workload,
    approvals::APPROVAL_TOPIC,
    rows::{self, Artifact, NO_TASK, NONE_IDX, Payload, PlannerCall, StepRun},
    start::Intent,
    task_workflow::{OnCancel, TaskInput, TaskOutput, TaskWorkflow, task_key},
    trace::{run_span, span_of_run, step_span},
};
use crate::{
    config::Config,
    engine::{ChildOptions, Context, Receive, StepFailure, Workflow, WorkflowError},
    planner::{self, CallKind, Decision, JobInputs, PlanRequest, PlannerKind},
    sandbox::ErrorCode,
    store::{
        Database, app_rows::Row, backend::persist, entity::recipes, planner_calls,
        status::RunStatus,
    },
    telemetry::spans::{self, Span, TraceContext, TraceId, at_ms},
};

/// The product steps, in order.
pub(super) const COMPILE: &str = "CompileST";
pub(super) const APPLY_PATCH: &str = "ApplyPatchST";
pub(super) const DECIDE: &str = "DecideST";
pub(super) const EXECUTE: &str = "ExecuteST";
/// All of them.
pub(super) const PRODUCT_STEPS: [&str; 4] = [COMPILE, APPLY_PATCH, DECIDE, EXECUTE];
/// The record of the gate: a fork that copies it copies the approval.
pub(super) const GATE: &str = "DBOS.recv";
/// Where the artifacts of the merge begin: after those of any number of tasks.
const MERGE_IDX: i32 = 1_000_000;

/// Everything a run needs to know; nothing of it changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunInput {
    intent_id: String,
    goal: String,
    inputs: Map<String, Value>,
    constraints: Map<String, Value>,
    recipe_name: String,
    recipe_version: i32,
    planner: String,
    approval: String,
    sandbox: String,
    /// What becomes of a command that runs while the run is cancelled.
    #[serde(default)]
    cancel: OnCancel,
    workload: Workload,
    trace_id: String,
    /// The span of the request that started it, as W3C's `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    /// Whether its spans are exported; runs of earlier versions do not say.
    #[serde(default = "exported")]
    sampled: bool,
}

fn exported() -> bool {
    true
}

impl RunInput {
    pub(super) fn new(
        intent: &Intent,
        recipe: &recipes::Model,
        workload: Workload,
        trace: &Trace,
    ) -> Self {
        Self {
            intent_id: intent.id.clone(),
            goal: intent.goal.clone(),
            inputs: intent.inputs.clone(),
            constraints: intent.constraints.clone(),
            recipe_name: recipe.name.clone(),
            recipe_version: recipe.version,
            planner: recipe.planner.clone(),
            approval: recipe.approval.clone(),
            sandbox: recipe.sandbox.clone(),
            cancel: OnCancel::of_recipe(&recipe.cancel),
            workload,
            trace_id: trace.trace_id.clone(),
            caller: trace.caller.clone(),
            sampled: trace.sampled,
        }
    }

    /// The span of `run`, which is the one that was started with this or a fork of it.
    fn trace(&self, run: &str) -> TraceContext {
        let trace_id = TraceId::parse(&self.trace_id).unwrap_or_else(TraceId::random);
        TraceContext {
            trace_id,
            span_id: run_span(trace_id, run),
            sampled: self.sampled,
        }
    }

    fn plan_request(&self) -> PlanRequest {
        PlanRequest {
            goal: self.goal.clone(),
            inputs: self.inputs.clone(),
            constraints: self.constraints.clone(),
            recipe_name: self.recipe_name.clone(),
            recipe_version: self.recipe_version,
            planner: PlannerKind::of_recipe(&self.planner),
        }
    }
}

/// What is recorded of a product step.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done<T> {
    started_at: i64,
    /// Absent from what earlier versions recorded.
    #[serde(default)]
    finished_at: Option<i64>,
    value: T,
}

/// The workflow of a run.
pub(super) struct RunWorkflow {
    db: Database,
    strict: bool,
    timeout_ms: u64,
}

impl RunWorkflow {
    pub(super) fn new(db: Database, config: &Config) -> Self {
        Self {
            db,
            strict: config.planner_strict,
            timeout_ms: config.sandbox_timeout_ms,
        }
    }
}

impl Workflow for RunWorkflow {
    const NAME: &'static str = "stepwell.run";
    type Input = RunInput;
    type Output = Value;

    async fn run(&self, ctx: &Context, input: RunInput) -> Result<Value, WorkflowError> {
        let trace = input.trace(ctx.workflow_id());
        ctx.traced(trace);
        tracing::Span::current().record("run", ctx.workflow_id());
        // Also after a resume: what an end has written is taken back.
        ctx.project([rows::run_update(
            ctx.workflow_id(),
            now(),
            json!({"status": RunStatus::Running, "next_action": null, "error": null, "ended_at": null}),
        )]);
        let outcome = self.execute(ctx, &input, trace).await;
        match &outcome {
            Ok(_) => tracing::debug!("the run succeeds"),
            Err(error) => tracing::warn!(code = error.code(), "the run fails"),
        }
        ctx.project([end_of_run(ctx.workflow_id(), &outcome)]);
        if spans::takes(trace) {
            let mut span = span_of_run(trace, input.caller.as_deref(), ctx.created_at())
                .with("stepwell.run.id", ctx.workflow_id())
                .with("stepwell.intent.id", input.intent_id.as_str())
                .with("stepwell.recipe", input.recipe_name.as_str());
            span.error = outcome.as_ref().err().map(|e| e.code().to_owned());
            ctx.span(span);
        }
        outcome
    }
}

impl RunWorkflow {
    async fn execute(
        &self,
        ctx: &Context,
        input: &RunInput,
        trace: TraceContext,
    ) -> Result<Value, WorkflowError> {
        let mut steps = Steps {
            ctx,
            trace,
            previous: 0,
            work_since: None,
        };
        let request = &input.plan_request();
        let _plan: Value = steps
            .step(COMPILE, "compilation", |at| async move {
                let (plan, mut rows) = self
                    .ask(ctx.workflow_id(), COMPILE, CallKind::Plan, request, at)
                    .await?;
                rows.push(step_artifact(
                    ctx,
                    COMPILE,
                    0,
                    "plan_card",
                    "plan.json",
                    &plan,
                    at,
                ));
                Ok((plan, rows))
            })
            .await?;
        steps
            .step(APPLY_PATCH, "patching", |at| async move {
                // The planners of this version change no files before the approval: the record says so, and can be reverted.
                let rows = vec![step_artifact(
                    ctx,
                    APPLY_PATCH,
                    NONE_IDX,
                    "none",
                    "none.json",
                    &Value::Null,
                    at,
                )];
                Ok((json!({"patched": []}), rows))
            })
            .await?;
        if input.approval != "auto" {
            self.gate(ctx).await?;
        }
        let decision = steps
            .step(DECIDE, "planning", |at| async move {
                let (answer, mut rows) = self
                    .ask(ctx.workflow_id(), DECIDE, CallKind::Decide, request, at)
                    .await?;
                let decision: Decision = serde_json::from_value(answer.clone())
                    .map_err(|e| WorkflowError::new("recording_invalid", e.to_string()))?;
                rows.push(step_artifact(
                    ctx,
                    DECIDE,
                    0,
                    "decision",
                    "decision.json",
                    &answer,
                    at,
                ));
                for (n, patch) in (1..).zip(&decision.patch) {
                    rows.push(step_artifact(
                        ctx,
                        DECIDE,
                        n,
                        "patch",
                        &format!("patch-{n}.json"),
                        &json!(patch),
                        at,
                    ));
                }
                Ok((decision, rows))
            })
            .await?;
        // The tasks are the step's work: its span begins where the decision's ended, its row with the merge.
        let execution = trace.at(step_span(trace.trace_id, ctx.workflow_id(), EXECUTE));
        let tasks = self.fan_out(ctx, input, &decision, execution).await?;
        let merged = steps
            .step(
                EXECUTE,
                "execution",
                |at| async move { merge(ctx, &tasks, at) },
            )
            .await?;
        Ok(merged)
    }

    /// Waits for a human. An approval that was sent before is found at once; waiting costs a row.
    async fn gate(&self, ctx: &Context) -> Result<(), WorkflowError> {
        let waiting = json!({"status": RunStatus::WaitingInput, "next_action": "APPROVE_PLAN"});
        let on_suspend = vec![rows::run_update(ctx.workflow_id(), now(), waiting)];
        let _: Option<Value> = ctx
            .receive(Receive {
                topic: APPROVAL_TOPIC.into(),
                timeout: None,
                on_suspend,
            })
            .await?;
        Ok(())
    }

    /// Runs one child per command, as many at once as the workload allows.
    async fn fan_out(
        &self,
        ctx: &Context,
        input: &RunInput,
        decision: &Decision,
        execution: TraceContext,
    ) -> Result<Vec<TaskOutput>, WorkflowError> {
        let commands = decision.commands();
        let exceeded = |message: String| WorkflowError::new("workload_exceeded", message);
        let most = usize::try_from(input.workload.steps).unwrap_or(0);
        if commands.len() > most {
            return Err(exceeded(format!(
                "the run has {} tasks, and its workload allows {most}",
                commands.len()
            )));
        }
        let budget_ms = u64::try_from(input.workload.sandbox_minutes).unwrap_or(0) * 60_000;
        let job = JobInputs::parse(&input.inputs)
            .map_err(|e| WorkflowError::new("inputs_invalid", e.to_string()))?;
        let mut tasks: Vec<TaskOutput> = Vec::with_capacity(commands.len());
        let wave = usize::try_from(input.workload.concurrency)
            .unwrap_or(1)
            .max(1);
        for (first, commands) in (0..).step_by(wave).zip(commands.chunks(wave)) {
            let spent_ms: u64 = tasks.iter().map(|task| task.wall_ms).sum();
            if spent_ms >= budget_ms {
                return Err(exceeded(format!(
                    "the tasks took {spent_ms} ms together, and the workload allows {budget_ms}"
                )));
            }
            let timeout_ms = job
                .timeout_ms
                .unwrap_or(self.timeout_ms)
                .min(budget_ms - spent_ms);
            let mut children = Vec::with_capacity(commands.len());
            for (ordinal, cmd) in (first..).zip(commands) {
                let key = task_key(
                    &input.intent_id,
                    ctx.workflow_id(),
                    EXECUTE,
                    ordinal,
                    cmd,
                    &input.inputs,
                );
                let task = TaskInput {
                    run_id: ctx.workflow_id().to_owned(),
                    intent_id: input.intent_id.clone(),
                    step_id: EXECUTE.into(),
                    task_key: key.clone(),
                    ordinal,
                    cmd: cmd.clone(),
                    timeout_ms,
                    declared: job.timeout_ms.is_some(),
                    sandbox: input.sandbox.clone(),
                    cancel: input.cancel,
                    traceparent: Some(execution.to_string()),
                };
                children.push(
                    ctx.start_child::<TaskWorkflow>(
                        &task,
                        ChildOptions {
                            id: Some(key),
                            queue: TASK_QUEUE.into(),
                            ..ChildOptions::default()
                        },
                    )
                    .await?,
                );
            }
            for result in ctx.await_children(children).await? {
                tasks.push(result?);
            }
        }
        Ok(tasks)
    }

    /// Asks the planner; a call that was answered before is answered the same.
    async fn ask(
        &self,
        run: &str,
        step: &str,
        kind: CallKind,
        request: &PlanRequest,
        at: i64,
    ) -> Result<(Value, Vec<Row>), StepFailure> {
        let op_key = planner::op_key(run, step);
        let request_hash = planner::request_hash(kind, request);
        let known = persist("look for a recorded answer of the planner", || async {
            planner_calls::recorded(&self.db.read(), &op_key, &request_hash).await
        })
        .await;
        let recorded = known.as_ref().map(|call| call.response.as_str());
        let answer = planner::answer(kind, request, self.strict, recorded)
            .map_err(|e| WorkflowError::new(e.code(), e.to_string()))?;
        let own = known.is_some_and(|call| call.op_key == op_key);
        let document = planner::request_document(kind, request);
        let call = PlannerCall {
            op_key: &op_key,
            request_hash: &request_hash,
            run,
            step,
            request: &document,
            response: &answer,
            created_at: at,
        };
        Ok((
            answer.clone(),
            if own {
                Vec::new()
            } else {
                vec![rows::planner_call(&call)]
            },
        ))
    }
}

/// The product steps of one run: each leaves its `run_steps` row, later than the one before.
struct Steps<'a> {
    ctx: &'a Context,
    trace: TraceContext,
    previous: i64,
    /// When the work of the next step began, if that was before its body: epoch milliseconds.
    work_since: Option<i64>,
}

impl Steps<'_> {
    async fn step<T, F, Fut>(
        &mut self,
        step: &'static str,
        phase: &'static str,
        body: F,
    ) -> Result<T, WorkflowError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(i64) -> Fut + Send,
        Fut: Future<Output = Result<(T, Vec<Row>), StepFailure>> + Send,
    {
        let run = self.ctx.workflow_id();
        let (ctx, trace, previous) = (self.ctx, self.trace, self.previous);
        let (span_id, work_since) = (
            step_span(trace.trace_id, run, step),
            self.work_since.filter(|_| step == EXECUTE),
        );
        let created_at = ctx.created_at();
        let done: Done<T> = self
            .ctx
            .step_with_rows(step, move || async move {
                let started_at = now().max(previous + 1);
                tracing::Span::current().record("span_id", tracing::field::display(span_id));
                let outcome = body(started_at).await;
                tracing::debug!(ok = outcome.is_ok(), "the step's body has run");
                let finished_at = now().max(started_at);
                let row = |error: Option<String>| {
                    rows::step_run(&StepRun {
                        run,
                        step,
                        phase,
                        trace_id: &trace.trace_id.to_string(),
                        span_id: &span_id.to_string(),
                        started_at,
                        finished_at,
                        error,
                    })
                };
                if spans::takes(trace) {
                    let began = at_ms(work_since.unwrap_or(started_at).min(started_at));
                    let mut span = Span::below(trace, span_id, step, began)
                        .with("stepwell.run.id", run)
                        .with("stepwell.step.id", step)
                        .with("stepwell.step.name", phase);
                    let error = outcome.as_ref().err();
                    span.error = error.map(|failure| failure.error.code().to_owned());
                    ctx.step_span(span);
                }
                let reached = |columns: Value| rows::run_update(run, finished_at, columns);
                match outcome {
                    Ok((value, mut rows)) => {
                        // Of a fork the steps before were executed by the original.
                        let started = if previous < created_at {
                            json!({"last_step": step, "started_at": started_at})
                        } else {
                            json!({"last_step": step})
                        };
                        rows.extend([row(None), reached(started)]);
                        let done = Done {
                            started_at,
                            finished_at: Some(finished_at),
                            value,
                        };
                        Ok((done, rows))
                    }
                    Err(mut failure) => {
                        failure.rows.extend([
                            row(serde_json::to_string(&failure.error).ok()),
                            reached(json!({"last_step": step})),
                        ]);
                        Err(failure)
                    }
                }
            })
            .await?;
        self.previous = done.started_at;
        self.work_since = done.finished_at;
        Ok(done.value)
    }
}

/// Merges the results of tasks: the first error counts, metrics add up.
fn merge(ctx: &Context, tasks: &[TaskOutput], at: i64) -> Result<(Value, Vec<Row>), StepFailure> {
    let failed = tasks.iter().find(|task| task.err_code != ErrorCode::None);
    let summary = json!({
        "tasks": tasks.len(),
        "failed": tasks.iter().filter(|task| task.err_code != ErrorCode::None).count(),
        "exit": failed.map_or(Some(0), |task| task.exit),
        "wallMs": tasks.iter().map(|task| task.wall_ms).sum::<u64>(),
        "cpuMs": tasks.iter().map(|task| task.cpu_ms).sum::<u64>(),
        "memPeakMB": tasks.iter().map(|task| task.mem_peak_mb).max().unwrap_or(0),
    });
    let rows = vec![step_artifact(
        ctx,
        EXECUTE,
        MERGE_IDX,
        "merge",
        "merge.json",
        &summary,
        at,
    )];
    let Some(task) = failed else {
        return Ok((summary, rows));
    };
    let exhausted = task.err_code.is_retryable();
    let mut message = format!(
        "task {} ended with {}",
        task.ordinal,
        task.err_code.as_str()
    );
    if let Some(exit) = task.exit {
        message.push_str(&format!(", exit {exit}"));
    }
    if exhausted {
        message.push_str(&format!(" after {} attempts", task.attempt));
    }
    let data = json!({"exit": task.exit, "taskKey": task.task_key, "attempts": task.attempt, "retriesExceeded": exhausted});
    Err(StepFailure {
        error: WorkflowError::new(task.err_code.as_str(), message).with_data(data),
        rows,
    })
}

fn step_artifact(
    ctx: &Context,
    step: &str,
    idx: i32,
    kind: &str,
    name: &str,
    value: &Value,
    created_at: i64,
) -> Row {
    let artifact = Artifact {
        run: ctx.workflow_id(),
        step,
        task: NO_TASK,
        idx,
        kind,
        name,
        payload: Payload::Json(value),
        created_at,
    };
    rows::artifact(&artifact)
}

/// What the end of the workflow makes of the run.
fn end_of_run(run: &str, outcome: &Result<Value, WorkflowError>) -> Row {
    let at = now();
    let columns = match outcome {
        Ok(output) => {
            json!({"status": RunStatus::Succeeded, "next_action": null, "error": null, "output": output.to_string(), "ended_at": at})
        }
        Err(error) => {
            let exhausted = error
                .data
                .as_ref()
                .is_some_and(|data| data["retriesExceeded"] == true);
            let (status, next) = if exhausted {
                (RunStatus::RetriesExceeded, Some("REPAIR"))
            } else {
                (RunStatus::Failed, None)
            };
            json!({"status": status, "next_action": next, "error": json!(error).to_string(), "output": null, "ended_at": at})
        }
    };
    rows::run_update(run, at, columns)
}

/// The time for the product's own rows, which nothing is decided by.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
