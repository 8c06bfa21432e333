//! Owns the checkpoint: the one transaction in which steps' outputs, the application's rows and a workflow's status change become durable,
//! behind the fence of its claim. Many workflows travel in one transaction.

use std::collections::HashMap;

use sea_orm::{ActiveEnum, ConnectionTrait, QueryResult};
use serde::Serialize;

use super::{
    app_rows::{self, Row},
    backend::{Database, Transaction, json_rows, statement},
    cancellations::{self, PutBack},
    dialect::{Column, dialect},
    error::StoreError,
    status::WorkflowStatus,
    waits::Wait,
    workflows::{self, APPLICATION_NAME, NewWorkflow, SERIALIZATION},
};

/// What one workflow wants written, all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// The workflow.
    pub workflow_id: String,
    /// The fence: the token of the claim under which all this happened.
    pub token: String,
    /// Recorded operations.
    pub outputs: Vec<Output>,
    /// Rows of the application.
    pub rows: Vec<Row>,
    /// Workflows that it starts.
    pub children: Vec<NewWorkflow>,
    /// Children of its own cancel that it awaits again.
    pub put_back: Vec<PutBack>,
    /// Messages that it sends.
    pub messages: Vec<Message>,
    /// Messages that it has received: their ids, and the operation that did.
    pub consumed: Vec<(String, i32)>,
    /// Events that it sets.
    pub events: Vec<Event>,
    /// How the claim ends, if it does.
    pub ending: Option<Ending>,
}

/// A recorded operation.
#[derive(Debug, Clone, Serialize)]
pub struct Output {
    /// Its place in call order.
    pub function_id: i32,
    /// What was called.
    pub function_name: String,
    /// JSON text.
    pub output: Option<String>,
    /// JSON text.
    pub error: Option<String>,
    /// The child that was started.
    pub child_workflow_id: Option<String>,
    /// Epoch milliseconds.
    pub started_at: i64,
    /// Epoch milliseconds.
    pub completed_at: i64,
    /// Whether something happened outside the database: such an output is kept even when the workflow was cancelled meanwhile.
    #[serde(skip)]
    pub body: bool,
}

/// A message from one workflow to another.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// Its id; sent twice it arrives once.
    pub id: String,
    /// The workflow that receives it.
    pub destination: String,
    /// What it is about.
    pub topic: String,
    /// JSON text.
    pub message: String,
}

/// An event that a workflow sets for others to see.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Which.
    pub key: String,
    /// JSON text.
    pub value: String,
    /// The operation that set it.
    pub function_id: i32,
}

/// How a claim ends.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The function returned.
    Completed {
        /// `SUCCESS` or `ERROR`.
        status: WorkflowStatus,
        /// JSON text.
        output: Option<String>,
        /// JSON text.
        error: Option<String>,
    },
    /// The function waits; it made progress, so its attempts start again at zero.
    Suspended(Wait),
    /// The claim is given back at a boundary: whoever claims the workflow next goes on there. The attempt does not count.
    Yielded {
        /// Milliseconds until it is due.
        delay_ms: i64,
    },
    /// The claim is given back with the attempt still charged.
    Released {
        /// What it waits for.
        wait: Wait,
        /// Milliseconds until it is due.
        delay_ms: i64,
    },
}

/// What became of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Written; carry on.
    Go,
    /// Cancelled meanwhile, perhaps resumed: what bodies did is written, nothing else, and the claim has ended.
    KeptStop,
    /// The claim is somebody else's: nothing was written.
    Lost,
}

impl Verdict {
    /// In a word, for telemetry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::KeptStop => "kept",
            Self::Lost => "lost",
        }
    }
}

/// Commits `members` in one transaction and answers each one's verdict, in order.
///
/// # Errors
/// [`StoreError::Refused`] when a constraint refuses some member (commit them one by one to learn which),
/// [`StoreError::OutcomeUnknown`] when it may have been committed.
pub async fn commit(db: &Database, members: &[&Checkpoint]) -> Result<Vec<Verdict>, StoreError> {
    let tx = db.begin().await?;
    let verdicts = match write(&tx, members).await {
        Ok(verdicts) => verdicts,
        Err(error) => {
            // The error that counts is the first one; a broken connection rolls back by itself.
            let _ = tx.rollback().await;
            return Err(error);
        }
    };
    tx.commit().await?;
    Ok(verdicts)
}

