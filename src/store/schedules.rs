//! Owns the rows of schedules: DBOS's `workflow_schedules`, where its tools show them, and beside it `app.schedules` and `app.schedule_slots`
//! for what it cannot say. `last_fired_at` is where a schedule stands: every slot up to it is decided. Whoever decides holds both rows locked.

mod policies;

use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::{ConnectionTrait, FromQueryResult};
use serde::Serialize;

use super::{
    backend::{self, Transaction, json_rows, statement},
    dialect::{Column, dialect},
    error::StoreError,
    status::{UNFINISHED, WorkflowStatus},
    workflows::APPLICATION_NAME,
};

pub use policies::{CatchUp, Missed, Overlap, ScheduleStatus};

/// Runs of slots that did not fire kept per schedule; older ones are in the count alone.
const HISTORY: u32 = 200;

/// A schedule, from both of its rows.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ScheduleRow {
    /// Its name.
    pub schedule_name: String,
    /// The workflow that each slot starts.
    pub workflow_name: String,
    /// The cron pattern; of an interval, a description of it.
    pub schedule: String,
    /// Whether it fires.
    pub status: ScheduleStatus,
    /// What its workflow is told, JSON text: the member `json` of DBOS's serialization.
    pub context: String,
    /// The last slot that was decided, as ISO 8601.
    pub last_fired_at: Option<String>,
    /// The IANA zone of the pattern.
    pub cron_timezone: Option<String>,
    /// Where its workflows wait.
    pub queue_name: Option<String>,
    /// The interval in milliseconds, of a schedule without a pattern.
    pub every_ms: Option<i64>,
    /// What is made up for.
    pub catch_up: CatchUp,
    /// How far back, milliseconds.
    pub window_ms: i64,
    /// What happens while the one before still runs.
    pub overlap: Overlap,
    /// Milliseconds by which a start may be put off.
    pub jitter_ms: i64,
    /// No slot before it, epoch milliseconds.
    pub starts_at: Option<i64>,
    /// No slot after it, epoch milliseconds.
    pub ends_at: Option<i64>,
    /// The tenant of what it starts.
    pub queue_partition_key: Option<String>,
    /// The priority of what it starts.
    pub priority: i32,
    /// Whether it belongs to the program, not to a user.
    pub built_in: bool,
    /// A slot that waits until what runs has ended.
    pub waiting_slot: Option<i64>,
    /// The slot up to which the last decision passed over slots, if it fired none after them.
    pub passed_at: Option<i64>,
    /// The last slot that had fired by then.
    pub fired_at: Option<i64>,
    /// Slots that did not fire, all in all.
    pub missed: i64,
    /// When it was created, epoch milliseconds.
    pub created_at: i64,
    /// The database's clock, epoch milliseconds.
    pub now: i64,
}

impl ScheduleRow {
    /// The last slot that is decided; the time of its creation before the first.
    pub fn decided(&self) -> i64 {
        self.last_decided().unwrap_or(self.created_at)
    }

    /// The last slot that fired.
    pub fn last_fired(&self) -> Option<i64> {
        let decided = self.last_decided();
        if decided.is_some() && decided == self.passed_at {
            self.fired_at
        } else {
            decided
        }
    }

    fn last_decided(&self) -> Option<i64> {
        let text = self.last_fired_at.as_deref()?;
        Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis())
    }
}

/// `at` as DBOS writes it: `2026-11-24T23:30:00.000Z`.
pub fn iso(at: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(at)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A schedule to be stored.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name.
    pub name: String,
    /// The workflow that each slot starts.
    pub workflow_name: String,
    /// The cron pattern; of an interval, a description of it.
    pub schedule: String,
    /// The IANA zone of the pattern.
    pub timezone: Option<String>,
    /// The interval in milliseconds, of a schedule without a pattern.
    pub every_ms: Option<i64>,
    /// What its workflow is told, JSON text.
    pub context: String,
    /// Where its workflows wait.
    pub queue_name: String,
    /// Whether it fires.
    pub status: ScheduleStatus,
    /// What is made up for.
    pub catch_up: CatchUp,
    /// How far back, milliseconds.
    pub window_ms: i64,
    /// What happens while the one before still runs.
    pub overlap: Overlap,
    /// Milliseconds by which a start may be put off.
    pub jitter_ms: i64,
    /// No slot before it, epoch milliseconds.
    pub starts_at: Option<i64>,
    /// No slot after it, epoch milliseconds.
    pub ends_at: Option<i64>,
    /// The tenant of what it starts.
    pub queue_partition_key: Option<String>,
    /// The priority of what it starts.
    pub priority: i32,
    /// Whether it belongs to the program, not to a user.
    pub built_in: bool,
}

