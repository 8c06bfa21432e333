//! Owns the one bounded question behind the gauges: how much waits where, and for how long. Asked by whoever watches, never by the work.

use sea_orm::ConnectionTrait;

use super::{
    backend::{Database, statement},
    dialect::{Dialect, dialect},
    error::StoreError,
    status::WorkflowStatus,
    waits::{KINDS, NOTHING},
    workflows::INTERNAL_QUEUE,
};

/// Rows that are counted at most, per queue and status: a question about a million must not cost what a million costs.
const MOST: u32 = 50_000;
/// Queues that are looked at.
const MOST_QUEUES: u32 = 50;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gauge {
    /// Workflows by queue and status.
    Depth,
    /// The age of the oldest of them in milliseconds.
    OldestAge,
    /// Suspended workflows by what they wait for.
    Suspended,
    /// Processes that execute, by their heartbeats.
    Executors,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What.
    pub gauge: Gauge,
    /// Queue and status, or kind.
    pub labels: Vec<String>,
    /// How much.
    pub value: i64,
}

/// Reads all gauges in one statement. A process whose heartbeat is older than `expiry_ms` is dead, whether somebody has buried it or not: where
/// all are dead nobody does.
pub async fn read(db: &Database, expiry_ms: i64) -> Result<Vec<Row>, StoreError> {
    let read = db.read();
    let text = question(dialect(&read));
    let mut rows = Vec::new();
    let asked = statement(&read, text, [expiry_ms.into()]);
    for row in read.query_all_raw(asked).await? {
        let kind: String = row.try_get_by_index(0)?;
        let (first, second): (Option<String>, Option<String>) =
            (row.try_get_by_index(1)?, row.try_get_by_index(2)?);
        let labels: Vec<String> = first.into_iter().chain(second).collect();
        let count: i64 = row.try_get_by_index(3)?;
        let age: Option<i64> = row.try_get_by_index(4)?;
        let gauge = match kind.as_str() {
            "depth" => Gauge::Depth,
            "suspended" => Gauge::Suspended,
            _ => Gauge::Executors,
        };
        if gauge == Gauge::Depth {
            rows.push(Row {
                gauge: Gauge::OldestAge,
                labels: labels.clone(),
                value: age.unwrap_or(0).max(0),
            });
        }
        rows.push(Row {
            gauge,
            labels,
            value: count,
        });
    }
    for kind in KINDS {
        let labels = [kind.to_owned()];
        let known = |row: &Row| row.gauge == Gauge::Suspended && row.labels == labels;
        if !rows.iter().any(known) {
            rows.push(Row {
                gauge: Gauge::Suspended,
                labels: labels.into(),
                value: 0,
            });
        }
    }
    Ok(rows)
}

/// Rows of what, two labels, a count and an age. Each queue is counted along the index by which it is claimed. `$1` is the age of a heartbeat at
/// which a process is dead.
fn question(sql: Dialect) -> String {
    let queues = format!(
        "(SELECT name FROM \"app\".queue_limits UNION SELECT '{INTERNAL_QUEUE}' ORDER BY name LIMIT {MOST_QUEUES}) AS q"
    );
    let depth = |status: WorkflowStatus| {
        let order = if status == WorkflowStatus::Delayed {
            "w.delay_until_epoch_ms"
        } else {
            "w.priority, w.created_at"
        };
        let counted = |what: &str| {
            format!(
                "(SELECT {what} FROM (SELECT w.created_at FROM \"dbos\".workflow_status w WHERE w.queue_name = q.name AND w.status = '{status}' \
                 ORDER BY {order} LIMIT {MOST}) AS c)"
            )
        };
        format!(
            "SELECT 'depth', q.name, '{status}', {}, {} - {} FROM {queues}",
            counted("count(*)"),
            sql.now(),
            counted("min(c.created_at)"),
        )
    };
    let kinds: Vec<String> = KINDS
        .iter()
        .map(|kind| format!("WHEN w.conditions LIKE '%\"kind\":\"{kind}\"%' THEN '{kind}'"))
        .collect();
    let parts = [
        depth(WorkflowStatus::Enqueued),
        depth(WorkflowStatus::Pending),
        depth(WorkflowStatus::Delayed),
        format!(
            "SELECT 'suspended', k.kind, NULL, count(*), NULL FROM (SELECT CASE {} ELSE '{NOTHING}' END AS kind FROM \"app\".waits w LIMIT {MOST}) \
             AS k GROUP BY k.kind",
            kinds.join(" ")
        ),
        format!(
            "SELECT 'executors', NULL, NULL, count(*), NULL FROM \"app\".executors WHERE heartbeat_at >= {} - $1",
            sql.now()
        ),
    ];
    parts.join(" UNION ALL ")
}
