//! `stepwell bench claims`: what a claim costs, by how much is queued, by how much sleeps, by how many partitions have no room, and behind the
//! backlog of a version that nobody serves.

use std::time::Instant;

use sea_orm::ConnectionTrait;
use serde_json::json;

use super::{ENQUEUE_BATCH, database_name, say};
use crate::{
    cli::CliError,
    store::{
        Database, StoreError,
        backend::statement,
        candidates,
        checkpoints::{self, Checkpoint, Ending},
        claims::{self, Claimed, Claimer},
        queue_limits::{self, QueueSettings},
        queue_settings,
        stalled::{self, Front},
        turns::{self, Turn, Wish},
        waits::{Condition, Wait},
        workflows::{self, NewWorkflow},
    },
};

/// The name of workflows that nobody executes.
const NAME: &str = "stepwell.bench.claimed";
/// Their version.
const VERSION: &str = "bench";
/// Workflows claimed in one transaction.
const BATCH: u64 = 100;
/// A time that does not come while this runs: the end of the year 9999.
const LATER: i64 = 253_402_300_799_999;
/// Claims before the clock is looked at: connections, caches, prepared statements.
const WARM_UP: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Workflows that are queued.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000])]
    queued: Vec<usize>,
    /// Claims that are timed at each size.
    #[arg(long, default_value_t = 50)]
    claims: usize,
    /// Workflows that sleep in a queue whose claims are timed then.
    #[arg(long, default_value_t = 100_000)]
    asleep: usize,
    /// Partitions, all but the last one without room.
    #[arg(long, default_value_t = 1_000)]
    partitions: usize,
    /// Workflows queued in those partitions together.
    #[arg(long, default_value_t = 100_000)]
    throttled: usize,
    /// Workflows of another version at the front of a queue.
    #[arg(long, default_value_t = 100_000)]
    stalled: usize,
}

pub(super) async fn run(db: &Database, arguments: &Arguments) -> Result<(), CliError> {
    for queued in &arguments.queued {
        plain(db, "plain", &fresh("plain"), *queued, arguments.claims).await?;
    }
    let queue = fresh("asleep");
    put_to_sleep(db, &queue, arguments.asleep).await?;
    plain(db, "asleep", &queue, 1_000, arguments.claims).await?;
    throttled(db, arguments).await?;
    behind_stalled(db, arguments).await
}

/// Claims from a queue without limits.
async fn plain(
    db: &Database,
    kind: &str,
    queue: &str,
    queued: usize,
    timed: usize,
) -> Result<(), CliError> {
    let claims = timed + WARM_UP;
    // The smaller backlog stays what it is while it is claimed from: each claim takes its share of the size.
    let each = u64::try_from(queued / (2 * claims))
        .unwrap_or(BATCH)
        .clamp(1, 10);
    enqueue(db, queue, queued, |_| None).await?;
    let claimer = claimer();
    let mut times = Vec::new();
    for n in 0..claims {
        let started = Instant::now();
        let claimed = claim_open(db, &claimer, queue, each, None).await?;
        assert_claimed(claimed.len() as u64, each)?;
        if n >= WARM_UP {
            times.push(milliseconds(started));
        }
    }
    report(db, kind, queued, each, &mut times);
    Ok(())
}

