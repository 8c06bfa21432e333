//! Owns forks: a copy of a workflow that goes on from one of its steps, with a run of its own where the original has one.

use std::collections::BTreeSet;

use super::{
    actions::{By, queue_of},
    machine::Action,
};
use crate::{
    engine::Workflow,
    intent::{
        IntentError, Product, ids,
        run_workflow::{GATE, PRODUCT_STEPS, RunWorkflow},
        task_workflow::TaskWorkflow,
        trace::span_of_copy,
    },
    store::{
        StoreError,
        backend::{Transaction, retrying},
        entity::runs,
        ops::{
            Target,
            fork::{self, CopiedRows, Fork},
        },
        runs as run_rows,
        status::{RunStatus, WorkflowStatus},
        workflows::{self, StepRow},
    },
};

/// Where a fork goes on.
#[derive(Debug, Clone)]
pub struct ForkRequest {
    /// The function id of the first step that is executed again.
    pub step_n: i32,
    /// The code that may run it; that of the original by default.
    pub app_version: Option<String>,
    /// Who wants it, and why.
    pub by: By,
}

/// A fork that is queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    /// Its workflow id, and that of its run.
    pub id: String,
}

/// What of a workflow is copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Records from this function id on are not copied.
    pub(super) below: i32,
    /// Nor are these.
    pub(super) except: Vec<i32>,
}

impl Plan {
    fn copied<'a>(&self, steps: &'a [StepRow]) -> Vec<&'a StepRow> {
        steps
            .iter()
            .filter(|s| s.function_id < self.below && !self.except.contains(&s.function_id))
            .collect()
    }
}

/// How the copy differs from the original beside what is copied.
pub(super) struct Copy<'a> {
    pub(super) plan: Plan,
    pub(super) app_version: Option<&'a str>,
    /// How many retries it adds.
    pub(super) retries: i32,
}

impl Product {
    /// Copies a workflow with what it has recorded below a step, and queues the copy, which executes that step and what follows.
    ///
    /// # Errors
    /// [`IntentError::NotFound`]; [`IntentError::Conflict`] when there is no such step.
    pub async fn fork_workflow(
        &self,
        id: &str,
        request: &ForkRequest,
    ) -> Result<Forked, IntentError> {
        let (forked, queue) = retrying(|| async {
            let tx = self.db().begin().await?;
            let admitted = self.admitted(&tx, id, Action::Fork).await?;
            let steps = workflows::steps(&tx, &[id]).await?;
            let highest = steps.last().map(|step| step.function_id);
            let target = match admitted.and_then(|target| {
                legal_step(id, request.step_n, highest)
                    .map(|()| target)
                    .map_err(|message| IntentError::conflict("no_such_step", message))
            }) {
                Ok(target) => target,
                Err(refusal) => {
                    tx.rollback().await?;
                    return Ok(Err(refusal));
                }
            };
            let good = ended_well(&tx, &target, &steps).await?;
            let plan = Plan {
                below: request.step_n,
                except: starts_left_out(&steps, request.step_n, &good),
            };
            let copy = Copy {
                plan,
                app_version: request.app_version.as_deref(),
                retries: 0,
            };
            let forked = new_id(&target);
            let queue = copy_workflow(&tx, &target, &steps, &forked, &copy).await?;
            self.audit(
                &tx,
                &target,
                Action::Fork.as_str(),
                &request.by,
                Some(&forked),
            )
            .await?;
            tx.commit().await?;
            Ok(Ok((forked, queue)))
        })
        .await??;
        self.client.queued(&queue);
        Ok(Forked { id: forked })
    }
}

/// Whether the workflow `id` can be forked at `step_n`, when `highest` is the highest function id that it has recorded.
///
/// # Errors
/// Why not, and what would be accepted.
pub fn legal_step(id: &str, step_n: i32, highest: Option<i32>) -> Result<(), String> {
    Err(match highest {
        Some(highest) if step_n <= highest => return Ok(()),
        Some(highest) => format!(
            "stepN is {step_n}, and the highest function id of workflow {id} is {highest}; 1 to {} is accepted",
            highest.max(1)
        ),
        None => format!("workflow {id} has no step yet; there is nothing to fork from"),
    })
}

/// The id of a copy: ours are recognised by their form, and a foreign application may expect a UUID.
pub(super) fn new_id(target: &Target) -> String {
    if target.is_ours() {
        ids::fork()
    } else {
        uuid::Uuid::new_v4().to_string()
    }
}

fn is_task_start(step: &StepRow) -> bool {
    step.function_name == TaskWorkflow::NAME
}

/// The tasks that a run has started and that have ended with an output. Of any other workflow nothing is asked.
async fn ended_well(
    tx: &Transaction,
    target: &Target,
    steps: &[StepRow],
) -> Result<Option<BTreeSet<String>>, StoreError> {
    if !target.is_ours() || target.name.as_deref() != Some(RunWorkflow::NAME) {
        return Ok(None);
    }
    let started: Vec<&str> = steps
        .iter()
        .filter(|step| is_task_start(step))
        .filter_map(|step| step.child_workflow_id.as_deref())
        .collect();
    let rows = workflows::results(tx, &started).await?;
    Ok(Some(
        rows.into_iter()
            .filter(|row| row.status == WorkflowStatus::Success)
            .map(|row| row.workflow_uuid)
            .collect(),
    ))
}

