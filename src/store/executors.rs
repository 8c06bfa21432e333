//! Owns `app.executors`: one row per live process, its heartbeat, and the one statement that an idle process asks.

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{
    backend::{self, Database, json_rows, retrying, statement},
    cancellations,
    claims::{self, Charge, ClaimRow},
    dialect::dialect,
    error::StoreError,
    status::UNFINISHED,
    waits::ROUND,
    workflows::APPLICATION_NAME,
};

/// Claims that are taken over, or handed back, in one transaction.
const RELEASE_BATCH: usize = 500;
/// How far back a heartbeat looks for cancels by other clients: a few heartbeats, for clocks and transactions that overlap.
const LOOK_BACK_MS: i64 = 5_000;

/// Whether a workflow may be ours: clients that give no application leave it to whoever claims it.
fn ours_or_nobodys() -> String {
    format!("(application_name = '{APPLICATION_NAME}' OR application_name IS NULL)")
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Pulse {
    /// The database's clock, epoch milliseconds.
    pub now: i64,
    /// When the next wait is due, epoch milliseconds, past or future.
    pub next_due: Option<i64>,
    /// When the next delayed start or deadline is due, epoch milliseconds.
    pub next_delay: Option<i64>,
    /// When the next deadline passes, epoch milliseconds.
    pub next_deadline: Option<i64>,
    /// The last key of the next round of the reconciler; none at the end, or when nothing is suspended.
    pub round_end: Option<String>,
    /// Whether some queued workflow waits in a queue of this process.
    pub queued: bool,
    /// Live processes, this one included.
    pub executors: i64,
    /// Processes whose heartbeat is too old.
    pub expired: i64,
    /// When the next other process is dead unless it beats, epoch milliseconds, past or future.
    pub next_expiry: Option<i64>,
    /// The live process with the smallest id: the one that reconciles.
    pub leader: Option<String>,
    /// Whether somebody else's client has cancelled a workflow of ours lately.
    pub cancelled_elsewhere: bool,
    /// When a schedule was last created, paused or resumed, epoch milliseconds.
    pub schedules_changed_at: Option<i64>,
}

/// Enters this process and its version. A version that starts becomes the newest one; one of the same name that belongs to another application
/// stays as it is.
pub async fn register(
    tx: &impl ConnectionTrait,
    id: &str,
    app_version: &str,
    hostname: &str,
) -> Result<(), StoreError> {
    let now = dialect(tx).now();
    let text = format!(
        "INSERT INTO \"app\".executors (id, app_version, hostname, pid, started_at, heartbeat_at) VALUES ($1, $2, $3, $4, {now}, {now})"
    );
    let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    tx.execute_raw(statement(
        tx,
        text,
        [id.into(), app_version.into(), hostname.into(), pid.into()],
    ))
    .await?;
    let text = format!(
        "UPDATE \"dbos\".application_versions SET version_timestamp = {now} \
         WHERE version_name = $1 AND application_name = '{APPLICATION_NAME}'"
    );
    let known = tx
        .execute_raw(statement(tx, text, [app_version.into()]))
        .await?;
    if known.rows_affected() > 0 {
        return Ok(());
    }
    // No conflict target: Postgres raises on every unique index that is not one, and the table has two over the name.
    let text = format!(
        "INSERT INTO \"dbos\".application_versions (version_id, version_name, version_timestamp, created_at, application_name) \
         VALUES ($1, $2, {now}, {now}, '{APPLICATION_NAME}') ON CONFLICT DO NOTHING"
    );
    let version_id = uuid::Uuid::new_v4().to_string();
    tx.execute_raw(statement(tx, text, [version_id.into(), app_version.into()]))
        .await?;
    Ok(())
}

/// Whether `app_version` is the newest version of ours.
pub async fn is_newest_version(
    db: &impl ConnectionTrait,
    app_version: &str,
) -> Result<bool, StoreError> {
    let text = format!(
        "SELECT version_name FROM \"dbos\".application_versions WHERE application_name = '{APPLICATION_NAME}' OR application_name IS NULL \
         ORDER BY version_timestamp DESC LIMIT 1"
    );
    let row = db.query_one_raw(statement(db, text, [])).await?;
    Ok(row
        .map(|row| row.try_get_by_index::<String>(0))
        .transpose()?
        .is_none_or(|newest| newest == app_version))
}

/// Beats the heart of `id` and asks in the same statement for everything that the loop needs to know. None when the row is gone: somebody
/// declared this process dead.
pub async fn pulse(
    db: &impl ConnectionTrait,
    id: &str,
    queues: &[String],
    expiry_ms: i64,
    round_from: &str,
) -> Result<Option<Pulse>, StoreError> {
    let sql = dialect(db);
    let now = sql.now();
    let text = format!(
        "UPDATE \"app\".executors SET heartbeat_at = {now} WHERE id = $1 RETURNING {now} AS now, \
         (SELECT min(due_at) FROM \"app\".waits WHERE due_at IS NOT NULL) AS next_due, \
         (SELECT min(delay_until_epoch_ms) FROM \"dbos\".workflow_status WHERE status = 'DELAYED' AND {ours}) AS next_delay, \
         (SELECT min(workflow_deadline_epoch_ms) FROM \"dbos\".workflow_status WHERE status IN {UNFINISHED} \
         AND workflow_deadline_epoch_ms IS NOT NULL AND {ours}) AS next_deadline, \
         (SELECT max(workflow_id) FROM (SELECT workflow_id FROM \"app\".waits WHERE workflow_id > $4 ORDER BY workflow_id LIMIT {ROUND}) AS r) \
         AS round_end, \
         EXISTS (SELECT 1 FROM \"dbos\".workflow_status WHERE status = 'ENQUEUED' AND {queues}) AS queued, \
         (SELECT count(*) FROM \"app\".executors WHERE heartbeat_at >= {now} - $3) AS executors, \
         (SELECT count(*) FROM \"app\".executors WHERE heartbeat_at < {now} - $3 AND id <> $1) AS expired, \
         (SELECT min(heartbeat_at) + $3 FROM \"app\".executors WHERE id <> $1) AS next_expiry, \
         (SELECT min(id) FROM \"app\".executors WHERE heartbeat_at >= {now} - $3) AS leader, \
         EXISTS (SELECT 1 FROM \"dbos\".workflow_status s WHERE {elsewhere}) AS cancelled_elsewhere, \
         (SELECT max(updated_at) FROM \"app\".schedules) AS schedules_changed_at",
        ours = ours_or_nobodys(),
        queues = sql.is_one_of("queue_name", 2),
        elsewhere = cancellations::cancelled_elsewhere(sql, LOOK_BACK_MS),
    );
    backend::row(
        db,
        text,
        [
            id.into(),
            json_rows(&queues)?,
            expiry_ms.into(),
            round_from.into(),
        ],
    )
    .await
}

/// Takes over the work of processes whose heartbeat is older than `expiry_ms`, and of claims whose process is not in the table at all.
/// What was theirs is due at once. Answers how many claims ended.
pub async fn bury_expired(db: &Database, expiry_ms: i64) -> Result<u64, StoreError> {
    let mut ended = 0;
    let read = db.read();
    let sql = dialect(&read);
    let text = format!(
        "SELECT id FROM \"app\".executors WHERE heartbeat_at < {} - $1",
        sql.now()
    );
    for row in read
        .query_all_raw(statement(&read, text, [expiry_ms.into()]))
        .await?
    {
        let id: String = row.try_get_by_index(0)?;
        let tx = db.begin().await?;
        let text = format!(
            "SELECT e.id FROM \"app\".executors e WHERE e.id = $1 {}",
            sql.lock("e")
        );
        tx.query_all_raw(statement(&tx, text, [id.as_str().into()]))
            .await?;
        // A new statement: the heartbeat may have come while this one waited for the row.
        let text = format!(
            "DELETE FROM \"app\".executors WHERE id = $1 AND heartbeat_at < {} - $2",
            sql.now()
        );
        let dead = tx
            .execute_raw(statement(&tx, text, [id.as_str().into(), expiry_ms.into()]))
            .await?
            .rows_affected()
            == 1;
        tx.commit().await?;
        if dead {
            tracing::warn!(executor = %id, "an executor missed its heartbeat; its work is taken over");
            ended += release_held(db, &id, Charge::UnlessProgress).await?;
        }
    }
    let text = format!(
        "SELECT c.workflow_id, c.token, c.executor_id FROM \"app\".claims c WHERE c.claimed_at < {} - $1 \
         AND NOT EXISTS (SELECT 1 FROM \"app\".executors e WHERE e.id = c.executor_id) LIMIT {RELEASE_BATCH}",
        sql.now()
    );
    loop {
        // A claim just made by a process that is just starting is protected by its age; a dead one's claims are found by the next pulse.
        let orphans: Vec<ClaimRow> = backend::rows(&read, text.clone(), [expiry_ms.into()]).await?;
        if orphans.is_empty() {
            return Ok(ended);
        }
        let tx = db.begin().await?;
        let released = claims::release(&tx, &orphans, Charge::UnlessProgress).await?;
        tx.commit().await?;
        ended += released;
        if released == 0 {
            return Ok(ended);
        }
    }
}

/// Releases every claim of `id`.
async fn release_held(db: &Database, id: &str, charge: Charge) -> Result<u64, StoreError> {
    let held = claims::held_by(&db.read(), id).await?;
    let mut released = 0;
    for batch in held.chunks(RELEASE_BATCH) {
        released += retrying(|| async {
            let tx = db.begin().await?;
            let released = claims::release(&tx, batch, charge).await?;
            tx.commit().await?;
            Ok(released)
        })
        .await?;
    }
    Ok(released)
}

/// Ends the life of `id`: hands its claims back, and deletes its row. Answers how many claims it handed back.
pub async fn retire(db: &Database, id: &str, charge: Charge) -> Result<u64, StoreError> {
    let released = release_held(db, id, charge).await?;
    let write = db.write();
    write
        .execute_raw(statement(
            &write,
            "DELETE FROM \"app\".executors WHERE id = $1",
            [id.into()],
        ))
        .await?;
    Ok(released)
}

/// Moves workflows named `names` whose start was delayed into their queues; answers how many. Those of other applications are theirs to move.
pub async fn pass_delays(db: &Database, names: &[String]) -> Result<u64, StoreError> {
    let write = db.write();
    let sql = dialect(&write);
    let now = sql.now();
    let text = format!(
        "UPDATE \"dbos\".workflow_status SET status = 'ENQUEUED', updated_at = {now} WHERE status = 'DELAYED' AND delay_until_epoch_ms <= {now} \
         AND {} AND {}",
        ours_or_nobodys(),
        sql.is_one_of("name", 1)
    );
    Ok(write
        .execute_raw(statement(&write, text, [json_rows(&names)?]))
        .await?
        .rows_affected())
}

/// Gives back workflows of ours that are `PENDING` under an owner without a claim: somebody else's client took them. Looks at those created
/// after `cursor`, a thousand at a time, and answers where to go on.
pub async fn reclaim_strays(
    db: &Database,
    cursor: i64,
    expiry_ms: i64,
) -> Result<Option<i64>, StoreError> {
    let read = db.read();
    let sql = dialect(&read);
    let now = sql.now();
    let text = "SELECT max(created_at) FROM (SELECT created_at FROM \"dbos\".workflow_status WHERE status = 'PENDING' AND created_at > $1 \
                ORDER BY created_at LIMIT 1000) AS r";
    let end: Option<i64> = match read
        .query_one_raw(statement(&read, text, [cursor.into()]))
        .await?
    {
        Some(row) => row.try_get_by_index(0)?,
        None => None,
    };
    let Some(end) = end else {
        return Ok(None);
    };
    let stray = format!(
        "s.status = 'PENDING' AND s.application_name = '{APPLICATION_NAME}' AND s.created_at > $1 AND s.created_at <= $2 \
         AND s.updated_at < {now} - $3 AND NOT EXISTS (SELECT 1 FROM \"app\".claims c WHERE c.workflow_id = s.workflow_uuid) \
         AND (s.owner_xid IS NOT NULL OR NOT EXISTS (SELECT 1 FROM \"app\".waits w WHERE w.workflow_id = s.workflow_uuid))"
    );
    let text = format!("SELECT s.workflow_uuid FROM \"dbos\".workflow_status s WHERE {stray}");
    let values = [cursor.into(), end.into(), expiry_ms.into()];
    // There are hardly ever any, and an idle process should not begin transactions.
    if read
        .query_one_raw(statement(&read, format!("{text} LIMIT 1"), values.clone()))
        .await?
        .is_none()
    {
        return Ok(Some(end));
    }
    let tx = db.begin().await?;
    let text = format!("{text} {}", sql.lock_free("s"));
    let ids: Vec<String> = backend::column(&tx, text, values).await?;
    if !ids.is_empty() {
        let text = format!(
            "UPDATE \"dbos\".workflow_status SET owner_xid = NULL, executor_id = NULL, updated_at = {now} WHERE {}",
            sql.is_one_of("workflow_uuid", 1)
        );
        tx.execute_raw(statement(&tx, text, [json_rows(&ids)?]))
            .await?;
        let ids: Vec<_> = ids
            .iter()
            .map(|id| std::collections::HashMap::from([("id", id)]))
            .collect();
        let source = sql.rows(1, "v", &[("id", super::dialect::Column::Text)]);
        let text = format!(
            "INSERT INTO \"app\".waits (workflow_id, queue_name, conditions, due_at, created_at) \
             SELECT v.id, COALESCE(s.queue_name, ''), '[]', {now}, {now} FROM {source} JOIN \"dbos\".workflow_status s ON s.workflow_uuid = v.id \
             WHERE true ON CONFLICT (workflow_id) DO UPDATE SET queue_name = excluded.queue_name, due_at = excluded.due_at"
        );
        tx.execute_raw(statement(&tx, text, [json_rows(&ids)?]))
            .await?;
    }
    tx.commit().await?;
    Ok(Some(end))
}
