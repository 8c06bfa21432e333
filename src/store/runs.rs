//! Owns the rows of runs and of what hangs on them: steps, tasks, approvals. Checkpoints write most of them; here they are started and read.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, sea_query::OnConflict,
};

use super::{
    backend::{json_rows, statement},
    dialect::dialect,
    entity::{plan_approvals, run_steps, runs, sbx_runs},
    error::StoreError,
    status::RunStatus,
    workflows::INTERNAL_QUEUE,
};

/// The statuses of a run that has not ended.
const OPEN: &str = "('queued', 'running', 'waiting_input', 'repairing')";
/// Drifts of a kind that are repaired in one round.
const DRIFTS: u32 = 1_000;

/// Stores a run that starts.
pub async fn insert(tx: &impl ConnectionTrait, run: runs::Model) -> Result<(), StoreError> {
    run.into_active_model().insert(tx).await?;
    Ok(())
}

/// A run by its own id or by that of its workflow.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<runs::Model>, StoreError> {
    let either = Condition::any()
        .add(runs::Column::Id.eq(id))
        .add(runs::Column::WorkflowId.eq(id));
    Ok(runs::Entity::find().filter(either).one(db).await?)
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only these statuses; all when empty.
    pub statuses: Vec<RunStatus>,
    /// Only this recipe.
    pub recipe_name: Option<String>,
    /// Only this tenant.
    pub tenant_id: Option<String>,
    /// Created at this time or later, epoch milliseconds.
    pub since: Option<i64>,
    /// After this row, in the order of the list.
    pub after: Option<(i64, String)>,
    /// At most so many.
    pub limit: u64,
}

/// A page of runs, newest first.
pub async fn list(
    db: &impl ConnectionTrait,
    filter: &RunFilter,
) -> Result<Vec<runs::Model>, StoreError> {
    let mut query = runs::Entity::find();
    if !filter.statuses.is_empty() {
        query = query.filter(runs::Column::Status.is_in(filter.statuses.iter().copied()));
    }
    if let Some(recipe) = &filter.recipe_name {
        query = query.filter(runs::Column::RecipeName.eq(recipe));
    }
    if let Some(tenant) = &filter.tenant_id {
        query = query.filter(runs::Column::TenantId.eq(tenant));
    }
    if let Some(since) = filter.since {
        query = query.filter(runs::Column::CreatedAt.gte(since));
    }
    if let Some((created_at, id)) = &filter.after {
        let same_time = Condition::all()
            .add(runs::Column::CreatedAt.eq(*created_at))
            .add(runs::Column::Id.lt(id));
        query = query.filter(
            Condition::any()
                .add(runs::Column::CreatedAt.lt(*created_at))
                .add(same_time),
        );
    }
    let query = query
        .order_by_desc(runs::Column::CreatedAt)
        .order_by_desc(runs::Column::Id)
        .limit(filter.limit);
    Ok(query.all(db).await?)
}

/// The ids of the runs that were forked from `run`, oldest first.
pub async fn forks(db: &impl ConnectionTrait, run: &str) -> Result<Vec<String>, StoreError> {
    let query = runs::Entity::find()
        .filter(runs::Column::ForkedFrom.eq(run))
        .order_by_asc(runs::Column::CreatedAt);
    Ok(query.all(db).await?.into_iter().map(|run| run.id).collect())
}

/// The product steps of a run, in the order of execution.
pub async fn steps(
    db: &impl ConnectionTrait,
    run: &str,
) -> Result<Vec<run_steps::Model>, StoreError> {
    let query = run_steps::Entity::find()
        .filter(run_steps::Column::RunId.eq(run))
        .order_by_asc(run_steps::Column::StartedAt)
        .order_by_asc(run_steps::Column::StepId);
    Ok(query.all(db).await?)
}

/// Every attempt of every task of a run, by task and attempt.
pub async fn tasks(
    db: &impl ConnectionTrait,
    run: &str,
) -> Result<Vec<sbx_runs::Model>, StoreError> {
    let query = sbx_runs::Entity::find()
        .filter(sbx_runs::Column::RunId.eq(run))
        .order_by_asc(sbx_runs::Column::Ordinal)
        .order_by_asc(sbx_runs::Column::Attempt);
    Ok(query.all(db).await?)
}

/// The approval of a run.
pub async fn approval(
    db: &impl ConnectionTrait,
    run: &str,
) -> Result<Option<plan_approvals::Model>, StoreError> {
    Ok(plan_approvals::Entity::find_by_id(run).one(db).await?)
}

/// Stores an approval unless there is one; answers the one that counts.
pub async fn approve(
    tx: &impl ConnectionTrait,
    approval: plan_approvals::Model,
) -> Result<plan_approvals::Model, StoreError> {
    let run = approval.run_id.clone();
    let first = OnConflict::column(plan_approvals::Column::RunId)
        .do_nothing()
        .to_owned();
    plan_approvals::Entity::insert(approval.clone().into_active_model())
        .on_conflict(first)
        .exec_without_returning(tx)
        .await?;
    Ok(self::approval(tx, &run).await?.unwrap_or(approval))
}

