//! `stepwell migrate`.

use clap::ValueEnum;

use super::{CliError, say};
use crate::{config::Config, engine, store::Database};

/// The halves of the schema.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Half {
    /// Stepwell's own tables.
    App,
    /// The system tables of DBOS Transact.
    Dbos,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Drop this half and build it again; everything in it is lost. Default: nothing is dropped.
    #[arg(long, value_name = "HALF")]
    reset: Option<Half>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let db = Database::connect(&config.database()).await?;
    match arguments.reset {
        None => engine::migrate(&db).await?,
        Some(Half::App) => migration::reset_app(db.migration_connection()).await?,
        Some(Half::Dbos) => migration::reset_dbos(db.migration_connection()).await?,
    }
    say(&format!("{} is up to date", db.display_url()));
    Ok(())
}
