//! Owns the transaction in which slots fire: the schedule's rows locked, its due slots decided, their workflows inserted, and the schedule moved
//! past them, all or nothing. The id of a slot's workflow makes it fire once even if that were not so.

use super::{
    SlotInput, Slots, TimingError, context_in,
    decide::{Decision, Policy, Standing, decide},
    slot_id, slots_of,
};
use crate::{
    engine::{
        EngineError,
        points::{Point, reached},
        workflow::encode_input,
    },
    store::{
        Database, StoreError,
        backend::{Transaction, retrying},
        cancellations::{self, Cancelled},
        schedules::{self, Left, Overlap, ScheduleRow, ScheduleStatus},
        workflows::{self, INTERNAL_QUEUE, NewWorkflow},
    },
    telemetry::instruments::SCHEDULE_LAG,
};

/// How soon a slot that waits for what runs is looked at again.
const LOOK_AGAIN_MS: i64 = 2_000;

/// What a look at a schedule has found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The queues that got work.
    pub(super) queues: Vec<String>,
    /// How many workflows were started.
    pub(super) started: usize,
    /// What was cancelled: who awaits it may be due.
    pub(super) cancelled: Vec<Cancelled>,
    /// When to look again, by the database's clock; never when none.
    pub(super) next: Option<i64>,
    /// The database's clock at the look, epoch milliseconds.
    pub(super) now: Option<i64>,
}

/// Fires what is due of the schedule `name`, up to one portion of it.
///
/// # Errors
/// [`EngineError`].
pub(super) async fn look(
    db: &Database,
    app_version: &str,
    name: &str,
) -> Result<Looked, EngineError> {
    let mut looked = retrying_engine(|| async {
        let tx = db.begin().await?;
        let Some(row) = schedules::lock(&tx, name).await? else {
            return Ok(Looked::default());
        };
        match slots_of(&row) {
            Ok(slots) => fire(tx, app_version, &row, &slots).await,
            Err(error) => Ok(senseless(name, &error)),
        }
    })
    .await?;
    looked.queues.dedup();
    cancellations::look(db, &looked.cancelled).await?;
    Ok(looked)
}

fn senseless(name: &str, error: &TimingError) -> Looked {
    tracing::warn!(schedule = name, %error, "a schedule makes no sense and does not fire");
    Looked::default()
}

async fn fire(
    tx: Transaction,
    app_version: &str,
    row: &ScheduleRow,
    slots: &Slots,
) -> Result<Looked, EngineError> {
    let name = row.schedule_name.as_str();
    let mut looked = Looked {
        now: Some(row.now),
        ..Looked::default()
    };
    if row.status == ScheduleStatus::Paused {
        // A foreign client resumes it without telling anybody: its slots are when it matters.
        looked.next = slots.next_after(row.now.max(row.decided()));
        return Ok(looked);
    }
    let running = match row.overlap {
        Overlap::Allow => Vec::new(),
        _ => schedules::running(&tx, name).await?,
    };
    let standing = Standing {
        decided: row.decided(),
        now: row.now,
        running: !running.is_empty(),
        waiting: row.waiting_slot,
    };
    let policy = Policy {
        catch_up: row.catch_up,
        window_ms: row.window_ms,
        overlap: row.overlap,
    };
    let decision = decide(slots, policy, &standing);
    let decided = decision.decided.unwrap_or(standing.decided);
    looked.next = if decision.more {
        Some(row.now)
    } else {
        let waiting = decision.waiting.map(|_| row.now + LOOK_AGAIN_MS);
        slots.next_after(decided).into_iter().chain(waiting).min()
    };
    if decision.is_empty(&standing) {
        return Ok(looked);
    }
    reached(Point::BeforeFire, name);
    if decision.cancel {
        let running: Vec<&str> = running.iter().map(String::as_str).collect();
        looked.cancelled = cancellations::cancel(&tx, &running).await?;
    }
    let new = decision
        .fire
        .iter()
        .map(|slot| workflow_of(row, *slot, app_version))
        .collect::<Result<Vec<_>, _>>()?;
    looked.started = workflows::insert(&tx, &new).await?.len();
    write(&tx, row, &standing, &decision).await?;
    tx.commit().await?;
    reached(Point::AfterFire, name);
    for slot in &decision.fire {
        SCHEDULE_LAG.observe_ms(&[], row.now - slot);
    }
    for skipped in &decision.skipped {
        tracing::info!(
            schedule = name,
            slots = skipped.count,
            reason = skipped.reason.as_str(),
            "slots did not fire"
        );
    }
    looked.queues = new
        .into_iter()
        .map(|workflow| workflow.queue_name)
        .collect();
    Ok(looked)
}

