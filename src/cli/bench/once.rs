//! `stepwell bench once`: how long it takes from the start of a `stepwell worker --once` to its first claim.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use tokio::process::Command;

use super::{database_name, now, say};
use crate::{
    cli::CliError,
    config::Config,
    engine::Client,
    intent::Product,
    store::{Database, backend},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Invocations, one after the other, with one workflow for each.
    #[arg(long, default_value_t = 20)]
    times: u32,
}

pub(super) async fn run(
    config: &Config,
    db: Database,
    arguments: &Arguments,
) -> Result<(), CliError> {
    let client = Client::without_engine(db.clone(), config.app_version.clone());
    let product = Product::new(client, config);
    let mut times = Vec::new();
    for _ in 0..arguments.times {
        let id = format!("bench-once-{}", uuid::Uuid::new_v4());
        product
            .start_slow_step(&id, Duration::ZERO)
            .await
            .map_err(|e| CliError::Failed(e.to_string()))?;
        let began = now(&db).await?;
        let ended = Command::new("/proc/self/exe")
            .args(["worker", "--once", "--max-seconds", "20"])
            .stdout(Stdio::null())
            .status()
            .await
            .map_err(|e| CliError::Failed(format!("cannot start a worker: {e}")))?;
        let claimed = claimed_at(&db, &id).await?;
        let claimed = claimed.ok_or_else(|| {
            CliError::Failed(format!(
                "{id} was not claimed; the worker ended with {ended}"
            ))
        })?;
        times.push(claimed - began);
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied();
    say(&json!({
        "bench": "once", "database": database_name(&db), "times": arguments.times,
        "msToFirstClaim": {"median": median, "max": times.last()},
    })
    .to_string());
    Ok(())
}

/// By the database's clock, epoch milliseconds.
async fn claimed_at(db: &Database, id: &str) -> Result<Option<i64>, CliError> {
    let text = "SELECT started_at_epoch_ms FROM \"dbos\".workflow_status WHERE workflow_uuid = $1 AND started_at_epoch_ms IS NOT NULL";
    let found: Vec<i64> = backend::column(&db.read(), text, [id.into()]).await?;
    Ok(found.first().copied())
}
