//! Owns the operations that wait: durable sleep, messages, events. Each stores when it gives up before it starts to wait, and suspends.

use std::{
    future::{Future, pending},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    context::{Call, Context, decode},
    error::WorkflowError,
    limits,
    pace::Admission,
};
use crate::store::{
    StoreError,
    app_rows::Row,
    backend::persist,
    checkpoints::{Event, Message},
    messages,
    waits::Condition,
};

/// How the records of DBOS name these operations.
const SLEEP: &str = "DBOS.sleep";
const RECV: &str = "DBOS.recv";
const SEND: &str = "DBOS.send";
const SET_EVENT: &str = "DBOS.setEvent";
const GET_EVENT: &str = "DBOS.getEvent";

/// How to receive a message.
#[derive(Debug, Default)]
pub struct Receive {
    /// What it is about.
    pub topic: String,
    /// How long to wait; none waits until it comes.
    pub timeout: Option<Duration>,
    /// Rows of the application that are written if and when the workflow suspends for it.
    pub on_suspend: Vec<Row>,
}

impl Context {
    /// Sleeps durably: the time to wake is recorded before, and neither a restart nor a replay moves it. Longer than a second it costs a
    /// row and nothing else.
    pub fn sleep(
        &self,
        duration: Duration,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send {
        let call = self.call(SLEEP);
        async move {
            let wake = self.wake_time(&call, Some(duration)).await?;
            let short = wake - self.clock.now() <= limits::SHORT_SLEEP_MS;
            // A process that stops does not wait for a sleeper, however short it sleeps.
            if short && self.pace.admit(None) == Admission::Start {
                self.settled().await;
                let _running = self.running();
                self.until(wake).await;
            } else {
                while wake > self.clock.now() {
                    let _waiting = self.waiting(vec![Condition::Time { at: wake }], Vec::new());
                    self.until(wake).await;
                }
            }
            Ok(())
        }
    }

    /// Receives the oldest unread message about a topic; none when the time-out passes first. A message that was sent before is not lost.
    pub fn receive<T: DeserializeOwned>(
        &self,
        options: Receive,
    ) -> impl Future<Output = Result<Option<T>, WorkflowError>> + Send {
        let call = self.call(RECV);
        let timer = self.call(SLEEP);
        async move {
            if let Some(recorded) = self.replay(&call).await {
                return decode(recorded);
            }
            let Receive {
                topic,
                timeout,
                on_suspend,
            } = options;
            let found = self
                .wait_for(
                    &timer,
                    timeout,
                    on_suspend,
                    Condition::Message {
                        topic: topic.clone(),
                    },
                    || self.first_unread(&topic),
                )
                .await?;
            let text = found
                .as_ref()
                .map_or("null", |(_, message)| message.as_str())
                .to_owned();
            let value = decode_text(&text)?;
            self.received_from(&text);
            // Nothing has been polled since the look: no other call has received it.
            self.record_receipt(&call, found.map(|(id, _)| id), text);
            Ok(value)
        }
    }

    /// Waits until another workflow has set an event; none when the time-out passes first.
    pub fn get_event<T: DeserializeOwned>(
        &self,
        workflow: &str,
        key: &str,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<Option<T>, WorkflowError>> + Send {
        let call = self.call(GET_EVENT);
        let timer = self.call(SLEEP);
        let (workflow, key) = (workflow.to_owned(), key.to_owned());
        async move {
            if let Some(recorded) = self.replay(&call).await {
                return decode(recorded);
            }
            let condition = Condition::Event {
                workflow: workflow.clone(),
                key: key.clone(),
            };
            let found = self
                .wait_for(&timer, timeout, Vec::new(), condition, || {
                    let (workflow, key) = (workflow.clone(), key.clone());
                    async move { messages::event(&self.db.read(), &workflow, &key).await }
                })
                .await?;
            let text = found.unwrap_or_else(|| "null".into());
            let value = decode_text(&text)?;
            self.record(&call, Some(text));
            Ok(value)
        }
    }

    /// Sets an event of this workflow for others to see; the last value of a key counts.
    pub fn set_event(
        &self,
        key: &str,
        value: &impl Serialize,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send {
        let call = self.call(SET_EVENT);
        let key = key.to_owned();
        let text = limits::encode("an event", value);
        async move {
            if self.replay(&call).await.is_none() {
                let event = Event {
                    key,
                    value: text?,
                    function_id: call.function_id,
                };
                self.with_outbox(|outbox| outbox.events.push(event));
                self.record(&call, None);
            }
            Ok(())
        }
    }

    /// Sends a message to another workflow, which must exist.
    pub fn send(
        &self,
        destination: &str,
        topic: &str,
        message: &impl Serialize,
    ) -> impl Future<Output = Result<(), WorkflowError>> + Send {
        let call = self.call(SEND);
        let (destination, topic) = (destination.to_owned(), topic.to_owned());
        let text = limits::encode("a message", message);
        async move {
            if self.replay(&call).await.is_none() {
                // Padded, so that those of one millisecond are received in the order of their calls.
                let id = format!("{}:{:010}", self.workflow_id(), call.function_id);
                let message = Message {
                    id,
                    destination,
                    topic,
                    message: text?,
                };
                self.with_outbox(|outbox| outbox.messages.push(message));
                self.record(&call, None);
            }
            Ok(())
        }
    }

    /// Looks until `look` finds something or the recorded time has come, and once more then. What the database does not answer is asked again.
    async fn wait_for<T, F, Fut>(
        &self,
        timer: &Call,
        timeout: Option<Duration>,
        on_suspend: Vec<Row>,
        condition: Condition,
        look: F,
    ) -> Result<Option<T>, WorkflowError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<T>, StoreError>>,
    {
        if let Some(found) = self.look_once(&look).await {
            return Ok(Some(found));
        }
        let wake = self.wake_time(timer, timeout).await?;
        if wake <= self.clock.now() {
            return Ok(None);
        }
        let _waiting = self.waiting(vec![condition, Condition::Time { at: wake }], on_suspend);
        while wake > self.clock.now() {
            self.until(wake).await;
        }
        // A step beside it has kept the workflow in memory: nobody has looked since.
        Ok(self.look_once(&look).await)
    }

    /// Looks once, behind everything that was recorded so far.
    async fn look_once<T, F, Fut>(&self, look: &F) -> Option<T>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<T>, StoreError>>,
    {
        self.settled().await;
        let _running = self.running();
        persist("look for what was sent", look).await
    }

    /// The oldest unread message about `topic`. What another call has received while this one looked is not given twice: once that is
    /// committed, the next look does not find it.
    async fn first_unread(&self, topic: &str) -> Result<Option<(String, String)>, StoreError> {
        let mut received = None;
        loop {
            let found = messages::first_unread(&self.db.read(), self.workflow_id(), topic).await?;
            match &found {
                // Found a second time it was made unread again by somebody.
                Some((id, _)) if self.has_received(id) && received.as_ref() != Some(id) => {
                    received = Some(id.clone());
                    self.settled().await;
                }
                _ => return Ok(found),
            }
        }
    }

    /// The time that `timer` recorded; recorded now if it was not.
    async fn wake_time(
        &self,
        timer: &Call,
        timeout: Option<Duration>,
    ) -> Result<i64, WorkflowError> {
        if let Some(recorded) = self.replay(timer).await {
            return decode(recorded);
        }
        let wake = match timeout {
            Some(timeout) => self
                .clock
                .now()
                .saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(limits::NEVER_MS)),
            None => limits::NEVER_MS,
        };
        let wake = wake.min(limits::NEVER_MS);
        self.record(timer, Some(wake.to_string()));
        Ok(wake)
    }
}

fn decode_text<T: DeserializeOwned>(text: &str) -> Result<Option<T>, WorkflowError> {
    serde_json::from_str(text).map_err(|e| {
        WorkflowError::new(
            "message_decoding",
            format!("what was sent does not fit: {e}"),
        )
    })
}

/// Suspends for ever: the workflow is claimed again when what it waits for has happened.
pub(super) async fn suspended() -> ! {
    pending().await
}
