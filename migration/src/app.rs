//! Owns the `app` half of the schema. A migration that has landed never changes; the next one does.

mod cancellations;
mod outputs;
mod queues;
mod recordings;
mod schedules;

use sea_orm_migration::{
    MigrationName, MigrationTrait, MigratorTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr},
};

use crate::dialect::translate;

/// The ledger of applied migrations.
pub(crate) const LEDGER: &str = "seaql_migrations";

/// The migrations of `app`, in order.
pub(crate) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(Initial),
            Box::new(outputs::Outputs),
            Box::new(cancellations::Cancellations),
            Box::new(schedules::Schedules),
            Box::new(queues::Queues),
            Box::new(recordings::Recordings),
        ]
    }
}

/// The name of the last migration.
pub(crate) fn newest() -> String {
    let last = Migrator::migrations().pop();
    last.map_or_else(String::new, |migration| migration.name().to_owned())
}

/// Applies what is missing.
pub(crate) async fn up(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    if tx.get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared("CREATE SCHEMA IF NOT EXISTS app")
            .await?;
        // For this transaction only: unqualified names, the ledger's included, are in `app`.
        tx.execute_unprepared("SET LOCAL search_path TO app")
            .await?;
    }
    Migrator::up(tx, None).await
}

/// Drops everything of ours.
pub(crate) async fn drop(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    if tx.get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared("DROP SCHEMA IF EXISTS app CASCADE")
            .await?;
        tx.execute_unprepared("DROP SCHEMA IF EXISTS manual CASCADE")
            .await?;
        return Ok(());
    }
    drop_views(tx).await?;
    let tables = TABLES
        .iter()
        .chain(outputs::TABLES)
        .chain(schedules::TABLES);
    let tables = tables.map(|(name, _)| *name);
    for table in tables.chain([cancellations::TABLE, LEDGER]) {
        tx.execute_unprepared(&format!("DROP TABLE IF EXISTS {table}"))
            .await?;
    }
    Ok(())
}

/// Drops the views, which look at both halves.
pub(crate) async fn drop_views(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    for (name, _) in VIEWS {
        let schema = if tx.get_database_backend() == DbBackend::Postgres {
            "app."
        } else {
            ""
        };
        tx.execute_unprepared(&format!("DROP VIEW IF EXISTS {schema}{name}"))
            .await?;
    }
    Ok(())
}

/// Creates the views afresh, in a transaction that [`up`] has prepared.
pub(crate) async fn create_views(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    drop_views(tx).await?;
    let backend = tx.get_database_backend();
    for (name, select) in VIEWS {
        tx.execute_unprepared(&translate(
            backend,
            &format!("CREATE VIEW {name} AS {select}"),
        ))
        .await?;
    }
    Ok(())
}

/// Deletes what the engine noted about workflows and schedules that are gone, in a transaction that [`up`] has prepared.
pub(crate) async fn forget_workflows(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    for table in [
        "claims",
        "waits",
        "schedules",
        "schedule_slots",
        cancellations::TABLE,
    ] {
        tx.execute_unprepared(&format!("DELETE FROM {table}"))
            .await?;
    }
    Ok(())
}

struct Initial;

impl MigrationName for Initial {
    fn name(&self) -> &str {
        "m20261123_000001_initial"
    }
}

#[async_trait]
impl MigrationTrait for Initial {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        let backend = manager.get_database_backend();
        for (name, columns) in TABLES {
            db.execute_unprepared(&translate(
                backend,
                &format!("CREATE TABLE {name} ({columns})"),
            ))
            .await?;
        }
        for index in INDEXES {
            db.execute_unprepared(&format!("CREATE INDEX {index}"))
                .await?;
        }
        for (name, select) in VIEWS {
            db.execute_unprepared(&translate(
                backend,
                &format!("CREATE VIEW {name} AS {select}"),
            ))
            .await?;
        }
        for recipe in RECIPES {
            let insert = "INSERT INTO recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, \
                          sandbox, created_at) VALUES";
            db.execute_unprepared(&translate(
                backend,
                &format!("{insert} ({recipe}, {{now}})"),
            ))
            .await?;
        }
        if backend == DbBackend::Postgres {
            // The user's manual concatenates two counts. Only its own scripts put this schema on their path: with it there,
            // text || number would become ambiguous for everybody else.
            db.execute_unprepared(MANUAL_OPERATOR).await?;
        }
        Ok(())
    }
}

