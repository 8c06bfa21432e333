//! Owns cancel and resume: the workflow, its children, its run and the trail change in one transaction, or nothing does.

use std::collections::BTreeSet;

use super::{
    audit::{self, Entry},
    machine::Action,
};
use crate::{
    engine::Workflow,
    intent::{
        IntentError, Product, RUN_QUEUE, TASK_QUEUE, run_workflow::RunWorkflow,
        task_workflow::TaskWorkflow, utility::UTILITY_QUEUE,
    },
    store::{
        StoreError,
        backend::{Transaction, retrying},
        cancellations,
        entity::runs,
        ops::{self, Target},
        runs as run_rows,
        workflows::INTERNAL_QUEUE,
    },
};

/// Who acts, and why; kept as data.
#[derive(Debug, Clone, Default)]
pub struct By {
    /// Who.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl Product {
    /// Cancels a workflow and its unfinished children. The step in progress may end, and its result is kept; the next one never starts.
    ///
    /// # Errors
    /// [`IntentError::NotFound`]; [`IntentError::Conflict`] where the state does not allow it.
    pub async fn cancel_workflow(&self, id: &str, by: &By) -> Result<(), IntentError> {
        let cancelled = retrying(|| async {
            let tx = self.db().begin().await?;
            // The children too, all in the order of their ids; what is true of them is read after this.
            cancellations::lock_trees(&tx, &[id]).await?;
            let target = match self.admitted(&tx, id, Action::Cancel).await? {
                Ok(target) => target,
                Err(refusal) => {
                    tx.rollback().await?;
                    return Ok(Err(refusal));
                }
            };
            let cancelled = cancellations::cancel(&tx, &[id]).await?;
            let ids: Vec<&str> = cancelled.iter().map(|c| c.workflow_uuid.as_str()).collect();
            run_rows::cancel(&tx, &ids, target.now).await?;
            self.audit(&tx, &target, Action::Cancel.as_str(), by, None)
                .await?;
            tx.commit().await?;
            Ok(Ok(cancelled))
        })
        .await??;
        if let Err(error) = cancellations::look(self.db(), &cancelled).await {
            error.warn("could not look at who awaits what was cancelled; the reconciler will");
        }
        self.client.cancelled();
        // Where a limit held others back, there may be room now.
        let queues: BTreeSet<&str> = cancelled
            .iter()
            .filter_map(|c| c.queue_name.as_deref())
            .collect();
        for queue in queues {
            self.client.queued(queue);
        }
        Ok(())
    }

    /// Puts a workflow back into its queue. It keeps its id, partition, priority and finished steps. Children that its cancel had ended go back
    /// to theirs when it comes to await them.
    ///
    /// # Errors
    /// [`IntentError::NotFound`]; [`IntentError::Conflict`] where the state does not allow it.
    pub async fn resume_workflow(&self, id: &str, by: &By) -> Result<(), IntentError> {
        let queue = retrying(|| async {
            let tx = self.db().begin().await?;
            let target = match self.admitted(&tx, id, Action::Resume).await? {
                Ok(target) => target,
                Err(refusal) => {
                    tx.rollback().await?;
                    return Ok(Err(refusal));
                }
            };
            let run = run_rows::find(&tx, id).await?;
            let queue = queue_of(&target, run.as_ref());
            ops::resume(&tx, &target, &queue).await?;
            if let Some(run) = run {
                run_rows::reopen(&tx, &run.id).await?;
            }
            self.audit(&tx, &target, Action::Resume.as_str(), by, None)
                .await?;
            tx.commit().await?;
            Ok(Ok(queue))
        })
        .await??;
        self.client.queued(&queue);
        Ok(())
    }

    /// The workflow under its lock, if it is there and `action` is legal.
    pub(super) async fn admitted(
        &self,
        tx: &Transaction,
        id: &str,
        action: Action,
    ) -> Result<Result<Target, IntentError>, StoreError> {
        let legal = |target: &Target| action.check(id, target.status);
        self.admitted_if(tx, id, legal).await
    }

    /// The workflow under its lock, if it is there and `legal` lets it pass; what it says otherwise is the refusal.
    pub(super) async fn admitted_if(
        &self,
        tx: &Transaction,
        id: &str,
        legal: impl Fn(&Target) -> Result<(), String>,
    ) -> Result<Result<Target, IntentError>, StoreError> {
        let Some(target) = ops::lock(tx, id).await? else {
            return Ok(Err(IntentError::NotFound {
                what: "workflow",
                id: id.to_owned(),
            }));
        };
        Ok(match legal(&target) {
            Ok(()) => Ok(target),
            Err(message) => Err(IntentError::conflict("illegal_state", message)),
        })
    }

    /// Writes an accepted action into the trail of its target.
    pub(super) async fn audit(
        &self,
        tx: &Transaction,
        target: &Target,
        op: &'static str,
        by: &By,
        forked: Option<&str>,
    ) -> Result<(), StoreError> {
        let run = run_rows::find(tx, &target.workflow_uuid).await?;
        let entry = Entry {
            op,
            by,
            target: &target.workflow_uuid,
            run: run.as_ref().map_or(&target.workflow_uuid, |run| &run.id),
            forked,
            at: target.now,
        };
        audit::write(tx, &entry).await
    }
}

/// The queue into which a workflow is put back, or its copy put: its own; where somebody else's client has erased that, what its run or its name
/// says. Of a foreign workflow nobody knows it any more, and its application serves DBOS's internal queue.
pub(super) fn queue_of(target: &Target, run: Option<&runs::Model>) -> String {
    if let Some(queue) = target.own_queue() {
        return queue.to_owned();
    }
    let ours = match (run, target.name.as_deref()) {
        (Some(run), _) => run.queue_name.as_str(),
        (None, Some(name)) if name == TaskWorkflow::NAME => TASK_QUEUE,
        (None, Some(name)) if name == RunWorkflow::NAME => RUN_QUEUE,
        (None, _) => UTILITY_QUEUE,
    };
    if target.is_ours() {
        ours
    } else {
        INTERNAL_QUEUE
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{status::WorkflowStatus, workflows::APPLICATION_NAME};

    fn target(application: Option<&str>, name: &str, queue: Option<&str>) -> Target {
        Target {
            workflow_uuid: "w".into(),
            status: WorkflowStatus::Cancelled,
            name: Some(name.into()),
            queue_name: queue.map(str::to_owned),
            application_name: application.map(str::to_owned),
            forked_from: None,
            executed: false,
            now: 0,
        }
    }

    #[test]
    fn a_workflow_goes_back_to_its_own_queue() {
        let ours = Some(APPLICATION_NAME);
        for (target, queue) in [
            (target(ours, "stepwell.task", Some("sbxQ")), "sbxQ"),
            (target(ours, "stepwell.task", None), "sbxQ"),
            (target(ours, "stepwell.task", Some(INTERNAL_QUEUE)), "sbxQ"),
            (target(ours, "stepwell.run", None), "intentQ"),
            (target(ours, "stepwell.slowstep", None), "controlQ"),
            (target(Some("shop"), "order", Some("orders")), "orders"),
            (target(Some("shop"), "order", None), INTERNAL_QUEUE),
            (target(None, "order", None), INTERNAL_QUEUE),
        ] {
            assert_eq!(queue_of(&target, None), queue, "{target:?}");
        }
    }
}
