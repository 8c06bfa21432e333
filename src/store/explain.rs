//! Owns the queries that collect what explains where a workflow stands. Nothing is decided here.

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{
    backend::rows,
    claims::LIVE_CLAIM,
    dialect::dialect,
    error::StoreError,
    queue_limits::{self, QueueRow},
    status::{UNFINISHED, WorkflowStatus},
};

/// Holders, workers and children that an explanation names at most.
const NAMED: u32 = 20;

/// The rows around a workflow.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The workflow's own.
    pub workflow: Situation,
    /// The limits of its queue; none if the queue is known to nobody.
    pub queue: Option<QueueRow>,
    /// Live claims in its queue, the oldest first, a few of them.
    pub holders: Vec<Holder>,
    /// Live processes.
    pub workers: Vec<Worker>,
    /// Its children that have not ended, the oldest first, a few of them.
    pub children: Vec<Child>,
}

/// What is known of the workflow itself.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Situation {
    /// The database's clock, epoch milliseconds.
    pub now: i64,
    /// Its id.
    pub id: String,
    /// The function.
    pub name: Option<String>,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// The queue it is or was in.
    pub queue_name: Option<String>,
    /// Its tenant.
    pub partition: Option<String>,
    /// The code that may run it.
    pub application_version: Option<String>,
    /// Claims since it last made progress.
    pub recovery_attempts: i64,
    /// When it may start, epoch milliseconds.
    pub delay_until: Option<i64>,
    /// When it is cancelled, epoch milliseconds.
    pub deadline: Option<i64>,
    /// The process that holds a claim on it.
    pub claimed_by: Option<String>,
    /// Whether that claim is still the workflow's; of one that was cancelled it is not.
    pub claim_is_live: bool,
    /// When that process last beat its heart, epoch milliseconds; none if it is not there.
    pub heartbeat_at: Option<i64>,
    /// What a suspended workflow waits for, JSON text.
    pub conditions: Option<String>,
    /// When it is due, epoch milliseconds.
    pub due_at: Option<i64>,
    /// Queued workflows of its queue that come before it.
    pub ahead: i64,
    /// Live claims in its queue.
    pub live: i64,
    /// Live claims of its partition.
    pub live_in_partition: i64,
    /// Its children that have not ended.
    pub open_children: i64,
}

/// A live claim.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Holder {
    /// The workflow.
    pub workflow_id: String,
    /// The process.
    pub executor_id: String,
    /// The tenant.
    pub partition: Option<String>,
}

/// A live process.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// Its code.
    pub app_version: String,
    /// Live claims that it holds in the queue.
    pub live: i64,
}

/// A child that has not ended.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Child {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// Whether a process executes it that was heard of a moment ago.
    pub executing: bool,
    /// When it is due, epoch milliseconds.
    pub due_at: Option<i64>,
}

/// Collects the evidence for one workflow. A process without a heartbeat for `expiry_ms` does not live, and one without any for `silence_ms` is
/// not said to execute anything.
pub async fn evidence(
    db: &impl ConnectionTrait,
    id: &str,
    expiry_ms: i64,
    silence_ms: i64,
) -> Result<Option<Evidence>, StoreError> {
    let Some(workflow) = situation(db, id).await? else {
        return Ok(None);
    };
    let queue_name = workflow.queue_name.clone().unwrap_or_default();
    let queue = queue_limits::find(db, &queue_name).await?;
    let text = format!(
        "SELECT c.workflow_id, c.executor_id, c.queue_partition_key AS partition FROM {LIVE_CLAIM} WHERE c.queue_name = $1 \
         ORDER BY c.claimed_at, c.workflow_id LIMIT {NAMED}"
    );
    let holders = rows(db, text, [queue_name.as_str().into()]).await?;
    let text = format!(
        "SELECT e.id, e.app_version, (SELECT count(*) FROM {LIVE_CLAIM} WHERE c.executor_id = e.id AND c.queue_name = $1) AS live \
         FROM \"app\".executors e WHERE e.heartbeat_at >= {} - $2 ORDER BY e.id LIMIT {NAMED}",
        dialect(db).now()
    );
    let workers = rows(db, text, [queue_name.into(), expiry_ms.into()]).await?;
    let text = format!(
        "SELECT k.workflow_uuid AS id, k.status, w.due_at, EXISTS (SELECT 1 FROM \"app\".claims c JOIN \"app\".executors e \
         ON e.id = c.executor_id WHERE c.workflow_id = k.workflow_uuid AND c.token = k.owner_xid AND e.heartbeat_at >= {} - $2) AS executing \
         FROM \"dbos\".workflow_status k LEFT JOIN \"app\".waits w ON w.workflow_id = k.workflow_uuid WHERE k.parent_workflow_id = $1 \
         AND k.status IN {UNFINISHED} ORDER BY k.created_at, k.workflow_uuid LIMIT {NAMED}",
        dialect(db).now()
    );
    let children = rows(db, text, [id.into(), silence_ms.into()]).await?;
    Ok(Some(Evidence {
        workflow,
        queue,
        holders,
        workers,
        children,
    }))
}

async fn situation(db: &impl ConnectionTrait, id: &str) -> Result<Option<Situation>, StoreError> {
    let text = format!(
        "SELECT {now} AS now, s.workflow_uuid AS id, s.name, s.status, s.queue_name, s.queue_partition_key AS partition, \
         s.application_version, COALESCE(s.recovery_attempts, 0) AS recovery_attempts, s.delay_until_epoch_ms AS delay_until, \
         s.workflow_deadline_epoch_ms AS deadline, h.executor_id AS claimed_by, \
         CASE WHEN s.status = 'PENDING' AND h.token = s.owner_xid THEN true ELSE false END AS claim_is_live, \
         (SELECT e.heartbeat_at FROM \"app\".executors e WHERE e.id = h.executor_id) AS heartbeat_at, w.conditions, w.due_at, \
         (SELECT count(*) FROM \"dbos\".workflow_status q WHERE q.queue_name = s.queue_name AND q.status = 'ENQUEUED' \
         AND (q.priority, q.created_at) < (s.priority, s.created_at)) AS ahead, \
         (SELECT count(*) FROM {LIVE_CLAIM} WHERE c.queue_name = s.queue_name) AS live, \
         (SELECT count(*) FROM {LIVE_CLAIM} WHERE c.queue_name = s.queue_name \
         AND COALESCE(c.queue_partition_key, '') = COALESCE(s.queue_partition_key, '')) AS live_in_partition, \
         (SELECT count(*) FROM \"dbos\".workflow_status k WHERE k.parent_workflow_id = s.workflow_uuid \
         AND k.status IN {UNFINISHED}) AS open_children \
         FROM \"dbos\".workflow_status s LEFT JOIN \"app\".claims h ON h.workflow_id = s.workflow_uuid \
         LEFT JOIN \"app\".waits w ON w.workflow_id = s.workflow_uuid WHERE s.workflow_uuid = $1",
        now = dialect(db).now()
    );
    Ok(rows(db, text, [id.into()]).await?.pop())
}