/// Whether `member`, whose commit was not answered, is in the database: its first record is there, and its claim still holds, or has ended as the
/// member wanted. A record alone proves nothing: whoever took the workflow over may have run the same step.
pub async fn was_committed(db: &Database, member: &Checkpoint) -> Result<bool, StoreError> {
    let read = db.read();
    let text = "SELECT s.status, CASE WHEN s.owner_xid = $2 THEN 1 ELSE 0 END AS ours, \
                CASE WHEN $3 < 0 OR EXISTS (SELECT 1 FROM \"dbos\".operation_outputs o WHERE o.workflow_uuid = s.workflow_uuid AND o.function_id = $3) \
                THEN 1 ELSE 0 END AS recorded FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = $1";
    let first = member.outputs.first().map_or(-1, |o| o.function_id);
    let values = [
        member.workflow_id.as_str().into(),
        member.token.as_str().into(),
        first.into(),
    ];
    let Some(row) = read.query_one_raw(statement(&read, text, values)).await? else {
        return Ok(false);
    };
    let status = status_at(&row, 0)?;
    let ours = row.try_get_by_index::<i32>(1)? == 1;
    let recorded = row.try_get_by_index::<i32>(2)? == 1;
    Ok(recorded
        && match &member.ending {
            None => ours && !member.outputs.is_empty(),
            Some(Ending::Completed { status: wanted, .. }) => status == Some(*wanted),
            // A suspended workflow has no owner, like one that was released and suspended again: the fence answers for it.
            Some(Ending::Suspended(_) | Ending::Yielded { .. } | Ending::Released { .. }) => false,
        })
}

/// The status in this column; none for one that nobody here knows. Somebody else wrote it, so it is nobody's claim: the fence answers it with
/// *lost*, and not with an error that would meet the neighbours.
fn status_at(row: &QueryResult, column: usize) -> Result<Option<WorkflowStatus>, StoreError> {
    let text: Option<String> = row.try_get_by_index(column)?;
    Ok(text.and_then(|text| WorkflowStatus::try_from_value(&text).ok()))
}

async fn write(tx: &Transaction, members: &[&Checkpoint]) -> Result<Vec<Verdict>, StoreError> {
    let verdicts = guard(tx, members).await?;
    let served: Vec<(&Checkpoint, Verdict)> = members
        .iter()
        .zip(&verdicts)
        .filter(|(_, v)| **v != Verdict::Lost)
        .map(|(m, v)| (*m, *v))
        .collect();
    let go: Vec<&Checkpoint> = served
        .iter()
        .filter(|(_, v)| *v == Verdict::Go)
        .map(|(m, _)| *m)
        .collect();
    insert_outputs(tx, &served).await?;
    let rows: Vec<&Row> = served
        .iter()
        .flat_map(|(m, v)| m.rows.iter().filter(|row| row.body || *v == Verdict::Go))
        .collect();
    app_rows::write(tx, &rows).await?;
    let children: Vec<NewWorkflow> = go.iter().flat_map(|m| m.children.iter().cloned()).collect();
    workflows::insert(tx, &children).await?;
    let put_back: Vec<&PutBack> = go.iter().flat_map(|m| &m.put_back).collect();
    cancellations::put_back(tx, &put_back).await?;
    insert_messages(tx, go.iter().flat_map(|m| &m.messages)).await?;
    consume(tx, &go).await?;
    set_events(tx, &go).await?;
    complete(tx, &go).await?;
    suspend(tx, &go).await?;
    end_claims(tx, &served).await?;
    Ok(verdicts)
}

#[derive(Serialize)]
struct Fence<'a> {
    n: usize,
    id: &'a str,
    token: &'a str,
}

