//! Owns claims: which process executes which workflow. Every change of a `claims` row here happens with its `workflow_status` row locked
//! first, and every claim names its fence: a fresh token in `owner_xid`.

use sea_orm::{ConnectionTrait, FromQueryResult};
use serde::Serialize;

use super::{
    backend::{self, json_rows, statement},
    candidates::Candidate,
    dialect::{Column, dialect},
    error::StoreError,
    status::WorkflowStatus,
    workflows::APPLICATION_NAME,
};

/// Who claims, and what it can run.
#[derive(Debug, Clone)]
pub struct Claimer {
    /// This incarnation of the process.
    pub executor_id: String,
    /// Its application version.
    pub app_version: String,
    /// Whether it is the newest version known: only that one takes rows without a version.
    pub newest_version: bool,
    /// The names registered here.
    pub names: Vec<String>,
    /// Claims without progress after which a workflow is given up.
    pub max_recovery_attempts: i64,
}

/// A claim `c` that is the one of its workflow `o`, for SQL: only such a claim counts against limits.
pub(super) const LIVE_CLAIM: &str = "\"app\".claims c JOIN \"dbos\".workflow_status o ON o.workflow_uuid = c.workflow_id \
     AND o.owner_xid = c.token AND o.status = 'PENDING'";

/// A workflow that this process owns until the token is no longer in its row.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// What was claimed.
    pub workflow: Candidate,
    /// The fence.
    pub token: String,
    /// How many steps were recorded at the time of the claim.
    pub outputs: i64,
}

/// What became of candidates.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Those that are the caller's now.
    pub claimed: Vec<Claimed>,
    /// Those that were claimed too often without progress: they have ended.
    pub given_up: Vec<Candidate>,
}

/// Claims `candidates`, whose rows this transaction has locked: sets the fence, charges one attempt, drops their waits. Those that have used
/// up their attempts are given up instead. What starts under a rate starts at `rated_at`, the time by which its window was chosen. Once
/// committed, the caller owns what was claimed, and tells of what was given up.
pub async fn take(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    candidates: Vec<Candidate>,
    rated_at: Option<i64>,
) -> Result<Taken, StoreError> {
    let (given_up, alive): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|c| c.recovery_attempts >= claimer.max_recovery_attempts);
    if !given_up.is_empty() {
        give_up(tx, &given_up).await?;
    }
    if alive.is_empty() {
        return Ok(Taken {
            given_up,
            ..Taken::default()
        });
    }
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        token: String,
        queue: &'a str,
        partition: Option<&'a str>,
        fresh: bool,
    }
    let rows: Vec<Row> = alive
        .iter()
        .map(|c| Row {
            id: &c.workflow_uuid,
            token: uuid::Uuid::new_v4().to_string(),
            queue: &c.queue_name,
            partition: c.queue_partition_key.as_deref(),
            fresh: !c.woken,
        })
        .collect();
    let values = json_rows(&rows)?;
    let sql = dialect(tx);
    let now = sql.now();
    let columns = [
        ("id", Column::Text),
        ("token", Column::Text),
        ("queue", Column::Text),
        ("partition", Column::Text),
        ("fresh", Column::Bool),
    ];
    let source = sql.rows(1, "v", &columns);
    // A woken workflow keeps its start time, and costs its queue's rate nothing.
    let text = format!(
        "UPDATE \"dbos\".workflow_status AS s SET status = 'PENDING', executor_id = $2, owner_xid = v.token, \
         recovery_attempts = COALESCE(s.recovery_attempts, 0) + 1, application_name = '{APPLICATION_NAME}', \
         application_version = COALESCE(s.application_version, $3), updated_at = {now}, \
         started_at_epoch_ms = CASE WHEN v.fresh THEN COALESCE($5, {now}) ELSE s.started_at_epoch_ms END, \
         rate_limited = CASE WHEN v.fresh THEN $4 ELSE s.rate_limited END, \
         workflow_deadline_epoch_ms = COALESCE(s.workflow_deadline_epoch_ms, {now} + s.workflow_timeout_ms) \
         FROM {source} WHERE s.workflow_uuid = v.id"
    );
    let bound = [
        values.clone(),
        claimer.executor_id.as_str().into(),
        claimer.app_version.as_str().into(),
        rated_at.is_some().into(),
        rated_at.into(),
    ];
    tx.execute_raw(statement(tx, text, bound)).await?;
    let text = format!(
        "INSERT INTO \"app\".claims (workflow_id, token, executor_id, queue_name, queue_partition_key, outputs_at_claim, claimed_at) \
         SELECT v.id, v.token, $2, v.queue, v.partition, \
         (SELECT count(*) FROM \"dbos\".operation_outputs o WHERE o.workflow_uuid = v.id), {now} FROM {source} \
         RETURNING workflow_id, token, outputs_at_claim"
    );
    let inserted = tx
        .query_all_raw(statement(
            tx,
            text,
            [values.clone(), claimer.executor_id.as_str().into()],
        ))
        .await?;
    if alive.iter().any(|c| c.woken) {
        let text =
            format!("DELETE FROM \"app\".waits WHERE workflow_id IN (SELECT v.id FROM {source})");
        tx.execute_raw(statement(tx, text, [values])).await?;
    }
    let mut by_id: std::collections::HashMap<String, Candidate> = alive
        .into_iter()
        .map(|c| (c.workflow_uuid.clone(), c))
        .collect();
    let mut claimed = Vec::with_capacity(inserted.len());
    for row in &inserted {
        let id: String = row.try_get_by_index(0)?;
        if let Some(workflow) = by_id.remove(&id) {
            let outputs: i32 = row.try_get_by_index(2)?;
            claimed.push(Claimed {
                workflow,
                token: row.try_get_by_index(1)?,
                outputs: i64::from(outputs),
            });
        }
    }
    Ok(Taken { claimed, given_up })
}

