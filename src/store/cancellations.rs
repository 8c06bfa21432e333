//! Owns the end of workflows before their time: cancelling them with their unfinished children, and `app.cancellations`, which remembers who
//! cancelled whom. A note counts while the workflow is still `CANCELLED` since the time it names: whatever happens to the workflow later
//! makes it worthless, whoever does it.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, FromQueryResult};
use serde::Serialize;

use super::{
    backend::{self, Database, json_rows, retrying, statement},
    dialect::{Column, Dialect, dialect},
    error::StoreError,
    status::UNFINISHED,
    waits,
    workflows::APPLICATION_NAME,
};

/// Workflows that one transaction cancels by their deadline, or whose foreign cancel it carries on, children not counted.
const BATCH: u32 = 200;

/// A workflow that was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Cancelled {
    /// Its id.
    pub workflow_uuid: String,
    /// Who may await it.
    pub parent_workflow_id: Option<String>,
    /// The queue it was in: others may start in its place.
    pub queue_name: Option<String>,
}

/// A child that a resumed parent awaits, and that the parent's own cancel had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PutBack {
    /// The child.
    pub id: String,
    /// Its parent.
    pub parent: String,
    /// The queue it goes to if its row names none.
    pub queue: String,
}

/// Locks `roots` and the unfinished workflows below them, in the order of their ids, and answers them. None of them can start a child any more:
/// its checkpoint would need one of these rows.
pub async fn lock_trees(
    tx: &impl ConnectionTrait,
    roots: &[&str],
) -> Result<BTreeSet<String>, StoreError> {
    let sql = dialect(tx);
    let is_root = |column| sql.is_one_of(column, 1);
    let text = format!(
        "WITH RECURSIVE tree(id) AS (SELECT r.workflow_uuid FROM \"dbos\".workflow_status r WHERE {} \
         UNION SELECT k.workflow_uuid FROM tree t JOIN \"dbos\".workflow_status k ON k.parent_workflow_id = t.id) \
         SELECT s.workflow_uuid FROM tree JOIN \"dbos\".workflow_status s ON s.workflow_uuid = tree.id \
         WHERE {} OR s.status IN {UNFINISHED} ORDER BY s.workflow_uuid {}",
        is_root("r.workflow_uuid"),
        is_root("s.workflow_uuid"),
        sql.lock("s")
    );
    let roots = json_rows(&roots)?;
    let mut locked = BTreeSet::new();
    loop {
        // A child may have been started while this waited for its parent: looked at again, under the locks, until nothing is new.
        let found: BTreeSet<String> = backend::column(tx, text.clone(), [roots.clone()])
            .await?
            .into_iter()
            .collect();
        if found.is_subset(&locked) {
            return Ok(locked);
        }
        locked.extend(found);
    }
}

/// Cancels `roots` and everything unfinished below them. One that is not claimed has ended with this; of one that is, the claim stays: its
/// holder keeps what the step in progress did, and stops. Once committed, look at the waits of those who await them ([`look`]).
pub async fn cancel(
    tx: &impl ConnectionTrait,
    roots: &[&str],
) -> Result<Vec<Cancelled>, StoreError> {
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let locked = lock_trees(tx, roots).await?;
    let sql = dialect(tx);
    let now = sql.now();
    let text = format!(
        "UPDATE \"dbos\".workflow_status SET status = 'CANCELLED', completed_at = {now}, updated_at = {now}, owner_xid = NULL, \
         deduplication_id = NULL, started_at_epoch_ms = NULL WHERE {} AND status IN {UNFINISHED} \
         RETURNING workflow_uuid, parent_workflow_id, queue_name",
        sql.is_one_of("workflow_uuid", 1)
    );
    let cancelled: Vec<Cancelled> = backend::rows(tx, text, [json_rows(&locked)?]).await?;
    let ids: Vec<&str> = cancelled.iter().map(|c| c.workflow_uuid.as_str()).collect();
    if ids.is_empty() {
        return Ok(cancelled);
    }
    let by = format!(
        "CASE WHEN {} THEN NULL ELSE s.parent_workflow_id END",
        sql.is_one_of("s.workflow_uuid", 2)
    );
    note(tx, &ids, &by, &[json_rows(&roots)?]).await?;
    let text = format!(
        "DELETE FROM \"app\".waits WHERE {}",
        sql.is_one_of("workflow_id", 1)
    );
    tx.execute_raw(statement(tx, text, [json_rows(&ids)?]))
        .await?;
    Ok(cancelled)
}

