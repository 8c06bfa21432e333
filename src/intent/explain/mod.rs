//! Owns the answer to «why is this run where it is»: one pure function over rows.

mod limits;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::task_workflow::TaskWorkflow;
use crate::{
    engine::Workflow,
    store::{
        Database, StoreError,
        entity::runs,
        explain::{self as rows, Evidence, Situation},
        status::{RunStatus, WorkflowStatus},
    },
};

/// Why a run is where it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has ended.
    Ended,
    /// It waits for a human.
    WaitingForApproval,
    /// It waits for its tasks.
    WaitingForChildren,
    /// It waits for what another workflow says.
    WaitingForEvent,
    /// It sleeps.
    Asleep,
    /// A task failed for want of infrastructure, and is tried again at a time that is set.
    RetryBackoff,
    /// A process executes it.
    Executing,
    /// Its process has not been heard of for half of the expiry or longer.
    OwnerDead,
    /// It was cancelled and resumed, and its execution from before has not ended yet.
    PreviousExecution,
    /// It may be claimed any moment.
    Due,
    /// It waits in its queue.
    Queued,
    /// It may not start before its time.
    Delayed,
    /// Nothing starts in its queue.
    QueuePaused,
    /// Its queue executes as many as it may.
    QueueConcurrency,
    /// Its tenant has as many in execution as it may.
    PartitionConcurrency,
    /// Every process executes as many of its queue as it may.
    WorkerConcurrency,
    /// Its queue has started as many as it may in this period.
    RateLimit,
    /// No live process has its version.
    NoWorkerWithVersion,
    /// The code calls another step than the one recorded.
    ReplayMismatch,
    /// Its time is over; it is cancelled any moment.
    DeadlinePassed,
}

impl Reason {
    /// As the wire writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::WaitingForChildren => "waiting_for_children",
            Self::WaitingForEvent => "waiting_for_event",
            Self::Asleep => "asleep",
            Self::RetryBackoff => "retry_backoff",
            Self::Executing => "executing",
            Self::OwnerDead => "owner_dead",
            Self::PreviousExecution => "previous_execution",
            Self::Due => "due",
            Self::Queued => "queued",
            Self::Delayed => "delayed",
            Self::QueuePaused => "queue_paused",
            Self::QueueConcurrency => "queue_concurrency",
            Self::PartitionConcurrency => "partition_concurrency",
            Self::WorkerConcurrency => "worker_concurrency",
            Self::RateLimit => "rate_limit",
            Self::NoWorkerWithVersion => "no_worker_with_version",
            Self::ReplayMismatch => "replay_mismatch",
            Self::DeadlinePassed => "deadline_passed",
        }
    }
}

/// A reason in one sentence and in data.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub sentence: String,
    /// What the sentence is made of.
    pub data: Value,
}

impl Explanation {
    fn new(reason: Reason, sentence: impl Into<String>, data: Value) -> Self {
        Self {
            reason,
            sentence: sentence.into(),
            data,
        }
    }
}

/// The rows that explain a run.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Its workflow's; none if that is gone.
    own: Option<Evidence>,
    /// Those of the first task that it waits for, if no task is in execution: what holds that one back holds the run back.
    task: Option<Evidence>,
    /// Milliseconds without a heartbeat after which a process is dead.
    expiry_ms: i64,
}

impl Facts {
    pub(super) async fn read(
        db: &Database,
        run: &runs::Model,
        expiry_ms: i64,
    ) -> Result<Self, StoreError> {
        let read = db.read();
        let own = rows::evidence(&read, &run.workflow_id, expiry_ms, silence_ms(expiry_ms)).await?;
        let children = own.as_ref().map_or(&[][..], |own| &own.children);
        let task = match children.first() {
            Some(first) if children.iter().all(|child| !child.executing) => {
                rows::evidence(&read, &first.id, expiry_ms, silence_ms(expiry_ms)).await?
            }
            _ => None,
        };
        Ok(Self {
            own,
            task,
            expiry_ms,
        })
    }

    /// Whether it is there, and has come to an end of any kind.
    pub(super) fn workflow_has_ended(&self) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| !own.workflow.status.is_unfinished())
    }
}

