//! `stepwell worker`: execution without the API. It binds `ADMIN_PORT` and nothing else; with `--once` it binds nothing, does what is due, and
//! goes.

use std::{process::ExitCode, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{
    CliError, EX_TEMPORARY, say,
    service::{Servers, Signals, bind},
    session::{available, firing, launch, one_shot},
};
use crate::{
    api::{ADMIN_CONNECTIONS, Admin},
    config::{Config, ConfigError},
    engine::{self, Budget, EngineError, EngineOptions, Summary},
    intent::{self, RUN_QUEUE},
    store::{Database, DatabaseOptions},
};

/// How long a one-shot worker may take to connect: less than a platform waits for it, and less than most budgets.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Execute runs and tasks.
///
/// The values are read as the environment's are: a bad one is a bad configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Do what is due, and go: for cron and functions platforms. Prints one line of JSON; exit code 0: nothing left is due, 75: something is,
    /// 78: bad configuration, 69: the database cannot be reached.
    #[arg(long)]
    once: bool,
    /// With --once: seconds that this may last, from 1. Default: 55.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    max_seconds: Option<String>,
    /// With --once: workflows to claim at most, from 1. Default: no limit.
    #[arg(long, value_name = "M", allow_hyphen_values = true)]
    max_jobs: Option<String>,
    /// The queues to serve, separated by commas. Default: all.
    #[arg(long, value_name = "QUEUES")]
    queues: Option<String>,
    /// Workflows executed at the same time. Default: `STEPWELL_SLOTS`.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    concurrency: Option<String>,
}

impl Arguments {
    /// Whether this is a service, and not a command whose output somebody reads.
    pub(super) fn is_service(&self) -> bool {
        !self.once
    }
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<ExitCode, CliError> {
    let options = options(config, arguments)?;
    match budget(arguments)? {
        Some(budget) => Box::pin(once(config, options, budget)).await,
        None => stay(config, options).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn stay(config: &Config, options: EngineOptions) -> Result<(), CliError> {
    let mut signals = Signals::catch()?;
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    let listener = bind(config, config.admin_port, "health").await?;
    let queues: Vec<String> = options.queues.iter().map(|q| q.name.clone()).collect();
    let (engine, sandboxes) = launch(config, &db, firing(options)).await?;
    let mut servers = Servers::new(config.shutdown_grace);
    let admin = Admin::new(
        db.clone(),
        config.app_version.clone(),
        engine.vitals().clone(),
        &config.access,
    );
    let address = servers.answer(listener, admin, ADMIN_CONNECTIONS)?;
    let projector = tokio::spawn(intent::project_drift(db.clone()));
    say(&format!(
        "Stepwell {} worker (application version {})",
        env!("CARGO_PKG_VERSION"),
        config.app_version
    ));
    say(&format!(
        "  health     http://{address}/healthz  (metrics on /metrics)"
    ));
    say(&format!("  database   {}", db.display_url()));
    say(&format!("  sandbox    {}", sandboxes.name));
    say(&format!("  queues     {}", queues.join(", ")));

    signals.next().await;
    tracing::info!("stopping: what runs goes to its next boundary, the rest is handed back");
    projector.abort();
    signals
        .unless_again(async {
            engine.shutdown().await;
            servers.stop().await;
        })
        .await
}

async fn once(
    config: &Config,
    options: EngineOptions,
    budget: Budget,
) -> Result<ExitCode, CliError> {
    let mut signals = Signals::catch()?;
    let reach = DatabaseOptions {
        acquire_timeout: CONNECT_WITHIN.min(budget.time),
        connect_timeout: Duration::ZERO,
        ..config.database()
    };
    let db = Database::connect(&reach)
        .await
        .map_err(|e| CliError::Unavailable(e.to_string()))?;
    let one_shot = one_shot(config, &db, options, available(config).await);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let work = one_shot.run(budget, async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    let mut work = std::pin::pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        _ = signals.next() => {
            stop.send_replace(true);
            tokio::select! {
                done = &mut work => done,
                code = signals.next() => return Err(CliError::Killed(code)),
            }
        }
    };
    let summary = done.map_err(|error| match error {
        EngineError::Store(error) => CliError::from(error),
        error => CliError::Failed(error.to_string()),
    })?;
    say(&line(&summary));
    Ok(if summary.work_left {
        ExitCode::from(EX_TEMPORARY)
    } else {
        ExitCode::SUCCESS
    })
}

/// The summary as a line of JSON.
fn line(summary: &Summary) -> String {
    json!({
        "claimed": summary.claimed, "completed": summary.completed, "suspended": summary.suspended, "failed": summary.failed,
        "released": summary.released, "backlog": summary.backlog, "nextWakeAt": summary.next_wake_at,
    })
    .to_string()
}

/// The engine's options with the chosen queues and concurrency.
fn options(config: &Config, arguments: &Arguments) -> Result<EngineOptions, ConfigError> {
    let mut options = config.engine();
    if let Some(slots) = positive("--concurrency", arguments.concurrency.as_deref())? {
        options.slots = usize::try_from(slots).unwrap_or(usize::MAX);
    }
    if let Some(chosen) = arguments.queues.as_deref() {
        let names: Vec<&str> = chosen.split(',').map(str::trim).collect();
        let known = |name: &&str| options.queues.iter().any(|queue| queue.name == **name);
        if !names.iter().all(known) {
            let all: Vec<&str> = options.queues.iter().map(|q| q.name.as_str()).collect();
            return Err(ConfigError {
                name: "--queues",
                value: chosen.to_owned(),
                accepts: format!("names out of {}, separated by commas", all.join(", ")),
            });
        }
        options
            .queues
            .retain(|queue| names.contains(&queue.name.as_str()));
        // What official clients resume may be anything: it belongs to those who serve runs.
        options.internal_queue = names.contains(&RUN_QUEUE);
    }
    Ok(options)
}

/// The budget of a one-shot worker; none for one that stays.
fn budget(arguments: &Arguments) -> Result<Option<Budget>, ConfigError> {
    let seconds = positive("--max-seconds", arguments.max_seconds.as_deref())?;
    let jobs = positive("--max-jobs", arguments.max_jobs.as_deref())?;
    if arguments.once {
        return Ok(Some(Budget {
            started: Instant::now(),
            time: Duration::from_secs(seconds.unwrap_or(55)),
            jobs,
        }));
    }
    let budgeted = [
        ("--max-seconds", &arguments.max_seconds),
        ("--max-jobs", &arguments.max_jobs),
    ];
    match budgeted
        .into_iter()
        .find_map(|(name, value)| value.clone().map(|value| (name, value)))
    {
        None => Ok(None),
        Some((name, value)) => Err(ConfigError {
            name,
            value,
            accepts: "nothing without --once".into(),
        }),
    }
}

fn positive(name: &'static str, text: Option<&str>) -> Result<Option<u64>, ConfigError> {
    /// A year in seconds: more is a mistake, and would overflow a deadline.
    const MOST: u64 = 31_536_000;
    text.map(|text| {
        text.parse()
            .ok()
            .filter(|n| (1..=MOST).contains(n))
            .ok_or_else(|| ConfigError {
                name,
                value: text.to_owned(),
                accepts: format!("a whole number from 1 to {MOST}"),
            })
    })
    .transpose()
}
