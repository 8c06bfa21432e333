//! Owns acting on workflows, one or many: what is asked for each, how the answers are counted, and what the exit code says of them.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use serde_json::{Value, json};

use super::{By as ByArguments, ids, path_of};
use crate::{
    cli::{
        CliError,
        api::Api,
        note,
        session::{Execute, Session, Target},
        status_line::StatusLine,
    },
    config::Config,
    intent::{Action, By, IntentError, legal_step},
    store::status::WorkflowStatus,
};

/// Requests under way at the same time: few, so that a batch never crowds out a server's other callers.
const IN_FLIGHT: usize = 8;
/// Without a terminal, progress is told every so many ids.
const PROGRESS_EVERY: usize = 100;
/// How often a request is made again that a busy server has put off, and the first pause before it, which doubles.
const PUT_OFF: (u32, Duration) = (6, Duration::from_millis(250));

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The workflows.
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    ids: Vec<String>,
    /// Read ids from standard input, one a line. An id that is refused for its state is counted, and is no failure.
    #[arg(long)]
    batch: bool,
    /// Change nothing; say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// With --batch: exit with 1 when an id was refused, too.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    by: ByArguments,
}

#[derive(Debug, clap::Args)]
pub(super) struct ForkArguments {
    /// The function id of the first step that is executed again; from 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    step: i32,
    /// The application version that may run the copies. Default: that of the original.
    #[arg(long = "app-version", value_name = "VERSION")]
    app_version: Option<String>,
    #[command(flatten)]
    workflows: Arguments,
}

#[derive(Debug, clap::Args)]
pub(super) struct MoveArguments {
    /// The application version that is to execute them.
    #[arg(long = "app-version", value_name = "VERSION", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    app_version: String,
    #[command(flatten)]
    workflows: Arguments,
}

/// What the API is asked to do to each workflow.
struct Order {
    action: Action,
    /// The step that a fork goes on from.
    step: Option<i32>,
    body: Value,
    dry_run: bool,
}

/// How it ended for one workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Done, and the copy if there is one.
    Accepted(Option<String>),
    /// Its state does not allow it.
    Refused(String),
    /// There is no such workflow.
    Unknown(String),
    /// Nobody knows whether it was done, or the request was wrong.
    Failed(String),
}

/// What a batch has come to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Summary {
    accepted: usize,
    refused: usize,
    unknown: usize,
    failed: usize,
}

impl Summary {
    fn count(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Accepted(_) => &mut self.accepted,
            Outcome::Refused(_) => &mut self.refused,
            Outcome::Unknown(_) => &mut self.unknown,
            Outcome::Failed(_) => &mut self.failed,
        } += 1;
    }

    /// Whether all went as it should. A batch that runs a second time meets states that refuse it: that is no failure, unless `strict` says so.
    fn is_success(self, strict: bool) -> bool {
        self.unknown == 0 && self.failed == 0 && (self.refused == 0 || !strict)
    }
}

pub(super) async fn cancel(
    config: &Config,
    target: &Target,
    arguments: &Arguments,
) -> Result<ExitCode, CliError> {
    ask(config, target, arguments, order(Action::Cancel, arguments)).await
}

pub(super) async fn resume(
    config: &Config,
    target: &Target,
    arguments: &Arguments,
) -> Result<ExitCode, CliError> {
    ask(config, target, arguments, order(Action::Resume, arguments)).await
}

pub(super) async fn fork(
    config: &Config,
    target: &Target,
    arguments: &ForkArguments,
) -> Result<ExitCode, CliError> {
    let mut order = order(Action::Fork, &arguments.workflows);
    order.step = Some(arguments.step);
    order.body["stepN"] = arguments.step.into();
    if let Some(version) = &arguments.app_version {
        order.body["appVersion"] = version.as_str().into();
    }
    ask(config, target, &arguments.workflows, order).await
}

