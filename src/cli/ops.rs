//! `stepwell ops` and `stepwell retry`: the operator's commands. They talk to the six routes of the ops plane, of a server or of this process, and
//! so they do to DBOS's workflows what they do to ours. What has no route, the trail and the move to another version, works on the database itself.

mod batch;
mod ids;
mod log;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    CliError,
    api::encoded,
    note, say,
    session::{Execute, Session, Target},
    text::{Paint, age, milliseconds, paint},
};
use crate::config::Config;

/// Most workflows that the API lists in one answer.
const PAGE: u32 = 200;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List workflows, newest first.
    Ls(ListArguments),
    /// Show a workflow.
    Get {
        /// The workflow.
        id: String,
    },
    /// List what a workflow has recorded, by function id.
    Steps {
        /// The workflow.
        id: String,
    },
    /// Cancel workflows and their unfinished children; what is in progress may finish, the next step never starts.
    Cancel(batch::Arguments),
    /// Put cancelled or given-up workflows back into their queues; what they have recorded is kept.
    Resume(batch::Arguments),
    /// Copy workflows up to a step, and queue the copies, which execute that step and what follows.
    Fork(batch::ForkArguments),
    /// Give workflows that nobody executes, and what is below them, to another application version.
    Move(batch::MoveArguments),
    /// Print the trail: every cancel, resume, fork, move and retry that was accepted, newest first.
    Log(log::Arguments),
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<ExitCode, CliError> {
    let target = &arguments.target;
    match &arguments.command {
        Command::Ls(list) => ls(config, target, list).await?,
        Command::Get { id } => get(config, target, id).await?,
        Command::Steps { id } => steps(config, target, id).await?,
        Command::Cancel(batch) => return batch::cancel(config, target, batch).await,
        Command::Resume(batch) => return batch::resume(config, target, batch).await,
        Command::Fork(fork) => return batch::fork(config, target, fork).await,
        Command::Move(moving) => return batch::move_to(config, target, moving).await,
        Command::Log(log) => log::run(config, target, log).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Only workflows with this status: ENQUEUED, DELAYED, PENDING, SUCCESS, ERROR, CANCELLED or `MAX_RECOVERY_ATTEMPTS_EXCEEDED`. May be given
    /// several times. Default: all.
    #[arg(long)]
    status: Vec<String>,
    /// Only workflows of this function. Default: all.
    #[arg(long)]
    name: Option<String>,
    /// Only workflows of this queue. Default: all.
    #[arg(long)]
    queue: Option<String>,
    /// At most so many, newest first; from 1.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print the ids alone, one a line, as the batch commands read them.
    #[arg(long)]
    ids: bool,
}

async fn ls(config: &Config, target: &Target, list: &ListArguments) -> Result<(), CliError> {
    let session = Session::open(config, target, Execute::Elsewhere).await?;
    let statuses: Vec<Option<&str>> = match list.status.as_slice() {
        [] => vec![None],
        some => some.iter().map(|status| Some(status.as_str())).collect(),
    };
    let most = usize::try_from(list.limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for status in statuses {
        found.extend(with_status(&session, list, status, most).await?);
    }
    let newest_first =
        |w: &Value| std::cmp::Reverse((w["createdAt"].as_i64(), w["workflowID"].to_string()));
    found.sort_by_cached_key(newest_first);
    found.dedup();
    found.truncate(most);
    for workflow in &found {
        if list.ids {
            say(text(workflow, "workflowID"));
        } else if target.json {
            say(&workflow.to_string());
        } else {
            say(&format!(
                "{:<22} {} {:<20} {:<10} {:>8}",
                text(workflow, "workflowID"),
                status_painted(text(workflow, "status")),
                text(workflow, "workflowName"),
                text(workflow, "queueName"),
                age(workflow["createdAt"].as_i64().unwrap_or(0)),
            ));
        }
    }
    if found.is_empty() {
        note("no such workflows");
    }
    Ok(())
}

/// At most `most` workflows, page by page.
async fn with_status(
    session: &Session,
    list: &ListArguments,
    status: Option<&str>,
    most: usize,
) -> Result<Vec<Value>, CliError> {
    let mut filter = String::new();
    for (key, value) in [
        ("status", status),
        ("name", list.name.as_deref()),
        ("queue", list.queue.as_deref()),
    ] {
        if let Some(value) = value {
            filter.push_str(&format!("&{key}={}", encoded(value)));
        }
    }
    let mut found: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/ops/wf?limit={}{filter}{cursor}", PAGE.min(list.limit));
        let (page, next) = session.api.page(&path).await?;
        found.extend(page.as_array().cloned().unwrap_or_default());
        match next {
            Some(next) if found.len() < most => cursor = format!("&cursor={}", encoded(&next)),
            _ => return Ok(found),
        }
    }
}

async fn get(config: &Config, target: &Target, id: &str) -> Result<(), CliError> {
    let session = Session::open(config, target, Execute::Elsewhere).await?;
    let workflow = session.api.get(&path_of(id)).await?;
    if target.json {
        say(&workflow.to_string());
        return Ok(());
    }
    say(&format!(
        "{} {}",
        text(&workflow, "workflowID"),
        status_painted(text(&workflow, "status"))
    ));
    for (label, key) in [
        ("name", "workflowName"),
        ("class", "workflowClassName"),
        ("queue", "queueName"),
        ("version", "applicationVersion"),
    ] {
        if let Some(value) = workflow[key].as_str().filter(|value| !value.is_empty()) {
            say(&format!("  {label:<8} {value}"));
        }
    }
    let ago = |key: &str| workflow[key].as_i64().map(|at| format!("{} ago", age(at)));
    for (label, key) in [("created", "createdAt"), ("changed", "updatedAt")] {
        if let Some(ago) = ago(key) {
            say(&format!("  {label:<8} {ago}"));
        }
    }
    Ok(())
}

async fn steps(config: &Config, target: &Target, id: &str) -> Result<(), CliError> {
    let session = Session::open(config, target, Execute::Elsewhere).await?;
    let steps = session.api.get(&format!("{}/steps", path_of(id))).await?;
    for step in steps.as_array().into_iter().flatten() {
        if target.json {
            say(&step.to_string());
            continue;
        }
        let took = step["completedAt"].as_i64().zip(step["startedAt"].as_i64());
        let took = took.map_or_else(String::new, |(end, start)| milliseconds(end - start));
        say(&format!(
            "{:>5} {} {:<24} {took:>8}  {}",
            step["functionId"],
            status_painted(text(step, "status")),
            text(step, "stepId"),
            step["error"]["message"].as_str().unwrap_or_default(),
        ));
    }
    Ok(())
}

/// The path of a workflow on the ops plane.
fn path_of(id: &str) -> String {
    format!("/api/ops/wf/{}", encoded(id))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn status_painted(status: &str) -> String {
    let of = match status {
        "SUCCESS" => Paint::Good,
        "ERROR" | "CANCELLED" | "MAX_RECOVERY_ATTEMPTS_EXCEEDED" => Paint::Bad,
        _ => Paint::Plain,
    };
    paint(of, &format!("{status:<9}"))
}

/// Who acts, and why: both are kept in the trail.
#[derive(Debug, clap::Args)]
struct By {
    /// Who acts. Default: the user of this process.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Why. Default: not said.
    #[arg(long)]
    reason: Option<String>,
}

impl By {
    fn actor(&self) -> String {
        self.actor
            .clone()
            .or_else(|| crate::config::variable("USER"))
            .unwrap_or_else(|| "stepwell ops".into())
    }

    /// The body of a request that says so.
    fn body(&self) -> Value {
        let mut body = json!({"actor": self.actor()});
        if let Some(reason) = &self.reason {
            body["reason"] = reason.as_str().into();
        }
        body
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct RetryArguments {
    #[command(flatten)]
    target: Target,
    /// The run that failed.
    id: String,
    #[command(flatten)]
    by: By,
}

/// `stepwell retry`: a new run that keeps what ended well.
pub(super) async fn retry(config: &Config, arguments: &RetryArguments) -> Result<(), CliError> {
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    let path = format!("/api/runs/{}/retry", encoded(&arguments.id));
    let retried = session.api.post(&path, &arguments.by.body()).await?;
    if arguments.target.json {
        say(&retried.to_string());
    } else {
        say(&format!(
            "{} is executed again as {}, from {}",
            arguments.id,
            text(&retried, "newRunId"),
            text(&retried, "fromStep")
        ));
    }
    Ok(())
}
