//! Owns the repair of a run: a fork at its first step without a good checkpoint, which keeps whatever ended well, in any position.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    actions::By,
    fork::{Copy, Plan, copy_workflow, new_id},
};
use crate::{
    intent::{
        IntentError, Product,
        run_workflow::{EXECUTE, PRODUCT_STEPS},
    },
    store::{
        StoreError,
        backend::{Transaction, retrying},
        entity::runs,
        ops, runs as run_rows,
        status::{RunStatus, WorkflowStatus},
        workflows::{self, StepRow},
    },
};

/// A run that was retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retried {
    /// The new run.
    pub run_id: String,
    /// The first product step that it executes.
    pub from_step: &'static str,
}

impl Product {
    /// Executes again what failed in a run, as a new run. Nothing that has ended well is done again.
    ///
    /// # Errors
    /// [`IntentError::NotFound`]; [`IntentError::Conflict`] unless the run failed.
    pub async fn retry_run(&self, id: &str, by: &By) -> Result<Retried, IntentError> {
        let workflow = self.run_row(id).await?.workflow_id;
        let (retried, queue) = retrying(|| async {
            let tx = self.db().begin().await?;
            let target = ops::lock(&tx, &workflow).await?;
            let run = run_rows::find(&tx, &workflow).await?;
            let (Some(target), Some(run)) = (target, run) else {
                tx.rollback().await?;
                return Ok(Err(IntentError::run_not_found(id)));
            };
            if let Err(refusal) = check(&run) {
                tx.rollback().await?;
                return Ok(Err(refusal));
            }
            let steps = workflows::steps(&tx, &[&workflow]).await?;
            let (plan, from_step) = plan(&steps, &good_tasks(&tx, &steps).await?);
            let copy = Copy {
                plan,
                app_version: None,
                retries: 1,
            };
            let forked = new_id(&target);
            let queue = copy_workflow(&tx, &target, &steps, &forked, &copy).await?;
            run_rows::ask_nothing(&tx, &run.id, target.now).await?;
            self.audit(&tx, &target, "retry", by, Some(&forked)).await?;
            tx.commit().await?;
            let retried = Retried {
                run_id: forked,
                from_step,
            };
            Ok(Ok((retried, queue)))
        })
        .await??;
        self.client.queued(&queue);
        Ok(retried)
    }
}

fn check(run: &runs::Model) -> Result<(), IntentError> {
    match run.status {
        RunStatus::Failed | RunStatus::RetriesExceeded => Ok(()),
        RunStatus::Queued
        | RunStatus::Running
        | RunStatus::WaitingInput
        | RunStatus::Repairing
        | RunStatus::Succeeded
        | RunStatus::Canceled => Err(IntentError::conflict(
            "illegal_state",
            format!(
                "run {} is {}; a retry is legal from {} and {}",
                run.id,
                run.status,
                RunStatus::Failed,
                RunStatus::RetriesExceeded
            ),
        )),
    }
}

/// The tasks that have ended with nothing to complain about.
async fn good_tasks(tx: &Transaction, steps: &[StepRow]) -> Result<BTreeSet<String>, StoreError> {
    let tasks: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| step.child_workflow_id.as_deref())
        .collect();
    let tasks: Vec<&str> = tasks.into_iter().collect();
    let is_good = |output: Option<&str>| {
        output
            .and_then(|text| serde_json::from_str::<Value>(text).ok())
            .is_some_and(|output| output["errCode"] == "NONE")
    };
    Ok(workflows::results(tx, &tasks)
        .await?
        .into_iter()
        .filter(|row| row.status == WorkflowStatus::Success && is_good(row.output.as_deref()))
        .map(|row| row.workflow_uuid)
        .collect())
}

/// What a retry copies, and the first product step that it executes: everything up to the first product step that failed, but of tasks
/// only those that ended well. The holes are filled by the replay, because function ids are given in the order of the calls.
fn plan(steps: &[StepRow], good: &BTreeSet<String>) -> (Plan, &'static str) {
    let failed = |step: &&StepRow| {
        step.error.is_some() && PRODUCT_STEPS.contains(&step.function_name.as_str())
    };
    let end = steps.last().map_or(0, |step| step.function_id + 1);
    let below = steps.iter().find(failed).map_or(end, |s| s.function_id);
    let except = steps
        .iter()
        .filter(|step| step.function_id < below)
        .filter(|step| {
            step.child_workflow_id
                .as_ref()
                .is_some_and(|task| !good.contains(task))
        })
        .map(|step| step.function_id)
        .collect();
    let done = |name: &str| {
        steps
            .iter()
            .any(|step| step.function_id < below && step.function_name == name)
    };
    let from_step = PRODUCT_STEPS.into_iter().find(|name| !done(name));
    (Plan { below, except }, from_step.unwrap_or(EXECUTE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Workflow, intent::task_workflow::TaskWorkflow};

    fn step(function_id: i32, name: &str, child: Option<&str>, failed: bool) -> StepRow {
        StepRow {
            workflow_uuid: "w".into(),
            function_id,
            function_name: name.into(),
            output: None,
            error: failed.then(|| "{}".into()),
            child_workflow_id: child.map(str::to_owned),
            started_at_epoch_ms: None,
            completed_at_epoch_ms: None,
        }
    }

    #[test]
    fn finished_tasks_are_kept_in_any_position() {
        let task = TaskWorkflow::NAME;
        let steps = [
            step(0, "CompileST", None, false),
            step(1, "ApplyPatchST", None, false),
            step(2, "DecideST", None, false),
            step(3, task, Some("a"), false),
            step(4, task, Some("b"), false),
            step(5, task, Some("c"), false),
            step(6, "DBOS.getResult", Some("a"), false),
            step(7, "DBOS.getResult", Some("b"), false),
            step(8, "DBOS.getResult", Some("c"), false),
            step(9, "ExecuteST", None, true),
        ];
        let good = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        let except = vec![4, 7];
        assert_eq!(
            plan(&steps, &good),
            (Plan { below: 9, except }, "ExecuteST")
        );
    }

    #[test]
    fn a_run_that_failed_early_goes_on_where_it_failed() {
        let steps = [
            step(0, "CompileST", None, false),
            step(1, "ApplyPatchST", None, false),
            step(2, "DecideST", None, true),
        ];
        let (early, from) = plan(&steps, &BTreeSet::new());
        assert_eq!((early.below, from), (2, "DecideST"));
        let (nothing, from) = plan(&[], &BTreeSet::new());
        assert_eq!((nothing.below, from), (0, "CompileST"));
    }
}
