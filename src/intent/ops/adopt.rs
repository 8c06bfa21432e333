//! Owns the runs of copies that other clients make: they know nothing of runs, so a copied workflow of ours gets its own here, with the rows
//! of what was copied.

use super::fork::{copy_rows, last_step, run_of_copy};
use crate::{
    engine::WorkflowError,
    store::{
        Database, StoreError,
        backend::{Transaction, retrying},
        entity::runs,
        ops::{self, Target},
        runs as run_rows,
        status::{RunStatus, WorkflowStatus},
        waits,
        workflows::{self, StepRow},
    },
};

/// Gives the copied workflow `id` a run, unless it has one by now. The workflow may have gone on meanwhile; the run shows where it is.
pub(in crate::intent) async fn adopt(db: &Database, id: &str) -> Result<(), StoreError> {
    retrying(|| async {
        let tx = db.begin().await?;
        let target = ops::lock(&tx, id).await?;
        let source = match target.as_ref().and_then(|t| t.forked_from.as_deref()) {
            Some(source) if run_rows::find(&tx, id).await?.is_none() => {
                run_rows::find(&tx, source).await?
            }
            _ => None,
        };
        let (Some(target), Some(source)) = (target, source) else {
            return tx.rollback().await;
        };
        let steps = workflows::steps(&tx, &[id]).await?;
        let steps: Vec<&StepRow> = steps.iter().collect();
        copy_rows(&tx, &source.id, id, &steps).await?;
        let run = run_of_copy(source, id, last_step(&steps), 0, target.now);
        run_rows::insert(&tx, as_it_is(&tx, run, &target).await?).await?;
        tx.commit().await
    })
    .await
}

/// `run` as its workflow stands.
async fn as_it_is(
    tx: &Transaction,
    run: runs::Model,
    target: &Target,
) -> Result<runs::Model, StoreError> {
    let id = &target.workflow_uuid;
    let ended = |status| runs::Model {
        status,
        ended_at: Some(target.now),
        ..run.clone()
    };
    let row = workflows::find(tx, id).await?;
    let (output, error) = row.map_or((None, None), |row| (row.output, row.error));
    Ok(match target.status {
        WorkflowStatus::Enqueued | WorkflowStatus::Delayed => run,
        WorkflowStatus::Pending if waits::is_for_a_message(tx, id).await? => runs::Model {
            status: RunStatus::WaitingInput,
            next_action: Some("APPROVE_PLAN".into()),
            ..run
        },
        WorkflowStatus::Pending => runs::Model {
            status: RunStatus::Running,
            ..run
        },
        WorkflowStatus::Success => runs::Model {
            output,
            ..ended(RunStatus::Succeeded)
        },
        WorkflowStatus::Error => runs::Model {
            error,
            ..ended(RunStatus::Failed)
        },
        WorkflowStatus::Cancelled => ended(RunStatus::Canceled),
        WorkflowStatus::MaxRecoveryAttemptsExceeded => runs::Model {
            next_action: Some("REPAIR".into()),
            error: serde_json::to_string(&WorkflowError::given_up()).ok(),
            ..ended(RunStatus::Failed)
        },
    })
}