/// Moves the schedule past what was decided. A decision that only fires, as nearly all do, costs one statement.
async fn write(
    tx: &Transaction,
    row: &ScheduleRow,
    standing: &Standing,
    decision: &Decision,
) -> Result<(), StoreError> {
    let name = row.schedule_name.as_str();
    if let Some(slot) = decision.decided {
        schedules::set_decided(tx, name, slot).await?;
    }
    let fired = decision.fire.iter().max().copied().or(row.last_fired());
    let decided = decision.decided.unwrap_or(standing.decided);
    if !decision.skipped.is_empty()
        || decision.waiting != standing.waiting
        || fired != Some(decided)
    {
        let left = Left {
            waiting_slot: decision.waiting,
            passed_at: (fired != Some(decided)).then_some(decided),
            fired_at: fired,
        };
        schedules::leave(tx, name, &left, &decision.skipped).await?;
    }
    Ok(())
}

/// The workflow that `slot` starts. Its start is put off by what the schedule's jitter gives this slot, the same whoever fires it.
fn workflow_of(
    row: &ScheduleRow,
    slot: i64,
    app_version: &str,
) -> Result<NewWorkflow, EngineError> {
    let id = slot_id(&row.schedule_name, slot);
    let delay = slot + jitter(&id, row.jitter_ms) - row.now;
    new_workflow(row, id, slot, app_version, (delay > 0).then_some(delay))
}

/// A workflow that the schedule of `row` starts.
pub(super) fn new_workflow(
    row: &ScheduleRow,
    id: String,
    slot: i64,
    app_version: &str,
    delay_ms: Option<i64>,
) -> Result<NewWorkflow, EngineError> {
    let input = SlotInput {
        schedule: row.schedule_name.clone(),
        slot,
        context: context_in(&row.context),
    };
    Ok(NewWorkflow {
        id,
        name: row.workflow_name.clone(),
        input: encode_input(&input)?,
        queue_name: row
            .queue_name
            .clone()
            .unwrap_or_else(|| INTERNAL_QUEUE.to_owned()),
        queue_partition_key: row.queue_partition_key.clone(),
        priority: row.priority,
        deduplication_id: None,
        application_version: app_version.to_owned(),
        timeout_ms: None,
        delay_ms,
        parent_workflow_id: None,
        schedule_name: Some(row.schedule_name.clone()),
    })
}

/// A number below `most` that looks random and belongs to `id`.
fn jitter(id: &str, most: i64) -> i64 {
    if most <= 0 {
        return 0;
    }
    let hash = crate::canonical::sha256_hex(id.as_bytes());
    let number = hash
        .get(..15)
        .and_then(|digits| i64::from_str_radix(digits, 16).ok());
    number.unwrap_or(0) % most
}

/// [`retrying`] for what may also fail in the engine: only contention is tried again.
pub(super) async fn retrying_engine<T, F, Fut>(mut work: F) -> Result<T, EngineError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, EngineError>>,
{
    retrying(|| {
        let attempt = work();
        async move {
            match attempt.await {
                Err(EngineError::Store(error)) => Err(error),
                other => Ok(other),
            }
        }
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_spread_and_stays_with_its_slot() {
        let of = |n: i64| jitter(&slot_id("s", n * 60_000), 10_000);
        let all: Vec<i64> = (0..1_000).map(of).collect();
        assert_eq!(all, (0..1_000).map(of).collect::<Vec<_>>());
        assert!(all.iter().all(|ms| (0..10_000).contains(ms)));
        let below = all.iter().filter(|ms| **ms < 5_000).count();
        assert!((400..600).contains(&below), "{below}");
        assert_eq!(jitter("x", 0), 0);
    }
}