/// Lets `count` workflows of `queue` sleep until tomorrow.
async fn put_to_sleep(db: &Database, queue: &str, count: usize) -> Result<(), CliError> {
    enqueue(db, queue, count, |_| None).await?;
    let claimer = claimer();
    let mut asleep = 0;
    while asleep < count {
        let claimed = claim_open(db, &claimer, queue, 5 * BATCH, None).await?;
        if claimed.is_empty() {
            return Err(CliError::Failed(format!("queue {queue} is empty")));
        }
        let checkpoints: Vec<Checkpoint> = claimed
            .iter()
            .map(|claimed| Checkpoint {
                workflow_id: claimed.workflow.workflow_uuid.clone(),
                token: claimed.token.clone(),
                ending: Some(Ending::Suspended(Wait {
                    conditions: vec![Condition::Time { at: LATER }],
                })),
                ..Checkpoint::default()
            })
            .collect();
        asleep += checkpoints.len();
        checkpoints::commit(db, &checkpoints.iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// Claims the one workflow that may start from a queue whose other partitions have no room.
async fn throttled(db: &Database, arguments: &Arguments) -> Result<(), CliError> {
    let queue = fresh("throttled");
    let settings = QueueSettings {
        partition_concurrency: Some(1),
        ..QueueSettings::unlimited(&queue)
    };
    queue_settings::ensure(&db.write(), &[settings]).await?;
    let busy = arguments.partitions.saturating_sub(1).max(1);
    enqueue(db, &queue, arguments.throttled, |n| {
        Some(format!("tenant-{:06}", n % busy))
    })
    .await?;
    let claimer = claimer();
    let mut turn = Turn::default();
    let mut filled = 0;
    while filled < busy {
        let (claimed, next) = claim(db, &claimer, &queue, BATCH, &turn).await?;
        filled += claimed;
        turn = next;
    }
    let mut times = Vec::new();
    for n in 0..arguments.claims + WARM_UP {
        enqueue(db, &queue, 1, |_| Some(format!("zz-{n:06}"))).await?;
        let started = Instant::now();
        let mut claimed = 0;
        while claimed == 0 {
            (claimed, turn) = claim(db, &claimer, &queue, BATCH, &turn).await?;
        }
        if n >= WARM_UP {
            times.push(milliseconds(started));
        }
    }
    report(db, "throttled", arguments.throttled, 1, &mut times);
    Ok(())
}

/// Claims one workflow at a time from behind those of another version: as a process does that has looked at them with its heartbeat, and as one
/// that has not.
async fn behind_stalled(db: &Database, arguments: &Arguments) -> Result<(), CliError> {
    let (queue, claimer) = (fresh("stalled"), claimer());
    let stalled = arguments.stalled;
    enqueue_version(db, &queue, stalled, "bench-before", |_| None).await?;
    // Old enough to be passed over.
    let text = "UPDATE \"dbos\".workflow_status SET created_at = created_at - 3600000 WHERE queue_name = $1";
    let write = db.write();
    write
        .execute_raw(statement(&write, text, [queue.as_str().into()]))
        .await
        .map_err(StoreError::from)?;
    let claims = 2 * (arguments.claims + WARM_UP);
    enqueue(db, &queue, claims, |_| None).await?;
    let started = Instant::now();
    let front = stalled::look(&db.read(), &claimer, &queue).await?;
    report(
        db,
        "look at the stalled",
        stalled,
        0,
        &mut [milliseconds(started)],
    );
    for (kind, front) in [("behind the stalled", front), ("through the stalled", None)] {
        let mut times = Vec::new();
        for n in 0..arguments.claims + WARM_UP {
            let started = Instant::now();
            let claimed = claim_open(db, &claimer, &queue, 1, front).await?;
            assert_claimed(claimed.len() as u64, 1)?;
            if n >= WARM_UP {
                times.push(milliseconds(started));
            }
        }
        report(db, kind, stalled, 1, &mut times);
    }
    Ok(())
}

/// A claim from a queue without limits.
async fn claim_open(
    db: &Database,
    claimer: &Claimer,
    queue: &str,
    most: u64,
    front: Option<Front>,
) -> Result<Vec<Claimed>, StoreError> {
    let tx = db.begin().await?;
    let found = candidates::lock_queued(&tx, claimer, queue, most, front).await?;
    let taken = claims::take(&tx, claimer, found, None).await?;
    tx.commit().await?;
    Ok(taken.claimed)
}

/// A claim from a queue with limits.
async fn claim(
    db: &Database,
    claimer: &Claimer,
    queue: &str,
    slots: u64,
    turn: &Turn,
) -> Result<(usize, Turn), StoreError> {
    let tx = db.begin().await?;
    let wish = Wish {
        queue,
        due: false,
        slots,
        front: None,
    };
    let row = queue_limits::lock(&tx, queue).await?;
    let row = row.ok_or_else(|| StoreError::Database(format!("queue {queue} is gone")))?;
    let live = queue_limits::live(&tx, queue, &claimer.executor_id, row.takes_turns()).await?;
    let allowance = queue_limits::allowance(&row, &live, slots);
    let choice = turns::choose(&tx, claimer, wish, &row, (&live, &allowance), turn).await?;
    let taken = claims::take(&tx, claimer, choice.candidates, None).await?;
    tx.commit().await?;
    Ok((taken.claimed.len(), choice.turn))
}

fn claimer() -> Claimer {
    Claimer {
        executor_id: format!("bench-{}", uuid::Uuid::new_v4().simple()),
        app_version: VERSION.into(),
        newest_version: false,
        names: vec![NAME.into()],
        max_recovery_attempts: i64::MAX,
    }
}

fn fresh(kind: &str) -> String {
    format!("bench-{kind}-{}", uuid::Uuid::new_v4().simple())
}

async fn enqueue(
    db: &Database,
    queue: &str,
    count: usize,
    partition: impl Fn(usize) -> Option<String>,
) -> Result<(), StoreError> {
    enqueue_version(db, queue, count, VERSION, partition).await
}

async fn enqueue_version(
    db: &Database,
    queue: &str,
    count: usize,
    version: &str,
    partition: impl Fn(usize) -> Option<String>,
) -> Result<(), StoreError> {
    for first in (0..count).step_by(ENQUEUE_BATCH) {
        let batch: Vec<NewWorkflow> = (first..count.min(first + ENQUEUE_BATCH))
            .map(|n| NewWorkflow {
                id: uuid::Uuid::new_v4().to_string(),
                name: NAME.into(),
                input: "{\"positionalArgs\":[1],\"namedArgs\":{}}".into(),
                queue_name: queue.to_owned(),
                queue_partition_key: partition(n),
                priority: 0,
                deduplication_id: None,
                application_version: version.into(),
                timeout_ms: None,
                delay_ms: None,
                schedule_name: None,
                parent_workflow_id: None,
            })
            .collect();
        let tx = db.begin().await?;
        workflows::insert(&tx, &batch).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn assert_claimed(claimed: u64, wanted: u64) -> Result<(), CliError> {
    if claimed == wanted {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "a claim brought {claimed} workflows instead of {wanted}"
    )))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

fn report(db: &Database, kind: &str, queued: usize, each: u64, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = times.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        times.get(place).map(|ms| (ms * 1_000.0).round() / 1_000.0)
    };
    say(&json!({
        "bench": "claims", "database": database_name(db), "kind": kind, "queued": queued,
        "claimed": each, "p50Ms": at(0.5), "p99Ms": at(0.99),
    })
    .to_string());
}
