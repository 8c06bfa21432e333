//! `stepwell bench`: workloads of the engine alone, measured to the last committed row.

mod claims;

use std::time::Duration;

use clap::Subcommand;
use sea_orm::ConnectionTrait;
use serde_json::json;

use super::{CliError, say};
use crate::{
    config::Config,
    engine::{Context, Engine, EngineOptions, StartOptions, Workflow, WorkflowError, migrate},
    store::{
        Database, backend::statement, dialect::dialect, queue_limits::QueueSettings,
        status::WorkflowStatus, workflows,
    },
};

/// The queue of the benchmark, of no other use.
const QUEUE: &str = "benchQ";
/// Workflows queued in one transaction.
const ENQUEUE_BATCH: usize = 1_000;
/// How often the rows are counted while the workload runs; the figure itself is taken from the rows.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Workflows of no-op steps, all queued before the worker starts.
    Steps {
        /// Workflows to run.
        #[arg(long, default_value_t = 10_000)]
        workflows: usize,
        /// Steps in each of them.
        #[arg(long, default_value_t = 4)]
        steps: u32,
        /// Workflows executed at the same time.
        #[arg(long, default_value_t = 1_000)]
        slots: usize,
    },
    /// Claims, by how much is queued and by how many partitions have no room.
    Claims(claims::Arguments),
}

struct Steps;

impl Workflow for Steps {
    const NAME: &'static str = "stepwell.bench.steps";
    type Input = u32;
    type Output = u32;

    async fn run(&self, ctx: &Context, steps: u32) -> Result<u32, WorkflowError> {
        for _ in 0..steps {
            ctx.step("step", || async { Ok(1_u32) }).await?;
        }
        Ok(steps)
    }
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let db = Database::connect(&config.database()).await?;
    migrate(&db).await?;
    match &arguments.workload {
        Workload::Steps {
            workflows,
            steps,
            slots,
        } => bench_steps(config, db, *workflows, *steps, *slots).await,
        Workload::Claims(arguments) => claims::run(&db, arguments).await,
    }
}

async fn bench_steps(
    config: &Config,
    db: Database,
    count: usize,
    steps: u32,
    slots: usize,
) -> Result<(), CliError> {
    let failed = |e: crate::engine::EngineError| CliError::Failed(e.to_string());
    let options = EngineOptions {
        queues: vec![QueueSettings::unlimited(QUEUE)],
        slots,
        ..config.engine()
    };
    let builder = Engine::builder(db.clone(), options)
        .register(Steps)
        .map_err(failed)?;
    let prefix = uuid::Uuid::new_v4().simple().to_string();
    for first in (0..count).step_by(ENQUEUE_BATCH) {
        let batch: Result<Vec<_>, _> = (first..count.min(first + ENQUEUE_BATCH))
            .map(|n| {
                let options = StartOptions {
                    id: Some(format!("bench-{prefix}-{n}")),
                    queue: QUEUE.into(),
                    ..StartOptions::default()
                };
                builder.prepare::<Steps>(&steps, options)
            })
            .collect();
        let tx = db.begin().await?;
        workflows::insert(&tx, &batch.map_err(failed)?).await?;
        tx.commit().await?;
    }
    let before = ended(&db).await?;
    let started = now(&db).await?;
    let engine = builder.launch();
    while ended(&db).await? - before < i64::try_from(count).unwrap_or(i64::MAX) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let read = db.read();
    let sql = "SELECT max(completed_at) FROM \"dbos\".workflow_status WHERE name = $1 AND status = 'SUCCESS'";
    let last: i64 = match read
        .query_one_raw(statement(&read, sql, [Steps::NAME.into()]))
        .await
        .map_err(crate::store::StoreError::from)?
    {
        Some(row) => row
            .try_get_by_index(0)
            .map_err(crate::store::StoreError::from)?,
        None => started,
    };
    let seconds = (last - started) as f64 / 1_000.0;
    engine.shutdown().await;
    let rate = count as f64 / seconds;
    say(&json!({
        "bench": "steps", "database": if db.is_sqlite() { "sqlite" } else { "postgres" }, "workflows": count, "steps": steps, "slots": slots,
        "seconds": seconds, "workflowsPerSecond": rate.round(), "stepsPerSecond": (rate * f64::from(steps)).round(),
    }).to_string());
    Ok(())
}

async fn ended(db: &Database) -> Result<i64, CliError> {
    Ok(workflows::count(&db.read(), Steps::NAME, WorkflowStatus::Success).await?)
}

/// The database's clock, epoch milliseconds: the rows are stamped with it.
async fn now(db: &Database) -> Result<i64, CliError> {
    let read = db.read();
    let text = format!("SELECT {}", dialect(&read).now());
    let row = read
        .query_one_raw(statement(&read, text, []))
        .await
        .map_err(crate::store::StoreError::from)?;
    Ok(row
        .map(|row| row.try_get_by_index(0))
        .transpose()
        .map_err(crate::store::StoreError::from)?
        .unwrap_or(0))
}