/// Notes who cancelled `ids`, which are cancelled: `by` says it of the row `s`.
async fn note(
    tx: &impl ConnectionTrait,
    ids: &[&str],
    by: &str,
    more: &[sea_orm::Value],
) -> Result<(), StoreError> {
    let text = format!(
        "INSERT INTO \"app\".cancellations (workflow_id, cancelled_by, at) SELECT s.workflow_uuid, {by}, s.completed_at \
         FROM \"dbos\".workflow_status s WHERE {} AND s.status = 'CANCELLED' AND s.completed_at IS NOT NULL \
         ON CONFLICT (workflow_id) DO UPDATE SET cancelled_by = excluded.cancelled_by, at = excluded.at",
        dialect(tx).is_one_of("s.workflow_uuid", 1)
    );
    let values = std::iter::once(json_rows(&ids)?).chain(more.iter().cloned());
    tx.execute_raw(statement(tx, text, values)).await?;
    Ok(())
}

/// Looks at the waits of those who await `cancelled`: call it after the commit. Answers how many are due.
pub async fn look(db: &Database, cancelled: &[Cancelled]) -> Result<u64, StoreError> {
    let parents: BTreeSet<&str> = cancelled
        .iter()
        .filter_map(|c| c.parent_workflow_id.as_deref())
        .collect();
    if parents.is_empty() {
        return Ok(0);
    }
    let parents: Vec<&str> = parents.into_iter().collect();
    retrying(|| async { waits::look(&db.write(), &parents).await }).await
}

/// Cancels workflows of ours whose deadline has passed, with their children.
pub async fn pass_deadlines(db: &Database) -> Result<Vec<Cancelled>, StoreError> {
    let late = format!(
        "s.status IN {UNFINISHED} AND s.workflow_deadline_epoch_ms IS NOT NULL AND s.workflow_deadline_epoch_ms <= {} \
         AND s.application_name = '{APPLICATION_NAME}'",
        dialect(&db.read()).now()
    );
    let cancelled = retrying(|| async {
        let found = which(&db.read(), &late, &[]).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let tx = db.begin().await?;
        let still = lock_those_still(&tx, &found, &late).await?;
        let cancelled = cancel(&tx, &refs(&still)).await?;
        tx.commit().await?;
        Ok(cancelled)
    })
    .await?;
    look(db, &cancelled).await?;
    Ok(cancelled)
}

/// Whether a workflow `s` of ours was cancelled within the last `look_back_ms` by somebody who left no note.
pub(super) fn cancelled_elsewhere(sql: Dialect, look_back_ms: i64) -> String {
    format!(
        "s.status = 'CANCELLED' AND s.completed_at >= {} - {look_back_ms} AND s.application_name = '{APPLICATION_NAME}' \
         AND NOT EXISTS (SELECT 1 FROM \"app\".cancellations c WHERE c.workflow_id = s.workflow_uuid AND c.at = s.completed_at)",
        sql.now()
    )
}

/// Carries cancels by other clients on to the children, which those clients may leave running; answers whether there were any. A workflow whose
/// parent was cancelled no later than itself counts as cancelled by that parent: other clients cascade one level after the other.
pub async fn carry_on(db: &Database, look_back_ms: i64) -> Result<bool, StoreError> {
    let mut any = false;
    loop {
        let carried = carry_batch(db, look_back_ms).await?;
        any |= carried > 0;
        if carried < BATCH as usize {
            return Ok(any);
        }
    }
}

