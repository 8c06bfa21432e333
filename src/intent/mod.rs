//! The product: intents, runs, recipes, approvals, artifacts, and the workflows that execute them. Speaks to callers in its own types; knows
//! nothing of HTTP.

mod approvals;
mod artifacts;
mod backlog;
mod error;
mod explain;
mod ids;
mod one_shot;
mod ops;
mod projector;
mod queues;
mod read;
mod rows;
mod run_workflow;
mod scheduled_run;
mod schedules;
mod size;
mod start;
mod stream;
mod task_artifacts;
mod task_output;
mod task_workflow;
mod tick;
mod trace;
mod utility;

use std::sync::Arc;

pub use approvals::{Approved, NewApproval, NewEvent};
pub use artifacts::{ArtifactRef, Content};
pub use error::IntentError;
pub use explain::{Explanation, Reason};
pub use one_shot::OneShot;
pub use ops::{
    Accepted, Action, By, ForkRequest, Forked, Retried, StepSummary, WorkflowPage, WorkflowSummary,
    legal_step,
};
pub use projector::project_drift;
pub use read::{RunHeader, RunPage, RunQuery, RunStep, RunTask, RunView};
pub use scheduled_run::Template;
pub use schedules::{
    NewSchedule, Outcome, PreviewedSlot, Schedule, SchedulePage, ScheduleSlot, built_in_schedules,
};
pub use size::MOST_INTENT_BYTES;
pub use start::{AskedWorkload, Intent, NewIntent, StartRun, Workload};
pub use stream::{Happening, Position, RunStream};
pub use trace::Trace;
pub use utility::Marks;

use crate::{
    config::Config,
    engine::{Client, EngineBuilder, EngineError},
    sandbox::Sandbox,
    store::{Database, queue_limits::QueueSettings},
};

/// The queue of runs.
pub const RUN_QUEUE: &str = "intentQ";
/// The queue of tasks.
pub const TASK_QUEUE: &str = "sbxQ";

/// The queue of what schedules start.
const SCHEDULE_QUEUE: &str = "controlQ";

/// What the product does for its callers.
#[derive(Debug, Clone)]
pub struct Product {
    client: Client,
    partition_required: bool,
    trace_base_url: Option<String>,
    backlog: Arc<backlog::Backlog>,
    executor_expiry_ms: i64,
    /// The queues that there are wherever anything executes.
    queues: Arc<[QueueSettings]>,
    /// Whether there is anybody who executes what is started here.
    executes: bool,
}

impl Product {
    /// The product on an engine's client.
    pub fn new(client: Client, config: &Config) -> Self {
        Self {
            client,
            partition_required: config.partition_required,
            trace_base_url: config.trace_base_url.clone(),
            backlog: Arc::new(backlog::Backlog::new(config.max_backlog)),
            executor_expiry_ms: config.executor_expiry_ms,
            queues: config.engine().queues.into(),
            executes: true,
        }
    }

    /// The same beside somebody's application, which executes its own workflows alone: nothing new is taken.
    #[must_use]
    pub fn attached(self) -> Self {
        Self {
            queues: Arc::default(),
            executes: false,
            ..self
        }
    }

    /// Refuses what nobody would execute.
    fn executing(&self) -> Result<(), IntentError> {
        if self.executes {
            return Ok(());
        }
        Err(IntentError::conflict(
            "nothing_executes_here",
            "this server is attached to an application, which executes its own workflows alone; start this on a `stepwell serve` without --attach",
        ))
    }

    fn db(&self) -> &Database {
        self.client.database()
    }
}

/// Registers the workflows of runs and tasks, and those of the labs.
///
/// # Errors
/// [`EngineError::RegisteredTwice`].
pub fn register(
    builder: EngineBuilder,
    db: &Database,
    config: &Config,
    sandboxes: Sandboxes,
) -> Result<EngineBuilder, EngineError> {
    let run = run_workflow::RunWorkflow::new(db.clone(), config);
    builder
        .register(run)?
        .register(scheduled_run::ScheduledRun::new(db.clone(), config))?
        .register(tick::Tick)?
        .register(task_workflow::TaskWorkflow::new(
            db.clone(),
            sandboxes,
            config,
        ))?
        .register(utility::MarksWorkflow)?
        .register(utility::SleepWorkflow)
}

/// The sandboxes that tasks may run in.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    /// The one that the process is configured with.
    pub configured: Arc<Sandbox>,
    /// This machine, for recipes that say so.
    pub local: Arc<Sandbox>,
}