/// A run that does not say what its workflow does: somebody else's client, a deadline or the recovery cap acted on the workflow alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The run is open, and its workflow has ended.
    Ended(String),
    /// The run has ended, and its workflow was put into the internal queue.
    Resumed(String),
    /// The workflow is a fork of a run's, and has no run.
    Forked {
        /// The fork.
        workflow: String,
        /// The workflow that it was forked from.
        from: String,
    },
}

/// Runs and workflows that drifted apart within the last `look_back_ms`, the runs of older forks first.
pub async fn drifted(
    db: &impl ConnectionTrait,
    run_workflow: &str,
    look_back_ms: i64,
) -> Result<Vec<Drift>, StoreError> {
    let now = dialect(db).now();
    let text = format!(
        "SELECT * FROM (SELECT 'ended' AS kind, s.workflow_uuid AS id, '' AS source FROM \"dbos\".workflow_status s \
         JOIN \"app\".runs r ON r.workflow_id = s.workflow_uuid WHERE s.completed_at >= {now} - $1 AND r.status IN {OPEN} \
         AND s.status IN ('CANCELLED', 'ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') LIMIT {DRIFTS}) AS ended \
         UNION ALL SELECT * FROM (SELECT 'resumed', s.workflow_uuid, '' FROM \"dbos\".workflow_status s \
         JOIN \"app\".runs r ON r.workflow_id = s.workflow_uuid WHERE s.queue_name = '{INTERNAL_QUEUE}' AND s.status = 'ENQUEUED' \
         AND r.status NOT IN {OPEN} LIMIT {DRIFTS}) AS resumed \
         UNION ALL SELECT * FROM (SELECT 'forked', s.workflow_uuid, s.forked_from FROM \"dbos\".workflow_status s \
         JOIN \"app\".runs r ON r.workflow_id = s.forked_from WHERE s.forked_from IS NOT NULL AND s.created_at >= {now} - $1 AND s.name = $2 \
         AND NOT EXISTS (SELECT 1 FROM \"app\".runs own WHERE own.workflow_id = s.workflow_uuid) ORDER BY s.created_at LIMIT {DRIFTS}) AS forked"
    );
    let rows = db
        .query_all_raw(statement(
            db,
            text,
            [look_back_ms.into(), run_workflow.into()],
        ))
        .await?;
    rows.iter()
        .map(|row| {
            let (kind, id): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            Ok(match kind.as_str() {
                "ended" => Drift::Ended(id),
                "resumed" => Drift::Resumed(id),
                _ => Drift::Forked {
                    workflow: id,
                    from: row.try_get_by_index(2)?,
                },
            })
        })
        .collect()
}

/// Ends an open run as its workflow ended.
pub async fn end(
    db: &impl ConnectionTrait,
    id: &str,
    status: RunStatus,
    next_action: Option<&str>,
    error: Option<&str>,
    ended_at: i64,
) -> Result<(), StoreError> {
    let text = format!(
        "UPDATE \"app\".runs SET status = $2, next_action = $3, error = $4, ended_at = $5, updated_at = {} \
         WHERE id = $1 AND status IN {OPEN}",
        dialect(db).now()
    );
    let values = [
        id.into(),
        status.as_str().into(),
        next_action.into(),
        error.into(),
        ended_at.into(),
    ];
    db.execute_raw(statement(db, text, values)).await?;
    Ok(())
}

/// Cancels the open runs of `workflows`, which have been cancelled.
pub async fn cancel(
    tx: &impl ConnectionTrait,
    workflows: &[&str],
    at: i64,
) -> Result<(), StoreError> {
    let text = format!(
        "UPDATE \"app\".runs SET status = 'canceled', next_action = NULL, ended_at = $2, updated_at = $2 \
         WHERE {} AND status IN {OPEN}",
        dialect(tx).is_one_of("workflow_id", 1)
    );
    tx.execute_raw(statement(tx, text, [json_rows(&workflows)?, at.into()]))
        .await?;
    Ok(())
}

/// Opens a run again, whose workflow goes on.
pub async fn reopen(
    tx: &impl ConnectionTrait,
    id: &str,
    status: RunStatus,
    at: i64,
) -> Result<(), StoreError> {
    let text = "UPDATE \"app\".runs SET status = $2, next_action = NULL, error = NULL, ended_at = NULL, updated_at = $3 WHERE id = $1";
    let values = [id.into(), status.as_str().into(), at.into()];
    tx.execute_raw(statement(tx, text, values)).await?;
    Ok(())
}

/// Takes back what a run asks for: somebody has done it.
pub async fn ask_nothing(tx: &impl ConnectionTrait, id: &str, at: i64) -> Result<(), StoreError> {
    let text = "UPDATE \"app\".runs SET next_action = NULL, updated_at = $2 WHERE id = $1";
    tx.execute_raw(statement(tx, text, [id.into(), at.into()]))
        .await?;
    Ok(())
}
