//! Owns what is shown of runs: headers, lists, steps, views.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    ArtifactRef, Explanation, IntentError, Product,
    artifacts::reference,
    explain::{self, Facts},
};
use crate::{
    engine::WorkflowError,
    store::{
        artifacts,
        entity::{plan_approvals, run_steps, runs, sbx_runs},
        runs::{self as run_rows, RunFilter},
        status::{RunStatus, WorkflowStatus},
    },
};

/// What is known of a run.
#[derive(Debug, Clone)]
pub struct RunHeader {
    /// The row.
    pub run: runs::Model,
    /// Where it stands, in the words of workflows.
    pub status: WorkflowStatus,
    /// Why it failed.
    pub error: Option<WorkflowError>,
    /// What it ended with.
    pub output: Option<Value>,
    /// Where its trace is shown.
    pub trace_url: Option<String>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunQuery {
    /// Only this status.
    pub status: Option<WorkflowStatus>,
    /// Only this recipe.
    pub recipe_name: Option<String>,
    /// Only this tenant.
    pub tenant_id: Option<String>,
    /// Created at this time or later, epoch milliseconds.
    pub since: Option<i64>,
    /// Where the previous page ended.
    pub after: Option<(i64, String)>,
    /// At most so many.
    pub limit: u64,
}

/// A page of runs.
#[derive(Debug, Clone)]
pub struct RunPage {
    /// Newest first.
    pub items: Vec<RunHeader>,
    /// Where the next page begins; none at the end.
    pub next: Option<(i64, String)>,
}

/// A product step of a run.
#[derive(Debug, Clone)]
pub struct RunStep {
    /// The row.
    pub step: run_steps::Model,
    /// Why it failed.
    pub error: Option<WorkflowError>,
    /// What it left.
    pub artifacts: Vec<ArtifactRef>,
}

/// The newest attempt of a task of a run.
#[derive(Debug, Clone)]
pub struct RunTask {
    /// The row.
    pub task: sbx_runs::Model,
    /// What it left.
    pub artifacts: Vec<ArtifactRef>,
}

impl RunTask {
    /// What it runs.
    pub fn command(&self) -> String {
        let request: Value = serde_json::from_str(&self.task.request).unwrap_or_default();
        request["cmd"].as_str().unwrap_or_default().to_owned()
    }

    /// The signal that ended the command.
    pub fn signal(&self) -> Option<i32> {
        let response: Value = serde_json::from_str(&self.task.response).ok()?;
        i32::try_from(response["signal"].as_i64()?).ok()
    }
}

/// Everything about a run.
#[derive(Debug, Clone)]
pub struct RunView {
    /// What is known of it.
    pub header: RunHeader,
    /// Why it is where it is.
    pub explain: Explanation,
    /// Its steps, in the order of execution.
    pub steps: Vec<RunStep>,
    /// Its tasks, in order.
    pub tasks: Vec<RunTask>,
    /// Who let it go on.
    pub approval: Option<plan_approvals::Model>,
    /// The runs that were forked from it.
    pub forks: Vec<String>,
}

impl Product {
    /// A run by its id or its workflow's.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn run(&self, id: &str) -> Result<RunHeader, IntentError> {
        Ok(self.header(self.run_row(id).await?))
    }

    /// A page of runs, newest first.
    ///
    /// # Errors
    /// [`IntentError::Store`].
    pub async fn runs(&self, query: RunQuery) -> Result<RunPage, IntentError> {
        let statuses = match query.status {
            None => Vec::new(),
            Some(status) => match run_statuses(status) {
                statuses if statuses.is_empty() => {
                    return Ok(RunPage {
                        items: Vec::new(),
                        next: None,
                    });
                }
                statuses => statuses,
            },
        };
        let filter = RunFilter {
            statuses,
            recipe_name: query.recipe_name,
            tenant_id: query.tenant_id,
            since: query.since,
            after: query.after,
            // One more tells whether there is a next page.
            limit: query.limit + 1,
        };
        let mut rows = run_rows::list(&self.db().read(), &filter).await?;
        let more = rows.len() as u64 > query.limit;
        rows.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let next = rows
            .last()
            .filter(|_| more)
            .map(|run| (run.created_at, run.id.clone()));
        Ok(RunPage {
            items: rows.into_iter().map(|run| self.header(run)).collect(),
            next,
        })
    }