const MANUAL_OPERATOR: &str = "CREATE SCHEMA IF NOT EXISTS manual; \
    CREATE OR REPLACE FUNCTION manual.concatenate(a numeric, b numeric) RETURNS text LANGUAGE sql IMMUTABLE STRICT \
    AS $$ SELECT a::text || b::text $$; \
    CREATE OPERATOR manual.|| (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = manual.concatenate)";

/// Tables and their columns. No foreign keys: the manual's statements delete rows of any of them.
const TABLES: &[(&str, &str)] = &[
    (
        "intents",
        "id text NOT NULL PRIMARY KEY, goal text NOT NULL, inputs text NOT NULL, constraints text NOT NULL, connectors text, created_at bigint NOT NULL",
    ),
    (
        "runs",
        "id text NOT NULL PRIMARY KEY, intent_id text NOT NULL, workflow_id text NOT NULL UNIQUE, status text NOT NULL, workflow_name text NOT NULL, \
         recipe_name text NOT NULL, recipe_version integer NOT NULL, queue_name text NOT NULL, queue_partition_key text, \
         priority integer NOT NULL DEFAULT 0, tenant_id text, request text NOT NULL, workload text NOT NULL, last_step text, next_action text, \
         error text, output text, retry_count integer NOT NULL DEFAULT 0, trace_id text NOT NULL, span_id text NOT NULL, forked_from text, \
         created_at bigint NOT NULL, updated_at bigint NOT NULL, started_at bigint, ended_at bigint",
    ),
    (
        "run_steps",
        "run_id text NOT NULL, step_id text NOT NULL, attempt integer NOT NULL, name text NOT NULL, trace_id text NOT NULL, span_id text NOT NULL, \
         started_at bigint NOT NULL, finished_at bigint, error text, PRIMARY KEY (run_id, step_id, attempt)",
    ),
    (
        "artifacts",
        "run_id text NOT NULL, step_id text NOT NULL, task_key text NOT NULL DEFAULT '-', idx integer NOT NULL, attempt integer NOT NULL, \
         kind text NOT NULL, name text NOT NULL, uri text NOT NULL, mime text NOT NULL, size bigint NOT NULL, sha256 text NOT NULL, \
         inline {json}, content {bytes}, storage_key text, created_at bigint NOT NULL, PRIMARY KEY (run_id, step_id, task_key, idx, attempt)",
    ),
    (
        "recipes",
        "name text NOT NULL, version integer NOT NULL, queue_name text NOT NULL, max_concurrency integer NOT NULL, max_steps integer NOT NULL, \
         max_sandbox_minutes integer NOT NULL, planner text NOT NULL DEFAULT 'configured', approval text NOT NULL DEFAULT 'required', \
         sandbox text NOT NULL DEFAULT 'configured', created_at bigint NOT NULL, PRIMARY KEY (name, version)",
    ),
    (
        "plan_approvals",
        "run_id text NOT NULL PRIMARY KEY, approved_by text NOT NULL, notes text, approved_at bigint NOT NULL",
    ),
    (
        "opencode_calls",
        "op_key text NOT NULL PRIMARY KEY, request_hash text NOT NULL, run_id text NOT NULL, step_id text NOT NULL, mode text NOT NULL, \
         request text NOT NULL, response text NOT NULL, created_at bigint NOT NULL",
    ),
    (
        "mock_receipts",
        "run_id text NOT NULL, task_key text NOT NULL, attempt integer NOT NULL, seen_count integer NOT NULL DEFAULT 1, \
         created_at bigint NOT NULL, PRIMARY KEY (run_id, task_key, attempt)",
    ),
    (
        "sbx_runs",
        "run_id text NOT NULL, step_id text NOT NULL, task_key text NOT NULL, attempt integer NOT NULL, ordinal integer NOT NULL, \
         err_code text NOT NULL, exit integer, wall_ms bigint NOT NULL, request text NOT NULL, response text NOT NULL, \
         created_at bigint NOT NULL, PRIMARY KEY (run_id, step_id, task_key, attempt)",
    ),
    (
        "marks",
        "workflow_id text NOT NULL, mark text NOT NULL, count integer NOT NULL DEFAULT 1, PRIMARY KEY (workflow_id, mark)",
    ),
    (
        "executors",
        "id text NOT NULL PRIMARY KEY, app_version text NOT NULL, hostname text NOT NULL, pid integer NOT NULL, started_at bigint NOT NULL, \
         heartbeat_at bigint NOT NULL",
    ),
    (
        "claims",
        "workflow_id text NOT NULL PRIMARY KEY, token text NOT NULL, executor_id text NOT NULL, queue_name text NOT NULL, queue_partition_key text, \
         outputs_at_claim integer NOT NULL, claimed_at bigint NOT NULL",
    ),
    (
        "waits",
        "workflow_id text NOT NULL PRIMARY KEY, conditions text NOT NULL, due_at bigint, watches text, created_at bigint NOT NULL",
    ),
    (
        "queue_limits",
        "name text NOT NULL PRIMARY KEY, concurrency integer, worker_concurrency integer, partition_concurrency integer, rate_limit_max integer, \
         rate_limit_period_ms bigint, max_backlog integer, paused boolean NOT NULL DEFAULT false, window_started_at bigint NOT NULL DEFAULT 0, \
         window_count integer NOT NULL DEFAULT 0, updated_at bigint NOT NULL",
    ),
];