fn select(now: &str) -> String {
    format!(
        "SELECT w.schedule_name, w.workflow_name, w.schedule, w.status, w.context, w.last_fired_at, w.cron_timezone, w.queue_name, s.every_ms, \
         s.catch_up, s.window_ms, s.overlap, s.jitter_ms, s.starts_at, s.ends_at, s.queue_partition_key, s.priority, s.built_in, \
         s.waiting_slot, s.passed_at, s.fired_at, s.missed, s.created_at, {now} AS now FROM \"dbos\".workflow_schedules w \
         JOIN \"app\".schedules s ON s.name = w.schedule_name WHERE w.application_name = '{APPLICATION_NAME}'"
    )
}

async fn rows(
    db: &impl ConnectionTrait,
    rest: &str,
    values: impl IntoIterator<Item = sea_orm::Value>,
) -> Result<Vec<ScheduleRow>, StoreError> {
    let text = format!("{} {rest}", select(dialect(db).now()));
    backend::rows(db, text, values).await
}

/// Our schedules, by name.
pub async fn all(db: &impl ConnectionTrait) -> Result<Vec<ScheduleRow>, StoreError> {
    rows(db, "ORDER BY w.schedule_name", []).await
}

/// A page of our schedules, newest first, after the one that was created then and has that name.
pub async fn page(
    db: &impl ConnectionTrait,
    after: Option<&(i64, String)>,
    limit: u64,
) -> Result<Vec<ScheduleRow>, StoreError> {
    let (clause, values) = match after {
        Some((created_at, name)) => (
            "AND (s.created_at, s.name) < ($1, $2)",
            vec![(*created_at).into(), name.as_str().into()],
        ),
        None => ("", Vec::new()),
    };
    let rest = format!("{clause} ORDER BY s.created_at DESC, s.name DESC LIMIT {limit}");
    rows(db, &rest, values).await
}

/// One schedule.
pub async fn find(
    db: &impl ConnectionTrait,
    name: &str,
) -> Result<Option<ScheduleRow>, StoreError> {
    Ok(rows(db, "AND w.schedule_name = $1", [name.into()])
        .await?
        .pop())
}

/// Locks both rows of a schedule until the transaction ends, and reads them as they are then.
pub async fn lock(tx: &Transaction, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
    let rest = format!("AND w.schedule_name = $1 {}", dialect(tx).lock("w, s"));
    Ok(rows(tx, &rest, [name.into()]).await?.pop())
}

/// Stores a schedule; false when there is one of that name, ours or somebody else's.
pub async fn insert(tx: &impl ConnectionTrait, new: &NewSchedule) -> Result<bool, StoreError> {
    let text = format!(
        "INSERT INTO \"dbos\".workflow_schedules (schedule_id, schedule_name, workflow_name, schedule, status, context, automatic_backfill, \
         cron_timezone, queue_name, application_name) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '{APPLICATION_NAME}') \
         ON CONFLICT (schedule_name) DO NOTHING"
    );
    let values = [
        uuid::Uuid::new_v4().to_string().into(),
        new.name.as_str().into(),
        new.workflow_name.as_str().into(),
        new.schedule.as_str().into(),
        new.status.as_str().into(),
        new.context.as_str().into(),
        (new.catch_up == CatchUp::All).into(),
        new.timezone.clone().into(),
        new.queue_name.as_str().into(),
    ];
    let stored = tx.execute_raw(statement(tx, text, values)).await?;
    if stored.rows_affected() == 0 {
        return Ok(false);
    }
    let now = dialect(tx).now();
    let text = format!(
        "INSERT INTO \"app\".schedules (name, every_ms, catch_up, window_ms, overlap, jitter_ms, starts_at, ends_at, queue_partition_key, \
         priority, built_in, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {now}, {now}) \
         ON CONFLICT (name) DO UPDATE SET every_ms = excluded.every_ms, catch_up = excluded.catch_up, window_ms = excluded.window_ms, \
         overlap = excluded.overlap, jitter_ms = excluded.jitter_ms, starts_at = excluded.starts_at, ends_at = excluded.ends_at, \
         queue_partition_key = excluded.queue_partition_key, priority = excluded.priority, built_in = excluded.built_in, \
         waiting_slot = NULL, passed_at = NULL, fired_at = NULL, missed = 0, created_at = excluded.created_at, updated_at = excluded.updated_at"
    );
    let values = [
        new.name.as_str().into(),
        new.every_ms.into(),
        new.catch_up.as_str().into(),
        new.window_ms.into(),
        new.overlap.as_str().into(),
        new.jitter_ms.into(),
        new.starts_at.into(),
        new.ends_at.into(),
        new.queue_partition_key.clone().into(),
        new.priority.into(),
        new.built_in.into(),
    ];
    tx.execute_raw(statement(tx, text, values)).await?;
    Ok(true)
}

