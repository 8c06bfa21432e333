//! Owns what a workflow function sees: the operations that are recorded, in call order, and what they leave in the outbox for the next
//! checkpoint. It never commits; the driver does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::{Future, pending, poll_fn},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use tracing::Instrument;

use super::{
    clock::Clock, error::WorkflowError, interrupt::Interrupt, limits, pace::Pace,
    trace::ExecutionSpans,
};
use crate::store::{
    Database,
    app_rows::{Row, RowChange},
    checkpoints::{Checkpoint, Output},
    claims::{Claimed, Fenced},
    waits::{Condition, Wait},
    workflows::StepRow,
};
use crate::telemetry::instruments::STEP_SECONDS;

/// A workflow's view of the world. It is borrowed and cannot be cloned, so that it cannot outlive the function or move into a task.
#[derive(Debug)]
pub struct Context {
    pub(super) claimed: Claimed,
    pub(super) app_version: String,
    pub(super) db: Database,
    pub(super) clock: Arc<Clock>,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) pace: Arc<Pace>,
    pub(super) spans: ExecutionSpans,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_function_id: i32,
    recorded: HashMap<i32, StepRow>,
    outbox: Checkpoint,
    dirty: bool,
    /// How many outboxes the driver has taken.
    taken: u64,
    /// How many of them are committed.
    committed: u64,
    bodies: usize,
    settling: usize,
    next_wait: u64,
    waits: BTreeMap<u64, (Vec<Condition>, Vec<Row>)>,
    mismatch: Option<Condition>,
    /// The messages that this execution has received.
    received: HashSet<String>,
    /// Milliseconds after which the workflow is due again, once a step was not let start here.
    handed_back: Option<i64>,
    wakers: Vec<Waker>,
}

/// A step's error, and the rows that are written with it.
#[derive(Debug)]
pub struct StepFailure {
    /// Why it failed.
    pub error: WorkflowError,
    /// Rows of the application.
    pub rows: Vec<Row>,
}

impl From<WorkflowError> for StepFailure {
    fn from(error: WorkflowError) -> Self {
        Self {
            error,
            rows: Vec::new(),
        }
    }
}

/// What the driver sees after a poll.
#[derive(Debug, PartialEq)]
pub(super) enum Standing {
    /// A step body, or a look into the database, is under way.
    Running,
    /// Something is to be committed before anything else happens.
    Commit,
    /// Everything that is pending is recorded: it can be suspended.
    Waits,
    /// The next step is to start in another process, or in this one's next life; due after so many milliseconds.
    HandedBack(i64),
    /// The replay met another step than the one recorded.
    Mismatch(Condition),
    /// Nothing that the context knows of is pending.
    Nothing,
}

/// A call of an operation: its function id, given when it was called.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) function_id: i32,
    pub(super) name: String,
    pub(super) recorded: Option<StepRow>,
    mismatch: bool,
}

impl Context {
    pub(super) fn new(
        claimed: Claimed,
        recorded: Vec<StepRow>,
        db: Database,
        clock: Arc<Clock>,
        interrupt: Arc<Interrupt>,
        pace: Arc<Pace>,
        app_version: String,
    ) -> Self {
        let outbox = Checkpoint {
            workflow_id: claimed.workflow.workflow_uuid.clone(),
            token: claimed.token.clone(),
            ..Checkpoint::default()
        };
        let recorded = recorded
            .into_iter()
            .map(|row| (row.function_id, row))
            .collect();
        let state = State {
            outbox,
            recorded,
            ..State::default()
        };
        Self {
            claimed,
            app_version,
            db,
            clock,
            interrupt,
            pace,
            spans: ExecutionSpans::new(),
            state: Mutex::new(state),
        }
    }

    /// The id of this workflow.
    pub fn workflow_id(&self) -> &str {
        &self.claimed.workflow.workflow_uuid
    }