pub(super) async fn move_to(
    config: &Config,
    target: &Target,
    arguments: &MoveArguments,
) -> Result<ExitCode, CliError> {
    let (version, arguments) = (arguments.app_version.as_str(), &arguments.workflows);
    let batch = Batch::read("move", arguments)?;
    let product = target.product(config, "runs are moved in").await?;
    let by = By {
        actor: Some(arguments.by.actor()),
        reason: arguments.by.reason.clone(),
    };
    let moved = |id| {
        let (product, by) = (&product, &by);
        let dry_run = batch.dry_run;
        let moved = async move {
            match product.move_workflow(id, version, by, dry_run).await {
                Ok(()) => Outcome::Accepted(None),
                Err(IntentError::Conflict { message, .. }) => Outcome::Refused(message),
                Err(error @ IntentError::NotFound { .. }) => Outcome::Unknown(error.to_string()),
                Err(error) => Outcome::Failed(format!("{id}: {error}")),
            }
        };
        Box::pin(moved) as BoxFuture<'_, _>
    };
    Ok(batch.act(target, moved).await)
}

fn order(action: Action, arguments: &Arguments) -> Order {
    Order {
        action,
        step: None,
        body: arguments.by.body(),
        dry_run: arguments.dry_run,
    }
}

/// Has the API act on each workflow.
async fn ask(
    config: &Config,
    target: &Target,
    arguments: &Arguments,
    order: Order,
) -> Result<ExitCode, CliError> {
    let batch = Batch::read(order.action.as_str(), arguments)?;
    let session = Session::open(config, target, Execute::Elsewhere).await?;
    let asked = |id| Box::pin(one(&session.api, &order, id)) as BoxFuture<'_, _>;
    Ok(batch.act(target, asked).await)
}

/// The workflows of one command.
struct Batch {
    name: &'static str,
    ids: Vec<String>,
    /// Whether a refusal is a failure.
    strict: bool,
    /// Whether the ids came from standard input: progress is told, and a sum at the end.
    read: bool,
    dry_run: bool,
}

impl Batch {
    fn read(name: &'static str, arguments: &Arguments) -> Result<Self, CliError> {
        let (ids, strict) = if arguments.batch {
            let read = ids::from_standard_input(name, arguments.dry_run)?;
            if read.repeated > 0 {
                note(&format!(
                    "{} lines name an id again; each id counts once",
                    read.repeated
                ));
            }
            (read.ids, arguments.strict)
        } else {
            (arguments.ids.clone(), true)
        };
        Ok(Self {
            name,
            ids,
            strict,
            read: arguments.batch,
            dry_run: arguments.dry_run,
        })
    }

