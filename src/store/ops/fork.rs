//! Owns the copying of a workflow: its row, what it has recorded up to a step, and the application's rows of what was copied.

use sea_orm::{ConnectionTrait, EntityTrait, IdenStatic, Iterable};

use crate::store::{
    backend::{json_rows, statement},
    dialect::dialect,
    entity::{artifacts, plan_approvals, run_steps, sbx_runs},
    error::StoreError,
    workflows::APPLICATION_NAME,
};

/// How a workflow is copied.
#[derive(Debug, Clone)]
pub struct Fork<'a> {
    /// The original; its row is locked.
    pub source: &'a str,
    /// The copy.
    pub id: &'a str,
    /// The copy's queue.
    pub queue: &'a str,
    /// The code that may run it; that of the original by default.
    pub app_version: Option<&'a str>,
    /// What is recorded from this function id on is not copied.
    pub below: i32,
    /// Nor is what is recorded under these.
    pub except: &'a [i32],
}

/// Copies a workflow with what it has recorded: outputs, events and streams. The copy is queued, and executes only what was not copied.
/// Messages stay with the original.
pub async fn copy_workflow(tx: &impl ConnectionTrait, fork: &Fork<'_>) -> Result<(), StoreError> {
    let sql = dialect(tx);
    let now = sql.now();
    let text = format!(
        "INSERT INTO \"dbos\".workflow_status (workflow_uuid, status, name, class_name, config_name, queue_name, queue_partition_key, priority, \
         authenticated_user, assumed_role, authenticated_roles, application_version, application_id, application_name, forked_from, attributes, \
         serialization, creator_xid, workflow_timeout_ms, recovery_attempts, was_forked_from, rate_limited, is_debounced, created_at, updated_at) \
         SELECT $2, 'ENQUEUED', s.name, s.class_name, s.config_name, $3, s.queue_partition_key, s.priority, s.authenticated_user, \
         s.assumed_role, s.authenticated_roles, COALESCE($4, s.application_version), s.application_id, s.application_name, s.workflow_uuid, \
         s.attributes, s.serialization, $5, CASE WHEN s.application_name = '{APPLICATION_NAME}' THEN s.workflow_timeout_ms END, 0, false, false, \
         false, {now}, {now} FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = $1"
    );
    let creator = uuid::Uuid::new_v4().to_string();
    let values = [
        fork.source.into(),
        fork.id.into(),
        fork.queue.into(),
        fork.app_version.map(str::to_owned).into(),
        creator.into(),
    ];
    tx.execute_raw(statement(tx, text, values)).await?;
    let text =
        "UPDATE \"dbos\".workflow_status SET was_forked_from = true WHERE workflow_uuid = $1";
    tx.execute_raw(statement(tx, text, [fork.source.into()]))
        .await?;
    let text = format!(
        "INSERT INTO \"dbos\".workflow_input (workflow_uuid, inputs, retention_timestamp) SELECT $2, COALESCE(i.inputs, s.inputs), {now} \
         FROM \"dbos\".workflow_status s LEFT JOIN \"dbos\".workflow_input i ON i.workflow_uuid = s.workflow_uuid WHERE s.workflow_uuid = $1"
    );
    tx.execute_raw(statement(tx, text, [fork.source.into(), fork.id.into()]))
        .await?;
    copy_records(tx, fork).await
}

