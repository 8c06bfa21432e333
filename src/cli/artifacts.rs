//! `stepwell artifacts`: what runs have left, listed and fetched.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use futures_util::StreamExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    CliError,
    api::{Api, encoded},
    say,
    session::{Execute, Session, Target},
};
use crate::{canonical::hex, config::Config};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the artifacts of a run, those of its steps and of its tasks.
    Ls {
        /// The run.
        run: String,
    },
    /// Write the content of an artifact to a file or to standard output; its hash is checked.
    Get {
        /// Its id, `artifact://…`.
        id: String,
        /// The file. Default: standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    match &arguments.action {
        Action::Ls { run } => {
            let path = format!("/api/runs/{}/view", encoded(run));
            let view = session.api.get(&path).await?;
            for artifact in of_run(&view) {
                list(artifact, arguments.target.json);
            }
            Ok(())
        }
        Action::Get {
            id,
            output: Some(file),
        } => fetch(&session.api, id, file).await,
        Action::Get { id, output: None } => copy(&session.api, id, tokio::io::stdout()).await,
    }
}

/// What a run has left, each thing once. Those of its tasks belong to a step as well, from the moment that the step has ended.
fn of_run(view: &Value) -> Vec<&Value> {
    let mut seen = HashSet::new();
    ["steps", "tasks"]
        .into_iter()
        .flat_map(|owners| view[owners].as_array().into_iter().flatten())
        .flat_map(|owner| owner["artifactRefs"].as_array().into_iter().flatten())
        .filter(|artifact| seen.insert(artifact["id"].as_str()))
        .collect()
}

fn list(artifact: &Value, json: bool) {
    if json {
        say(&artifact.to_string());
        return;
    }
    let text = |key: &str| artifact[key].as_str().unwrap_or_default().to_owned();
    say(&format!(
        "{:>12}  {:<14}  {}  {}",
        artifact["size"],
        text("kind"),
        text("sha256").get(..12).unwrap_or_default(),
        text("id"),
    ));
}

/// Writes an artifact to `file`, whose directories are made. The file is there when it is complete, or not at all.
pub(super) async fn fetch(api: &Api, id: &str, file: &Path) -> Result<(), CliError> {
    let failed =
        |e: std::io::Error| CliError::Failed(format!("cannot write {}: {e}", file.display()));
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let target = tokio::fs::File::create(&partial).await.map_err(failed)?;
    let copied = copy(api, id, target).await;
    match copied {
        Ok(()) => std::fs::rename(&partial, file).map_err(failed),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            Err(error)
        }
    }
}

async fn copy(
    api: &Api,
    id: &str,
    mut target: impl tokio::io::AsyncWrite + Unpin,
) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::Failed(format!("cannot write: {e}"));
    let mut answer = api
        .open(&format!("/api/artifacts/{}", encoded(id)), &[])
        .await?;
    let mut hasher = Sha256::new();
    while let Some(bytes) = answer.body.next().await {
        let bytes = bytes.map_err(CliError::Unavailable)?;
        hasher.update(&bytes);
        target.write_all(&bytes).await.map_err(failed)?;
    }
    target.flush().await.map_err(failed)?;
    let expected = answer
        .headers
        .get("etag")
        .and_then(|etag| etag.to_str().ok())
        .unwrap_or_default()
        .trim_matches('"');
    let found = hex(&hasher.finalize());
    if expected == found {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{id} arrived broken: its hash is {found} and should be {expected}; fetch it again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_step_and_its_task_have_in_common_is_listed_once() {
        let refs = |ids: &[&str]| json!({"artifactRefs": ids.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()});
        let view = json!({"steps": [refs(&["plan"]), refs(&["merge", "out"])], "tasks": [refs(&["out"]), refs(&["unmerged"])]});
        let ids: Vec<_> = of_run(&view)
            .iter()
            .filter_map(|artifact| artifact["id"].as_str())
            .collect();
        assert_eq!(ids, ["plan", "merge", "out", "unmerged"]);
    }
}
