//! Owns the workflow that a user's schedule starts for each slot: it makes an intent of the template, starts its run as a child, and ends as the
//! run ends. So what a slot has started is running exactly as long as its run is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    IntentError, RUN_QUEUE, Trace, ids, rows,
    run_workflow::{RunInput, RunWorkflow, now},
    start::{CheckedRun, Intent, StartRun},
};
use crate::{
    canonical::canonical_json,
    config::Config,
    engine::{ChildOptions, Context, EngineError, Workflow, WorkflowError, schedule::SlotInput},
    store::{Database, StoreError, backend::jitter, entity::intents},
};

/// The pause before the database is asked again that did not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// What each slot of a schedule wants done, and how its run is started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// In words; not blank.
    pub goal: String,
    /// With what.
    #[serde(default)]
    pub inputs: Map<String, Value>,
    /// Within which bounds.
    #[serde(default)]
    pub constraints: Map<String, Value>,
    /// Through what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connectors: Option<Vec<String>>,
    /// The request, but for the intent's id.
    pub run: StartRun,
}

/// What is recorded before the run is started: its rows, and what its workflow is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Prepared {
    intent_id: String,
    intent: Value,
    run: Value,
    input: RunInput,
}

impl Prepared {
    /// How many bytes are recorded.
    pub(super) fn size(&self) -> Result<usize, EngineError> {
        Ok(serde_json::to_string(self)?.len())
    }
}

/// The workflow of a slot.
pub(super) struct ScheduledRun {
    db: Database,
    partition_required: bool,
}

impl ScheduledRun {
    pub(super) fn new(db: Database, config: &Config) -> Self {
        Self {
            db,
            partition_required: config.partition_required,
        }
    }
}

/// Makes the intent and the run of a template for the slot that `workflow` executes, under the recipe that holds now.
pub(super) async fn prepare(
    db: &Database,
    partition_required: bool,
    workflow: &str,
    template: &Template,
) -> Result<Prepared, IntentError> {
    let intent = Intent {
        id: ids::scheduled_intent(workflow),
        goal: template.goal.clone(),
        inputs: template.inputs.clone(),
        constraints: template.constraints.clone(),
        connectors: template.connectors.clone(),
        created_at: now(),
    };
    let request = StartRun {
        intent_id: intent.id.clone(),
        ..template.run.clone()
    };
    let checked = CheckedRun::new(db, partition_required, &intent.inputs, &request).await?;
    let trace = Trace::begin(&intent.id, None, None);
    let input = checked.input(&intent, &trace);
    let run = checked.model(&request, trace, intent.created_at);
    let encode = |map: &Map<String, Value>| canonical_json(&Value::Object(map.clone()));
    let row = intents::Model {
        id: intent.id.clone(),
        goal: intent.goal,
        inputs: encode(&intent.inputs),
        constraints: encode(&intent.constraints),
        connectors: intent.connectors.map(|list| json!(list).to_string()),
        created_at: intent.created_at,
    };
    Ok(Prepared {
        intent_id: intent.id,
        intent: json!(row),
        run: json!(run),
        input,
    })
}

impl Workflow for ScheduledRun {
    const NAME: &'static str = "stepwell.scheduled-run";
    type Input = SlotInput;
    type Output = Value;

    async fn run(&self, ctx: &Context, input: SlotInput) -> Result<Value, WorkflowError> {
        let template: Template = serde_json::from_value(input.context)
            .map_err(|e| WorkflowError::new("template_invalid", e.to_string()))?;
        let prepared: Prepared = ctx
            .step("PrepareRun", || async {
                loop {
                    match prepare(
                        &self.db,
                        self.partition_required,
                        ctx.workflow_id(),
                        &template,
                    )
                    .await
                    {
                        // A slot is not lost because a server restarts.
                        Err(IntentError::Store(error)) if error.is_transient() => {
                            tokio::time::sleep(jitter(AGAIN)).await;
                        }
                        other => return other.map_err(refused),
                    }
                }
            })
            .await?;
        let options = ChildOptions {
            id: Some(prepared.intent_id),
            queue: RUN_QUEUE.into(),
            timeout: template.run.timeout(),
            rows: vec![rows::intent(prepared.intent), rows::run(prepared.run)],
        };
        let child = ctx
            .start_child::<RunWorkflow>(&prepared.input, options)
            .await?;
        let ended = ctx.await_children(vec![child]).await?.pop();
        ended.unwrap_or(Ok(Value::Null))
    }
}

/// A template that a policy refuses by the time of its slot, as the error of the slot's workflow.
fn refused(error: IntentError) -> WorkflowError {
    match error {
        IntentError::Invalid { code, message } => WorkflowError::new(code, message),
        IntentError::Conflict { code, message, .. } => WorkflowError::new(code, message),
        error @ IntentError::NotFound { .. } => WorkflowError::new("not_found", error.to_string()),
        IntentError::Backlog { message } => WorkflowError::new("backlog_full", message),
        IntentError::Store(error) => StoreError::into(error),
    }
}
