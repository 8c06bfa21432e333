//! Owns the settings of queues as operators see and change them, and the refusal of starts beyond a backlog. The engine reads a queue's row
//! under its lock, so that a change counts from its commit on.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::{
    backend::{self, statement},
    claims::LIVE_CLAIM,
    dialect::dialect,
    error::StoreError,
    queue_limits::QueueSettings,
};

/// Queued workflows that are counted one by one for an operator; a longer queue is «at least so many», because counting it costs more than
/// anybody learns from it.
pub const COUNTED: i64 = 10_000;

/// A queue as an operator sees it.
#[derive(Debug, Clone, FromQueryResult)]
pub struct QueueState {
    /// The queue.
    pub name: String,
    /// Most workflows in execution, over all processes.
    pub concurrency: Option<i32>,
    /// Most workflows in execution in one process.
    pub worker_concurrency: Option<i32>,
    /// Most workflows in execution per partition.
    pub partition_concurrency: Option<i32>,
    /// Most starts per period.
    pub rate_limit_max: Option<i32>,
    /// The period in milliseconds.
    pub rate_limit_period_ms: Option<i64>,
    /// Most workflows that wait to start.
    pub max_backlog: Option<i32>,
    /// Whether partitions take turns.
    pub fair: bool,
    /// Whether nothing is to start.
    pub paused: bool,
    /// When the settings were changed, epoch milliseconds.
    pub updated_at: i64,
    /// Workflows that wait to start, counted up to [`COUNTED`].
    pub queued: i64,
    /// Workflows in execution.
    pub running: i64,
}

/// What is to change. What is absent stays; a limit that is `Some(None)` is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueChange {
    /// Most workflows in execution, over all processes.
    pub concurrency: Option<Option<i32>>,
    /// Most workflows in execution in one process.
    pub worker_concurrency: Option<Option<i32>>,
    /// Most workflows in execution per partition.
    pub partition_concurrency: Option<Option<i32>>,
    /// Most starts per period, and the period in milliseconds.
    pub rate_limit: Option<Option<(i32, i64)>>,
    /// Most workflows that wait to start.
    pub max_backlog: Option<Option<i32>>,
    /// Whether partitions take turns.
    pub fair: Option<bool>,
    /// Whether nothing is to start.
    pub paused: Option<bool>,
}

/// Creates the rows of `settings` that are not there; what an operator has changed stays.
pub async fn ensure(
    tx: &impl ConnectionTrait,
    settings: &[QueueSettings],
) -> Result<(), StoreError> {
    let now = dialect(tx).now();
    for queue in settings {
        let text = format!(
            "INSERT INTO \"app\".queue_limits (name, concurrency, worker_concurrency, partition_concurrency, rate_limit_max, \
             rate_limit_period_ms, max_backlog, fair, paused, window_started_at, window_count, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false, 0, 0, {now}) ON CONFLICT (name) DO NOTHING"
        );
        let values = [
            queue.name.as_str().into(),
            queue.concurrency.into(),
            queue.worker_concurrency.into(),
            queue.partition_concurrency.into(),
            queue.rate_limit_max.into(),
            queue.rate_limit_period_ms.into(),
            queue.max_backlog.into(),
            queue.fair.into(),
        ];
        tx.execute_raw(statement(tx, text, values)).await?;
    }
    Ok(())
}

/// Every queue that has settings, by name; or the one that is named.
pub async fn list(
    db: &impl ConnectionTrait,
    name: Option<&str>,
) -> Result<Vec<QueueState>, StoreError> {
    let text = format!(
        "SELECT q.name, q.concurrency, q.worker_concurrency, q.partition_concurrency, q.rate_limit_max, q.rate_limit_period_ms, \
         q.max_backlog, q.fair, q.paused, q.updated_at, \
         (SELECT count(*) FROM (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.queue_name = q.name AND s.status = 'ENQUEUED' \
         LIMIT {COUNTED}) AS w) AS queued, \
         (SELECT count(*) FROM {LIVE_CLAIM} WHERE c.queue_name = q.name) AS running \
         FROM \"app\".queue_limits q {} ORDER BY q.name",
        if name.is_some() {
            "WHERE q.name = $1"
        } else {
            ""
        }
    );
    backend::rows(db, text, name.map(Value::from)).await
}

/// Changes the settings of `queue`; false when there is no such queue. Once committed, every claim made from then on keeps to them; a process
/// that has taken the queue for unlimited until now notices within a second.
pub async fn change(
    tx: &impl ConnectionTrait,
    queue: &str,
    change: &QueueChange,
) -> Result<bool, StoreError> {
    let mut values: Vec<Value> = vec![queue.into()];
    let mut sets = vec![format!("updated_at = {}", dialect(tx).now())];
    let mut set = |column: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            sets.push(format!("{column} = ${}", values.len()));
        }
    };
    set("concurrency", change.concurrency.map(Value::from));
    set(
        "worker_concurrency",
        change.worker_concurrency.map(Value::from),
    );
    set(
        "partition_concurrency",
        change.partition_concurrency.map(Value::from),
    );
    if let Some(rate) = change.rate_limit {
        set("rate_limit_max", Some(rate.map(|(most, _)| most).into()));
        set(
            "rate_limit_period_ms",
            Some(rate.map(|(_, period)| period).into()),
        );
    }
    set("max_backlog", change.max_backlog.map(Value::from));
    set("fair", change.fair.map(Value::from));
    set("paused", change.paused.map(Value::from));
    let text = format!(
        "UPDATE \"app\".queue_limits SET {} WHERE name = $1",
        sets.join(", ")
    );
    Ok(tx
        .execute_raw(statement(tx, text, values))
        .await?
        .rows_affected()
        == 1)
}

/// The limit that one more workflow in `queue` would exceed; none if it may come. Where there is a limit its row is locked until the
/// transaction ends, so that those who come at the same time are counted one after the other.
pub async fn full_backlog(
    tx: &impl ConnectionTrait,
    queue: &str,
) -> Result<Option<i32>, StoreError> {
    let limit = |text: String| async move {
        let row = tx
            .query_one_raw(statement(tx, text, [queue.into()]))
            .await?;
        let limit: Option<Option<i32>> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok::<_, StoreError>(limit.flatten())
    };
    let select = "SELECT q.max_backlog FROM \"app\".queue_limits q WHERE q.name = $1";
    if limit(select.to_owned()).await?.is_none() {
        return Ok(None);
    }
    let Some(most) = limit(format!("{select} {}", dialect(tx).lock("q"))).await? else {
        return Ok(None);
    };
    // Counted in a statement of its own, after the lock, and never further than the limit.
    let text = "SELECT count(*) FROM (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.queue_name = $1 AND s.status = 'ENQUEUED' LIMIT $2) AS w";
    let row = tx
        .query_one_raw(statement(tx, text, [queue.into(), i64::from(most).into()]))
        .await?;
    let queued: i64 = row
        .map(|row| row.try_get_by_index(0))
        .transpose()?
        .unwrap_or(0);
    Ok((queued >= i64::from(most)).then_some(most))
}