const FENCE: [(&str, Column); 3] = [
    ("n", Column::Int),
    ("id", Column::Text),
    ("token", Column::Text),
];

/// Locks the members' workflows and looks at each fence. The claims of those that are not plainly ours are read in a statement of their
/// own: a statement that waited for a lock still sees other tables as they were before it waited.
async fn guard(tx: &Transaction, members: &[&Checkpoint]) -> Result<Vec<Verdict>, StoreError> {
    let sql = dialect(tx);
    let fences: Vec<Fence> = members
        .iter()
        .enumerate()
        .map(|(n, m)| Fence {
            n,
            id: &m.workflow_id,
            token: &m.token,
        })
        .collect();
    let text = format!(
        "SELECT v.n, s.status, CASE WHEN s.owner_xid = v.token THEN 1 ELSE 0 END AS ours FROM {} \
         JOIN \"dbos\".workflow_status s ON s.workflow_uuid = v.id ORDER BY s.workflow_uuid {}",
        sql.rows(1, "v", &FENCE),
        sql.lock("s")
    );
    let mut verdicts = vec![Verdict::Lost; members.len()];
    let mut stopped = Vec::new();
    for row in tx
        .query_all_raw(statement(tx, text, [json_rows(&fences)?]))
        .await?
    {
        let n = usize::try_from(row.try_get_by_index::<i64>(0)?).unwrap_or(usize::MAX);
        let status = status_at(&row, 1)?;
        let ours = row.try_get_by_index::<i32>(2)? == 1;
        let Some(verdict) = verdicts.get_mut(n) else {
            continue;
        };
        match status {
            Some(WorkflowStatus::Pending) if ours => *verdict = Verdict::Go,
            Some(WorkflowStatus::Cancelled | WorkflowStatus::Enqueued) => stopped.push(n),
            _ => {}
        }
    }
    if !stopped.is_empty() {
        let asked: Vec<&Fence> = stopped.iter().filter_map(|n| fences.get(*n)).collect();
        let text = format!(
            "SELECT v.n FROM {} JOIN \"app\".claims c ON c.workflow_id = v.id AND c.token = v.token",
            sql.rows(1, "v", &FENCE)
        );
        for row in tx
            .query_all_raw(statement(tx, text, [json_rows(&asked)?]))
            .await?
        {
            let n = usize::try_from(row.try_get_by_index::<i64>(0)?).unwrap_or(usize::MAX);
            if let Some(verdict) = verdicts.get_mut(n) {
                *verdict = Verdict::KeptStop;
            }
        }
    }
    Ok(verdicts)
}

async fn insert_outputs(
    tx: &Transaction,
    served: &[(&Checkpoint, Verdict)],
) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        #[serde(flatten)]
        output: &'a Output,
    }
    let rows: Vec<Row> = served
        .iter()
        .flat_map(|(m, v)| {
            m.outputs
                .iter()
                .filter(|o| o.body || *v == Verdict::Go)
                .map(|output| Row {
                    id: &m.workflow_id,
                    output,
                })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let sql = dialect(tx);
    let source = sql.rows(
        1,
        "v",
        &[
            ("id", Column::Text),
            ("function_id", Column::Int),
            ("function_name", Column::Text),
            ("output", Column::Text),
            ("error", Column::Text),
            ("child_workflow_id", Column::Text),
            ("started_at", Column::Int),
            ("completed_at", Column::Int),
        ],
    );
    let text = format!(
        "INSERT INTO \"dbos\".operation_outputs (workflow_uuid, function_id, function_name, output, error, child_workflow_id, \
         started_at_epoch_ms, completed_at_epoch_ms, serialization, application_name, retention_timestamp) SELECT v.id, v.function_id, \
         v.function_name, v.output, v.error, v.child_workflow_id, v.started_at, v.completed_at, '{SERIALIZATION}', '{APPLICATION_NAME}', \
         v.completed_at FROM {source}"
    );
    tx.execute_raw(statement(tx, text, [json_rows(&rows)?]))
        .await?;
    Ok(())
}

/// Sends `messages`; one whose id is already there is the same message.
pub async fn insert_messages<'a>(
    tx: &impl ConnectionTrait,
    messages: impl Iterator<Item = &'a Message>,
) -> Result<(), StoreError> {
    let messages: Vec<&Message> = messages.collect();
    if messages.is_empty() {
        return Ok(());
    }
    let sql = dialect(tx);
    let source = sql.rows(
        1,
        "v",
        &[
            ("id", Column::Text),
            ("destination", Column::Text),
            ("topic", Column::Text),
            ("message", Column::Text),
        ],
    );
    let text = format!(
        "INSERT INTO \"dbos\".notifications (message_uuid, destination_uuid, topic, message, created_at_epoch_ms, serialization, consumed) \
         SELECT v.id, v.destination, v.topic, v.message, {}, '{SERIALIZATION}', false FROM {source} WHERE true \
         ON CONFLICT (message_uuid) DO NOTHING",
        sql.now()
    );
    tx.execute_raw(statement(tx, text, [json_rows(&messages)?]))
        .await?;
    Ok(())
}

