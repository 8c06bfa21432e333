//! The command line: one file per command. What goes to a person goes through here.

mod api;
mod api_server;
mod artifacts;
mod bench;
mod doctor;
mod follow;
mod migrate;
mod ops;
mod queue;
mod run;
mod runs;
mod sandbox_shim;
mod schedule;
mod serve;
mod service;
mod session;
mod standing;
mod status_line;
mod text;
mod version;
mod worker;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    config::{Config, ConfigError, telemetry::LogFormat},
    telemetry::{self, Telemetry},
};

/// Bad configuration, as `sysexits.h` numbers it.
const EX_CONFIG: u8 = 78;
/// The database or the server cannot be reached.
const EX_UNAVAILABLE: u8 = 69;
/// Try again later.
const EX_TEMPORARY: u8 = 75;
/// How long calls that block may take to return at the end.
const LINGER: Duration = Duration::from_secs(1);
/// Arguments that do not fit, as the parser of arguments itself says it.
const EX_OF_CLAP: u8 = 2;

/// A durable job runner: checkpointed steps on SQLite or Postgres.
#[derive(Debug, Parser)]
#[command(version = version::SHORT, long_version = version::long(), about, propagate_version = true)]
struct Arguments {
    /// How logs are written to standard error. `STEPWELL_LOG` sets it, too. Default: human.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and execute runs, in one process, on the embedded database or `DATABASE_URL`.
    Serve(serve::Arguments),
    /// Serve the API alone, on `PORT`; workers on the same database execute.
    Api,
    /// Execute runs and tasks, without the API; with `--once` only what is due.
    Worker(worker::Arguments),
    /// Run a command as a durable run, with its output as it comes; the exit code is the command's.
    Run(Box<run::Arguments>),
    /// List runs, newest first.
    Runs(runs::ListArguments),
    /// Show a run: its steps, tasks and artifacts, and why it is where it is.
    Show(runs::OneArguments),
    /// Say in one sentence why a run is where it is.
    Explain(runs::OneArguments),
    /// Print what the commands of a run have printed.
    Logs(runs::LogArguments),
    /// Let a run go on that waits for its plan to be approved.
    Approve(runs::ApproveArguments),
    /// List and fetch what runs have left.
    Artifacts(artifacts::Arguments),
    /// Start runs by themselves: create, list, show, pause, resume, trigger, delete and preview schedules.
    Schedule(schedule::Arguments),
    /// List queues, change their limits, pause and resume them.
    Queue(queue::Arguments),
    /// Execute again what failed in a run, as a new run; what ended well is kept.
    Retry(ops::RetryArguments),
    /// List workflows, look into them, cancel, resume and fork them: ours, and those of DBOS applications on the same database.
    Ops(ops::Arguments),
    /// Bring the database's schema up to date, or rebuild half of it.
    Migrate(migrate::Arguments),
    /// Ask whether every invariant holds on the database in use, and explain each finding with its SQL. Changes nothing.
    Doctor(doctor::Arguments),
    /// Measure what the engine does on the database in use.
    Bench(bench::Arguments),
    /// Print a script that completes this command line in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Watch one command of the local sandbox; started by the program itself.
    #[command(hide = true)]
    SandboxShim(sandbox_shim::Arguments),
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Receiver(#[from] telemetry::ReceiverError),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("left; what was asked for is done by whoever executes the run")]
    Interrupted(u8),
    #[error("ended at once; what ran here is taken over after EXECUTOR_EXPIRY_MS")]
    Killed(u8),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Receiver(_) => EX_CONFIG,
            Self::Unavailable(_) => EX_UNAVAILABLE,
            Self::Usage(_) => EX_OF_CLAP,
            Self::Refused {
                status: 429 | 503, ..
            } => EX_TEMPORARY,
            Self::Failed(_) | Self::Refused { .. } => 1,
            Self::Interrupted(code) | Self::Killed(code) => *code,
        }
    }
}

impl From<crate::store::StoreError> for CliError {
    fn from(error: crate::store::StoreError) -> Self {
        if error.is_transient() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<migration::MigrateError> for CliError {
    fn from(error: migration::MigrateError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The whole command line, for whoever describes it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::SandboxShim(arguments) = &arguments.command {
        return sandbox_shim::run(arguments);
    }
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            note(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let command = &arguments.command;
    if let Command::Completions { shell } = *command {
        let mut parser = self::command();
        clap_complete::generate(shell, &mut parser, "stepwell", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::from_env()?;
    let otherwise = match command {
        Command::Serve(_) | Command::Api => telemetry::OF_A_SERVICE,
        Command::Worker(arguments) if arguments.is_service() => telemetry::OF_A_SERVICE,
        _ => telemetry::OF_A_COMMAND,
    };
    let format = arguments.log.unwrap_or(config.telemetry.log_format);
    let telemetry = Telemetry::init(&config.telemetry, format, otherwise);
    if let Some(death) = config.die_at.clone() {
        crate::engine::points::die_at(death);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(e.to_string()))?;
    let code = runtime.block_on(Box::pin(async {
        let exporting = telemetry.export().await?;
        let done = dispatch(&config, command).await;
        // A second signal waits for nobody.
        if !matches!(done, Err(CliError::Killed(_) | CliError::Interrupted(_))) {
            exporting.stop().await;
        }
        done
    }));
    // Whatever still runs ends here, sandboxes included: a second signal does not wait for it.
    runtime.shutdown_timeout(LINGER);
    code
}

async fn dispatch(config: &Config, command: &Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Run(arguments) => return run::run(config, arguments).await,
        Command::Doctor(arguments) => return doctor::run(config, arguments).await,
        Command::Worker(arguments) => return worker::run(config, arguments).await,
        Command::Ops(arguments) => return ops::run(config, arguments).await,
        Command::Serve(arguments) => serve::run(config, arguments).await?,
        Command::Api => api_server::run(config).await?,
        Command::Runs(arguments) => runs::list(config, arguments).await?,
        Command::Show(arguments) => runs::show(config, arguments).await?,
        Command::Explain(arguments) => runs::explain(config, arguments).await?,
        Command::Logs(arguments) => runs::logs(config, arguments).await?,
        Command::Approve(arguments) => runs::approve(config, arguments).await?,
        Command::Artifacts(arguments) => artifacts::run(config, arguments).await?,
        Command::Schedule(arguments) => schedule::run(config, arguments).await?,
        Command::Queue(arguments) => queue::run(config, arguments).await?,
        Command::Retry(arguments) => ops::retry(config, arguments).await?,
        Command::Migrate(arguments) => migrate::run(config, arguments).await?,
        Command::Bench(arguments) => bench::run(config, arguments).await?,
        // Done before anything was read.
        Command::Completions { .. } | Command::SandboxShim(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line about what is going on, beside what was asked for.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "stepwell: {line}");
}

/// Prints a line for a person or a pipe; a closed pipe is their wish.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