/// Gives schedules of ours the row they lack: a DBOS client created them, or `app` was rebuilt. They begin now.
pub async fn adopt(db: &impl ConnectionTrait, window_ms: i64) -> Result<u64, StoreError> {
    let now = dialect(db).now();
    let text = format!(
        "INSERT INTO \"app\".schedules (name, catch_up, window_ms, overlap, created_at, updated_at) \
         SELECT w.schedule_name, CASE WHEN w.automatic_backfill THEN 'all' ELSE 'none' END, $1, 'allow', {now}, {now} \
         FROM \"dbos\".workflow_schedules w WHERE w.application_name = '{APPLICATION_NAME}' \
         AND NOT EXISTS (SELECT 1 FROM \"app\".schedules s WHERE s.name = w.schedule_name) ON CONFLICT (name) DO NOTHING"
    );
    Ok(db
        .execute_raw(statement(db, text, [window_ms.into()]))
        .await?
        .rows_affected())
}

/// Pauses or resumes a schedule, whose rows are locked.
pub async fn set_status(
    tx: &Transaction,
    name: &str,
    status: ScheduleStatus,
) -> Result<(), StoreError> {
    let text = "UPDATE \"dbos\".workflow_schedules SET status = $2 WHERE schedule_name = $1";
    tx.execute_raw(statement(tx, text, [name.into(), status.as_str().into()]))
        .await?;
    touch(tx, name).await
}

/// Lets other processes see that a schedule has changed.
async fn touch(tx: &Transaction, name: &str) -> Result<(), StoreError> {
    let sql = dialect(tx);
    // Two changes within a millisecond are two.
    let text = format!(
        "UPDATE \"app\".schedules SET updated_at = {} WHERE name = $1",
        sql.greatest(sql.now(), "updated_at + 1")
    );
    tx.execute_raw(statement(tx, text, [name.into()])).await?;
    Ok(())
}

/// Deletes a schedule, whose rows are locked, and its history. What it has started stays.
pub async fn delete(tx: &Transaction, name: &str) -> Result<(), StoreError> {
    for text in [
        "DELETE FROM \"dbos\".workflow_schedules WHERE schedule_name = $1",
        "DELETE FROM \"app\".schedules WHERE name = $1",
        "DELETE FROM \"app\".schedule_slots WHERE schedule_name = $1",
    ] {
        tx.execute_raw(statement(tx, text, [name.into()])).await?;
    }
    Ok(())
}

/// Every slot up to `slot` is decided. The schedule's rows are locked.
pub async fn set_decided(tx: &Transaction, name: &str, slot: i64) -> Result<(), StoreError> {
    let text = "UPDATE \"dbos\".workflow_schedules SET last_fired_at = $2 WHERE schedule_name = $1";
    tx.execute_raw(statement(tx, text, [name.into(), iso(slot).into()]))
        .await?;
    Ok(())
}

/// What a decision leaves beside the slots that fired.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// A slot that waits until what runs has ended.
    pub waiting_slot: Option<i64>,
    /// The slot up to which it passed over slots, if it fired none after them.
    pub passed_at: Option<i64>,
    /// The last slot that had fired by then.
    pub fired_at: Option<i64>,
}

