//! Owns candidates: the workflows that may be claimed now, found by an index and locked. Which of them are claimed, and how many, is decided
//! elsewhere.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::{
    backend::{self, json_rows},
    claims::Claimer,
    dialect::dialect,
    error::StoreError,
    stalled::Front,
    workflows::APPLICATION_NAME,
};

/// A workflow that may be claimed; its row is locked.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Candidate {
    /// Its id.
    pub workflow_uuid: String,
    /// The registered name of its function.
    pub name: String,
    /// The queue it came from.
    pub queue_name: String,
    /// Its tenant.
    pub queue_partition_key: Option<String>,
    /// Lower first.
    pub priority: i32,
    /// Claims since it last made progress.
    pub recovery_attempts: i64,
    /// Its input, JSON text.
    pub inputs: Option<String>,
    /// Who awaits it.
    pub parent_workflow_id: Option<String>,
    /// When the workflow was created, epoch milliseconds.
    pub created_at: i64,
    /// Whether it was suspended, rather than queued.
    pub woken: bool,
    /// Since when it was suspended, epoch milliseconds.
    pub waiting_since: Option<i64>,
    /// The conditions that it waited for, JSON text.
    pub waited_for: Option<String>,
}

impl Candidate {
    /// Its place among the queued of its partition: priority, then first come.
    pub(super) fn place(&self) -> (i32, i64, &str) {
        (self.priority, self.created_at, &self.workflow_uuid)
    }
}

/// What a workflow must be that this claimer may take: of its version, ours, and under nobody's claim.
pub(super) fn eligible(claimer: &Claimer) -> String {
    let version = if claimer.newest_version {
        "(s.application_version = $2 OR s.application_version IS NULL)"
    } else {
        "s.application_version = $2"
    };
    format!(
        "{version} AND (s.application_name = '{APPLICATION_NAME}' OR s.application_name IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM \"app\".claims c WHERE c.workflow_id = s.workflow_uuid)"
    )
}

/// A workflow that waits in the database, and that nobody owns.
pub(super) const SUSPENDED: &str = "s.status = 'PENDING' AND s.owner_xid IS NULL";
/// The input of the workflow `s`, where DBOS keeps it.
const INPUT: &str = "LEFT JOIN \"dbos\".workflow_input i ON i.workflow_uuid = s.workflow_uuid";

fn candidate_columns(woken: bool) -> String {
    let wait = if woken {
        "w.created_at AS waiting_since, w.conditions AS waited_for"
    } else {
        "CAST(NULL AS bigint) AS waiting_since, CAST(NULL AS text) AS waited_for"
    };
    format!(
        "SELECT s.workflow_uuid, s.name, s.queue_name, s.queue_partition_key, s.priority, \
         COALESCE(s.recovery_attempts, 0) AS recovery_attempts, COALESCE(i.inputs, s.inputs) AS inputs, s.parent_workflow_id, s.created_at, \
         {woken} AS woken, {wait}"
    )
}

/// Locks and returns suspended workflows of `queues` that are due, the longest due first.
pub async fn lock_due(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queues: &[String],
    limit: u64,
) -> Result<Vec<Candidate>, StoreError> {
    let sql = dialect(tx);
    let filter = format!(
        "w.queue_name = v.value AND w.due_at <= {now} AND {suspended} AND s.queue_name = v.value AND {names} AND {eligible}",
        now = sql.now(),
        suspended = SUSPENDED,
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
    );
    let text = format!(
        "{columns} FROM {due} JOIN \"app\".waits w ON w.workflow_id = s.workflow_uuid {input} ORDER BY w.due_at, w.workflow_id LIMIT {limit}",
        columns = candidate_columns(true),
        due = sql.first_of_each(
            &sql.strings(1, "v"),
            "\"app\".waits w JOIN \"dbos\".workflow_status s ON s.workflow_uuid = w.workflow_id",
            &filter,
            "w.due_at, w.workflow_id",
            limit
        ),
        input = INPUT,
    );
    let values = [
        json_rows(&queues)?,
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
    ];
    backend::rows(tx, text, values).await
}