    /// What a step names to write rows before its checkpoint does.
    pub fn claim(&self) -> Fenced<'_> {
        Fenced {
            workflow_id: self.workflow_id(),
            token: &self.claimed.token,
        }
    }

    /// Its tenant.
    pub fn partition_key(&self) -> Option<&str> {
        self.claimed.workflow.queue_partition_key.as_deref()
    }

    /// Its priority; lower first.
    pub fn priority(&self) -> i32 {
        self.claimed.workflow.priority
    }

    /// When it was created, epoch milliseconds.
    pub fn created_at(&self) -> i64 {
        self.claimed.workflow.created_at
    }

    /// From now on a cancel drops this execution in the middle of a step, and nothing of that step is recorded. Without this the step ends and
    /// its result is kept.
    pub fn stop_at_once_when_cancelled(&self) {
        self.interrupt.allow();
    }

    /// Runs `body` once and records what it returns, success or error. Once the next operation starts, the record is committed; until then
    /// a crash runs the body again.
    pub fn step<T, F, Fut>(
        &self,
        name: &str,
        body: F,
    ) -> impl Future<Output = Result<T, WorkflowError>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, WorkflowError>> + Send,
    {
        self.step_with_rows(name, move || async move { Ok((body().await?, Vec::new())) })
    }

    /// Like [`Self::step`], with rows of the application that are written in the same transaction as the record, if and only if it is.
    pub fn step_with_rows<T, F, Fut>(
        &self,
        name: &str,
        body: F,
    ) -> impl Future<Output = Result<T, WorkflowError>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<(T, Vec<Row>), StepFailure>> + Send,
    {
        self.step_lasting(name, None, body)
    }

    /// Like [`Self::step_with_rows`], for a body that may say how long it takes at most: a process that has less time left does not start it,
    /// and hands the workflow back. It is not stopped when it takes longer.
    pub fn step_lasting<T, F, Fut>(
        &self,
        name: &str,
        longest: Option<Duration>,
        body: F,
    ) -> impl Future<Output = Result<T, WorkflowError>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<(T, Vec<Row>), StepFailure>> + Send,
    {
        let call = self.call(name);
        async move { self.execute(&call, longest, body).await }
    }

    /// Answers `call` from its record, or runs `body`, which takes at most `longest` if it says so, and records what it returns.
    pub(super) async fn execute<T, F, Fut>(
        &self,
        call: &Call,
        longest: Option<Duration>,
        body: F,
    ) -> Result<T, WorkflowError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<(T, Vec<Row>), StepFailure>> + Send,
    {
        if let Some(recorded) = self.replay(call).await {
            return decode(recorded);
        }
        self.admitted(longest).await;
        let (started_at, began) = (self.clock.now(), Instant::now());
        let log = tracing::info_span!("step", step = call.name, span_id = tracing::field::Empty);
        let outcome = {
            let _running = self.running();
            body().instrument(log).await
        };
        let word = if outcome.is_ok() { "ok" } else { "error" };
        STEP_SECONDS.observe(&[&call.name, word], began.elapsed().as_secs_f64());
        self.record_body(call, started_at, outcome)
    }

    fn record_body<T: Serialize>(
        &self,
        call: &Call,
        started_at: i64,
        outcome: Result<(T, Vec<Row>), StepFailure>,
    ) -> Result<T, WorkflowError> {
        let encoded = outcome.and_then(|(value, rows)| {
            Ok((limits::encode("a step's output", &value)?, value, rows))
        });
        let (output, error, rows, result) = match encoded {
            Ok((text, value, rows)) => (Some(text), None, rows, Ok(value)),
            Err(failure) => (
                None,
                Some(failure.error.to_stored()),
                failure.rows,
                Err(failure.error),
            ),
        };
        self.with_outbox(|outbox| {
            outbox.outputs.push(Output {
                started_at,
                error,
                body: true,
                ..self.output(call, output)
            });
            for row in rows {
                push_row(outbox, Row { body: true, ..row });
            }
        });
        result
    }

    /// Rows of the application that are written with the next checkpoint, unless the workflow was cancelled before it.
    pub fn project(&self, rows: impl IntoIterator<Item = Row>) {
        self.with_outbox(|outbox| rows.into_iter().for_each(|row| push_row(outbox, row)));
    }

    /// The time, recorded. Epoch milliseconds.
    pub fn now(&self) -> impl Future<Output = Result<i64, WorkflowError>> + Send {
        let clock = Arc::clone(&self.clock);
        self.recorded_value("DBOS.now", move || clock.now())
    }

    /// A random UUID, recorded.
    pub fn uuid(&self) -> impl Future<Output = Result<String, WorkflowError>> + Send {
        self.recorded_value("DBOS.randomUUID", || uuid::Uuid::new_v4().to_string())
    }

    /// A random number in [0, 1), recorded.
    pub fn random(&self) -> impl Future<Output = Result<f64, WorkflowError>> + Send {
        self.recorded_value("DBOS.random", || {
            let bits = uuid::Uuid::new_v4().as_u128() as u32;
            f64::from(bits) / (f64::from(u32::MAX) + 1.0)
        })
    }

    fn recorded_value<T, F>(
        &self,
        name: &str,
        value: F,
    ) -> impl Future<Output = Result<T, WorkflowError>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce() -> T + Send,
    {
        let call = self.call(name);
        async move {
            if let Some(recorded) = self.replay(&call).await {
                return decode(recorded);
            }
            let value = value();
            let text = limits::encode("a recorded value", &value)?;
            self.record(&call, Some(text));
            Ok(value)
        }
    }

    // What the operations are made of.

    /// Gives the next function id to a call of `name`.
    pub(super) fn call(&self, name: &str) -> Call {
        let mut state = self.lock();
        let function_id = state.next_function_id;
        state.next_function_id += 1;
        let recorded = state.recorded.remove(&function_id);
        let mismatch = recorded
            .as_ref()
            .is_some_and(|row| row.function_name != name);
        if let (true, Some(row), None) = (mismatch, &recorded, &state.mismatch) {
            state.mismatch = Some(Condition::Mismatch {
                function_id,
                recorded: row.function_name.clone(),
                called: name.to_owned(),
            });
        }
        Call {
            function_id,
            name: name.to_owned(),
            recorded,
            mismatch,
        }
    }

    /// What is recorded for `call`. Where the record is of another operation this never returns: the driver releases the workflow.
    pub(super) async fn replay<'c>(&self, call: &'c Call) -> Option<&'c StepRow> {
        if call.mismatch {
            return pending().await;
        }
        call.recorded.as_ref()
    }

    /// Waits until everything that was recorded so far is committed.
    pub(super) async fn settled(&self) {
        let target = {
            let mut state = self.lock();
            let target = if state.dirty {
                state.taken + 1
            } else {
                state.taken
            };
            if state.committed >= target {
                return;
            }
            state.settling += 1;
            target
        };
        let _settling = Registered {
            context: self,
            what: Registration::Settling,
        };
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.committed >= target {
                return Poll::Ready(());
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Lets the driver hand the workflow back as soon as no body runs any more; due after `delay_ms`.
    pub(super) fn hand_back(&self, delay_ms: i64) {
        self.lock().handed_back.get_or_insert(delay_ms);
    }

    /// Says that something is under way in memory, until dropped.
    pub(super) fn running(&self) -> Registered<'_> {
        self.lock().bodies += 1;
        Registered {
            context: self,
            what: Registration::Body,
        }
    }

    /// Says that an operation waits for `conditions`, until dropped. `rows` are written if the workflow suspends meanwhile.
    pub(super) fn waiting(&self, conditions: Vec<Condition>, rows: Vec<Row>) -> Registered<'_> {
        let mut state = self.lock();
        let key = state.next_wait;
        state.next_wait += 1;
        state.waits.insert(key, (conditions, rows));
        Registered {
            context: self,
            what: Registration::Wait(key),
        }
    }

    /// Records that `call` returned `output`.
    pub(super) fn record(&self, call: &Call, output: Option<String>) {
        let output = self.output(call, output);
        self.with_outbox(|outbox| outbox.outputs.push(output));
    }

    /// Records that `call` received the message `id`, if there was one, and returned `output`.
    pub(super) fn record_receipt(&self, call: &Call, id: Option<String>, output: String) {
        let output = self.output(call, Some(output));
        self.lock().received.extend(id.clone());
        self.with_outbox(|outbox| {
            outbox.consumed.extend(id.map(|id| (id, call.function_id)));
            outbox.outputs.push(output);
        });
    }

    /// Whether this execution has received the message `id`. Until that is committed the database shows it unread.
    pub(super) fn has_received(&self, id: &str) -> bool {
        self.lock().received.contains(id)
    }

    /// The record of a call that returned `output` just now.
    pub(super) fn output(&self, call: &Call, output: Option<String>) -> Output {
        let now = self.clock.now();
        Output {
            function_id: call.function_id,
            function_name: call.name.clone(),
            output,
            error: None,
            child_workflow_id: None,
            started_at: now,
            completed_at: now,
            body: false,
        }
    }

    pub(super) fn with_outbox(&self, fill: impl FnOnce(&mut Checkpoint)) {
        let mut state = self.lock();
        state.dirty = true;
        fill(&mut state.outbox);
    }

    /// Waits in memory as long as something else keeps this workflow in memory.
    pub(super) async fn until(&self, at: i64) {
        let left = u64::try_from(at - self.clock.now()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(left.min(limits::LONGEST_TIMER_MS))).await;
    }

    // What the driver does.

    pub(super) fn standing(&self) -> Standing {
        let state = self.lock();
        if let Some(mismatch) = &state.mismatch {
            Standing::Mismatch(mismatch.clone())
        } else if let (Some(delay_ms), 0) = (state.handed_back, state.bodies) {
            Standing::HandedBack(delay_ms)
        } else if state.dirty && (state.bodies > 0 || state.settling > 0 || state.waits.is_empty())
        {
            Standing::Commit
        } else if state.bodies > 0 || state.settling > 0 {
            Standing::Running
        } else if !state.waits.is_empty() {
            Standing::Waits
        } else {
            Standing::Nothing
        }
    }

    /// Takes what is to be committed.
    pub(super) fn take_outbox(&self) -> Checkpoint {
        let mut state = self.lock();
        if state.dirty {
            state.taken += 1;
            state.dirty = false;
        }
        self.spans.outbox_taken();
        let empty = Checkpoint {
            workflow_id: state.outbox.workflow_id.clone(),
            token: state.outbox.token.clone(),
            ..Checkpoint::default()
        };
        std::mem::replace(&mut state.outbox, empty)
    }

    /// What it suspends on, and the rows to be written if it does.
    pub(super) fn take_wait(&self) -> (Wait, Vec<Row>) {
        let mut state = self.lock();
        let mut wait = Wait::default();
        let mut rows = Vec::new();
        for (conditions, projected) in std::mem::take(&mut state.waits).into_values() {
            wait.conditions.extend(conditions);
            rows.extend(projected);
        }
        (wait, rows)
    }

    /// Everything taken so far is committed.
    pub(super) fn committed(&self) {
        let wakers = {
            let mut state = self.lock();
            state.committed = state.taken;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a workflow is caught by the driver, which drops the context; nothing here is left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registration that ends when the operation does, or when its future is dropped.
pub(super) struct Registered<'a> {
    context: &'a Context,
    what: Registration,
}

enum Registration {
    Body,
    Settling,
    Wait(u64),
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut state = self.context.lock();
        match self.what {
            Registration::Body => state.bodies -= 1,
            Registration::Settling => state.settling -= 1,
            Registration::Wait(key) => {
                state.waits.remove(&key);
            }
        }
    }
}

/// Adds a row to the outbox. Two updates of one row become one: a statement may touch a row only once.
pub(super) fn push_row(outbox: &mut Checkpoint, row: Row) {
    if row.change == RowChange::Update {
        let same = |other: &Row| {
            other.change == RowChange::Update
                && other.table.name == row.table.name
                && other.body == row.body
                && row
                    .table
                    .key
                    .iter()
                    .all(|key| other.values.get(*key) == row.values.get(*key))
        };
        if let Some(other) = outbox.rows.iter_mut().find(|other| same(other)) {
            other.values.extend(row.values);
            return;
        }
    }
    outbox.rows.push(row);
}

/// The value or error in a record.
pub(super) fn decode<T: DeserializeOwned>(recorded: &StepRow) -> Result<T, WorkflowError> {
    if let Some(error) = &recorded.error {
        return Err(WorkflowError::from_stored(error));
    }
    serde_json::from_str(recorded.output.as_deref().unwrap_or("null")).map_err(|e| {
        let at = format!("{} ({})", recorded.function_id, recorded.function_name);
        WorkflowError::new(
            "record_decoding",
            format!("what is recorded for function id {at} does not fit the code: {e}"),
        )
    })
}
