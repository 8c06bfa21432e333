//! `stepwell runs`, `show`, `explain`, `logs` and `approve`: what people ask about runs, and the one thing they are asked.

use std::{io::Write, pin::pin};

use serde_json::{Value, json};

use super::{
    CliError,
    api::encoded,
    follow::{Begun, Event, Follower, RUNS_AGAIN},
    note, say,
    session::{Execute, Session, Target},
    standing::Standing,
    text::{Paint, age, milliseconds, paint},
};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    target: Target,
    /// Only runs with this status: ENQUEUED, PENDING, SUCCESS, ERROR or CANCELLED. Default: all.
    #[arg(long)]
    status: Option<String>,
    /// Only runs of this recipe. Default: all.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// At most so many, newest first; 1 to 200.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

pub(super) async fn list(config: &Config, arguments: &ListArguments) -> Result<(), CliError> {
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    let mut path = format!("/api/runs?limit={}", arguments.limit);
    for (key, value) in [
        ("status", &arguments.status),
        ("recipeName", &arguments.recipe),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encoded(value)));
        }
    }
    let page = session.api.get(&path).await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    for run in &items {
        if arguments.target.json {
            say(&run.to_string());
            continue;
        }
        let text = |key: &str| run[key].as_str().unwrap_or_default().to_owned();
        say(&format!(
            "{:<22} {} {:<16} {:>8}  {}",
            text("runId"),
            status(&format!("{:<9}", text("status"))),
            text("recipeName"),
            age(run["createdAt"].as_i64().unwrap_or(0)),
            asked_for(run),
        ));
    }
    if items.is_empty() && !arguments.target.json {
        note("no runs; start one with `stepwell run -- COMMAND`");
    }
    Ok(())
}

/// What a run asks of somebody, or why it failed.
fn asked_for(run: &Value) -> String {
    match (run["nextAction"].as_str(), run["error"]["message"].as_str()) {
        (Some(action), _) if action != "NONE" => action.to_owned(),
        (_, Some(message)) => message.to_owned(),
        _ => String::new(),
    }
}

fn status(text: &str) -> String {
    let paint_of = match text.trim() {
        "SUCCESS" => Paint::Good,
        "ERROR" | "CANCELLED" => Paint::Bad,
        _ => Paint::Plain,
    };
    paint(paint_of, text)
}

#[derive(Debug, clap::Args)]
pub(super) struct OneArguments {
    #[command(flatten)]
    target: Target,
    /// The run.
    id: String,
}

