//! Owns the one query that collects what explains where a workflow stands.

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{backend::statement, dialect::dialect, error::StoreError, status::WorkflowStatus};

/// Beyond this age of a heartbeat its process is probably dead; what the processes are configured with is theirs to know.
const PROBABLY_DEAD_MS: i64 = 15_000;

/// What is known of a workflow's situation.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Evidence {
    /// The database's clock, epoch milliseconds.
    pub now: i64,
    /// Where the workflow stands.
    pub status: WorkflowStatus,
    /// The code that may run it.
    pub application_version: Option<String>,
    /// Claims since it last made progress.
    pub recovery_attempts: i64,
    /// The process that holds a live claim.
    pub claimed_by: Option<String>,
    /// Milliseconds since that process's last heartbeat; none if it is not there.
    pub heartbeat_age_ms: Option<i64>,
    /// The age from which a heartbeat is too old.
    pub expiry_hint_ms: i64,
    /// What a suspended workflow waits for, JSON text.
    pub conditions: Option<String>,
    /// When it is due, epoch milliseconds.
    pub due_at: Option<i64>,
    /// Its children that have not ended.
    pub open_children: i64,
    /// Queued workflows of its queue that come before it.
    pub ahead: i64,
    /// Live processes with its version.
    pub live_with_version: i64,
    /// The versions of live processes, separated by commas.
    pub live_versions: String,
}

/// Collects the evidence for one workflow.
pub async fn evidence(db: &impl ConnectionTrait, workflow: &str) -> Result<Evidence, StoreError> {
    let now = dialect(db).now();
    let live = format!("\"app\".executors e WHERE e.heartbeat_at >= {now} - {PROBABLY_DEAD_MS}");
    let text = format!(
        "SELECT {now} AS now, s.status, s.application_version, COALESCE(s.recovery_attempts, 0) AS recovery_attempts, \
         c.executor_id AS claimed_by, (SELECT {now} - e.heartbeat_at FROM \"app\".executors e WHERE e.id = c.executor_id) AS heartbeat_age_ms, \
         CAST({PROBABLY_DEAD_MS} AS bigint) AS expiry_hint_ms, w.conditions, w.due_at, \
         (SELECT count(*) FROM \"dbos\".workflow_status k WHERE k.parent_workflow_id = s.workflow_uuid \
         AND k.status IN ('ENQUEUED', 'DELAYED', 'PENDING')) AS open_children, \
         (SELECT count(*) FROM \"dbos\".workflow_status q WHERE q.queue_name = s.queue_name AND q.status = 'ENQUEUED' \
         AND (q.priority, q.created_at) < (s.priority, s.created_at)) AS ahead, \
         (SELECT count(*) FROM {live} AND e.app_version = COALESCE(s.application_version, e.app_version)) AS live_with_version, \
         COALESCE((SELECT string_agg(v.app_version, ', ' ORDER BY v.app_version) FROM (SELECT DISTINCT e.app_version FROM {live}) AS v), '') AS live_versions \
         FROM \"dbos\".workflow_status s LEFT JOIN \"app\".claims c ON c.workflow_id = s.workflow_uuid AND c.token = s.owner_xid \
         LEFT JOIN \"app\".waits w ON w.workflow_id = s.workflow_uuid WHERE s.workflow_uuid = $1"
    );
    let row = db
        .query_one_raw(statement(db, text, [workflow.into()]))
        .await?;
    let row = row.ok_or_else(|| StoreError::Database(format!("workflow {workflow} is gone")))?;
    Ok(Evidence::from_query_result(&row, "")?)
}
