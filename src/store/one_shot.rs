//! Owns the two questions of a process that comes, works and goes: is there anything to do, and what is left.

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{
    backend::{json_rows, statement},
    candidates::{SUSPENDED, eligible},
    claims::Claimer,
    dialect::{Dialect, dialect},
    error::StoreError,
    status::UNFINISHED,
    waits::{ROUND, is_unsignalled},
};

/// Waits due later than this, epoch milliseconds, have no time-out: the last day of the year 9999 has begun.
const NEVER_FROM: i64 = 253_402_214_400_000;

/// What there is to do before anybody is registered.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Look {
    /// The database's clock, epoch milliseconds.
    pub now: i64,
    /// Whether a workflow of this claimer is queued.
    pub queued: bool,
    /// Whether a suspended one is due.
    pub due: bool,
    /// When the next delayed start is due, epoch milliseconds, past or future.
    pub next_delay: Option<i64>,
    /// When the next deadline passes, epoch milliseconds, past or future.
    pub next_deadline: Option<i64>,
    /// When the next sleeper is due, epoch milliseconds, past or future.
    pub next_sleeper: Option<i64>,
    /// When the next process is dead that has missed two of its heartbeats, epoch milliseconds.
    pub next_expiry: Option<i64>,
    /// Processes whose heartbeat is too old, and claims of processes that are not there.
    pub expired: i64,
    /// Processes that live.
    pub executors: i64,
    /// Whether in the first round of the reconciler a wait holds that nobody signalled. Not looked at while a process lives, which does.
    pub unsignalled: bool,
    /// The last key of that round; none when nothing is suspended.
    pub round_end: Option<String>,
    /// Whether there are more waits than that round has.
    pub more_rounds: bool,
}

impl Look {
    /// Whether there is anything to do that is worth a registration.
    pub fn is_due(&self) -> bool {
        let passed = |at: Option<i64>| at.is_some_and(|at| at <= self.now);
        self.queued
            || self.due
            || self.expired > 0
            || passed(self.next_delay)
            || passed(self.next_deadline)
    }

    /// When something is due next of what is not yet, epoch milliseconds.
    pub fn next_wake_at(&self) -> Option<i64> {
        [
            self.next_sleeper,
            self.next_delay,
            self.next_deadline,
            self.next_expiry,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > self.now)
        .min()
    }
}

/// Looks, in one statement, whether there is anything to do for `claimer` in `queues`.
pub async fn look(
    db: &impl ConnectionTrait,
    claimer: &Claimer,
    queues: &[String],
    expiry_ms: i64,
) -> Result<Look, StoreError> {
    let sql = dialect(db);
    let now = sql.now();
    let living = format!("\"app\".executors WHERE heartbeat_at >= {now} - $4");
    let text = format!(
        "SELECT {now} AS now, EXISTS (SELECT 1 {queued}) AS queued, EXISTS (SELECT 1 {due}) AS due, \
         (SELECT min(delay_until_epoch_ms) FROM \"dbos\".workflow_status WHERE status = 'DELAYED') AS next_delay, \
         (SELECT min(workflow_deadline_epoch_ms) FROM \"dbos\".workflow_status WHERE status IN {UNFINISHED} \
         AND workflow_deadline_epoch_ms IS NOT NULL) AS next_deadline, (SELECT w.due_at {sleeping} ORDER BY w.due_at LIMIT 1) AS next_sleeper, \
         (SELECT min(heartbeat_at) + $4 FROM \"app\".executors WHERE heartbeat_at < {now} - $4 / 2) AS next_expiry, \
         (SELECT count(*) FROM \"app\".executors WHERE heartbeat_at < {now} - $4) + (SELECT count(*) FROM \"app\".claims c \
         WHERE c.claimed_at < {now} - $4 AND NOT EXISTS (SELECT 1 FROM \"app\".executors e WHERE e.id = c.executor_id)) AS expired, \
         (SELECT count(*) FROM {living}) AS executors, (NOT EXISTS (SELECT 1 FROM {living}) AND EXISTS (SELECT 1 FROM (SELECT * FROM \"app\".waits \
         ORDER BY workflow_id LIMIT {ROUND}) AS w WHERE {unsignalled})) AS unsignalled, \
         (SELECT max(workflow_id) FROM (SELECT workflow_id FROM \"app\".waits ORDER BY workflow_id LIMIT {ROUND}) AS r) AS round_end, \
         EXISTS (SELECT 1 FROM \"app\".waits LIMIT 1 OFFSET {ROUND}) AS more_rounds",
        queued = queued(sql, claimer),
        due = due(sql, claimer),
        sleeping = suspended(sql, claimer, &format!("w.due_at < {NEVER_FROM}")),
        unsignalled = is_unsignalled(sql),
    );
    let values = mine(claimer, queues)?.into_iter().chain([expiry_ms.into()]);
    let row = db.query_one_raw(statement(db, text, values)).await?;
    let row = row.ok_or_else(|| StoreError::Database("the look has no row".into()))?;
    Ok(Look::from_query_result(&row, "")?)
}

