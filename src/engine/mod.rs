//! Durable execution: named async functions whose steps are recorded, that survive any crash and wait for free. Knows nothing of intents.
//!
//! An [`Engine`] executes workflows; a [`Client`] starts them, sends to them and reads them. Everything durable is a row; whatever is in memory
//! may be lost at any instant.

mod children;
mod client;
mod clock;
mod committer;
mod context;
mod driver;
mod error;
mod interrupt;
mod limits;
mod once;
mod pace;
pub mod points;
mod reconciler;
mod retry;
pub mod schedule;
mod signals;
mod trace;
mod vitals;
mod waiting;
mod worker;
mod workflow;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

pub use children::{Child, ChildOptions};
pub use client::{Client, StartOptions};
pub use context::{Context, StepFailure};
pub use error::{EngineError, WorkflowError};
pub use limits::PAYLOAD_BYTES;
pub use once::{Budget, Summary};
pub use retry::Retry;
pub use vitals::Vitals;
pub use waiting::Receive;
pub use workflow::Workflow;

use crate::store::{
    Database, StoreError,
    queue_limits::QueueSettings,
    schedules::NewSchedule,
    workflows::{INTERNAL_QUEUE, NewWorkflow},
};

/// Transactions that commit checkpoints at the same time on Postgres; SQLite has one writer.
const POSTGRES_COMMITTERS: usize = 2;

/// How an engine behaves.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The version of the code: only workflows of the same version are claimed.
    pub app_version: String,
    /// The queues that are served, with the limits they get when they have none yet.
    pub queues: Vec<QueueSettings>,
    /// Whether the queue is served, too, on which official clients put what they resume and fork.
    pub internal_queue: bool,
    /// Workflows executed at the same time. Suspended ones do not count.
    pub slots: usize,
    /// Milliseconds without a heartbeat after which a process is dead.
    pub executor_expiry_ms: i64,
    /// Claims without progress after which a workflow is given up.
    pub max_recovery_attempts: i64,
    /// How long executions may finish when the engine stops.
    pub grace: Duration,
    /// The name of this machine, for the executor's id.
    pub hostname: String,
    /// Where to listen, if not on the database's own URL: a pooler breaks `LISTEN`.
    pub listen_url: Option<String>,
    /// Whether this process fires schedules, and which ones it brings along.
    pub schedules: Firing,
}

/// Whether a process fires schedules.
#[derive(Debug, Clone, Default)]
pub enum Firing {
    /// It leaves them to others.
    #[default]
    Off,
    /// It does, and stores these of its own when they are not there.
    On(Vec<NewSchedule>),
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            app_version: "v1".into(),
            queues: Vec::new(),
            internal_queue: true,
            slots: 1_000,
            executor_expiry_ms: 15_000,
            max_recovery_attempts: 20,
            grace: Duration::from_secs(5),
            hostname: "local".into(),
            listen_url: None,
            schedules: Firing::Off,
        }
    }
}

impl EngineOptions {
    /// The names of the queues served.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.queues
            .iter()
            .map(|queue| queue.name.clone())
            .chain(self.internal_queue.then(|| INTERNAL_QUEUE.to_owned()))
            .collect()
    }
}

/// Collects the workflows of an [`Engine`].
pub struct EngineBuilder {
    db: Database,
    options: EngineOptions,
    registry: workflow::Registry,
}

impl EngineBuilder {
    /// Registers a workflow under its name.
    ///
    /// # Errors
    /// [`EngineError::RegisteredTwice`].
    pub fn register<W: Workflow>(mut self, workflow: W) -> Result<Self, EngineError> {
        self.registry.add(workflow)?;
        Ok(self)
    }

    /// Like [`Client::prepare`], before anything executes.
    ///
    /// # Errors
    /// See there.
    pub fn prepare<W: Workflow>(
        &self,
        input: &W::Input,
        options: StartOptions,
    ) -> Result<NewWorkflow, EngineError> {
        client::prepare::<W>(&self.options.app_version, input, options)
    }

    /// Starts to execute. Work that dead processes left behind is taken over when their heartbeat has expired.
    pub fn launch(self) -> Engine {
        let listen_url = self.options.listen_url.clone();
        let Parts {
            worker,
            client,
            mut helpers,
        } = self.assemble(pace::Pace::default());
        helpers.spawn(signals::listen(
            worker.db.clone(),
            Arc::clone(&worker.signals),
            listen_url,
        ));
        let vitals = worker.vitals.clone();
        // Nothing is ever sent: whoever holds the sending end has not entered its rows yet.
        let (entering, entered) = mpsc::channel(1);
        let scheduler = schedule::scheduler::Scheduler::of(
            &worker.db,
            &worker.options,
            &worker.registry,
            &worker.signals,
            &worker.clock,
        );
        if let Some(scheduler) = scheduler {
            helpers.spawn(scheduler.run(vitals.phases(), entering.clone()));
        }
        Engine {
            client,
            vitals,
            worker: tokio::spawn(worker.run(entering)),
            helpers,
            entered,
        }
    }

    fn assemble(self, pace: pace::Pace) -> Parts {
        let signals = Arc::<signals::Signals>::default();
        let committers = if self.db.is_sqlite() {
            1
        } else {
            POSTGRES_COMMITTERS
        };
        let (committer, committers) = committer::Committer::start(&self.db, &signals, committers);
        let vitals = Vitals::new();
        let client = Client::new(
            self.db.clone(),
            Arc::clone(&signals),
            self.options.app_version.clone(),
        );
        let mut helpers = JoinSet::new();
        helpers.spawn(signals::tell_others(self.db.clone(), Arc::clone(&signals)));
        let clock = Arc::<clock::Clock>::default();
        let worker = worker::Worker {
            db: self.db,
            options: self.options,
            registry: self.registry,
            signals,
            clock,
            committer,
            committers,
            pace: Arc::new(pace),
            phase: vitals.phases(),
            vitals,
        };
        Parts {
            worker,
            client,
            helpers,
        }
    }
}

/// What an engine is made of before it runs.
struct Parts {
    worker: worker::Worker,
    client: Client,
    helpers: JoinSet<()>,
}

/// A process that executes workflows.
pub struct Engine {
    client: Client,
    vitals: Vitals,
    worker: JoinHandle<()>,
    helpers: JoinSet<()>,
    entered: mpsc::Receiver<()>,
}

impl Engine {
    /// An engine on `db`, whose schema is there.
    pub fn builder(db: Database, options: EngineOptions) -> EngineBuilder {
        EngineBuilder {
            db,
            options,
            registry: workflow::Registry::default(),
        }
    }

    /// Starts, sends and reads.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How it fares.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Waits until this process, its queues and its own schedules are in the tables, however long the database takes; or until it stops.
    pub async fn entered(&mut self) {
        while self.entered.recv().await.is_some() {}
    }

    /// Stops: claims nothing more, lets every execution reach its next boundary within the grace period, and hands the rest back without
    /// charging an attempt. Dropped before it has returned, executions end with the runtime, and their claims expire.
    pub async fn shutdown(mut self) {
        self.vitals.stop();
        // An error is a panic of the loop, which was reported where it happened.
        let _ = self.worker.await;
        self.helpers.shutdown().await;
    }
}

/// Brings the schema of `db` up to date.
///
/// # Errors
/// When the database refuses, or holds DBOS tables that are too old.
pub async fn migrate(db: &Database) -> Result<(), migration::MigrateError> {
    migration::up(db.migration_connection()).await
}

impl From<StoreError> for WorkflowError {
    fn from(error: StoreError) -> Self {
        Self::new("database", error.to_string())
    }
}
