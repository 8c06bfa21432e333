//! Owns what the outside does with workflows: start, send, read, await.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::task::JoinSet;

use super::{
    error::{EngineError, WorkflowError},
    limits,
    signals::{self, Signals},
    workflow::{Workflow, encode_input},
};
use crate::store::{
    Database,
    backend::retrying,
    checkpoints::Message,
    messages,
    status::WorkflowStatus,
    workflows::{self, NewWorkflow},
};

/// How a workflow is started.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// Its id; a fresh one by default. Starting an id again does nothing.
    pub id: Option<String>,
    /// Its queue.
    pub queue: String,
    /// Its tenant.
    pub partition_key: Option<String>,
    /// Lower first.
    pub priority: i32,
    /// One live workflow per queue and value.
    pub deduplication_id: Option<String>,
    /// How long it may take from its first claim.
    pub timeout: Option<Duration>,
    /// How long it must wait before it may start.
    pub delay: Option<Duration>,
}

/// Starts workflows and talks to them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    db: Database,
    signals: Arc<Signals>,
    app_version: String,
}

impl Client {
    pub(super) fn new(db: Database, signals: Arc<Signals>, app_version: String) -> Self {
        Self {
            db,
            signals,
            app_version,
        }
    }

    /// A client in a process that executes nothing. What it starts is found by the next heartbeat of a process that does.
    pub fn without_engine(db: Database, app_version: String) -> Self {
        Self::new(db, Arc::default(), app_version)
    }

    /// A client in a process that executes nothing, and tells those that do what it starts. The telling is a task of `helpers`.
    pub fn announcing(db: Database, app_version: String, helpers: &mut JoinSet<()>) -> Self {
        let signals = Arc::<Signals>::default();
        signals.others_live(true);
        helpers.spawn(signals::tell_others(db.clone(), Arc::clone(&signals)));
        Self::new(db, signals, app_version)
    }

    /// The same client on another handle of its database.
    #[must_use]
    pub fn on(&self, db: Database) -> Self {
        Self { db, ..self.clone() }
    }

    /// The database behind it.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// The rows of a workflow that is not started yet: put them into a transaction with your own ([`workflows::insert`]), and after its
    /// commit call [`Self::queued`].
    ///
    /// # Errors
    /// [`EngineError::Encoding`] and [`EngineError::TooLarge`].
    pub fn prepare<W: Workflow>(
        &self,
        input: &W::Input,
        options: StartOptions,
    ) -> Result<NewWorkflow, EngineError> {
        prepare::<W>(&self.app_version, input, options)
    }

    /// Starts a workflow and answers its id. Once this has returned, it runs to its end, whatever crashes.
    ///
    /// # Errors
    /// As [`Self::prepare`], and [`EngineError::Store`].
    pub async fn start<W: Workflow>(
        &self,
        input: &W::Input,
        options: StartOptions,
    ) -> Result<String, EngineError> {
        let workflow = self.prepare::<W>(input, options)?;
        retrying(|| async {
            let tx = self.db.begin().await?;
            workflows::insert(&tx, std::slice::from_ref(&workflow)).await?;
            tx.commit().await
        })
        .await?;
        self.queued(&workflow.queue_name);
        Ok(workflow.id)
    }

    /// The version that what is started here carries.
    pub(super) fn app_version(&self) -> &str {
        &self.app_version
    }

    /// Says that a schedule was created or changed, after the commit that did it.
    pub(super) fn schedules_changed(&self) {
        self.signals.schedules_changed(None);
    }

    /// Says that `queue` has got work, after the commit that put it there.
    pub fn queued(&self, queue: &str) {
        self.signals.queued(queue);
    }

    /// Says that the settings of `queue` were changed: what was held back may start now. Other processes are told even by one that executes
    /// nothing.
    pub async fn queue_changed(&self, queue: &str) {
        self.signals.queued(queue);
        self.signals.due();
        signals::tell_now(&self.db, queue).await;
    }

    /// Sends a message to a workflow; the same id twice is one message.
    ///
    /// # Errors
    /// [`EngineError::Store`], also when there is no such workflow.
    pub async fn send(
        &self,
        destination: &str,
        topic: &str,
        message: &impl Serialize,
        id: Option<String>,
    ) -> Result<(), EngineError> {
        let text = serde_json::to_string(message)?;
        limits::check("a message", &text)?;
        let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let message = Message {
            id,
            destination: destination.into(),
            topic: topic.into(),
            message: text,
        };
        retrying(|| async { messages::send(&self.db, &message).await }).await?;
        self.sent();
        Ok(())
    }

    /// Says that a message was sent, after the commit that put it there and the look at its receiver.
    pub fn sent(&self) {
        self.signals.due();
    }

    /// Says that workflows were cancelled, after the commit that did it and the look at those who await them.
    pub fn cancelled(&self) {
        self.signals.cancelled();
        self.signals.due();
    }

    /// Waits until a workflow has ended, by looking every `every`, and answers its result.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn result<T: DeserializeOwned>(
        &self,
        id: &str,
        every: Duration,
    ) -> Result<Result<T, WorkflowError>, EngineError> {
        loop {
            if let Some(row) = workflows::find(&self.db.read(), id).await? {
                match row.status {
                    WorkflowStatus::Success => {
                        return Ok(Ok(serde_json::from_str(
                            row.output.as_deref().unwrap_or("null"),
                        )?));
                    }
                    WorkflowStatus::Error => {
                        return Ok(Err(WorkflowError::from_stored(
                            row.error.as_deref().unwrap_or("null"),
                        )));
                    }
                    WorkflowStatus::Cancelled => {
                        return Ok(Err(WorkflowError::new(
                            "cancelled",
                            "the workflow was cancelled",
                        )));
                    }
                    WorkflowStatus::MaxRecoveryAttemptsExceeded => {
                        return Ok(Err(WorkflowError::given_up()));
                    }
                    WorkflowStatus::Enqueued
                    | WorkflowStatus::Delayed
                    | WorkflowStatus::Pending => {}
                }
            }
            tokio::time::sleep(every).await;
        }
    }
}

pub(super) fn prepare<W: Workflow>(
    app_version: &str,
    input: &W::Input,
    options: StartOptions,
) -> Result<NewWorkflow, EngineError> {
    let input = encode_input(input)?;
    limits::check("a workflow's input", &input)?;
    let milliseconds = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    Ok(NewWorkflow {
        id: options
            .id
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        name: W::NAME.into(),
        input,
        queue_name: options.queue,
        queue_partition_key: options.partition_key,
        priority: options.priority,
        deduplication_id: options.deduplication_id,
        application_version: app_version.to_owned(),
        timeout_ms: options.timeout.map(milliseconds),
        delay_ms: options.delay.map(milliseconds),
        parent_workflow_id: None,
        schedule_name: None,
    })
}
