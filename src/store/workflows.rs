//! Owns the rows of workflows, `dbos.workflow_status` and what hangs on it: starting them and reading them back.

use sea_orm::{ConnectionTrait, FromQueryResult};
use serde::Serialize;

use super::{
    backend::{self, json_rows, statement},
    dialect::{Column, Dialect, dialect},
    error::StoreError,
    status::WorkflowStatus,
};

/// `application_name` of every workflow of ours, so that applications of DBOS on the same database leave them alone, and we theirs.
pub const APPLICATION_NAME: &str = "stepwell";
/// How inputs, outputs and errors are written: DBOS's portable JSON.
pub const SERIALIZATION: &str = "portable_json";
/// The queue on which official clients put what they resume or fork.
pub const INTERNAL_QUEUE: &str = "_dbos_internal_queue";

/// A workflow to be started.
#[derive(Debug, Clone, Serialize)]
pub struct NewWorkflow {
    /// Its id; a second start of the same id does nothing.
    pub id: String,
    /// The registered name of its function.
    pub name: String,
    /// Its input, JSON text.
    pub input: String,
    /// The queue it waits in.
    pub queue_name: String,
    /// Its tenant, for limits per partition.
    pub queue_partition_key: Option<String>,
    /// Lower first; 0 is the highest.
    pub priority: i32,
    /// One live workflow per queue and value.
    pub deduplication_id: Option<String>,
    /// The code that may run it.
    pub application_version: String,
    /// Milliseconds from the first claim until it is cancelled.
    pub timeout_ms: Option<i64>,
    /// Milliseconds from now before it may start.
    pub delay_ms: Option<i64>,
    /// The workflow that started it.
    pub parent_workflow_id: Option<String>,
    /// The schedule that started it.
    pub schedule_name: Option<String>,
}

/// A workflow as the ops plane shows it.
#[derive(Debug, Clone, FromQueryResult)]
pub struct WorkflowRow {
    /// Its id.
    pub workflow_uuid: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// The registered name of its function.
    pub name: Option<String>,
    /// The class of a foreign workflow's function.
    pub class_name: Option<String>,
    /// The queue it is or was in.
    pub queue_name: Option<String>,
    /// Its tenant.
    pub queue_partition_key: Option<String>,
    /// The code that may run it.
    pub application_version: Option<String>,
    /// The process that owns it.
    pub executor_id: Option<String>,
    /// Claims since it last made progress.
    pub recovery_attempts: Option<i64>,
    /// When it is cancelled, epoch milliseconds.
    pub workflow_deadline_epoch_ms: Option<i64>,
    /// When it may start, epoch milliseconds.
    pub delay_until_epoch_ms: Option<i64>,
    /// Epoch milliseconds.
    pub created_at: i64,
    /// Epoch milliseconds.
    pub updated_at: i64,
    /// Output, JSON text in the writer's serialization.
    pub output: Option<String>,
    /// Error, JSON text in the writer's serialization.
    pub error: Option<String>,
}

/// One row of `dbos.operation_outputs`.
#[derive(Debug, Clone, FromQueryResult)]
pub struct StepRow {
    /// The workflow.
    pub workflow_uuid: String,
    /// Its place in call order, from 0.
    pub function_id: i32,
    /// What was called.
    pub function_name: String,
    /// JSON text.
    pub output: Option<String>,
    /// JSON text.
    pub error: Option<String>,
    /// The child that it started.
    pub child_workflow_id: Option<String>,
    /// Epoch milliseconds.
    pub started_at_epoch_ms: Option<i64>,
    /// Epoch milliseconds.
    pub completed_at_epoch_ms: Option<i64>,
}

/// Which workflows to list.
#[derive(Debug, Clone, Default)]
pub struct WorkflowFilter {
    /// Only this status.
    pub status: Option<WorkflowStatus>,
    /// Only this function.
    pub name: Option<String>,
    /// Only this queue.
    pub queue: Option<String>,
    /// Created at this time or later, epoch milliseconds.
    pub since: Option<i64>,
    /// After this row, in the order of the list.
    pub after: Option<(i64, String)>,
    /// At most so many.
    pub limit: u64,
}

const WORKFLOW_COLUMNS: &str = "s.workflow_uuid, s.status, s.name, s.class_name, s.queue_name, s.queue_partition_key, \
     s.application_version, s.executor_id, s.recovery_attempts, s.workflow_deadline_epoch_ms, s.delay_until_epoch_ms, s.created_at, \
     s.updated_at, COALESCE(o.output, s.output) AS output, COALESCE(o.error, s.error) AS error \
     FROM \"dbos\".workflow_status s LEFT JOIN \"dbos\".workflow_output o ON o.workflow_uuid = s.workflow_uuid";

