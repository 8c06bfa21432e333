//! Owns the repair of runs whose workflow went on without them: ended, resumed, rewound or forked by an official client, ended by a deadline, or
//! given up. What is true of a workflow is read under its lock, which its own checkpoints take, too.

use std::time::Duration;

use serde_json::Value;

use super::{ops, run_workflow::RunWorkflow};
use crate::{
    engine::{Workflow, WorkflowError},
    store::{
        Database, StoreError,
        backend::retrying,
        ops as op_rows,
        runs::{self, Drift},
        status::{RunStatus, WorkflowStatus},
        workflows,
    },
};

/// The pause between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// How far back a look goes: a few times its pause, for clocks and transactions that overlap.
const LOOK_BACK_MS: i64 = 60_000;

/// Looks for drift until the task is aborted. The first look goes back to the beginning.
pub async fn project_drift(db: Database) {
    let mut look_back_ms = i64::MAX / 2;
    loop {
        match round(&db, look_back_ms).await {
            Ok(()) => look_back_ms = LOOK_BACK_MS,
            Err(error) => tracing::debug!(%error, "could not look for drifted runs"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn round(db: &Database, look_back_ms: i64) -> Result<(), StoreError> {
    for drift in runs::drifted(&db.read(), RunWorkflow::NAME, look_back_ms).await? {
        retrying(|| async {
            match &drift {
                Drift::Ended(id) => end(db, id).await,
                Drift::Resumed(id) => reopen(db, id).await,
                Drift::Forked { workflow, from } => ops::adopt(db, workflow, from).await,
            }
        })
        .await?;
    }
    Ok(())
}

/// Ends the run of a workflow that has ended.
async fn end(db: &Database, id: &str) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    let target = op_rows::lock(&tx, id).await?;
    let run = runs::find(&tx, id).await?;
    let workflow = workflows::find(&tx, id).await?;
    if let (Some(target), Some(run), Some(workflow)) = (target, run, workflow)
        && !target.status.is_unfinished()
    {
        let end = projection(workflow.status, workflow.error);
        runs::end(
            &tx,
            &run.id,
            end.status,
            end.next_action,
            end.error.as_deref(),
            workflow.updated_at,
        )
        .await?;
    }
    tx.commit().await
}

/// Opens the run of a workflow that was put back into a queue.
async fn reopen(db: &Database, id: &str) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    let target = op_rows::lock(&tx, id).await?;
    let run = runs::find(&tx, id).await?;
    if let (Some(target), Some(run)) = (target, run)
        && target.status == WorkflowStatus::Enqueued
        && run.status.is_terminal()
    {
        runs::reopen(&tx, &run.id, RunStatus::Queued, target.now).await?;
    }
    tx.commit().await
}

/// What a run is when its workflow is in a status.
pub(super) struct Projection {
    pub(super) status: RunStatus,
    pub(super) next_action: Option<&'static str>,
    /// JSON text.
    pub(super) error: Option<String>,
}

/// What a run becomes when its workflow is in `status`, with the error it has ended with.
pub(super) fn projection(status: WorkflowStatus, error: Option<String>) -> Projection {
    let of = |status, next_action, error| Projection {
        status,
        next_action,
        error,
    };
    match status {
        WorkflowStatus::Enqueued | WorkflowStatus::Delayed => of(RunStatus::Queued, None, None),
        WorkflowStatus::Pending => of(RunStatus::Running, None, None),
        WorkflowStatus::Success => of(RunStatus::Succeeded, None, None),
        WorkflowStatus::Cancelled => of(RunStatus::Canceled, None, None),
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            let error = WorkflowError::new(
                "max_recovery_attempts",
                "the run was given up after too many recoveries without progress",
            );
            let error = serde_json::to_string(&error).ok();
            of(RunStatus::Failed, Some("REPAIR"), error)
        }
        WorkflowStatus::Error if error.as_deref().is_some_and(is_exhausted) => {
            of(RunStatus::RetriesExceeded, Some("REPAIR"), error)
        }
        WorkflowStatus::Error => of(RunStatus::Failed, None, error),
    }
}

/// Whether a run ended because infrastructure failed as often as it may.
fn is_exhausted(error: &str) -> bool {
    serde_json::from_str(error)
        .is_ok_and(|error: Value| error["data"]["retriesExceeded"] == Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_run_asks_for_repair() {
        let error = |exceeded| Some(format!("{{\"data\":{{\"retriesExceeded\":{exceeded}}}}}"));
        for (error, status, next_action) in [
            (error(true), RunStatus::RetriesExceeded, Some("REPAIR")),
            (error(false), RunStatus::Failed, None),
            (Some("no JSON".into()), RunStatus::Failed, None),
        ] {
            let projected = projection(WorkflowStatus::Error, error);
            assert_eq!(
                (projected.status, projected.next_action),
                (status, next_action)
            );
        }
    }
}