/// Why `run` is where it is.
pub(super) fn explain(run: &runs::Model, facts: &Facts) -> Explanation {
    let Some(own) = &facts.own else {
        let data = json!({"status": run.status, "workflowID": run.workflow_id});
        return Explanation::new(
            Reason::Ended,
            format!(
                "The run is {}, and its workflow is no longer in the database.",
                run.status
            ),
            data,
        );
    };
    let mut explained = standing(own, facts.expiry_ms, Some(run));
    if explained.reason == Reason::WaitingForChildren
        && let Some(task) = &facts.task
    {
        let inner = standing(task, facts.expiry_ms, None);
        if holds_back(inner.reason) {
            let id = &task.workflow.id;
            let children = explained.data["children"].take();
            explained = Explanation {
                reason: inner.reason,
                sentence: format!("It waits for its task {id}. {}", inner.sentence),
                data: inner.data,
            };
            explained.data["task"] = id.as_str().into();
            explained.data["children"] = children;
        }
    }
    if let (true, Some(deadline)) = (own.workflow.status.is_unfinished(), own.workflow.deadline) {
        explained.data["deadlineAt"] = deadline.into();
    }
    explained
}

/// Whether a task that stands for this reason is held back by something that can be named, rather than about to go on.
fn holds_back(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Ended | Reason::Executing | Reason::Due | Reason::Queued
    )
}

/// Why a workflow is where it is.
fn standing(evidence: &Evidence, expiry_ms: i64, run: Option<&runs::Model>) -> Explanation {
    let workflow = &evidence.workflow;
    if workflow.status.is_unfinished() && workflow.deadline.is_some_and(|at| at <= workflow.now) {
        return Explanation::new(
            Reason::DeadlinePassed,
            "Its time is over; it is cancelled at its next boundary.",
            json!({}),
        );
    }
    match workflow.status {
        WorkflowStatus::Success
        | WorkflowStatus::Error
        | WorkflowStatus::Cancelled
        | WorkflowStatus::MaxRecoveryAttemptsExceeded => ended(workflow, run),
        WorkflowStatus::Delayed => Explanation::new(
            Reason::Delayed,
            "It may not start before its time.",
            json!({"startsAt": workflow.delay_until}),
        ),
        WorkflowStatus::Enqueued => queued(evidence, expiry_ms),
        WorkflowStatus::Pending if workflow.claim_is_live => owned(workflow, expiry_ms),
        WorkflowStatus::Pending => suspended(evidence, run),
    }
}

fn ended(workflow: &Situation, run: Option<&runs::Model>) -> Explanation {
    match run {
        Some(run) if run.status.is_terminal() => Explanation::new(
            Reason::Ended,
            format!("The run has ended: {}.", run.status),
            json!({"status": run.status, "endedAt": run.ended_at, "nextAction": run.next_action}),
        ),
        _ => Explanation::new(
            Reason::Ended,
            format!(
                "Its workflow has ended ({}); the run follows within seconds.",
                workflow.status
            ),
            json!({"status": workflow.status}),
        ),
    }
}

/// Milliseconds without a heartbeat after which a process no longer counts as one that executes: it has missed a beat at least, and most likely
/// several, because a heart beats four times in an expiry or more often.
fn silence_ms(expiry_ms: i64) -> i64 {
    expiry_ms / 2
}

/// Until when a process is given that stopped beating: then its work is taken over.
fn taken_over_at(workflow: &Situation, expiry_ms: i64) -> i64 {
    workflow
        .heartbeat_at
        .map_or(workflow.now, |at| at + expiry_ms)
}

fn owned(workflow: &Situation, expiry_ms: i64) -> Explanation {
    let until = taken_over_at(workflow, expiry_ms);
    let data = json!({
        "executor": workflow.claimed_by, "lastHeartbeatAt": workflow.heartbeat_at, "attempts": workflow.recovery_attempts,
    });
    let (silent, left) = (
        workflow.heartbeat_at.map(|at| workflow.now - at),
        until - workflow.now,
    );
    let sentence = match silent {
        Some(silent) if silent <= silence_ms(expiry_ms) => {
            return Explanation::new(Reason::Executing, "A live process executes it.", data);
        }
        Some(silent) if left > 0 => format!(
            "Its process has not been heard of for {} s; unless it is, another one takes it over in {} s.",
            whole_seconds(silent),
            whole_seconds(left)
        ),
        _ => "The process that owned it has stopped beating; another one takes it over.".to_owned(),
    };
    let mut explained = Explanation::new(Reason::OwnerDead, sentence, data);
    explained.data["takenOverAt"] = until.into();
    explained
}

/// A span of time as whole seconds, none of which is 0.
fn whole_seconds(ms: i64) -> i64 {
    (ms.max(1) - 1) / 1_000 + 1
}

