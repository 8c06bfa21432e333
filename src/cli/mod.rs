//! The command line: one file per command. What goes to a person goes through here.

mod bench;
mod migrate;
mod sandbox_shim;
mod serve;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// Bad configuration, as `sysexits.h` numbers it.
const EX_CONFIG: u8 = 78;
/// The database cannot be reached.
const EX_UNAVAILABLE: u8 = 69;

/// A durable job runner: checkpointed steps on SQLite or Postgres.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and execute runs, in one process, on the embedded database or `DATABASE_URL`.
    Serve,
    /// Bring the database's schema up to date, or rebuild half of it.
    Migrate(migrate::Arguments),
    /// Measure what the engine does on the database in use.
    Bench(bench::Arguments),
    /// Watch one command of the local sandbox; started by the program itself.
    #[command(hide = true)]
    SandboxShim(sandbox_shim::Arguments),
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => EX_CONFIG,
            Self::Unavailable(_) => EX_UNAVAILABLE,
            Self::Failed(_) => 1,
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

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::SandboxShim(arguments) = &arguments.command {
        return sandbox_shim::run(arguments);
    }
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "stepwell: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
    let config = Config::from_env()?;
    crate::telemetry::init();
    if let Some(death) = config.die_at.clone() {
        crate::engine::points::die_at(death);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(e.to_string()))?;
    runtime.block_on(async {
        match command {
            Command::Serve => serve::run(&config).await,
            Command::Migrate(arguments) => migrate::run(&config, &arguments).await,
            Command::Bench(arguments) => bench::run(&config, &arguments).await,
            // Has run already.
            Command::SandboxShim(_) => Ok(()),
        }
    })
}

/// Prints a line for a person or a pipe; a closed pipe is their wish.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