async fn carry_batch(db: &Database, look_back_ms: i64) -> Result<usize, StoreError> {
    let elsewhere = cancelled_elsewhere(dialect(&db.read()), look_back_ms);
    let by = "(SELECT p.workflow_uuid FROM \"dbos\".workflow_status p WHERE p.workflow_uuid = s.parent_workflow_id AND p.status = 'CANCELLED' \
              AND p.completed_at <= s.completed_at)";
    let carried = retrying(|| async {
        let found = which(&db.read(), &elsewhere, &[]).await?;
        if found.is_empty() {
            return Ok(found);
        }
        let tx = db.begin().await?;
        let still = lock_those_still(&tx, &found, &elsewhere).await?;
        note(&tx, &refs(&still), by, &[]).await?;
        cancel(&tx, &refs(&still)).await?;
        tx.commit().await?;
        Ok(still)
    })
    .await?;
    awaiting_looked_at(db, &carried).await?;
    Ok(carried.len())
}

/// Looks at those who await `ids`, which others have cancelled. (Whoever awaits what was cancelled below them is cancelled itself.)
async fn awaiting_looked_at(db: &Database, ids: &[String]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let read = db.read();
    let text = format!(
        "SELECT s.workflow_uuid, s.parent_workflow_id, s.queue_name FROM \"dbos\".workflow_status s WHERE {}",
        dialect(&read).is_one_of("s.workflow_uuid", 1)
    );
    let ended: Vec<Cancelled> = backend::rows(&read, text, [json_rows(&ids)?]).await?;
    look(db, &ended).await?;
    Ok(())
}

/// The ids of workflows `s` for which `condition` holds.
async fn which(
    db: &impl ConnectionTrait,
    condition: &str,
    values: &[sea_orm::Value],
) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "SELECT s.workflow_uuid FROM \"dbos\".workflow_status s WHERE {condition} LIMIT {BATCH}"
    );
    backend::column(db, text, values.iter().cloned()).await
}

/// Locks `ids` with what is below them, and answers those for which `condition` still holds.
async fn lock_those_still(
    tx: &impl ConnectionTrait,
    ids: &[String],
    condition: &str,
) -> Result<Vec<String>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    lock_trees(tx, &refs(ids)).await?;
    let condition = format!(
        "{condition} AND {}",
        dialect(tx).is_one_of("s.workflow_uuid", 1)
    );
    which(tx, &condition, &[json_rows(&ids)?]).await
}

fn refs(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

/// The workflows among `ids` that a cancel of `parent` has ended.
pub async fn by_parent(
    db: &impl ConnectionTrait,
    parent: &str,
    ids: &[&str],
) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "SELECT s.workflow_uuid FROM \"dbos\".workflow_status s JOIN \"app\".cancellations c ON c.workflow_id = s.workflow_uuid \
         AND c.at = s.completed_at WHERE c.cancelled_by = $2 AND s.status = 'CANCELLED' AND {}",
        dialect(db).is_one_of("s.workflow_uuid", 1)
    );
    backend::column(db, text, [json_rows(&ids)?, parent.into()]).await
}

/// Puts children back into their queues that their parents' cancels had ended, in the transaction of the parents' checkpoints. Those that
/// somebody else has resumed or cancelled meanwhile are left alone.
pub(super) async fn put_back(
    tx: &impl ConnectionTrait,
    children: &[&PutBack],
) -> Result<(), StoreError> {
    if children.is_empty() {
        return Ok(());
    }
    let sql = dialect(tx);
    let now = sql.now();
    let columns = [
        ("id", Column::Text),
        ("parent", Column::Text),
        ("queue", Column::Text),
    ];
    let source = sql.rows(1, "v", &columns);
    let values = json_rows(&children)?;
    let text = format!(
        "SELECT s.workflow_uuid FROM {source} JOIN \"dbos\".workflow_status s ON s.workflow_uuid = v.id ORDER BY s.workflow_uuid {}",
        sql.lock("s")
    );
    tx.query_all_raw(statement(tx, text, [values.clone()]))
        .await?;
    let text = format!(
        "UPDATE \"dbos\".workflow_status AS s SET status = 'ENQUEUED', queue_name = COALESCE(s.queue_name, v.queue), recovery_attempts = 0, \
         completed_at = NULL, owner_xid = NULL, updated_at = {now} FROM {source} WHERE s.workflow_uuid = v.id AND s.status = 'CANCELLED' \
         AND EXISTS (SELECT 1 FROM \"app\".cancellations c WHERE c.workflow_id = v.id AND c.cancelled_by = v.parent AND c.at = s.completed_at)"
    );
    tx.execute_raw(statement(tx, text, [values])).await?;
    Ok(())
}
