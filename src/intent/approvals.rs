//! Owns what humans tell runs: the approval of a plan, and events. What is sent before the run has reached its gate is not lost.

use serde_json::{Map, Value, json};

use super::{IntentError, Product};
use crate::{
    store::{
        backend::retrying,
        checkpoints::{Message, insert_messages},
        entity::{plan_approvals, runs},
        intents, runs as run_rows,
        status::RunStatus,
        waits,
    },
    telemetry::spans,
};

/// The topic on which a run waits for its approval.
pub(super) const APPROVAL_TOPIC: &str = "approve-plan";

/// Somebody lets a run go on.
#[derive(Debug, Clone)]
pub struct NewApproval {
    /// Who; not blank.
    pub approved_by: String,
    /// Why.
    pub notes: Option<String>,
}

/// The approval that counts: the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The run.
    pub run_id: String,
    /// When, epoch milliseconds.
    pub approved_at: i64,
}

/// Something that a waiting run is told.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What it is about.
    pub kind: String,
    /// What it says.
    pub payload: Map<String, Value>,
}

impl Product {
    /// Approves the plan of a run. Twice is once: the first approval counts and is answered.
    ///
    /// # Errors
    /// [`IntentError::NotFound`]; [`IntentError::Conflict`] for a run that has ended or whose recipe has no gate.
    pub async fn approve_plan(
        &self,
        id: &str,
        approval: NewApproval,
    ) -> Result<Approved, IntentError> {
        let run = self.run_row(id).await?;
        self.check_gate(&run).await?;
        let row = plan_approvals::Model {
            run_id: run.id.clone(),
            approved_by: approval.approved_by,
            notes: approval.notes,
            approved_at: self.now().await?,
        };
        let counted = retrying(|| async {
            let tx = self.db().begin().await?;
            let counted = run_rows::approve(&tx, row.clone()).await?;
            let mut text = json!({"approvedBy": counted.approved_by, "notes": counted.notes, "approvedAt": counted.approved_at});
            // The wait that this ends links to the request that ended it.
            if let Some(request) = spans::current() {
                text["traceparent"] = request.to_string().into();
            }
            let message = Message {
                id: format!("{}:{APPROVAL_TOPIC}", run.id),
                destination: run.workflow_id.clone(),
                topic: APPROVAL_TOPIC.into(),
                message: text.to_string(),
            };
            insert_messages(&tx, std::iter::once(&message)).await?;
            tx.commit().await?;
            Ok(counted)
        })
        .await?;
        self.wake(&run.workflow_id).await?;
        Ok(Approved {
            run_id: run.id,
            approved_at: counted.approved_at,
        })
    }

    /// Sends an event to a run that waits for input.
    ///
    /// # Errors
    /// [`IntentError::NotFound`]; [`IntentError::Conflict`] unless it waits; [`IntentError::Invalid`] for the topic of approvals, which have
    /// a route of their own.
    pub async fn send_event(&self, id: &str, event: NewEvent) -> Result<(), IntentError> {
        let run = self.run_row(id).await?;
        if event.kind == APPROVAL_TOPIC {
            return Err(IntentError::invalid(
                "use_approve_plan",
                "a plan is approved by POST /api/runs/{wid}/approve-plan",
            ));
        }
        if run.status != RunStatus::WaitingInput {
            let message = format!(
                "run {} is {}; events are taken while it is waiting_input",
                run.id, run.status
            );
            return Err(IntentError::conflict("not_waiting", message));
        }
        self.client
            .send(&run.workflow_id, &event.kind, &event.payload, None)
            .await?;
        Ok(())
    }

    async fn check_gate(&self, run: &runs::Model) -> Result<(), IntentError> {
        if run.status.is_terminal() {
            return Err(IntentError::conflict(
                "run_ended",
                format!(
                    "run {} has ended ({}); there is nothing to approve",
                    run.id, run.status
                ),
            ));
        }
        let recipe = intents::recipe(
            &self.db().read(),
            &run.recipe_name,
            Some(run.recipe_version),
        )
        .await?;
        if recipe.is_some_and(|recipe| recipe.approval == "auto") {
            let message = format!(
                "recipe {} has no gate: its runs are not approved by anybody",
                run.recipe_name
            );
            return Err(IntentError::conflict("no_gate", message));
        }
        Ok(())
    }

    /// Looks at the wait of a workflow that was sent something, in a statement after the commit that sent it.
    async fn wake(&self, workflow: &str) -> Result<(), IntentError> {
        retrying(|| async { waits::look(&self.db().write(), &[workflow]).await }).await?;
        self.client.sent();
        Ok(())
    }
}
