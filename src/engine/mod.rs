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
mod limits;
pub mod points;
mod reconciler;
mod signals;
mod trace;
mod waiting;
mod worker;
mod workflow;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use children::{Child, ChildOptions};
pub use client::{Client, StartOptions};
pub use context::{Context, StepFailure};
pub use error::{EngineError, WorkflowError};
pub use waiting::Receive;
pub use workflow::Workflow;

use crate::store::{
    Database, StoreError,
    queue_limits::QueueSettings,
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
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            app_version: "v1".into(),
            queues: Vec::new(),
            slots: 1_000,
            executor_expiry_ms: 15_000,
            max_recovery_attempts: 20,
            grace: Duration::from_secs(5),
            hostname: "local".into(),
            listen_url: None,
        }
    }
}

impl EngineOptions {
    /// The names of the queues served, the one of official clients included.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.queues
            .iter()
            .map(|queue| queue.name.clone())
            .chain([INTERNAL_QUEUE.to_owned()])
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
        let signals = Arc::<signals::Signals>::default();
        let committers = if self.db.is_sqlite() {
            1
        } else {
            POSTGRES_COMMITTERS
        };
        let (committer, committer_tasks) =
            committer::Committer::start(&self.db, &signals, committers);
        let (stop, stopping) = watch::channel(false);
        let reachable = Arc::new(AtomicBool::new(true));
        let client = Client::new(
            self.db.clone(),
            Arc::clone(&signals),
            self.options.app_version.clone(),
        );
        let mut helpers = JoinSet::new();
        helpers.spawn(signals::tell_others(self.db.clone(), Arc::clone(&signals)));
        helpers.spawn(signals::listen(
            self.db.clone(),
            Arc::clone(&signals),
            self.options.listen_url.clone(),
        ));
        let worker = worker::Worker {
            db: self.db,
            options: self.options,
            registry: self.registry,
            signals,
            clock: Arc::default(),
            committer,
            stopping,
        };
        let worker = tokio::spawn(worker.run(Arc::clone(&reachable)));
        Engine {
            client,
            stop,
            worker,
            committers: committer_tasks,
            helpers,
            reachable,
        }
    }
}

/// A process that executes workflows.
pub struct Engine {
    client: Client,
    stop: watch::Sender<bool>,
    worker: JoinHandle<()>,
    committers: Vec<JoinHandle<()>>,
    helpers: JoinSet<()>,
    reachable: Arc<AtomicBool>,
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

    /// Whether the database answered the last heartbeat.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Stops: claims nothing more, lets what runs finish for the grace period, hands the rest back without charging an attempt.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        // An error is a panic of the loop, which was reported where it happened.
        let _ = self.worker.await;
        for committer in self.committers {
            let _ = committer.await;
        }
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
