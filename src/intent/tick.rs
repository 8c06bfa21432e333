//! Owns the workflow of the built-in schedule: one artifact per tick, so that anybody can see in the rows that time passes and schedules fire.

use serde_json::json;

use super::{
    rows::{self, Artifact, NO_TASK, Payload},
    run_workflow::now,
};
use crate::engine::{Context, Workflow, WorkflowError, schedule::SlotInput};

/// The step under which every tick leaves its artifact.
const STEP: &str = "ScheduledTick";

/// One tick.
pub(super) struct Tick;

impl Workflow for Tick {
    const NAME: &'static str = "stepwell.scheduled-tick";
    type Input = SlotInput;
    type Output = ();

    async fn run(&self, ctx: &Context, input: SlotInput) -> Result<(), WorkflowError> {
        let slot = input.slot;
        ctx.step_with_rows(STEP, move || async move {
            let at = now();
            let value = json!({"schedule": input.schedule, "slot": slot, "at": at});
            let artifact = Artifact {
                run: ctx.workflow_id(),
                step: STEP,
                task: NO_TASK,
                idx: 0,
                kind: "json_diagnostic",
                name: "tick.json",
                payload: Payload::Json(&value),
                created_at: at,
            };
            Ok(((), vec![rows::artifact(&artifact)]))
        })
        .await
    }
}
