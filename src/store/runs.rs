//! Owns the rows of runs and of what hangs on them: steps, tasks, approvals. Checkpoints write most of them; here they are started and read.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult,
    IntoActiveModel, Iterable, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict, UnionType},
};

use super::{
    backend::{self, json_rows, statement},
    dialect::dialect,
    entity::{plan_approvals, run_steps, runs, sbx_runs},
    error::StoreError,
    status::{ENDED_RUN, OPEN_RUN, RunStatus, WorkflowStatus},
    workflows::INTERNAL_QUEUE,
};

/// Stores a run that starts.
pub async fn insert(tx: &impl ConnectionTrait, run: runs::Model) -> Result<(), StoreError> {
    run.into_active_model().insert(tx).await?;
    Ok(())
}

/// A run by its own id or by that of its workflow.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<runs::Model>, StoreError> {
    use runs::Column as C;
    let with = |column: C| {
        let query = runs::Entity::find().select_only().column(C::Id);
        query.filter(column.eq(id)).into_query()
    };
    // Two lookups: with OR between them Postgres would read a whole index.
    let mut either = with(C::Id);
    either.union(UnionType::All, with(C::WorkflowId));
    let query = runs::Entity::find().filter(C::Id.in_subquery(either));
    Ok(query.one(db).await?)
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
        let place = [runs::Column::CreatedAt, runs::Column::Id].map(|c| c.into_expr());
        let last = Expr::tuple([Expr::val(*created_at), Expr::val(id)]);
        query = query.filter(Expr::tuple(place).lt(last));
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

/// Drifted runs that one look finds at most.
pub const MOST_DRIFTED: usize = 1_000;

/// A run whose workflow has gone on without it.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Drift {
    /// The run; of a copy that has none yet the workflow.
    pub id: String,
    /// Whether it is the copy of a run's workflow, made by another client, and has no run yet.
    pub has_no_run: bool,
    /// How its workflow ended, or that it is queued again.
    pub status: WorkflowStatus,
    /// The workflow's error, JSON text.
    pub error: Option<String>,
    /// When it ended, epoch milliseconds.
    pub completed_at: Option<i64>,
}

/// Runs that are open though their workflow ended within the last `look_back_ms`: somebody else's client, a deadline or the recovery cap
/// ended it. And runs that have ended though their workflow waits where other clients put what they resume, and copies without a run that other
/// clients made within that time. [`MOST_DRIFTED`] of them at most.
pub async fn drifted(
    db: &impl ConnectionTrait,
    look_back_ms: i64,
) -> Result<Vec<Drift>, StoreError> {
    // One row in a status of a newer client must not hide all others.
    let known: Vec<String> = WorkflowStatus::iter()
        .map(|status| format!("'{status}'"))
        .collect();
    let text = format!(
        "SELECT r.id, false AS has_no_run, s.status, COALESCE(o.error, s.error) AS error, s.completed_at FROM \"dbos\".workflow_status s \
         JOIN \"app\".runs r ON r.workflow_id = s.workflow_uuid LEFT JOIN \"dbos\".workflow_output o ON o.workflow_uuid = s.workflow_uuid \
         WHERE s.completed_at >= {now} - $1 AND r.status IN {OPEN_RUN} \
         AND s.status IN ('CANCELLED', 'ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') \
         UNION ALL SELECT r.id, false, s.status, s.error, s.completed_at FROM \"dbos\".workflow_status s \
         JOIN \"app\".runs r ON r.workflow_id = s.workflow_uuid WHERE s.queue_name = '{INTERNAL_QUEUE}' AND s.status = 'ENQUEUED' \
         AND r.status IN {ENDED_RUN} \
         UNION ALL SELECT s.workflow_uuid, true, s.status, s.error, s.completed_at FROM \"dbos\".workflow_status s \
         JOIN \"app\".runs r ON r.workflow_id = s.forked_from WHERE s.forked_from IS NOT NULL AND s.created_at >= {now} - $1 \
         AND s.status IN ({known}) AND NOT EXISTS (SELECT 1 FROM \"app\".runs own WHERE own.workflow_id = s.workflow_uuid) LIMIT {MOST_DRIFTED}",
        now = dialect(db).now(),
        known = known.join(", ")
    );
    backend::rows(db, text, [look_back_ms.into()]).await
}

/// Ends an open run as its workflow ended, unless that has gone on since.
pub async fn end(
    db: &impl ConnectionTrait,
    drift: &Drift,
    status: RunStatus,
    next_action: Option<&str>,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let text = format!(
        "UPDATE \"app\".runs SET status = $2, next_action = $3, error = $4, ended_at = $5, updated_at = {} \
         WHERE id = $1 AND status IN {OPEN_RUN} \
         AND EXISTS (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = runs.workflow_id AND s.status = '{}')",
        dialect(db).now(),
        drift.status
    );
    let values = [
        drift.id.as_str().into(),
        status.as_str().into(),
        next_action.into(),
        error.into(),
        drift.completed_at.into(),
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
         WHERE {} AND status IN {OPEN_RUN}",
        dialect(tx).is_one_of("workflow_id", 1)
    );
    tx.execute_raw(statement(tx, text, [json_rows(&workflows)?, at.into()]))
        .await?;
    Ok(())
}

/// Queues a run again whose workflow is queued again.
pub async fn reopen(tx: &impl ConnectionTrait, id: &str) -> Result<(), StoreError> {
    let text = format!(
        "UPDATE \"app\".runs SET status = 'queued', next_action = NULL, error = NULL, output = NULL, ended_at = NULL, updated_at = {} \
         WHERE id = $1 AND EXISTS (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = runs.workflow_id AND s.status = 'ENQUEUED')",
        dialect(tx).now()
    );
    tx.execute_raw(statement(tx, text, [id.into()])).await?;
    Ok(())
}

/// Takes back what a run asks for: somebody has done it.
pub async fn ask_nothing(tx: &impl ConnectionTrait, id: &str, at: i64) -> Result<(), StoreError> {
    let text = "UPDATE \"app\".runs SET next_action = NULL, updated_at = $2 WHERE id = $1";
    tx.execute_raw(statement(tx, text, [id.into(), at.into()]))
        .await?;
    Ok(())
}