    /// The steps of a run, in the order of execution.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn run_steps(&self, id: &str) -> Result<Vec<RunStep>, IntentError> {
        let run = self.run_row(id).await?;
        let (steps, _) = self.steps_and_artifacts(&run.id).await?;
        Ok(steps)
    }

    /// Everything about a run.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn run_view(&self, id: &str) -> Result<RunView, IntentError> {
        let mut run = self.run_row(id).await?;
        let facts = Facts::read(self.db(), &run, self.executor_expiry_ms).await?;
        if facts.workflow_has_ended() && !run.status.is_terminal() {
            // It ended between the two reads, in one transaction with its workflow.
            run = self.run_row(&run.id).await?;
        }
        // After its row: who sees a run that has ended sees all that it left.
        let read = self.db().read();
        let (steps, mut by_task) = self.steps_and_artifacts(&run.id).await?;
        let mut newest: Vec<RunTask> = Vec::new();
        for task in run_rows::tasks(&read, &run.id).await? {
            match newest.last_mut() {
                Some(last) if last.task.task_key == task.task_key => last.task = task,
                _ => {
                    let artifacts = by_task.remove(&task.task_key).unwrap_or_default();
                    newest.push(RunTask { task, artifacts });
                }
            }
        }
        Ok(RunView {
            explain: explain::explain(&run, &facts),
            approval: run_rows::approval(&read, &run.id).await?,
            forks: run_rows::forks(&read, &run.id).await?,
            header: self.header(run),
            steps,
            tasks: newest,
        })
    }

    pub(super) async fn run_row(&self, id: &str) -> Result<runs::Model, IntentError> {
        run_rows::find(&self.db().read(), id)
            .await?
            .ok_or_else(|| IntentError::run_not_found(id))
    }

    pub(super) fn header(&self, run: runs::Model) -> RunHeader {
        let fill = |url: &String| {
            url.replace("{traceId}", &run.trace_id)
                .replace("{spanId}", &run.span_id)
        };
        RunHeader {
            status: run.status.on_the_wire(),
            error: run.error.as_deref().map(WorkflowError::from_stored),
            output: run
                .output
                .as_deref()
                .and_then(|text| serde_json::from_str(text).ok()),
            trace_url: self.trace_base_url.as_ref().map(fill),
            run,
        }
    }

    /// The steps of a run with their artifacts, and the artifacts by task.
    async fn steps_and_artifacts(
        &self,
        run: &str,
    ) -> Result<(Vec<RunStep>, HashMap<String, Vec<ArtifactRef>>), IntentError> {
        let read = self.db().read();
        let mut by_step: HashMap<(String, i32), Vec<ArtifactRef>> = HashMap::new();
        let mut by_task: HashMap<String, Vec<ArtifactRef>> = HashMap::new();
        for row in artifacts::of_run(&read, run).await? {
            by_task
                .entry(row.task_key.clone())
                .or_default()
                .push(reference(&row));
            by_step
                .entry((row.step_id.clone(), row.attempt))
                .or_default()
                .push(reference(&row));
        }
        let steps = run_rows::steps(&read, run)
            .await?
            .into_iter()
            .map(|step| RunStep {
                error: step.error.as_deref().map(WorkflowError::from_stored),
                artifacts: by_step
                    .remove(&(step.step_id.clone(), step.attempt))
                    .unwrap_or_default(),
                step,
            });
        Ok((steps.collect(), by_task))
    }
}

/// The run statuses that show as `status` on the wire.
fn run_statuses(status: WorkflowStatus) -> Vec<RunStatus> {
    use sea_orm::Iterable;
    RunStatus::iter()
        .filter(|run| run.on_the_wire() == status)
        .collect()
}
