//! Owns the answer to «why is this run where it is»: one pure function over rows.

use serde_json::{Value, json};

use crate::store::{
    Database, StoreError,
    entity::runs,
    explain::{self as rows, Evidence},
    status::{RunStatus, WorkflowStatus},
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
    /// It sleeps.
    Asleep,
    /// A process executes it.
    Executing,
    /// Its process has stopped beating.
    OwnerDead,
    /// It may be claimed any moment.
    Due,
    /// It waits in its queue.
    Queued,
    /// No live process has its version.
    NoWorkerWithVersion,
    /// The code calls another step than the one recorded.
    ReplayMismatch,
}

impl Reason {
    /// As the wire writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::WaitingForChildren => "waiting_for_children",
            Self::Asleep => "asleep",
            Self::Executing => "executing",
            Self::OwnerDead => "owner_dead",
            Self::Due => "due",
            Self::Queued => "queued",
            Self::NoWorkerWithVersion => "no_worker_with_version",
            Self::ReplayMismatch => "replay_mismatch",
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

/// The rows that explain a run.
#[derive(Debug, Clone)]
pub(super) struct Facts(Evidence);

impl Facts {
    pub(super) async fn read(db: &Database, run: &runs::Model) -> Result<Self, StoreError> {
        Ok(Self(rows::evidence(&db.read(), &run.workflow_id).await?))
    }
}

/// Why `run` is where it is.
pub(super) fn explain(run: &runs::Model, facts: &Facts) -> Explanation {
    let facts = &facts.0;
    let because = |reason, sentence: String, data| Explanation {
        reason,
        sentence,
        data,
    };
    if run.status.is_terminal() {
        let data =
            json!({"status": run.status, "endedAt": run.ended_at, "nextAction": run.next_action});
        return because(
            Reason::Ended,
            format!("The run has ended: {}.", run.status),
            data,
        );
    }
    let conditions: Value = facts
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
    match facts.status {
        WorkflowStatus::Pending if facts.claimed_by.is_some() => {
            let data = json!({"executor": facts.claimed_by, "heartbeatAgeMs": facts.heartbeat_age_ms, "attempts": facts.recovery_attempts});
            match facts.heartbeat_age_ms {
                Some(age) if age <= facts.expiry_hint_ms => because(
                    Reason::Executing,
                    "A live process executes it.".into(),
                    data,
                ),
                _ => because(
                    Reason::OwnerDead,
                    "The process that owned it has stopped beating; another one takes it over."
                        .into(),
                    data,
                ),
            }
        }
        WorkflowStatus::Pending if waits_for("mismatch").is_some() => because(
            Reason::ReplayMismatch,
            "The code calls another step than the one recorded; it is tried again later.".into(),
            json!({"mismatch": waits_for("mismatch"), "nextAttemptAt": facts.due_at, "attempts": facts.recovery_attempts}),
        ),
        WorkflowStatus::Pending if run.status == RunStatus::WaitingInput => because(
            Reason::WaitingForApproval,
            "It waits for somebody to approve its plan (POST /api/runs/{wid}/approve-plan).".into(),
            json!({"nextAction": run.next_action}),
        ),
        WorkflowStatus::Pending if waits_for("children").is_some() => because(
            Reason::WaitingForChildren,
            format!("It waits for {} of its tasks.", facts.open_children),
            json!({"open": facts.open_children, "children": waits_for("children")}),
        ),
        WorkflowStatus::Pending if facts.due_at.is_some_and(|at| at > facts.now) => because(
            Reason::Asleep,
            "It sleeps until its time has come.".into(),
            json!({"dueAt": facts.due_at}),
        ),
        _ if facts.live_with_version == 0 => because(
            Reason::NoWorkerWithVersion,
            format!(
                "No live process has its version {:?}; {}.",
                facts.application_version.as_deref().unwrap_or_default(),
                if facts.live_versions.is_empty() {
                    "none executes at all".to_owned()
                } else {
                    format!("those that live have {}", facts.live_versions)
                }
            ),
            json!({"applicationVersion": facts.application_version, "liveVersions": facts.live_versions}),
        ),
        WorkflowStatus::Enqueued | WorkflowStatus::Delayed => because(
            Reason::Queued,
            format!(
                "It waits in {} behind {} others.",
                run.queue_name, facts.ahead
            ),
            json!({"queue": run.queue_name, "ahead": facts.ahead, "partition": run.queue_partition_key}),
        ),
        _ => because(
            Reason::Due,
            "It is due and waits for a free slot.".into(),
            json!({"dueAt": facts.due_at}),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(status: RunStatus) -> runs::Model {
        runs::Model {
            id: "r".into(),
            intent_id: "r".into(),
            workflow_id: "r".into(),
            status,
            workflow_name: "w".into(),
            recipe_name: "x".into(),
            recipe_version: 1,
            queue_name: "intentQ".into(),
            queue_partition_key: None,
            priority: 0,
            tenant_id: None,
            request: "{}".into(),
            workload: "{}".into(),
            last_step: None,
            next_action: None,
            error: None,
            output: None,
            retry_count: 0,
            trace_id: String::new(),
            span_id: String::new(),
            forked_from: None,
            created_at: 0,
            updated_at: 0,
            started_at: None,
            ended_at: None,
        }
    }

    fn facts(status: WorkflowStatus) -> Evidence {
        Evidence {
            now: 1_000,
            status,
            application_version: Some("v1".into()),
            recovery_attempts: 0,
            claimed_by: None,
            heartbeat_age_ms: None,
            expiry_hint_ms: 15_000,
            conditions: None,
            due_at: None,
            open_children: 0,
            ahead: 0,
            live_with_version: 1,
            live_versions: "v1".into(),
        }
    }

    #[test]
    fn every_situation_has_its_reason() {
        let pending = || facts(WorkflowStatus::Pending);
        let waiting = |conditions: &str| Evidence {
            conditions: Some(conditions.into()),
            ..pending()
        };
        let cases = [
            (
                RunStatus::Succeeded,
                facts(WorkflowStatus::Success),
                Reason::Ended,
            ),
            (
                RunStatus::Running,
                Evidence {
                    claimed_by: Some("e".into()),
                    heartbeat_age_ms: Some(5),
                    ..pending()
                },
                Reason::Executing,
            ),
            (
                RunStatus::Running,
                Evidence {
                    claimed_by: Some("e".into()),
                    heartbeat_age_ms: Some(99_000),
                    ..pending()
                },
                Reason::OwnerDead,
            ),
            (
                RunStatus::Running,
                Evidence {
                    claimed_by: Some("e".into()),
                    ..pending()
                },
                Reason::OwnerDead,
            ),
            (
                RunStatus::WaitingInput,
                waiting(r#"[{"kind":"message","topic":"t"}]"#),
                Reason::WaitingForApproval,
            ),
            (
                RunStatus::Running,
                waiting(r#"[{"kind":"children","low":1,"high":2}]"#),
                Reason::WaitingForChildren,
            ),
            (
                RunStatus::Running,
                waiting(r#"[{"kind":"mismatch","function_id":1}]"#),
                Reason::ReplayMismatch,
            ),
            (
                RunStatus::Running,
                Evidence {
                    due_at: Some(2_000),
                    ..waiting("[]")
                },
                Reason::Asleep,
            ),
            (
                RunStatus::Running,
                Evidence {
                    due_at: Some(500),
                    ..waiting("[]")
                },
                Reason::Due,
            ),
            (
                RunStatus::Queued,
                facts(WorkflowStatus::Enqueued),
                Reason::Queued,
            ),
            (
                RunStatus::Queued,
                Evidence {
                    live_with_version: 0,
                    ..facts(WorkflowStatus::Enqueued)
                },
                Reason::NoWorkerWithVersion,
            ),
        ];
        for (status, facts, reason) in cases {
            let explained = explain(&run(status), &Facts(facts));
            assert_eq!(explained.reason, reason, "{}", explained.sentence);
        }
    }
}