/// `stepwell show`: a tree of everything that is known of a run.
pub(super) async fn show(config: &Config, arguments: &OneArguments) -> Result<(), CliError> {
    let view = view(config, arguments).await?;
    if arguments.target.json {
        say(&view.to_string());
        return Ok(());
    }
    let header = &view["header"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say(&format!(
        "{} {}  {}, {} old",
        text(&header["runId"]),
        status(&text(&header["status"])),
        text(&header["recipeName"]),
        age(header["createdAt"].as_i64().unwrap_or(0)),
    ));
    let mut branches = vec![(text(&view["explain"]["sentence"]), Vec::new())];
    if let Some(message) = header["error"]["message"].as_str() {
        let code = text(&header["error"]["code"]);
        branches.push((
            format!("{}: {message}", paint(Paint::Bad, &code)),
            Vec::new(),
        ));
    }
    if !view["approval"].is_null() {
        let by = text(&view["approval"]["approvedBy"]);
        branches.push((format!("approved by {by}"), Vec::new()));
    }
    for step in view["steps"].as_array().into_iter().flatten() {
        let took = step["endedAt"].as_i64().zip(step["startedAt"].as_i64());
        let took = took.map_or_else(String::new, |(end, start)| milliseconds(end - start));
        let own = step["artifactRefs"].as_array().into_iter().flatten();
        let own = own.filter(|artifact| text(&artifact["id"]).contains("/task/-/"));
        let title = format!("{:<13} {took}", text(&step["stepID"]));
        branches.push((title, own.map(artifact_line).collect()));
    }
    for task in view["tasks"].as_array().into_iter().flatten() {
        let exit = task["exit"]
            .as_i64()
            .map_or_else(String::new, |exit| format!(", exit {exit}"));
        let code = text(&task["errCode"]);
        let told = if code == "NONE" {
            paint(Paint::Good, "well")
        } else {
            paint(Paint::Bad, &code)
        };
        let title = format!(
            "task {} {told}{exit}, attempt {}, {}  {}",
            task["ordinal"],
            task["attempt"],
            milliseconds(task["wallMs"].as_i64().unwrap_or(0)),
            paint(Paint::Faint, &text(&task["command"])),
        );
        let refs = task["artifactRefs"].as_array().into_iter().flatten();
        branches.push((title, refs.map(artifact_line).collect()));
    }
    for fork in view["forks"].as_array().into_iter().flatten() {
        branches.push((format!("forked to {}", text(fork)), Vec::new()));
    }
    tree(&branches);
    Ok(())
}

fn artifact_line(artifact: &Value) -> String {
    let id = artifact["id"].as_str().unwrap_or_default();
    let name = id
        .split_once("/task/")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or(id, |(_, name)| name);
    format!(
        "{name} {}",
        paint(Paint::Faint, &format!("{} bytes", artifact["size"]))
    )
}

fn tree(branches: &[(String, Vec<String>)]) {
    for (n, (title, leaves)) in branches.iter().enumerate() {
        let last = n + 1 == branches.len();
        say(&format!("{} {title}", if last { "└─" } else { "├─" }));
        for (m, leaf) in leaves.iter().enumerate() {
            let trunk = if last { "  " } else { "│ " };
            let branch = if m + 1 == leaves.len() {
                "└─"
            } else {
                "├─"
            };
            say(&format!("{trunk} {branch} {leaf}"));
        }
    }
}

/// `stepwell explain`: one sentence.
pub(super) async fn explain(config: &Config, arguments: &OneArguments) -> Result<(), CliError> {
    let view = view(config, arguments).await?;
    if arguments.target.json {
        say(&view["explain"].to_string());
    } else {
        say(view["explain"]["sentence"].as_str().unwrap_or_default());
    }
    Ok(())
}

async fn view(config: &Config, arguments: &OneArguments) -> Result<Value, CliError> {
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    session
        .api
        .get(&format!("/api/runs/{}/view", encoded(&arguments.id)))
        .await
}

#[derive(Debug, clap::Args)]
pub(super) struct LogArguments {
    #[command(flatten)]
    target: Target,
    /// The run.
    id: String,
    /// Wait for what is printed from now on, until the run has ended. What holds the run up meanwhile is told on standard error.
    #[arg(long, short)]
    follow: bool,
    /// Only the output of this task. Default: all tasks'.
    #[arg(long, value_name = "KEY")]
    task: Option<String>,
}

/// `stepwell logs`: what the commands of a run printed; their standard error goes to ours.
pub(super) async fn logs(config: &Config, arguments: &LogArguments) -> Result<(), CliError> {
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    let mut follower = Follower::new(&session.api, &arguments.id, arguments.follow);
    let mut standing = (arguments.follow && !arguments.target.json)
        .then(|| Standing::new(&session.api, &arguments.id));
    let mut begun = Begun::default();
    while let Some(event) = next(&mut follower, standing.as_mut()).await? {
        let other = |key: &String| event.data["taskKey"] != key.as_str();
        if !matches!(event.name.as_str(), "stdout" | "stderr" | "task")
            || arguments.task.as_ref().is_some_and(other)
        {
            continue;
        }
        if arguments.target.json {
            say(&json!({"event": event.name, "data": event.data}).to_string());
            continue;
        }
        let bytes = event.bytes();
        let written = match event.name.as_str() {
            "stdout" => std::io::stdout().write_all(&bytes),
            "stderr" => std::io::stderr().write_all(&bytes),
            // Of what is over nobody needs to know.
            _ if begun.is_again(&event) && arguments.follow => {
                note(RUNS_AGAIN);
                Ok(())
            }
            _ => Ok(()),
        };
        if written.is_err() {
            // Its reader has gone.
            return Ok(());
        }
    }
    let _ = std::io::stdout().flush();
    Ok(())
}

/// The next event of a run. What holds the run up is told while it is awaited.
async fn next(
    follower: &mut Follower<'_>,
    standing: Option<&mut Standing<'_>>,
) -> Result<Option<Event>, CliError> {
    let Some(standing) = standing else {
        return follower.next().await;
    };
    // Kept over the looks: an attempt to open the stream that is given up half-way would be counted as one that failed.
    let mut event = pin!(follower.next());
    loop {
        tokio::select! {
            biased;
            event = &mut event => return event,
            sentence = standing.changed() => note(&sentence),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct ApproveArguments {
    #[command(flatten)]
    target: Target,
    /// The run.
    id: String,
    /// Who approves. Default: the user of this process.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why. Default: not said.
    #[arg(long)]
    notes: Option<String>,
}

/// `stepwell approve`: lets a run go on that waits for somebody.
pub(super) async fn approve(config: &Config, arguments: &ApproveArguments) -> Result<(), CliError> {
    let by = arguments
        .by
        .clone()
        .or_else(|| crate::config::variable("USER"))
        .unwrap_or_else(|| "stepwell approve".into());
    let mut body = json!({"approvedBy": by});
    if let Some(notes) = &arguments.notes {
        body["notes"] = notes.as_str().into();
    }
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    let path = format!("/api/runs/{}/approve-plan", encoded(&arguments.id));
    let answer = session.api.post(&path, &body).await?;
    if arguments.target.json {
        say(&answer.to_string());
    } else {
        say(&format!("approved {}", arguments.id));
    }
    Ok(())
}
