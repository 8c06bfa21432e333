//! Owns the small workflows of the manual's labs: two marks, or two artifacts, with a durable sleep between them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    IntentError, Product,
    rows::{self, Artifact, NO_TASK, Payload},
    run_workflow::now,
};
use crate::{
    engine::{Context, StartOptions, Workflow, WorkflowError},
    store::{app_rows::Row, marks, workflows},
};

/// Their queue.
pub(super) const UTILITY_QUEUE: &str = "controlQ";
/// How long the crash demonstration sleeps.
const CRASH_DEMO_SLEEP: Duration = Duration::from_secs(5);

/// How often the two marks of a workflow were set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Before the sleep.
    pub s1: i64,
    /// After it.
    pub s2: i64,
}

/// How long to sleep.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SleepInput {
    sleep_ms: u64,
}

impl SleepInput {
    fn sleep(&self) -> Duration {
        Duration::from_millis(self.sleep_ms)
    }
}

/// Marks, sleeps, marks.
pub(super) struct MarksWorkflow;

impl Workflow for MarksWorkflow {
    const NAME: &'static str = "stepwell.marks";
    type Input = SleepInput;
    type Output = ();

    async fn run(&self, ctx: &Context, input: SleepInput) -> Result<(), WorkflowError> {
        mark(ctx, "s1").await?;
        ctx.sleep(input.sleep()).await?;
        mark(ctx, "s2").await
    }
}

async fn mark(ctx: &Context, name: &'static str) -> Result<(), WorkflowError> {
    ctx.step_with_rows(name, || async {
        Ok(((), vec![rows::mark(ctx.workflow_id(), name)]))
    })
    .await
}

/// Leaves an artifact, sleeps, leaves another one.
pub(super) struct SleepWorkflow;

impl Workflow for SleepWorkflow {
    const NAME: &'static str = "stepwell.sleep";
    type Input = SleepInput;
    type Output = ();

    async fn run(&self, ctx: &Context, input: SleepInput) -> Result<(), WorkflowError> {
        leave(ctx, "sleep-before-sleep").await?;
        ctx.sleep(input.sleep()).await?;
        leave(ctx, "sleep-after-sleep").await
    }
}

async fn leave(ctx: &Context, step: &'static str) -> Result<(), WorkflowError> {
    ctx.step_with_rows(step, || async {
        Ok(((), vec![time_artifact(ctx.workflow_id(), step)]))
    })
    .await
}

fn time_artifact(run: &str, step: &str) -> Row {
    let at = now();
    rows::artifact(&Artifact {
        run,
        step,
        task: NO_TASK,
        idx: 0,
        kind: "json_diagnostic",
        name: "time.json",
        payload: Payload::Json(&json!({"at": at})),
        created_at: at,
    })
}

impl Product {
    /// Starts a workflow of two marks under `id`, once.
    ///
    /// # Errors
    /// [`IntentError::Conflict`] when another kind of workflow has this id.
    pub async fn start_slow_step(&self, id: &str, sleep: Duration) -> Result<(), IntentError> {
        self.start_utility::<MarksWorkflow>(id, sleep).await
    }

    /// Like [`Self::start_slow_step`], with time to kill the process in.
    ///
    /// # Errors
    /// See there.
    pub async fn start_crash_demo(&self, id: &str) -> Result<(), IntentError> {
        self.start_utility::<MarksWorkflow>(id, CRASH_DEMO_SLEEP)
            .await
    }

    /// Starts a workflow that sleeps between two artifacts under `id`, once.
    ///
    /// # Errors
    /// [`IntentError::Conflict`] when another kind of workflow has this id.
    pub async fn start_sleep(&self, id: &str, sleep: Duration) -> Result<(), IntentError> {
        self.start_utility::<SleepWorkflow>(id, sleep).await
    }

    async fn start_utility<W: Workflow<Input = SleepInput>>(
        &self,
        id: &str,
        sleep: Duration,
    ) -> Result<(), IntentError> {
        let input = SleepInput {
            sleep_ms: u64::try_from(sleep.as_millis()).unwrap_or(u64::MAX),
        };
        let options = StartOptions {
            id: Some(id.to_owned()),
            queue: UTILITY_QUEUE.into(),
            ..StartOptions::default()
        };
        if let Some(row) = workflows::find(&self.db().read(), id).await? {
            let name = row.name.unwrap_or_default();
            if name != W::NAME {
                let message = format!("workflow {id} exists, and is a {name:?}; take another id");
                return Err(IntentError::conflict("workflow_exists", message));
            }
            return Ok(());
        }
        self.executing()?;
        self.client.start::<W>(&input, options).await?;
        Ok(())
    }

    /// How often the marks of workflow `id` were set.
    ///
    /// # Errors
    /// [`IntentError::Store`].
    pub async fn marks(&self, id: &str) -> Result<Marks, IntentError> {
        let counts = marks::counts(&self.db().read(), id).await?;
        let of = |name: &str| counts.get(name).copied().unwrap_or(0);
        Ok(Marks {
            s1: of("s1"),
            s2: of("s2"),
        })
    }
}