/// Ends workflows that were claimed too often without progress. Their rows are locked.
async fn give_up(tx: &impl ConnectionTrait, dead: &[Candidate]) -> Result<(), StoreError> {
    let ids: Vec<&str> = dead.iter().map(|c| c.workflow_uuid.as_str()).collect();
    let sql = dialect(tx);
    let text = format!(
        "UPDATE \"dbos\".workflow_status SET status = '{}', completed_at = {now}, updated_at = {now}, owner_xid = NULL, executor_id = NULL, \
         deduplication_id = NULL WHERE {}",
        WorkflowStatus::MaxRecoveryAttemptsExceeded.as_str(),
        sql.is_one_of("workflow_uuid", 1),
        now = sql.now(),
    );
    tx.execute_raw(statement(tx, text, [json_rows(&ids)?]))
        .await?;
    let text = format!(
        "DELETE FROM \"app\".waits WHERE {}",
        sql.is_one_of("workflow_id", 1)
    );
    tx.execute_raw(statement(tx, text, [json_rows(&ids)?]))
        .await?;
    Ok(())
}

/// What a process names to write for a workflow that it executes.
#[derive(Debug, Clone, Copy)]
pub struct Fenced<'a> {
    /// The workflow.
    pub workflow_id: &'a str,
    /// The fence that its claim was given.
    pub token: &'a str,
}

/// Whether the claim still stands; if so, nobody ends it before this transaction does.
pub async fn hold(tx: &impl ConnectionTrait, claim: Fenced<'_>) -> Result<bool, StoreError> {
    let text = format!(
        "SELECT c.token FROM \"app\".claims c WHERE c.workflow_id = $1 AND c.token = $2 {}",
        dialect(tx).lock("c")
    );
    let values = [claim.workflow_id.into(), claim.token.into()];
    Ok(tx
        .query_one_raw(statement(tx, text, values))
        .await?
        .is_some())
}

/// A claim as its row says.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ClaimRow {
    /// The workflow.
    pub workflow_id: String,
    /// The fence that the claim was given.
    pub token: String,
    /// Who holds it.
    pub executor_id: String,
}

/// The claims that `executor_id` holds.
pub async fn held_by(
    db: &impl ConnectionTrait,
    executor_id: &str,
) -> Result<Vec<ClaimRow>, StoreError> {
    let text = "SELECT workflow_id, token, executor_id FROM \"app\".claims WHERE executor_id = $1";
    backend::rows(db, text, [executor_id.into()]).await
}

