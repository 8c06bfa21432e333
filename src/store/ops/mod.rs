//! Owns what operators do to a workflow that concerns its own row: the lock, and putting it back into a queue. (Cancelling is shared with
//! deadlines: `cancellations`.)

pub mod fork;

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, JsonValue, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::{
    backend::{self, statement},
    dialect::dialect,
    entity::{artifacts, runs},
    error::StoreError,
    status::WorkflowStatus,
    workflows::{APPLICATION_NAME, INTERNAL_QUEUE},
};

/// The step under whose name the actions of operators are kept among the artifacts.
pub const OPS_STEP: &str = "OPS";

/// A workflow that somebody acts on; its row is locked.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Target {
    /// Its id.
    pub workflow_uuid: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// The registered name of its function.
    pub name: Option<String>,
    /// The queue it is or was in.
    pub queue_name: Option<String>,
    /// The application it belongs to.
    pub application_name: Option<String>,
    /// The workflow that it was copied from.
    pub forked_from: Option<String>,
    /// Whether a process of ours has it.
    pub executed: bool,
    /// The database's clock, epoch milliseconds.
    pub now: i64,
}

impl Target {
    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.application_name.as_deref() == Some(APPLICATION_NAME)
    }

    /// The queue of its own: other clients' resumes put a workflow into DBOS's internal one, their cancels erase it.
    pub fn own_queue(&self) -> Option<&str> {
        self.queue_name
            .as_deref()
            .filter(|queue| *queue != INTERNAL_QUEUE)
    }
}

/// Locks a workflow until the transaction ends, and reads it as it is under the lock.
pub async fn lock(tx: &impl ConnectionTrait, id: &str) -> Result<Option<Target>, StoreError> {
    let sql = dialect(tx);
    let text = format!(
        "SELECT s.workflow_uuid, s.status, s.name, s.queue_name, s.application_name, s.forked_from, \
         EXISTS (SELECT 1 FROM \"app\".claims c WHERE c.workflow_id = s.workflow_uuid) AS executed, {} AS now FROM \"dbos\".workflow_status s \
         WHERE s.workflow_uuid = $1 {}",
        sql.now(),
        sql.lock("s")
    );
    backend::row(tx, text, [id.into()]).await
}

/// Puts a locked workflow back into `queue`: its attempts and its deadline start anew, what is recorded stays. One of ours has no time-out
/// any more; whoever resumes it wants it to end. One of ours that has not ended keeps its deduplication id, which an end takes away.
pub async fn resume(
    tx: &impl ConnectionTrait,
    target: &Target,
    queue: &str,
) -> Result<(), StoreError> {
    let text = format!(
        "UPDATE \"dbos\".workflow_status SET status = 'ENQUEUED', queue_name = $2, recovery_attempts = 0, workflow_deadline_epoch_ms = NULL, \
         workflow_timeout_ms = CASE WHEN application_name = '{APPLICATION_NAME}' THEN NULL ELSE workflow_timeout_ms END, \
         deduplication_id = CASE WHEN application_name = '{APPLICATION_NAME}' THEN deduplication_id END, owner_xid = NULL, started_at_epoch_ms = NULL, completed_at = NULL, updated_at = {} WHERE workflow_uuid = $1",
        dialect(tx).now()
    );
    let id = target.workflow_uuid.as_str();
    tx.execute_raw(statement(tx, text, [id.into(), queue.into()]))
        .await?;
    for table in ["waits", "cancellations"] {
        let text = format!("DELETE FROM \"app\".{table} WHERE workflow_id = $1");
        tx.execute_raw(statement(tx, text, [id.into()])).await?;
    }
    Ok(())
}

/// Gives a locked workflow, and what below it may still be executed and is not, to the code of `version`; answers their queues.
pub async fn move_tree(
    tx: &impl ConnectionTrait,
    root: &str,
    version: &str,
) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "WITH RECURSIVE tree(id) AS (SELECT CAST($1 AS text) UNION SELECT k.workflow_uuid FROM tree t JOIN \"dbos\".workflow_status k \
         ON k.parent_workflow_id = t.id) UPDATE \"dbos\".workflow_status SET application_version = $2, updated_at = {} \
         WHERE workflow_uuid IN (SELECT id FROM tree) AND (workflow_uuid = $1 OR (status NOT IN ('SUCCESS', 'ERROR') \
         AND NOT EXISTS (SELECT 1 FROM \"app\".claims c WHERE c.workflow_id = workflow_uuid))) RETURNING queue_name",
        dialect(tx).now()
    );
    let queues: Vec<Option<String>> =
        backend::column(tx, text, [root.into(), version.into()]).await?;
    let mut queues: Vec<String> = queues.into_iter().flatten().collect();
    queues.sort();
    queues.dedup();
    Ok(queues)
}

/// The number of the next accepted action on a workflow that is locked, from 1.
pub async fn next_action(tx: &impl ConnectionTrait, run: &str) -> Result<i32, StoreError> {
    let text = format!(
        "SELECT COALESCE(max(attempt), 0) + 1 FROM \"app\".artifacts WHERE run_id = $1 AND step_id = '{OPS_STEP}'"
    );
    let row = tx.query_one_raw(statement(tx, text, [run.into()])).await?;
    Ok(row
        .map(|row| row.try_get_by_index(0))
        .transpose()?
        .unwrap_or(1))
}

/// The documents of accepted actions, newest first: of one workflow, or of all.
pub async fn trail(
    db: &impl ConnectionTrait,
    workflow: Option<&str>,
    limit: u64,
) -> Result<Vec<JsonValue>, StoreError> {
    use artifacts::Column as C;
    let mut query = artifacts::Entity::find()
        .select_only()
        .column(C::Inline)
        .filter(C::StepId.eq(OPS_STEP))
        .filter(C::Inline.is_not_null());
    if let Some(workflow) = workflow {
        // An action is kept under the run of its workflow, if it has one.
        let run = runs::Entity::find()
            .filter(runs::Column::WorkflowId.eq(workflow))
            .one(db)
            .await?;
        let run = run.map_or_else(|| workflow.to_owned(), |run| run.id);
        query = query.filter(C::RunId.eq(run));
    }
    let query = query
        .order_by_desc(C::CreatedAt)
        .order_by_desc(C::RunId)
        .order_by_desc(C::Attempt)
        .limit(limit);
    Ok(query.into_tuple().all(db).await?)
}
