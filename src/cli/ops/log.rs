//! `stepwell ops log`: the trail of the ops plane, read from the database. It has no route: the ops plane is six.

use serde_json::json;

use crate::{
    cli::{CliError, say, session::Target, text::age},
    config::Config,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only what was done to this workflow. Default: to all.
    id: Option<String>,
    /// At most so many, newest first; from 1.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(super) async fn run(
    config: &Config,
    target: &Target,
    arguments: &Arguments,
) -> Result<(), CliError> {
    let product = target.product(config, "the trail is read from").await?;
    let trail = product
        .trail(arguments.id.as_deref(), arguments.limit.into())
        .await
        .map_err(|e| CliError::Failed(e.to_string()))?;
    for action in &trail {
        if target.json {
            say(&json!({
                "op": action.op, "actor": action.actor, "reason": action.reason, "targetWorkflowID": action.target,
                "forkedWorkflowID": action.forked, "at": action.at,
            })
            .to_string());
            continue;
        }
        let forked = action.forked.as_ref();
        say(&format!(
            "{:>8} ago  {:<6} {}{}  {}  {}",
            age(action.at),
            action.op,
            action.target,
            forked.map_or_else(String::new, |id| format!(" -> {id}")),
            action.actor.as_deref().unwrap_or("-"),
            action.reason.as_deref().unwrap_or_default(),
        ));
    }
    if trail.is_empty() {
        crate::cli::note("nothing was done yet");
    }
    Ok(())
}
