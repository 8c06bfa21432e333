//! Owns the trail of the ops plane: every accepted action is an artifact, written in the transaction of its effect.

use serde::Deserialize;
use serde_json::json;

use super::actions::By;
use crate::{
    intent::{
        IntentError, Product,
        rows::{self, Artifact, NO_TASK, Payload},
    },
    store::{
        StoreError,
        app_rows::{self, RowChange},
        backend::Transaction,
        ops,
    },
};

/// An action that was accepted, as the trail keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Accepted {
    /// What was done.
    pub op: String,
    /// Who did it.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The workflow it was done to.
    #[serde(rename = "targetWorkflowID")]
    pub target: String,
    /// The copy that was made.
    #[serde(rename = "forkedWorkflowID")]
    pub forked: Option<String>,
    /// When, epoch milliseconds.
    pub at: i64,
}

impl Product {
    /// What was done to workflows, newest first: at most `limit` actions, of one workflow or of all.
    ///
    /// # Errors
    /// [`IntentError::Store`].
    pub async fn trail(
        &self,
        workflow: Option<&str>,
        limit: u64,
    ) -> Result<Vec<Accepted>, IntentError> {
        let documents = ops::trail(&self.db().read(), workflow, limit).await?;
        let read = documents.into_iter().map(|document| {
            serde_json::from_value(document).map_err(|e| StoreError::Encoding(e.to_string()))
        });
        Ok(read.collect::<Result<_, _>>()?)
    }
}

/// What is kept of an accepted action.
pub(super) struct Entry<'a> {
    /// What was done.
    pub(super) op: &'static str,
    /// Who did it, and why.
    pub(super) by: &'a By,
    /// The workflow it was done to; locked.
    pub(super) target: &'a str,
    /// The run of that workflow, or the workflow's own id if it has none.
    pub(super) run: &'a str,
    /// The copy that was made.
    pub(super) forked: Option<&'a str>,
    /// When, epoch milliseconds.
    pub(super) at: i64,
}

/// Writes an entry. Its attempt counts the accepted actions on this workflow.
pub(super) async fn write(tx: &Transaction, entry: &Entry<'_>) -> Result<(), StoreError> {
    let attempt = ops::next_action(tx, entry.run).await?;
    let mut document = json!({
        "op": entry.op, "actor": entry.by.actor, "reason": entry.by.reason, "targetWorkflowID": entry.target, "at": entry.at,
    });
    if let Some(forked) = entry.forked {
        document["forkedWorkflowID"] = forked.into();
    }
    let mut row = rows::artifact(&Artifact {
        run: entry.run,
        step: ops::OPS_STEP,
        task: NO_TASK,
        idx: 0,
        kind: "json_diagnostic",
        name: &format!("{}-{attempt}.json", entry.op),
        payload: Payload::Json(&document),
        created_at: entry.at,
    });
    row.values.insert("attempt".into(), attempt.into());
    row.change = RowChange::Insert;
    app_rows::write(tx, &[&row]).await
}