async fn consume(tx: &Transaction, go: &[&Checkpoint]) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        function_id: i32,
    }
    let rows: Vec<Row> = go
        .iter()
        .flat_map(|m| {
            m.consumed.iter().map(|(id, function_id)| Row {
                id,
                function_id: *function_id,
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let source = dialect(tx).rows(
        1,
        "v",
        &[("id", Column::Text), ("function_id", Column::Int)],
    );
    let text = format!(
        "UPDATE \"dbos\".notifications AS n SET consumed = true, consumed_by_function_id = v.function_id FROM {source} \
         WHERE n.message_uuid = v.id"
    );
    tx.execute_raw(statement(tx, text, [json_rows(&rows)?]))
        .await?;
    Ok(())
}

async fn set_events(tx: &Transaction, go: &[&Checkpoint]) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        #[serde(flatten)]
        event: &'a Event,
    }
    let all: Vec<Row> = go
        .iter()
        .flat_map(|m| {
            m.events.iter().map(|event| Row {
                id: &m.workflow_id,
                event,
            })
        })
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    let sql = dialect(tx);
    let columns = [
        ("id", Column::Text),
        ("key", Column::Text),
        ("value", Column::Text),
        ("function_id", Column::Int),
    ];
    let source = sql.rows(1, "v", &columns);
    let text = format!(
        "INSERT INTO \"dbos\".workflow_events_history (workflow_uuid, function_id, \"key\", value, serialization) \
         SELECT v.id, v.function_id, v.\"key\", v.value, '{SERIALIZATION}' FROM {source}"
    );
    tx.execute_raw(statement(tx, text, [json_rows(&all)?]))
        .await?;
    // One statement may touch a row once: of several values for one key the last one counts.
    let last: HashMap<(&str, &str), &Row> = all
        .iter()
        .map(|row| ((row.id, row.event.key.as_str()), row))
        .collect();
    let last: Vec<&&Row> = last.values().collect();
    let text = format!(
        "INSERT INTO \"dbos\".workflow_events (workflow_uuid, \"key\", value, serialization) SELECT v.id, v.\"key\", v.value, '{SERIALIZATION}' \
         FROM {source} WHERE true ON CONFLICT (workflow_uuid, \"key\") DO UPDATE SET value = excluded.value, serialization = excluded.serialization"
    );
    tx.execute_raw(statement(tx, text, [json_rows(&last)?]))
        .await?;
    Ok(())
}

async fn complete(tx: &Transaction, go: &[&Checkpoint]) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        status: &'a str,
        output: &'a Option<String>,
        error: &'a Option<String>,
    }
    let rows: Vec<Row> = go
        .iter()
        .filter_map(|m| match &m.ending {
            Some(Ending::Completed {
                status,
                output,
                error,
            }) => Some(Row {
                id: &m.workflow_id,
                status: status.as_str(),
                output,
                error,
            }),
            _ => None,
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let values = json_rows(&rows)?;
    let sql = dialect(tx);
    let now = sql.now();
    let source = sql.rows(
        1,
        "v",
        &[
            ("id", Column::Text),
            ("status", Column::Text),
            ("output", Column::Text),
            ("error", Column::Text),
        ],
    );
    let text = format!(
        "UPDATE \"dbos\".workflow_status AS s SET status = v.status, completed_at = {now}, updated_at = {now}, owner_xid = NULL, \
         deduplication_id = NULL, recovery_attempts = 0 FROM {source} WHERE s.workflow_uuid = v.id"
    );
    tx.execute_raw(statement(tx, text, [values.clone()]))
        .await?;
    let text = format!(
        "INSERT INTO \"dbos\".workflow_output (workflow_uuid, output, error, retention_timestamp) SELECT v.id, v.output, v.error, {now} \
         FROM {source} WHERE true ON CONFLICT (workflow_uuid) DO UPDATE SET output = excluded.output, error = excluded.error"
    );
    tx.execute_raw(statement(tx, text, [values])).await?;
    Ok(())
}

async fn suspend(tx: &Transaction, go: &[&Checkpoint]) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        conditions: String,
        due_at: Option<i64>,
        delay_ms: Option<i64>,
        watches: Option<&'a str>,
        charged: bool,
    }
    let mut rows = Vec::new();
    let due_now = Wait::due_now();
    for member in go {
        let (wait, delay_ms, charged) = match &member.ending {
            Some(Ending::Suspended(wait)) => (wait, None, false),
            Some(Ending::Yielded { delay_ms }) => (&due_now, Some(*delay_ms), false),
            Some(Ending::Released { wait, delay_ms }) => (wait, Some(*delay_ms), true),
            _ => continue,
        };
        let conditions = serde_json::to_string(&wait.conditions)
            .map_err(|e| StoreError::Encoding(e.to_string()))?;
        rows.push(Row {
            id: &member.workflow_id,
            conditions,
            due_at: wait.due_at(),
            delay_ms,
            watches: wait.watches(),
            charged,
        });
    }
    if rows.is_empty() {
        return Ok(());
    }
    let values = json_rows(&rows)?;
    let sql = dialect(tx);
    let now = sql.now();
    let source = sql.rows(
        1,
        "v",
        &[
            ("id", Column::Text),
            ("conditions", Column::Text),
            ("due_at", Column::Int),
            ("delay_ms", Column::Int),
            ("watches", Column::Text),
            ("charged", Column::Bool),
        ],
    );
    let text = format!(
        "UPDATE \"dbos\".workflow_status AS s SET owner_xid = NULL, executor_id = NULL, \
         recovery_attempts = CASE WHEN v.charged THEN s.recovery_attempts ELSE 0 END FROM {source} WHERE s.workflow_uuid = v.id"
    );
    tx.execute_raw(statement(tx, text, [values.clone()]))
        .await?;
    let text = format!(
        "INSERT INTO \"app\".waits (workflow_id, queue_name, conditions, due_at, watches, created_at) \
         SELECT v.id, COALESCE(s.queue_name, ''), v.conditions, COALESCE({now} + v.delay_ms, v.due_at), v.watches, {now} FROM {source} \
         JOIN \"dbos\".workflow_status s ON s.workflow_uuid = v.id WHERE true ON CONFLICT (workflow_id) DO UPDATE SET \
         queue_name = excluded.queue_name, conditions = excluded.conditions, due_at = excluded.due_at, watches = excluded.watches"
    );
    tx.execute_raw(statement(tx, text, [values])).await?;
    Ok(())
}

async fn end_claims(tx: &Transaction, served: &[(&Checkpoint, Verdict)]) -> Result<(), StoreError> {
    let ended: Vec<&str> = served
        .iter()
        .filter(|(m, v)| *v == Verdict::KeptStop || m.ending.is_some())
        .map(|(m, _)| m.workflow_id.as_str())
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    let text = format!(
        "DELETE FROM \"app\".claims WHERE {}",
        dialect(tx).is_one_of("workflow_id", 1)
    );
    tx.execute_raw(statement(tx, text, [json_rows(&ended)?]))
        .await?;
    Ok(())
}