const LISTED_COLUMNS: &str = "s.workflow_uuid, s.status, s.name, s.class_name, s.queue_name, s.queue_partition_key, \
     s.application_version, s.executor_id, s.recovery_attempts, s.workflow_deadline_epoch_ms, s.delay_until_epoch_ms, s.created_at, \
     s.updated_at, CAST(NULL AS text) AS output, CAST(NULL AS text) AS error FROM \"dbos\".workflow_status s";

/// The statuses that one index of `dbos` is for, in its order.
const FAILED: [WorkflowStatus; 3] = [
    WorkflowStatus::Error,
    WorkflowStatus::Cancelled,
    WorkflowStatus::MaxRecoveryAttemptsExceeded,
];

/// Starts `workflows`; answers the ids of those that were new. Once committed, each of them runs to its end or is cancelled.
pub async fn insert(
    tx: &impl ConnectionTrait,
    workflows: &[NewWorkflow],
) -> Result<Vec<String>, StoreError> {
    if workflows.is_empty() {
        return Ok(Vec::new());
    }
    let sql = dialect(tx);
    let now = sql.now();
    let rows = sql.rows(
        1,
        "v",
        &[
            ("id", Column::Text),
            ("name", Column::Text),
            ("queue_name", Column::Text),
            ("queue_partition_key", Column::Text),
            ("priority", Column::Int),
            ("deduplication_id", Column::Text),
            ("application_version", Column::Text),
            ("timeout_ms", Column::Int),
            ("delay_ms", Column::Int),
            ("parent_workflow_id", Column::Text),
            ("schedule_name", Column::Text),
            ("creator", Column::Text),
        ],
    );
    #[derive(Serialize)]
    struct Row<'a> {
        #[serde(flatten)]
        workflow: &'a NewWorkflow,
        creator: String,
    }
    let values: Vec<_> = workflows
        .iter()
        .map(|workflow| Row {
            workflow,
            creator: uuid::Uuid::new_v4().to_string(),
        })
        .collect();
    let values = json_rows(&values)?;
    // The clock is read once: between two readings in one row a millisecond may pass, and a delay would be short by it.
    let text = format!(
        "INSERT INTO \"dbos\".workflow_status (workflow_uuid, status, name, queue_name, queue_partition_key, priority, deduplication_id, \
         application_version, application_name, authenticated_roles, workflow_timeout_ms, delay_until_epoch_ms, parent_workflow_id, \
         schedule_name, creator_xid, serialization, recovery_attempts, was_forked_from, rate_limited, is_debounced, created_at, updated_at) \
         SELECT v.id, CASE WHEN v.delay_ms IS NULL THEN 'ENQUEUED' ELSE 'DELAYED' END, v.name, v.queue_name, v.queue_partition_key, \
         v.priority, v.deduplication_id, v.application_version, '{APPLICATION_NAME}', '[]', v.timeout_ms, \
         clock.at + v.delay_ms, v.parent_workflow_id, v.schedule_name, v.creator, '{SERIALIZATION}', 0, false, false, false, clock.at, clock.at \
         FROM {rows} CROSS JOIN (SELECT {now} AS at) AS clock WHERE true \
         ON CONFLICT DO NOTHING RETURNING workflow_uuid"
    );
    let inserted: Vec<String> = backend::column(tx, text, [values.clone()]).await?;
    let rows = sql.rows(1, "v", &[("id", Column::Text), ("input", Column::Text)]);
    let text = format!(
        "INSERT INTO \"dbos\".workflow_input (workflow_uuid, inputs, retention_timestamp) SELECT v.id, v.input, {now} FROM {rows} \
         WHERE true ON CONFLICT DO NOTHING"
    );
    if inserted.len() == workflows.len() {
        tx.execute_raw(statement(tx, text, [values])).await?;
    } else {
        let new: Vec<_> = workflows
            .iter()
            .filter(|w| inserted.contains(&w.id))
            .collect();
        tx.execute_raw(statement(tx, text, [json_rows(&new)?]))
            .await?;
    }
    Ok(inserted)
}

/// One workflow.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<WorkflowRow>, StoreError> {
    let text = format!("SELECT {WORKFLOW_COLUMNS} WHERE s.workflow_uuid = $1");
    backend::row(db, text, [id.into()]).await
}

/// A page of workflows, newest first, without their outputs and errors, which may be large.
pub async fn list(
    db: &impl ConnectionTrait,
    filter: &WorkflowFilter,
) -> Result<Vec<WorkflowRow>, StoreError> {
    let (text, values) = page(dialect(db), filter);
    backend::rows(db, text, values).await
}