async fn copy_records(tx: &impl ConnectionTrait, fork: &Fork<'_>) -> Result<(), StoreError> {
    let sql = dialect(tx);
    let except: Vec<String> = fork.except.iter().map(ToString::to_string).collect();
    let copied = format!(
        "t.workflow_uuid = $1 AND t.function_id < $3 AND NOT {}",
        sql.is_one_of("CAST(t.function_id AS text)", 4)
    );
    let now = sql.now();
    let statements = [
        format!(
            "INSERT INTO \"dbos\".operation_outputs (workflow_uuid, function_id, function_name, output, error, child_workflow_id, \
             started_at_epoch_ms, completed_at_epoch_ms, serialization, application_name, retention_timestamp) SELECT $2, t.function_id, \
             t.function_name, t.output, t.error, t.child_workflow_id, t.started_at_epoch_ms, t.completed_at_epoch_ms, t.serialization, \
             t.application_name, {now} FROM \"dbos\".operation_outputs t WHERE {copied}"
        ),
        format!(
            "INSERT INTO \"dbos\".streams (workflow_uuid, \"key\", value, serialization, \"offset\", function_id) SELECT $2, t.\"key\", t.value, \
             t.serialization, t.\"offset\", t.function_id FROM \"dbos\".streams t WHERE {copied}"
        ),
        format!(
            "INSERT INTO \"dbos\".workflow_events_history (workflow_uuid, function_id, \"key\", value, serialization) SELECT $2, t.function_id, \
             t.\"key\", t.value, t.serialization FROM \"dbos\".workflow_events_history t WHERE {copied}"
        ),
        // Of each event the value that it had when the last copied operation was recorded.
        format!(
            "INSERT INTO \"dbos\".workflow_events (workflow_uuid, \"key\", value, serialization) SELECT $2, l.\"key\", l.value, l.serialization \
             FROM (SELECT t.\"key\", t.value, t.serialization, row_number() OVER (PARTITION BY t.\"key\" ORDER BY t.function_id DESC) AS place \
             FROM \"dbos\".workflow_events_history t WHERE {copied}) l WHERE l.place = 1"
        ),
    ];
    for text in statements {
        let values = [
            fork.source.into(),
            fork.id.into(),
            fork.below.into(),
            json_rows(&except)?,
        ];
        tx.execute_raw(statement(tx, text, values)).await?;
    }
    Ok(())
}

/// The application's rows that a copy gets.
#[derive(Debug, Clone)]
pub struct CopiedRows<'a> {
    /// The original's run.
    pub source: &'a str,
    /// The copy's run.
    pub run: &'a str,
    /// How the ids of the original's artifacts begin, and how those of the copy do.
    pub uri_prefixes: (&'a str, &'a str),
    /// The steps that were copied.
    pub steps: &'a [&'a str],
    /// The tasks that were copied.
    pub tasks: &'a [&'a str],
    /// Whether the approval was copied.
    pub approval: bool,
}

/// Copies the rows of steps and tasks. Rows that are there already stay.
pub async fn copy_rows(tx: &impl ConnectionTrait, rows: &CopiedRows<'_>) -> Result<(), StoreError> {
    let sql = dialect(tx);
    let (steps, tasks) = (json_rows(&rows.steps)?, json_rows(&rows.tasks)?);
    let of_step = sql.is_one_of("t.step_id", 3);
    copy::<run_steps::Entity>(tx, rows, &of_step, [steps.clone()]).await?;
    let of_task = sql.is_one_of("t.task_key", 3);
    copy::<sbx_runs::Entity>(tx, rows, &of_task, [tasks.clone()]).await?;
    let of_either = format!(
        "(({of_step} AND t.task_key = '-') OR {})",
        sql.is_one_of("t.task_key", 4)
    );
    let (old, new) = rows.uri_prefixes;
    let values = [steps, tasks, old.into(), new.into()];
    copy::<artifacts::Entity>(tx, rows, &of_either, values).await?;
    if rows.approval {
        copy::<plan_approvals::Entity>(tx, rows, "true", []).await?;
    }
    Ok(())
}

/// Copies the rows of one table, all of their columns, under the run's new id. The first two parameters are the runs; of a table with ids for
/// the wire the fifth and the sixth are their prefixes.
async fn copy<E: EntityTrait>(
    tx: &impl ConnectionTrait,
    rows: &CopiedRows<'_>,
    which: &str,
    more: impl IntoIterator<Item = sea_orm::Value>,
) -> Result<(), StoreError> {
    let columns: Vec<&str> = E::Column::iter().map(|column| column.as_str()).collect();
    let quoted: Vec<String> = columns.iter().map(|c| format!("\"{c}\"")).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|column| match *column {
            "run_id" => "$2".to_owned(),
            "uri" => "$6 || substr(t.uri, length($5) + 1)".to_owned(),
            column => format!("t.\"{column}\""),
        })
        .collect();
    let text = format!(
        "INSERT INTO \"app\".{table} ({}) SELECT {} FROM \"app\".{table} t WHERE t.run_id = $1 AND {which} ON CONFLICT DO NOTHING",
        quoted.join(", "),
        values.join(", "),
        table = E::default().table_name()
    );
    let bound = [rows.source.into(), rows.run.into()]
        .into_iter()
        .chain(more);
    tx.execute_raw(statement(tx, text, bound)).await?;
    Ok(())
}