    /// Acts on each workflow, goes on after a refusal, and tells what became of each and of all.
    async fn act<'a>(
        &'a self,
        target: &Target,
        act: impl Fn(&'a str) -> BoxFuture<'a, Outcome>,
    ) -> ExitCode {
        let mut line = StatusLine::new(
            self.read && !target.json && std::io::stderr().is_terminal(),
            self.name,
        );
        let mut summary = Summary::default();
        let mut outcomes = stream::iter(&self.ids)
            .map(|id| {
                let acted = act(id);
                async move { (id, acted.await) }
            })
            .buffered(IN_FLIGHT);
        let mut done = 0;
        while let Some((id, outcome)) = outcomes.next().await {
            summary.count(&outcome);
            done += 1;
            self.tell(&mut line, target, id, &outcome);
            if self.read {
                progress(&mut line, self.name, done, self.ids.len());
            }
        }
        line.clear();
        if self.read {
            let counts = json!({
                "action": self.name, "dryRun": self.dry_run, "accepted": summary.accepted, "refused": summary.refused,
                "unknown": summary.unknown, "failed": summary.failed,
            });
            crate::cli::say(&if target.json {
                counts.to_string()
            } else {
                self.sentence(summary)
            });
        }
        if summary.is_success(self.strict) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn sentence(&self, summary: Summary) -> String {
        let Summary {
            accepted,
            refused,
            unknown,
            failed,
        } = summary;
        let dry = if self.dry_run {
            " (dry run: nothing was changed)"
        } else {
            ""
        };
        format!(
            "{}: accepted {accepted}, refused {refused}, unknown {unknown}, failed {failed}{dry}",
            self.name
        )
    }

    /// Says what became of one workflow: what was done on standard output, what was not beside it.
    fn tell(&self, line: &mut StatusLine, target: &Target, id: &str, outcome: &Outcome) {
        let (word, message, forked) = match outcome {
            Outcome::Accepted(forked) => ("accepted", None, forked.as_deref()),
            Outcome::Refused(message) => ("refused", Some(message), None),
            Outcome::Unknown(message) => ("unknown", Some(message), None),
            Outcome::Failed(message) => ("failed", Some(message), None),
        };
        if target.json {
            let document =
                json!({"id": id, "outcome": word, "message": message, "forkedWorkflowID": forked});
            write(line, &document.to_string());
            return;
        }
        match message {
            Some(message) => line.print(&format!("{word}: {message}")),
            None => {
                let copy = forked.map_or_else(String::new, |copy| format!(" -> {copy}"));
                let would = if self.dry_run { "would " } else { "" };
                write(line, &format!("{would}{} {id}{copy}", self.name));
            }
        }
    }
}

fn progress(line: &mut StatusLine, name: &str, done: usize, all: usize) {
    if std::io::stderr().is_terminal() {
        line.say(&format!("{done} of {all}"));
    } else if done.is_multiple_of(PROGRESS_EVERY) {
        note(&format!("{name}: {done} of {all}"));
    }
}

fn write(line: &mut StatusLine, text: &str) {
    let mut out = std::io::stdout();
    line.write(&mut out, format!("{text}\n").as_bytes());
    let _ = out.flush();
}

/// Does it to one workflow.
async fn one(api: &Api, order: &Order, id: &str) -> Outcome {
    let answer = if order.dry_run {
        foresee(api, order, id).await
    } else {
        let path = format!("{}/{}", path_of(id), order.action.as_str());
        undeterred(|| api.post(&path, &order.body)).await
    };
    match answer {
        Ok(answer) => Outcome::Accepted(answer["forkedWorkflowID"].as_str().map(str::to_owned)),
        Err(CliError::Refused {
            status: 409,
            message,
        }) => Outcome::Refused(message),
        Err(CliError::Refused {
            status: 404,
            message,
        }) => Outcome::Unknown(message),
        Err(error) => Outcome::Failed(format!("{id}: {error}")),
    }
}

/// What would be answered, by the same rules, from what the workflow is now.
async fn foresee(api: &Api, order: &Order, id: &str) -> Result<Value, CliError> {
    let refused = |message| CliError::Refused {
        status: 409,
        message,
    };
    let path = path_of(id);
    let workflow = undeterred(|| api.get(&path)).await?;
    let status: WorkflowStatus = serde_json::from_value(workflow["status"].clone())
        .map_err(|e| CliError::Failed(format!("a status that nobody knows: {e}")))?;
    order.action.check(id, status).map_err(refused)?;
    if let Some(step) = order.step {
        let path = format!("{}/steps", path_of(id));
        let steps = undeterred(|| api.get(&path)).await?;
        let ids = steps.as_array().into_iter().flatten();
        let highest = ids.filter_map(|step| step["functionId"].as_i64()).max();
        let highest = highest.and_then(|id| i32::try_from(id).ok());
        legal_step(id, step, highest).map_err(refused)?;
    }
    Ok(Value::Null)
}

/// Asks again, after a pause that doubles, while the server says that it is busy: then it has done nothing.
async fn undeterred<F, Fut>(ask: F) -> Result<Value, CliError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Value, CliError>>,
{
    let (most, mut pause) = PUT_OFF;
    for _ in 0..most {
        match ask().await {
            Err(CliError::Refused {
                status: 429 | 503, ..
            }) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
        pause *= 2;
    }
    ask().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_fails_a_batch_only_when_it_is_strict() {
        let refused = |text: &str| Outcome::Refused(text.into());
        let of = |outcomes: &[Outcome]| {
            let mut summary = Summary::default();
            outcomes.iter().for_each(|outcome| summary.count(outcome));
            summary
        };
        for (outcomes, lenient, strict) in [
            (vec![Outcome::Accepted(None)], true, true),
            (vec![Outcome::Accepted(None), refused("state")], true, false),
            (vec![Outcome::Unknown("x".into())], false, false),
            (vec![Outcome::Failed("x".into())], false, false),
        ] {
            let summary = of(&outcomes);
            assert_eq!(summary.is_success(false), lenient, "{outcomes:?}");
            assert_eq!(summary.is_success(true), strict, "{outcomes:?}");
        }
    }
}
