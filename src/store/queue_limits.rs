//! Owns the limits of queues: the rate window, what is live, and what a queue lets start. The row of a limited queue is its lock.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{
    backend::{self, statement},
    claims::LIVE_CLAIM,
    dialect::dialect,
    error::StoreError,
};

/// What a queue allows. A limit that is absent does not limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueSettings {
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
    /// Most workflows that wait to start; what callers start beyond it is refused.
    pub max_backlog: Option<i32>,
    /// Whether partitions take turns. They do in any case where their concurrency is limited.
    pub fair: bool,
}

impl QueueSettings {
    /// A queue that limits nothing.
    pub fn unlimited(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// The row of a queue, read under its lock.
#[derive(Debug, Clone, FromQueryResult)]
pub struct QueueRow {
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
    /// Whether partitions take turns.
    pub fair: bool,
    /// Whether nothing is to start.
    pub paused: bool,
    /// When the current period began, epoch milliseconds.
    pub window_started_at: i64,
    /// Starts in the current period.
    pub window_count: i32,
}

impl QueueRow {
    /// Whether the window of the rate has ended at `now`. One that begins in the future is over, too: the database's clock was put back, and
    /// nobody should wait until it has caught up.
    fn window_is_over(&self, now: i64) -> bool {
        let period = self.rate_limit_period_ms.unwrap_or(0);
        now >= self.window_started_at + period || now + period < self.window_started_at
    }

    /// Whether partitions take turns, instead of all workflows standing in one line.
    pub fn takes_turns(&self) -> bool {
        self.fair || self.partition_concurrency.is_some()
    }
}

/// What is live in a queue at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// The database's clock, epoch milliseconds.
    pub now: i64,
    /// Live claims over all processes.
    pub everywhere: i64,
    /// Live claims of the asking process.
    pub here: i64,
    /// Live claims per partition, in queues whose partitions take turns.
    pub partitions: HashMap<Option<String>, i64>,
}

/// What may be claimed now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Suspended workflows that may be woken: they need a slot, no rate.
    pub wake: u64,
    /// Queued workflows that may start, if none is woken.
    pub start: u64,
    /// Whether starts are counted against a rate.
    pub rate_limited: bool,
    /// When the rate window that was used up opens again, epoch milliseconds.
    pub opens_at: Option<i64>,
}

/// What a queue with `row` and `live` claims allows a process with `slots` free slots.
pub fn allowance(row: &QueueRow, live: &Live, slots: u64) -> Allowance {
    if row.paused {
        return Allowance::default();
    }
    let left = |most: Option<i32>, used: i64| {
        most.map_or(u64::MAX, |most| {
            u64::try_from(i64::from(most) - used).unwrap_or(0)
        })
    };
    let wake = slots
        .min(left(row.concurrency, live.everywhere))
        .min(left(row.worker_concurrency, live.here));
    let mut allowance = Allowance {
        wake,
        start: wake,
        rate_limited: false,
        opens_at: None,
    };
    if let (Some(most), Some(period)) = (row.rate_limit_max, row.rate_limit_period_ms) {
        let ends = row.window_started_at + period;
        let used = if row.window_is_over(live.now) {
            0
        } else {
            i64::from(row.window_count)
        };
        let tokens = left(Some(most), used);
        allowance.rate_limited = true;
        allowance.start = wake.min(tokens);
        allowance.opens_at = (tokens == 0).then_some(ends);
    }
    allowance
}

/// The names of the queues that limit anything, or whose partitions take turns.
pub async fn limited(db: &impl ConnectionTrait) -> Result<Vec<String>, StoreError> {
    let text = "SELECT name FROM \"app\".queue_limits WHERE concurrency IS NOT NULL OR worker_concurrency IS NOT NULL \
                OR partition_concurrency IS NOT NULL OR rate_limit_max IS NOT NULL OR fair OR paused";
    backend::column(db, text, []).await
}

/// Locks the row of `queue` until the transaction ends. What is read after this sees every claim made under an earlier lock.
pub async fn lock(tx: &impl ConnectionTrait, queue: &str) -> Result<Option<QueueRow>, StoreError> {
    read(tx, queue, &dialect(tx).lock("q")).await
}

/// The row of `queue` as it is, for those who only look.
pub async fn find(db: &impl ConnectionTrait, queue: &str) -> Result<Option<QueueRow>, StoreError> {
    read(db, queue, "").await
}

async fn read(
    db: &impl ConnectionTrait,
    queue: &str,
    lock: &str,
) -> Result<Option<QueueRow>, StoreError> {
    let text = format!(
        "SELECT q.concurrency, q.worker_concurrency, q.partition_concurrency, q.rate_limit_max, q.rate_limit_period_ms, q.fair, q.paused, \
         q.window_started_at, q.window_count FROM \"app\".queue_limits q WHERE q.name = $1 {lock}"
    );
    backend::row(db, text, [queue.into()]).await
}