/// The starts below `below` that a fork of a run does not copy: of tasks whose result is not copied either and that have not ended well. They are
/// the original's, which may cancel them; the fork starts its own.
fn starts_left_out(steps: &[StepRow], below: i32, good: &Option<BTreeSet<String>>) -> Vec<i32> {
    let Some(good) = good else {
        return Vec::new();
    };
    let has_result = |task: &str| {
        steps.iter().any(|step| {
            step.function_id < below
                && !is_task_start(step)
                && step.child_workflow_id.as_deref() == Some(task)
        })
    };
    steps
        .iter()
        .filter(|step| step.function_id < below && is_task_start(step))
        .filter(|step| {
            let task = step.child_workflow_id.as_deref().unwrap_or_default();
            !good.contains(task) && !has_result(task)
        })
        .map(|step| step.function_id)
        .collect()
}

/// Copies a locked workflow, its run, and the rows of what is copied; answers the copy's queue.
pub(super) async fn copy_workflow(
    tx: &Transaction,
    target: &Target,
    steps: &[StepRow],
    id: &str,
    copy: &Copy<'_>,
) -> Result<String, StoreError> {
    let source = target.workflow_uuid.as_str();
    let run = run_rows::find(tx, source).await?;
    let queue = queue_of(target, run.as_ref());
    let fork = Fork {
        source,
        id,
        queue: &queue,
        app_version: copy.app_version,
        below: copy.plan.below,
        except: &copy.plan.except,
    };
    fork::copy_workflow(tx, &fork).await?;
    if !target.is_ours() {
        return Ok(queue);
    }
    let copied = copy.plan.copied(steps);
    let old = run.as_ref().map_or(source, |run| &run.id);
    copy_rows(tx, old, id, &copied).await?;
    if let Some(run) = run {
        let run = run_of_copy(run, id, last_step(&copied), copy.retries, target.now);
        run_rows::insert(tx, run).await?;
    }
    Ok(queue)
}

/// Copies the rows of the run `old` that belong to `copied` steps to the run `id`.
pub(super) async fn copy_rows(
    tx: &Transaction,
    old: &str,
    id: &str,
    copied: &[&StepRow],
) -> Result<(), StoreError> {
    let names: Vec<&str> = copied.iter().map(|s| s.function_name.as_str()).collect();
    let tasks: Vec<&str> = copied
        .iter()
        .filter(|step| is_task_start(step))
        .filter_map(|step| step.child_workflow_id.as_deref())
        .collect();
    let rows = CopiedRows {
        source: old,
        run: id,
        uri_prefixes: (&ids::artifact_prefix(old), &ids::artifact_prefix(id)),
        steps: &names,
        tasks: &tasks,
        approval: names.contains(&GATE),
    };
    fork::copy_rows(tx, &rows).await
}

/// The last product step among `steps`.
pub(super) fn last_step(steps: &[&StepRow]) -> Option<String> {
    let done = |name: &&str| steps.iter().any(|step| step.function_name == *name);
    PRODUCT_STEPS.into_iter().rfind(done).map(str::to_owned)
}

/// The run of a copy: the same intent under the same policy, with nothing done yet beside what was copied.
pub(super) fn run_of_copy(
    run: runs::Model,
    id: &str,
    last_step: Option<String>,
    retries: i32,
    now: i64,
) -> runs::Model {
    runs::Model {
        id: id.to_owned(),
        workflow_id: id.to_owned(),
        status: RunStatus::Queued,
        last_step,
        next_action: None,
        error: None,
        output: None,
        retry_count: run.retry_count + retries,
        span_id: span_of_copy(&run.trace_id, id),
        forked_from: Some(run.id),
        created_at: now,
        updated_at: now,
        started_at: None,
        ended_at: None,
        ..run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(function_id: i32, name: &str, child: Option<&str>) -> StepRow {
        StepRow {
            workflow_uuid: "w".into(),
            function_id,
            function_name: name.into(),
            output: None,
            error: None,
            child_workflow_id: child.map(str::to_owned),
            started_at_epoch_ms: None,
            completed_at_epoch_ms: None,
        }
    }

    #[test]
    fn a_step_above_the_highest_is_refused() {
        legal_step("w", 5, Some(5)).unwrap();
        for (step_n, highest) in [(6, Some(5)), (1, None), (1, Some(0))] {
            legal_step("w", step_n, highest).unwrap_err();
        }
    }

    #[test]
    fn tasks_of_the_original_that_have_not_ended_are_not_shared() {
        let steps = [
            step(0, "CompileST", None),
            step(1, TaskWorkflow::NAME, Some("open")),
            step(2, TaskWorkflow::NAME, Some("done")),
            step(3, TaskWorkflow::NAME, Some("failed")),
            step(4, "DBOS.getResult", Some("failed")),
        ];
        let good = Some(BTreeSet::from(["done".to_owned()]));
        assert_eq!(starts_left_out(&steps, 5, &good), [1]);
        assert_eq!(starts_left_out(&steps, 4, &good), [1, 3]);
        assert!(starts_left_out(&steps, 5, &None).is_empty());
    }
}