const INDEXES: &[&str] = &[
    "idx_runs_created_at ON runs (created_at DESC, id DESC)",
    "idx_runs_status ON runs (status, created_at DESC, id DESC)",
    "idx_runs_intent_id ON runs (intent_id)",
    "idx_runs_forked_from ON runs (forked_from) WHERE forked_from IS NOT NULL",
    "idx_run_steps_started_at ON run_steps (started_at)",
    "idx_artifacts_uri ON artifacts (uri, attempt)",
    "idx_artifacts_created_at ON artifacts (created_at)",
    "idx_opencode_calls_request ON opencode_calls (request_hash, created_at)",
    "idx_sbx_runs_created_at ON sbx_runs (created_at)",
    "idx_executors_heartbeat ON executors (heartbeat_at)",
    "idx_claims_executor ON claims (executor_id)",
    "idx_claims_queue ON claims (queue_name, queue_partition_key)",
    "idx_waits_due ON waits (due_at) WHERE due_at IS NOT NULL",
    "idx_waits_watches ON waits (watches) WHERE watches IS NOT NULL",
];

/// What an operator asks first. SQLite 3.40, the command line's, must be able to read them.
const VIEWS: &[(&str, &str)] = &[
    (
        "v_ops_failures_24h",
        "SELECT id AS run_id, intent_id, workflow_id, status, recipe_name, recipe_version, last_step, next_action, error, retry_count, updated_at \
         FROM runs WHERE status IN ('failed', 'retries_exceeded') AND updated_at > {now} - 86400000",
    ),
    (
        "v_ops_slow_steps",
        "SELECT run_id, step_id, attempt, started_at, finished_at, finished_at - started_at AS duration_ms FROM run_steps \
         WHERE finished_at - started_at > 5000",
    ),
    (
        "v_ops_queue_depth",
        "SELECT queue_name, status, count(*) AS depth, min(created_at) AS oldest_created_at FROM {dbos}workflow_status \
         WHERE status IN ('ENQUEUED', 'DELAYED', 'PENDING') GROUP BY queue_name, status",
    ),
];

/// Name, version, queue, caps on concurrency, steps and sandbox minutes, planner, approval, sandbox.
const RECIPES: &[&str] = &[
    "'compile-default', 1, 'intentQ', 10, 32, 15, 'configured', 'required', 'configured'",
    "'sandbox-default', 1, 'intentQ', 20, 128, 60, 'configured', 'required', 'configured'",
    "'control-default', 1, 'intentQ', 5, 16, 10, 'configured', 'required', 'configured'",
    "'shell-default', 1, 'intentQ', 20, 128, 60, 'static', 'auto', 'local'",
];