/// Locks and returns up to `limit` queued workflows of `queue` in priority and FIFO order, passing over its stalled `front`.
pub async fn lock_queued(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    limit: u64,
    front: Option<Front>,
) -> Result<Vec<Candidate>, StoreError> {
    let Some(front) = front else {
        return lock_range(tx, claimer, queue, limit, ("", &[])).await;
    };
    let bounds = [Value::from(front.priority), Value::from(front.before)];
    let ahead = ("AND s.priority < $4", &bounds[..1]);
    let mut found = lock_range(tx, claimer, queue, limit, ahead).await?;
    let left = limit - found.len() as u64;
    if left > 0 {
        let behind = ("AND (s.priority, s.created_at) >= ($4, $5)", &bounds[..]);
        found.extend(lock_range(tx, claimer, queue, left, behind).await?);
    }
    Ok(found)
}

/// Locks and returns the first `limit` queued workflows of `queue` within a range of places, in their order.
async fn lock_range(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    limit: u64,
    (range, bounds): (&str, &[Value]),
) -> Result<Vec<Candidate>, StoreError> {
    let sql = dialect(tx);
    let text = format!(
        "{columns} FROM \"dbos\".workflow_status s {input} WHERE s.queue_name = $1 AND s.status = 'ENQUEUED' {range} AND {names} AND {eligible} \
         ORDER BY s.priority, s.created_at LIMIT {limit} {lock}",
        columns = candidate_columns(false),
        input = INPUT,
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
        lock = sql.lock_free("s"),
    );
    let values = [
        queue.into(),
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
    ];
    backend::rows(tx, text, values.into_iter().chain(bounds.iter().cloned())).await
}

/// Locks and returns the first `limit` queued workflows of each of `partitions` in `queue`; those of one partition are in priority and FIFO
/// order.
pub(super) async fn lock_heads(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    partitions: &[&str],
    limit: u64,
) -> Result<Vec<Candidate>, StoreError> {
    let sql = dialect(tx);
    // That the key is not null is what tells SQLite that the index of partitions holds all of these rows.
    let filter = format!(
        "s.queue_name = $1 AND s.status = 'ENQUEUED' AND s.queue_partition_key IS NOT NULL AND s.queue_partition_key = v.value AND {names} \
         AND {eligible}",
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
    );
    let text = format!(
        "{columns} FROM {heads} {input}",
        columns = candidate_columns(false),
        heads = sql.first_of_each(
            &sql.strings(4, "v"),
            "\"dbos\".workflow_status s",
            &filter,
            "s.priority, s.created_at, s.workflow_uuid",
            limit
        ),
        input = INPUT,
    );
    let values = [
        queue.into(),
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
        json_rows(&partitions)?,
    ];
    let mut rows: Vec<Candidate> = backend::rows(tx, text, values).await?;
    rows.sort_by(|a, b| a.place().cmp(&b.place()));
    Ok(rows)
}

/// What a workflow must be to be locked by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Still {
    /// Queued.
    Queued,
    /// Suspended.
    Suspended,
}

/// Locks and returns those of `ids` that still are in `queue` as they were seen, in the order of `ids`.
pub(super) async fn lock_these(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    still: Still,
    ids: &[&str],
) -> Result<Vec<Candidate>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = dialect(tx);
    let text = format!(
        "{columns} FROM \"dbos\".workflow_status s {wait} {input} WHERE {ids} AND s.queue_name = $1 AND {still} AND {names} AND {eligible} {lock}",
        columns = candidate_columns(still == Still::Suspended),
        wait = match still {
            Still::Queued => "",
            Still::Suspended => "JOIN \"app\".waits w ON w.workflow_id = s.workflow_uuid",
        },
        input = INPUT,
        ids = sql.is_one_of("s.workflow_uuid", 4),
        still = match still {
            Still::Queued => "s.status = 'ENQUEUED'",
            Still::Suspended => SUSPENDED,
        },
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
        lock = sql.lock_free("s"),
    );
    let values = [
        queue.into(),
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
        json_rows(&ids)?,
    ];
    let mut rows: Vec<Candidate> = backend::rows(tx, text, values).await?;
    rows.sort_by_key(|row| ids.iter().position(|id| *id == row.workflow_uuid));
    Ok(rows)
}
