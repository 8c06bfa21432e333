//! Owns the runs of forks that other clients of DBOS made: those copy a workflow with its records, and know nothing of runs.

use serde_json::Value;

use super::fork::{Records, copy_product_rows, last_step, run_of_copy};
use crate::{
    intent::projector::projection,
    store::{
        Database, StoreError, explain, ops, runs as run_rows,
        status::{RunStatus, WorkflowStatus},
        workflows::{self, StepRow},
    },
};

/// Gives the fork `id` of the workflow `from` a run of its own, with the rows of what was copied. It may have gone on meanwhile: what it has done
/// itself is in its records.
pub(in crate::intent) async fn adopt(
    db: &Database,
    id: &str,
    from: &str,
) -> Result<(), StoreError> {
    let tx = db.begin().await?;
    let locked = ops::lock(&tx, id).await?;
    let workflow = workflows::find(&tx, id).await?;
    let (source, own) = (
        run_rows::find(&tx, from).await?,
        run_rows::find(&tx, id).await?,
    );
    let (Some(target), Some(workflow), Some(source), None) = (locked, workflow, source, own) else {
        return tx.rollback().await;
    };
    let steps = workflows::steps(&tx, &[id]).await?;
    let copied: Vec<&StepRow> = steps
        .iter()
        .filter(|step| {
            step.started_at_epoch_ms
                .is_some_and(|at| at < workflow.created_at)
        })
        .collect();
    copy_product_rows(&tx, &source.id, id, &Records::of(&copied)).await?;
    let all: Vec<&StepRow> = steps.iter().collect();
    let mut run = run_of_copy(source, id, last_step(&Records::of(&all)), 0, target.now);
    let now_is = projection(target.status, workflow.error);
    run.status = now_is.status;
    run.next_action = now_is.next_action.map(str::to_owned);
    run.error = now_is.error;
    run.created_at = workflow.created_at;
    if steps.len() > copied.len() {
        let own = steps.iter().filter_map(|step| step.started_at_epoch_ms);
        run.started_at = own.filter(|at| *at >= workflow.created_at).min();
    }
    if run.status.is_terminal() {
        run.ended_at = Some(workflow.updated_at);
        run.output = workflow
            .output
            .filter(|_| run.status == RunStatus::Succeeded);
    }
    if target.status == WorkflowStatus::Pending && waits_for_a_message(&tx, id).await? {
        run.status = RunStatus::WaitingInput;
        run.next_action = Some("APPROVE_PLAN".into());
    }
    run_rows::insert(&tx, run).await?;
    tx.commit().await
}

async fn waits_for_a_message(
    tx: &crate::store::backend::Transaction,
    id: &str,
) -> Result<bool, StoreError> {
    let conditions = explain::evidence(tx, id).await?.conditions;
    let conditions: Value = conditions
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let any = |conditions: &Vec<Value>| conditions.iter().any(|c| c["kind"] == "message");
    Ok(conditions.as_array().is_some_and(any))
}