/// What is left when a process goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Workflows that are queued or due, whatever their queues allow now.
    pub backlog: u64,
    /// Those of them that their queue lets start now, or that wait for another process to make room.
    pub open: u64,
    /// When something is due next, epoch milliseconds; now where something is.
    pub next_wake_at: Option<i64>,
}

/// What is left for `claimer` in `queues`.
pub async fn left(
    db: &impl ConnectionTrait,
    claimer: &Claimer,
    queues: &[String],
    expiry_ms: i64,
) -> Result<Left, StoreError> {
    #[derive(FromQueryResult)]
    struct Queue {
        now: i64,
        due: i64,
        /// Whether the queue is paused.
        paused: bool,
        /// When the used-up rate window of the queue opens, for those that need its rate.
        opens_at: Option<i64>,
    }
    let sql = dialect(db);
    let now = sql.now();
    let paused = "COALESCE((SELECT q.paused FROM \"app\".queue_limits q WHERE q.name = d.queue_name), false)";
    let opens_at = format!(
        "(SELECT q.window_started_at + q.rate_limit_period_ms FROM \"app\".queue_limits q WHERE q.name = d.queue_name \
         AND q.window_count >= q.rate_limit_max AND q.window_started_at + q.rate_limit_period_ms > {now})"
    );
    let text = format!(
        "SELECT {now} AS now, d.due, {paused} AS paused, {opens_at} AS opens_at \
         FROM (SELECT s.queue_name, count(*) AS due {queued} GROUP BY s.queue_name) AS d \
         UNION ALL SELECT {now} AS now, d.due, {paused} AS paused, CAST(NULL AS bigint) AS opens_at \
         FROM (SELECT s.queue_name, count(*) AS due {due} GROUP BY s.queue_name) AS d",
        queued = queued(sql, claimer),
        due = due(sql, claimer),
    );
    let mut left = Left::default();
    for row in db
        .query_all_raw(statement(db, text, mine(claimer, queues)?))
        .await?
    {
        let queue = Queue::from_query_result(&row, "")?;
        let due = u64::try_from(queue.due).unwrap_or(0);
        left.backlog += due;
        let wakes = match (queue.paused, queue.opens_at) {
            (true, _) => None,
            (false, Some(opens_at)) => Some(opens_at),
            (false, None) => {
                left.open += due;
                Some(queue.now)
            }
        };
        left.next_wake_at = left.next_wake_at.into_iter().chain(wakes).min();
    }
    if left.open == 0 {
        let later = look(db, claimer, queues, expiry_ms).await?.next_wake_at();
        left.next_wake_at = left.next_wake_at.into_iter().chain(later).min();
    }
    Ok(left)
}

/// The values of `$1` to `$3`.
fn mine(claimer: &Claimer, queues: &[String]) -> Result<[sea_orm::Value; 3], StoreError> {
    Ok([
        json_rows(&queues)?,
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
    ])
}

fn queued(sql: Dialect, claimer: &Claimer) -> String {
    format!(
        "FROM \"dbos\".workflow_status s WHERE s.status = 'ENQUEUED' AND {queues} AND {names} AND {eligible}",
        queues = sql.is_one_of("s.queue_name", 1),
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
    )
}

fn due(sql: Dialect, claimer: &Claimer) -> String {
    suspended(sql, claimer, &format!("w.due_at <= {}", sql.now()))
}

fn suspended(sql: Dialect, claimer: &Claimer, when: &str) -> String {
    format!(
        "FROM \"app\".waits w JOIN \"dbos\".workflow_status s ON s.workflow_uuid = w.workflow_id WHERE {when} \
         AND {SUSPENDED} AND {queues} AND {names} AND {eligible}",
        queues = sql.is_one_of("s.queue_name", 1),
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        Look {
            now: 1_000,
            queued: false,
            due: false,
            next_delay: Some(1_001),
            next_deadline: None,
            next_sleeper: Some(900),
            next_expiry: Some(5_000),
            expired: 0,
            executors: 0,
            unsignalled: false,
            round_end: None,
            more_rounds: false,
        }
    }

    #[test]
    fn what_comes_later_is_not_due() {
        assert!(!look().is_due());
        assert_eq!(look().next_wake_at(), Some(1_001));
        assert!(
            Look {
                next_deadline: Some(1_000),
                ..look()
            }
            .is_due()
        );
        assert!(
            Look {
                expired: 1,
                ..look()
            }
            .is_due()
        );
    }
}