/// The claims of `executor_id` whose workflow is no longer theirs: cancelled, and perhaps resumed since.
pub async fn stopped(
    db: &impl ConnectionTrait,
    executor_id: &str,
) -> Result<Vec<ClaimRow>, StoreError> {
    let text = "SELECT c.workflow_id, c.token, c.executor_id FROM \"app\".claims c JOIN \"dbos\".workflow_status s ON s.workflow_uuid = c.workflow_id \
                WHERE c.executor_id = $1 AND s.status IN ('CANCELLED', 'ENQUEUED')";
    backend::rows(db, text, [executor_id.into()]).await
}

/// How much a release is held against the workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// Its process died: the attempt counts unless steps were recorded since the claim.
    UnlessProgress,
    /// It was handed back or yielded: the attempt does not count.
    Nothing,
}

/// Ends claims whose holder no longer executes them. A workflow that is still theirs stays `PENDING` and is due at once; of one that was
/// cancelled or queued again only the claim goes. Claims that changed hands since they were read are left alone.
pub async fn release(
    tx: &impl ConnectionTrait,
    claims: &[ClaimRow],
    charge: Charge,
) -> Result<u64, StoreError> {
    if claims.is_empty() {
        return Ok(0);
    }
    let sql = dialect(tx);
    let now = sql.now();
    #[derive(Serialize)]
    struct Row<'a> {
        id: &'a str,
        token: &'a str,
    }
    let rows: Vec<Row> = claims
        .iter()
        .map(|c| Row {
            id: &c.workflow_id,
            token: &c.token,
        })
        .collect();
    let values = json_rows(&rows)?;
    let source = sql.rows(1, "v", &[("id", Column::Text), ("token", Column::Text)]);
    let text = format!(
        "SELECT s.workflow_uuid FROM {source} JOIN \"dbos\".workflow_status s ON s.workflow_uuid = v.id ORDER BY s.workflow_uuid {}",
        sql.lock("s")
    );
    tx.query_all_raw(statement(tx, text, [values.clone()]))
        .await?;
    let attempts = match charge {
        Charge::Nothing => "0",
        Charge::UnlessProgress => {
            "CASE WHEN (SELECT count(*) FROM \"dbos\".operation_outputs o WHERE o.workflow_uuid = s.workflow_uuid) > c.outputs_at_claim \
             THEN 0 ELSE s.recovery_attempts END"
        }
    };
    let text = format!(
        "INSERT INTO \"app\".waits (workflow_id, queue_name, conditions, due_at, created_at) \
         SELECT v.id, COALESCE(s.queue_name, ''), '[]', {now}, {now} FROM {source} JOIN \"dbos\".workflow_status s ON s.workflow_uuid = v.id JOIN \"app\".claims c ON c.workflow_id = v.id AND c.token = v.token \
         WHERE s.status = 'PENDING' AND s.owner_xid = v.token \
         ON CONFLICT (workflow_id) DO UPDATE SET queue_name = excluded.queue_name, conditions = '[]', due_at = excluded.due_at"
    );
    tx.execute_raw(statement(tx, text, [values.clone()]))
        .await?;
    let text = format!(
        "UPDATE \"dbos\".workflow_status AS s SET owner_xid = NULL, executor_id = NULL, updated_at = {now}, recovery_attempts = {attempts} \
         FROM {source} JOIN \"app\".claims c ON c.workflow_id = v.id AND c.token = v.token \
         WHERE s.workflow_uuid = v.id AND s.status = 'PENDING' AND s.owner_xid = v.token"
    );
    tx.execute_raw(statement(tx, text, [values.clone()]))
        .await?;
    let text = format!(
        "DELETE FROM \"app\".claims WHERE EXISTS (SELECT 1 FROM {source} WHERE v.id = claims.workflow_id AND v.token = claims.token)"
    );
    Ok(tx
        .execute_raw(statement(tx, text, [values]))
        .await?
        .rows_affected())
}
