//! `stepwell bench`: workloads of the engine alone, measured to the last committed row.

mod claims;
mod once;

use std::{process::Stdio, time::Duration};

use clap::Subcommand;
use sea_orm::{ConnectionTrait, FromQueryResult};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
};

use super::{CliError, say};
use crate::{
    config::Config,
    engine::{
        Context, Engine, EngineBuilder, EngineError, EngineOptions, StartOptions, Workflow,
        WorkflowError, migrate,
    },
    store::{
        Database,
        backend::{self, statement},
        dialect::dialect,
        queue_limits::QueueSettings,
        status::WorkflowStatus,
        workflows,
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
        /// Workflows executed at the same time in a process.
        #[arg(long, default_value_t = 1_000)]
        slots: usize,
        /// Processes that execute; with 1 it is this one.
        #[arg(long, default_value_t = 1)]
        workers: usize,
    },
    /// A process of `steps --workers`: executes until its standard input ends.
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        slots: usize,
    },
    /// Claims, by how much is queued and by how many partitions have no room.
    Claims(claims::Arguments),
    /// One-shot workers, from their start to their first claim.
    Once(once::Arguments),
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
            workers,
        } => bench_steps(config, db, (*workflows, *steps), (*slots, *workers)).await,
        Workload::Worker { slots } => {
            let engine = builder(config, &db, *slots)?.launch();
            let mut nothing = Vec::new();
            // Whatever is said, and whatever fails: the other side is gone.
            let _ = tokio::io::stdin().read_to_end(&mut nothing).await;
            engine.shutdown().await;
            Ok(())
        }
        Workload::Claims(arguments) => claims::run(&db, arguments).await,
        Workload::Once(arguments) => once::run(config, db, arguments).await,
    }
}

fn builder(config: &Config, db: &Database, slots: usize) -> Result<EngineBuilder, CliError> {
    let options = EngineOptions {
        queues: vec![QueueSettings::unlimited(QUEUE)],
        slots,
        ..config.engine()
    };
    Engine::builder(db.clone(), options)
        .register(Steps)
        .map_err(|e| failed(&e))
}

fn failed(error: &EngineError) -> CliError {
    CliError::Failed(error.to_string())
}

/// What executes: an engine of this process, or processes of their own, which end with it.
enum Executing {
    Here(Box<Engine>),
    Processes(Vec<Child>),
}

impl Executing {
    fn start(builder: EngineBuilder, slots: usize, workers: usize) -> Result<Self, CliError> {
        if workers <= 1 {
            return Ok(Self::Here(Box::new(builder.launch())));
        }
        let spawn = |_| {
            Command::new("/proc/self/exe")
                .args(["bench", "worker", "--slots", &slots.to_string()])
                .stdin(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|e| CliError::Failed(format!("cannot start a worker: {e}")))
        };
        Ok(Self::Processes(
            (0..workers).map(spawn).collect::<Result<_, _>>()?,
        ))
    }

    async fn stop(self) {
        match self {
            Self::Here(engine) => engine.shutdown().await,
            Self::Processes(children) => {
                for mut child in children {
                    drop(child.stdin.take());
                    // One that has gone by itself is as good.
                    let _ = child.wait().await;
                }
            }
        }
    }
}

async fn bench_steps(
    config: &Config,
    db: Database,
    (count, steps): (usize, u32),
    (slots, workers): (usize, usize),
) -> Result<(), CliError> {
    let builder = builder(config, &db, slots)?;
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
        workflows::insert(&tx, &batch.map_err(|e| failed(&e))?).await?;
        tx.commit().await?;
    }
    let before = ended(&db).await?;
    let asked_before = Asked::so_far(&db).await?;
    let started = now(&db).await?;
    let executing = Executing::start(builder, slots, workers)?;
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
    executing.stop().await;
    let per_workflow = Asked::so_far(&db).await?.since(&asked_before, count);
    let rate = count as f64 / seconds;
    say(&json!({
        "bench": "steps", "database": database_name(&db), "workflows": count, "steps": steps, "slots": slots,
        "workers": workers, "perWorkflow": per_workflow, "seconds": seconds, "workflowsPerSecond": rate.round(), "stepsPerSecond": (rate * f64::from(steps)).round(),
    }).to_string());
    Ok(())
}

/// What Postgres counts of this database; nothing on SQLite, and statements only where `pg_stat_statements` is.
#[derive(Debug, Default, FromQueryResult)]
struct Asked {
    committed: Option<i64>,
    rolled_back: Option<i64>,
    statements: Option<i64>,
}

impl Asked {
    async fn so_far(db: &Database) -> Result<Self, CliError> {
        if db.is_sqlite() {
            return Ok(Self::default());
        }
        let read = db.read();
        let there = "SELECT 1 FROM pg_extension WHERE extname = 'pg_stat_statements'";
        let counted = if backend::column::<i32>(&read, there, []).await?.is_empty() {
            "CAST(NULL AS bigint)"
        } else {
            "(SELECT CAST(sum(s.calls) AS bigint) FROM pg_stat_statements s WHERE s.dbid = d.oid)"
        };
        let text = format!(
            "SELECT t.xact_commit AS committed, t.xact_rollback AS rolled_back, {counted} AS statements FROM pg_database d \
             JOIN pg_stat_database t ON t.datid = d.oid WHERE d.datname = current_database()"
        );
        Ok(backend::row(&read, text, []).await?.unwrap_or_default())
    }

    /// Per workflow of `count`.
    fn since(&self, before: &Self, count: usize) -> Value {
        let per = |now: Option<i64>, before: Option<i64>| {
            let more = now? - before?;
            Some((more as f64 / count as f64 * 1_000.0).round() / 1_000.0)
        };
        json!({
            "commits": per(self.committed, before.committed), "rollbacks": per(self.rolled_back, before.rolled_back),
            "statements": per(self.statements, before.statements),
        })
    }
}

async fn ended(db: &Database) -> Result<i64, CliError> {
    Ok(workflows::count(&db.read(), Steps::NAME, WorkflowStatus::Success).await?)
}

/// The database's clock, epoch milliseconds: the rows are stamped with it.
/// The kind of database, as every result names it.
fn database_name(db: &Database) -> &'static str {
    if db.is_sqlite() { "sqlite" } else { "postgres" }
}

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