/// Writes what a decision leaves beside the slots that fired. The schedule's rows are locked.
pub async fn leave(
    tx: &Transaction,
    name: &str,
    left: &Left,
    skipped: &[Skipped],
) -> Result<(), StoreError> {
    let sql = dialect(tx);
    let missed: i64 = skipped.iter().map(|run| run.count).sum();
    let text = "UPDATE \"app\".schedules SET waiting_slot = $2, passed_at = $3, fired_at = $4, missed = missed + $5 WHERE name = $1";
    let values = [
        name.into(),
        left.waiting_slot.into(),
        left.passed_at.into(),
        left.fired_at.into(),
        missed.into(),
    ];
    tx.execute_raw(statement(tx, text, values)).await?;
    if skipped.is_empty() {
        return Ok(());
    }
    let source = sql.rows(
        2,
        "v",
        &[
            ("first", Column::Int),
            ("last", Column::Int),
            ("count", Column::Int),
            ("reason", Column::Text),
        ],
    );
    let text = format!(
        "INSERT INTO \"app\".schedule_slots (schedule_name, first_slot, last_slot, count, reason, decided_at) \
         SELECT $1, v.\"first\", v.\"last\", v.\"count\", v.reason, {} FROM {source} WHERE true \
         ON CONFLICT (schedule_name, first_slot) DO NOTHING",
        sql.now()
    );
    tx.execute_raw(statement(tx, text, [name.into(), json_rows(&skipped)?]))
        .await?;
    let text = format!(
        "DELETE FROM \"app\".schedule_slots WHERE schedule_name = $1 AND first_slot < (SELECT min(first_slot) FROM (SELECT first_slot \
         FROM \"app\".schedule_slots WHERE schedule_name = $1 ORDER BY first_slot DESC LIMIT {HISTORY}) AS newest)"
    );
    tx.execute_raw(statement(tx, text, [name.into()])).await?;
    Ok(())
}

/// Slots that did not fire, one after the other and for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The first of them, epoch milliseconds.
    pub first: i64,
    /// The last of them, epoch milliseconds.
    pub last: i64,
    /// How many; of a very long run at least so many.
    pub count: i64,
    /// Why.
    #[serde(serialize_with = "as_text")]
    pub reason: Missed,
}

fn as_text<S: serde::Serializer>(reason: &Missed, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

/// A run of slots that did not fire, as it was noted.
#[derive(Debug, Clone, FromQueryResult)]
pub struct SkippedRow {
    /// The first of them, epoch milliseconds.
    pub first_slot: i64,
    /// The last of them, epoch milliseconds.
    pub last_slot: i64,
    /// How many; of a very long run at least so many.
    pub count: i64,
    /// Why.
    pub reason: Missed,
    /// When that was decided, epoch milliseconds.
    pub decided_at: i64,
}

/// The newest runs of slots of a schedule that did not fire, newest first.
pub async fn skipped(
    db: &impl ConnectionTrait,
    name: &str,
    limit: u32,
) -> Result<Vec<SkippedRow>, StoreError> {
    let text = format!(
        "SELECT first_slot, last_slot, count, reason, decided_at FROM \"app\".schedule_slots WHERE schedule_name = $1 \
         ORDER BY first_slot DESC LIMIT {limit}"
    );
    backend::rows(db, text, [name.into()]).await
}

/// A workflow that a schedule has started.
#[derive(Debug, Clone, FromQueryResult)]
pub struct FiredRow {
    /// Its id, which names the slot.
    pub workflow_uuid: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// When it was started, epoch milliseconds.
    pub created_at: i64,
}

/// The newest workflows that a schedule has started, newest first.
pub async fn fired(
    db: &impl ConnectionTrait,
    name: &str,
    limit: u32,
) -> Result<Vec<FiredRow>, StoreError> {
    let text = format!(
        "SELECT workflow_uuid, status, created_at FROM \"dbos\".workflow_status WHERE schedule_name = $1 \
         ORDER BY created_at DESC, workflow_uuid DESC LIMIT {limit}"
    );
    backend::rows(db, text, [name.into()]).await
}

/// The unfinished workflows that a schedule has started.
pub async fn running(db: &impl ConnectionTrait, name: &str) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "SELECT workflow_uuid FROM \"dbos\".workflow_status WHERE schedule_name = $1 AND status IN {UNFINISHED} ORDER BY workflow_uuid"
    );
    backend::column(db, text, [name.into()]).await
}