/// Counts the live claims of `queue`, those whose workflow is still theirs; per partition, where asked for.
pub async fn live(
    tx: &impl ConnectionTrait,
    queue: &str,
    executor_id: &str,
    per_partition: bool,
) -> Result<Live, StoreError> {
    #[derive(FromQueryResult)]
    struct Row {
        now: i64,
        partition: Option<String>,
        everywhere: Option<i64>,
        here: Option<i64>,
    }
    let text = format!(
        "SELECT {now} AS now, g.partition, g.everywhere, g.here FROM (SELECT 1 AS one) AS o LEFT JOIN \
         (SELECT CASE WHEN $3 THEN c.queue_partition_key END AS partition, count(*) AS everywhere, \
         sum(CASE WHEN c.executor_id = $2 THEN 1 ELSE 0 END) AS here FROM {LIVE_CLAIM} WHERE c.queue_name = $1 GROUP BY 1) AS g ON true",
        now = dialect(tx).now()
    );
    let values = [queue.into(), executor_id.into(), per_partition.into()];
    let mut live = Live::default();
    for row in tx.query_all_raw(statement(tx, text, values)).await? {
        let row = Row::from_query_result(&row, "")?;
        live.now = row.now;
        live.everywhere += row.everywhere.unwrap_or(0);
        live.here += row.here.unwrap_or(0);
        if let (true, Some(claims)) = (per_partition, row.everywhere) {
            live.partitions.insert(row.partition, claims);
        }
    }
    Ok(live)
}

/// Counts `started` starts at time `now` against the rate of `queue`, whose row is locked.
pub async fn spend(
    tx: &impl ConnectionTrait,
    queue: &str,
    row: &QueueRow,
    now: i64,
    started: usize,
) -> Result<(), StoreError> {
    let started = i32::try_from(started).unwrap_or(i32::MAX);
    let (window, count) = if row.window_is_over(now) {
        (now, started)
    } else {
        (row.window_started_at, row.window_count + started)
    };
    let text =
        "UPDATE \"app\".queue_limits SET window_started_at = $2, window_count = $3 WHERE name = $1";
    tx.execute_raw(statement(
        tx,
        text,
        [queue.into(), window.into(), count.into()],
    ))
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> QueueRow {
        QueueRow {
            concurrency: None,
            worker_concurrency: None,
            partition_concurrency: None,
            rate_limit_max: None,
            rate_limit_period_ms: None,
            fair: false,
            paused: false,
            window_started_at: 1_000,
            window_count: 0,
        }
    }

    fn live(everywhere: i64, here: i64) -> Live {
        Live {
            now: 5_000,
            everywhere,
            here,
            ..Live::default()
        }
    }

    #[test]
    fn the_tightest_limit_decides() {
        let limited = QueueRow {
            concurrency: Some(10),
            worker_concurrency: Some(3),
            ..row()
        };
        assert_eq!(allowance(&limited, &live(2, 1), 100).start, 2);
        assert_eq!(allowance(&limited, &live(9, 0), 100).start, 1);
        assert_eq!(allowance(&limited, &live(12, 0), 100).start, 0);
        assert_eq!(allowance(&limited, &live(0, 0), 1).start, 1);
    }

    #[test]
    fn a_used_up_rate_lets_the_woken_through_and_says_when_it_opens() {
        let limited = QueueRow {
            rate_limit_max: Some(5),
            rate_limit_period_ms: Some(60_000),
            window_count: 5,
            ..row()
        };
        let allowed = allowance(&limited, &live(0, 0), 8);
        assert_eq!(
            (allowed.wake, allowed.start, allowed.opens_at),
            (8, 0, Some(61_000))
        );
    }

    #[test]
    fn a_window_that_has_ended_is_empty() {
        let limited = QueueRow {
            rate_limit_max: Some(5),
            rate_limit_period_ms: Some(4_000),
            window_count: 5,
            ..row()
        };
        assert_eq!(allowance(&limited, &live(0, 0), 8).start, 5);
    }

    #[test]
    fn a_window_in_the_future_is_over() {
        let put_back = QueueRow {
            rate_limit_max: Some(5),
            rate_limit_period_ms: Some(1_000),
            window_started_at: 3_600_000,
            window_count: 5,
            ..row()
        };
        assert_eq!(allowance(&put_back, &live(0, 0), 8).start, 5);
    }

    #[test]
    fn a_paused_queue_starts_nothing() {
        assert_eq!(
            allowance(
                &QueueRow {
                    paused: true,
                    ..row()
                },
                &live(0, 0),
                8
            ),
            Allowance::default()
        );
    }
}