fn queued(evidence: &Evidence, expiry_ms: i64) -> Explanation {
    let workflow = &evidence.workflow;
    if workflow.claimed_by.is_some() {
        return Explanation::new(
            Reason::PreviousExecution,
            "It was cancelled and resumed; the step that was in progress must end first.",
            json!({"executor": workflow.claimed_by, "atTheLatestIfItsProcessDies": taken_over_at(workflow, expiry_ms)}),
        );
    }
    if let Some(explained) = no_worker(evidence) {
        return explained;
    }
    limits::holding_back(evidence, true).unwrap_or_else(|| {
        Explanation::new(
            Reason::Queued,
            format!(
                "It waits in {} behind {} others.",
                workflow.queue_name.as_deref().unwrap_or_default(),
                workflow.ahead
            ),
            json!({"queue": workflow.queue_name, "ahead": workflow.ahead, "partition": workflow.partition}),
        )
    })
}

fn no_worker(evidence: &Evidence) -> Option<Explanation> {
    let wanted = evidence.workflow.application_version.as_deref();
    let serves = |version: &str| wanted.is_none_or(|wanted| wanted == version);
    if evidence.workers.iter().any(|w| serves(&w.app_version)) {
        return None;
    }
    let mut live: Vec<&str> = evidence
        .workers
        .iter()
        .map(|w| w.app_version.as_str())
        .collect();
    live.sort_unstable();
    live.dedup();
    let sentence = match (wanted, live.as_slice()) {
        (_, []) => "No process lives that could execute it.".to_owned(),
        (wanted, live) => format!(
            "No live process has its version {:?}; these versions live: {}.",
            wanted.unwrap_or_default(),
            live.join(", ")
        ),
    };
    let data = json!({"applicationVersion": wanted, "liveVersions": live});
    Some(Explanation::new(
        Reason::NoWorkerWithVersion,
        sentence,
        data,
    ))
}

fn suspended(evidence: &Evidence, run: Option<&runs::Model>) -> Explanation {
    let workflow = &evidence.workflow;
    let conditions: Value = workflow
        .conditions
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let waits_for = |kind: &str| {
        conditions
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["kind"] == kind)
    };
    if let Some(mismatch) = waits_for("mismatch") {
        return Explanation::new(
            Reason::ReplayMismatch,
            format!(
                "At function id {} the code calls {}, and {} is recorded; it is tried again later.",
                mismatch["function_id"], mismatch["called"], mismatch["recorded"]
            ),
            json!({"mismatch": mismatch, "nextAttemptAt": workflow.due_at, "attempts": workflow.recovery_attempts}),
        );
    }
    let is_due = workflow.due_at.is_some_and(|at| at <= workflow.now);
    if is_due || workflow.conditions.is_none() {
        return due(evidence);
    }
    if run.is_some_and(|run| run.status == RunStatus::WaitingInput) {
        return Explanation::new(
            Reason::WaitingForApproval,
            "It waits for somebody to approve its plan (POST /api/runs/{wid}/approve-plan).",
            json!({"nextAction": "APPROVE_PLAN", "conditions": conditions}),
        );
    }
    if waits_for("children").is_some() {
        let children: Vec<Value> = evidence
            .children
            .iter()
            .map(|child| json!({"workflowID": child.id, "status": child.status, "executing": child.executing, "dueAt": child.due_at}))
            .collect();
        return Explanation::new(
            Reason::WaitingForChildren,
            format!("It waits for {} of its tasks.", workflow.open_children),
            json!({"open": workflow.open_children, "children": children}),
        );
    }
    if let Some(condition) = waits_for("event").or_else(|| waits_for("message")) {
        return Explanation::new(
            Reason::WaitingForEvent,
            "It waits for an event or a message.",
            json!({"waitsFor": condition, "dueAt": workflow.due_at}),
        );
    }
    if workflow.name.as_deref() == Some(TaskWorkflow::NAME) {
        return Explanation::new(
            Reason::RetryBackoff,
            "The infrastructure failed; the next attempt is at the time given.",
            json!({"nextAttemptAt": workflow.due_at}),
        );
    }
    Explanation::new(
        Reason::Asleep,
        "It sleeps until its time has come.",
        json!({"dueAt": workflow.due_at}),
    )
}

/// Why a workflow that is due is not claimed.
fn due(evidence: &Evidence) -> Explanation {
    no_worker(evidence)
        .or_else(|| limits::holding_back(evidence, false))
        .unwrap_or_else(|| {
            Explanation::new(
                Reason::Due,
                "It is due, and claimed as soon as a process has a free slot.",
                json!({"dueAt": evidence.workflow.due_at}),
            )
        })
}
