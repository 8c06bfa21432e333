//! Owns what is shown of workflows: lists, summaries, recorded steps.

use crate::{
    engine::WorkflowError,
    intent::{IntentError, Product},
    store::{
        status::WorkflowStatus,
        workflows::{self, StepRow, WorkflowFilter, WorkflowRow},
    },
};

/// A workflow.
#[derive(Debug, Clone)]
pub struct WorkflowSummary(pub WorkflowRow);

/// A recorded step of a workflow.
#[derive(Debug, Clone)]
pub struct StepSummary {
    /// The row.
    pub row: StepRow,
    /// How it ended.
    pub status: WorkflowStatus,
    /// Why it failed.
    pub error: Option<WorkflowError>,
}

/// A page of workflows.
#[derive(Debug, Clone)]
pub struct WorkflowPage {
    /// Newest first.
    pub items: Vec<WorkflowSummary>,
    /// Where the next page begins; none at the end.
    pub next: Option<(i64, String)>,
}

impl Product {
    /// A page of workflows, newest first.
    ///
    /// # Errors
    /// [`IntentError::Store`].
    pub async fn workflows(&self, query: WorkflowFilter) -> Result<WorkflowPage, IntentError> {
        let filter = WorkflowFilter {
            limit: query.limit + 1,
            ..query
        };
        let mut rows = workflows::list(&self.db().read(), &filter).await?;
        let more = rows.len() as u64 > query.limit;
        rows.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| (row.created_at, row.workflow_uuid.clone()));
        Ok(WorkflowPage {
            items: rows.into_iter().map(WorkflowSummary).collect(),
            next,
        })
    }

    /// One workflow.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn workflow(&self, id: &str) -> Result<WorkflowSummary, IntentError> {
        let row = workflows::find(&self.db().read(), id).await?;
        row.map(WorkflowSummary)
            .ok_or_else(|| IntentError::NotFound {
                what: "workflow",
                id: id.to_owned(),
            })
    }

    /// The recorded steps of a workflow, by function id.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn workflow_steps(&self, id: &str) -> Result<Vec<StepSummary>, IntentError> {
        self.workflow(id).await?;
        let rows = workflows::steps(&self.db().read(), &[id]).await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let status = match (&row.error, row.completed_at_epoch_ms, &row.output) {
                    (Some(_), _, _) => WorkflowStatus::Error,
                    // A foreign step that has begun and not ended is recorded without either.
                    (None, None, None) if row.child_workflow_id.is_none() => {
                        WorkflowStatus::Pending
                    }
                    _ => WorkflowStatus::Success,
                };
                StepSummary {
                    status,
                    error: row.error.as_deref().map(WorkflowError::from_stored),
                    row,
                }
            })
            .collect())
    }
}