/// How the database would find a page, in its own words: for the test that no page is found by reading everything.
pub async fn plan(
    db: &impl ConnectionTrait,
    filter: &WorkflowFilter,
) -> Result<String, StoreError> {
    let (text, values) = page(dialect(db), filter);
    let rows = db
        .query_all_raw(statement(db, dialect(db).explain(&text), values))
        .await?;
    let column = dialect(db).explained();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| row.try_get("", column))
        .collect::<Result<_, _>>()?;
    Ok(lines.join("\n"))
}

/// The statement for a page. The status stands in it as a constant: the indexes of `dbos` are for certain statuses only, and with a parameter
/// no plan that is kept could use them.
fn page(sql: Dialect, filter: &WorkflowFilter) -> (String, Vec<sea_orm::Value>) {
    let mut values: Vec<sea_orm::Value> = Vec::new();
    let mut wheres = vec!["true".to_owned()];
    let mut add = |clause: &str, value: sea_orm::Value| {
        values.push(value);
        wheres.push(format!("{clause} ${}", values.len()));
    };
    if let Some(name) = &filter.name {
        add("s.name =", name.as_str().into());
    }
    if let Some(queue) = &filter.queue {
        add("s.queue_name =", queue.as_str().into());
    }
    // Always there: SQLite walks in the order of an index that a condition names, and would rather read and sort the table otherwise.
    add("s.created_at >=", filter.since.unwrap_or(0).into());
    if let Some((created_at, id)) = &filter.after {
        values.extend([(*created_at).into(), id.as_str().into()]);
        wheres.push(format!(
            "(s.created_at, s.workflow_uuid) < (${}, ${})",
            values.len() - 1,
            values.len()
        ));
    }
    if let Some(status) = filter.status {
        wheres.push(format!("s.status = '{status}'"));
        if FAILED.contains(&status) {
            let failed = FAILED.map(|status| format!("'{status}'")).join(", ");
            wheres.push(sql.index_condition(&format!("s.status IN ({failed})")));
        }
    }
    let text = format!(
        "SELECT {LISTED_COLUMNS} WHERE {} ORDER BY s.created_at DESC, s.workflow_uuid DESC LIMIT {}",
        wheres.join(" AND "),
        filter.limit
    );
    (text, values)
}

/// The recorded steps of `ids`, by workflow and function id.
pub async fn steps(db: &impl ConnectionTrait, ids: &[&str]) -> Result<Vec<StepRow>, StoreError> {
    let text = format!(
        "SELECT workflow_uuid, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms, completed_at_epoch_ms \
         FROM \"dbos\".operation_outputs WHERE {} ORDER BY workflow_uuid, function_id",
        dialect(db).is_one_of("workflow_uuid", 1)
    );
    backend::rows(db, text, [json_rows(&ids)?]).await
}

/// The status, output and error of `ids`, those that exist.
pub async fn results(
    db: &impl ConnectionTrait,
    ids: &[&str],
) -> Result<Vec<WorkflowRow>, StoreError> {
    let text = format!(
        "SELECT {WORKFLOW_COLUMNS} WHERE {}",
        dialect(db).is_one_of("s.workflow_uuid", 1)
    );
    backend::rows(db, text, [json_rows(&ids)?]).await
}

/// How many workflows named `name` are in `status`.
pub async fn count(
    db: &impl ConnectionTrait,
    name: &str,
    status: WorkflowStatus,
) -> Result<i64, StoreError> {
    let text = "SELECT count(*) FROM \"dbos\".workflow_status WHERE name = $1 AND status = $2";
    let row = db
        .query_one_raw(statement(db, text, [name.into(), status.as_str().into()]))
        .await?;
    Ok(row
        .map(|row| row.try_get_by_index(0))
        .transpose()?
        .unwrap_or(0))
}

/// How many workflows are in `queue` and have not been claimed, counted to `most`.
pub async fn count_queued(
    db: &impl ConnectionTrait,
    queue: &str,
    most: i64,
) -> Result<i64, StoreError> {
    let text = "SELECT count(*) FROM (SELECT 1 FROM \"dbos\".workflow_status WHERE queue_name = $1 AND status = 'ENQUEUED' LIMIT $2) q";
    let row = db
        .query_one_raw(statement(db, text, [queue.into(), most.into()]))
        .await?;
    Ok(row
        .map(|row| row.try_get_by_index(0))
        .transpose()?
        .unwrap_or(0))
}
