//! `stepwell schedule`: what starts by itself, and when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::{
    CliError,
    api::encoded,
    run::quoted,
    say,
    session::{Execute, Session, Target},
    text::{Paint, paint},
};
use crate::{
    config::Config,
    engine::schedule::{Slots, Timing},
    intent::PreviewedSlot,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Store a schedule that runs a command, or any intent, from now on.
    Create(Box<CreateArguments>),
    /// List schedules, newest first.
    List,
    /// Show a schedule: its times, its last slots, and those that it missed.
    Show(One),
    /// Stop a schedule from firing until it is resumed.
    Pause(One),
    /// Let a schedule fire again, from now on.
    Resume(One),
    /// Start now what a schedule starts.
    Trigger(One),
    /// Delete a schedule; what it has started stays.
    Delete(One),
    /// Tell the next times of a schedule, or of a pattern that is none yet.
    Preview(PreviewArguments),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The schedule.
    name: String,
}

/// When: a pattern or an interval.
#[derive(Debug, Clone, clap::Args)]
struct When {
    /// A cron pattern: minute, hour, day, month, weekday; with six fields seconds come first. Default: none; `--every` says when.
    #[arg(long, value_name = "PATTERN", conflicts_with = "every")]
    cron: Option<String>,
    /// The time between two slots, such as 15m or 1h 30m, instead of a pattern. Default: none; `--cron` says when.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// The IANA time zone of the pattern, such as Europe/Berlin. Default: UTC.
    #[arg(long, value_name = "ZONE", requires = "cron")]
    timezone: Option<String>,
}

#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// Its name.
    name: String,
    #[command(flatten)]
    when: When,
    /// What of the missed slots is made up for: all, latest or none. Default: latest.
    #[arg(long, value_name = "WHICH", value_parser = ["all", "latest", "none"])]
    catch_up: Option<String>,
    /// How far back slots are made up for, such as 2h. Default: a day.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    window: Option<Duration>,
    /// What a slot does while the one before still runs: `allow`, `skip`, `queue_one` or `cancel_running`. Default: `skip`.
    #[arg(long, value_name = "HOW", value_parser = ["allow", "skip", "queue_one", "cancel_running"])]
    overlap: Option<String>,
    /// Put each start off by a time below this, such as 30s. Default: none.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,
    /// No slot before this time, such as 2027-01-01T00:00:00Z. Default: from now on.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak)]
    from: Option<SystemTime>,
    /// No slot after this time. Default: for ever.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak)]
    until: Option<SystemTime>,
    /// Store it paused.
    #[arg(long)]
    paused: bool,
    /// What each slot wants done, in words. Default: the command.
    #[arg(long)]
    goal: Option<String>,
    /// The recipe of its runs. Default: shell-default with a command, compile-default without.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// The tenant in the queue.
    #[arg(long, value_name = "KEY", default_value = "schedule")]
    partition: String,
    /// Cancel a run that takes longer than this, such as 10m. Default: never.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// The command that each slot runs, after `--`.
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct PreviewArguments {
    /// The schedule. Default: none; `--cron` or `--every` say when.
    #[arg(conflicts_with_all = ["cron", "every"], required_unless_present_any = ["cron", "every"])]
    name: Option<String>,
    #[command(flatten)]
    when: When,
    /// How many times, 1 to 100.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: u32,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let target = &arguments.target;
    if let Action::Preview(PreviewArguments {
        name: None,
        when,
        count,
    }) = &arguments.action
    {
        return say_preview(&preview(when, *count)?, target.json);
    }
    let session = Session::open(config, target, Execute::Elsewhere).await?;
    let api = &session.api;
    let path = |one: &One, rest: &str| format!("/api/schedules/{}{rest}", encoded(&one.name));
    match &arguments.action {
        Action::Create(create) => {
            let created = api.post("/api/schedules", &request(create)).await?;
            say_one(&created, target.json);
        }
        Action::List => {
            let mut path = "/api/schedules?limit=200".to_owned();
            loop {
                let page = api.get(&path).await?;
                for schedule in page["items"].as_array().into_iter().flatten() {
                    say_one(schedule, target.json);
                }
                let Some(cursor) = page["nextCursor"].as_str() else {
                    break;
                };
                path = format!("/api/schedules?limit=200&cursor={}", encoded(cursor));
            }
        }
        Action::Show(one) => {
            let schedule = api.get(&path(one, "")).await?;
            say_one(&schedule, target.json);
            if !target.json {
                say_slots(&schedule);
            }
        }
        Action::Pause(one) => say_one(&api.tell(&path(one, "/pause")).await?, target.json),
        Action::Resume(one) => say_one(&api.tell(&path(one, "/resume")).await?, target.json),
        Action::Trigger(one) => {
            let started = api.tell(&path(one, "/trigger")).await?;
            if target.json {
                say(&started.to_string());
            } else {
                say(&format!("started {}", text(&started["workflowID"])));
            }
        }
        Action::Delete(one) => {
            let deleted = api.delete(&path(one, "")).await?;
            if target.json {
                say(&deleted.to_string());
            } else {
                say(&format!("deleted {}", one.name));
            }
        }
        Action::Preview(preview) => {
            let name = preview.name.clone().unwrap_or_default();
            let rest = format!("/preview?count={}", preview.count);
            say_preview(&api.get(&path(&One { name }, &rest)).await?, target.json)?;
        }
    }
    Ok(())
}

/// The request that stores a schedule.
fn request(create: &CreateArguments) -> Value {
    let command = (!create.command.is_empty()).then(|| shell_line(&create.command));
    let recipe = create
        .recipe
        .clone()
        .or_else(|| command.as_ref().map(|_| "shell-default".to_owned()));
    let goal = create.goal.clone().or_else(|| command.clone());
    let mut inputs = Map::new();
    if let Some(command) = command {
        inputs.insert("command".into(), command.into());
    }
    let given = [
        ("cron", create.when.cron.clone().map(Value::from)),
        ("everyMS", create.when.every.map(milliseconds)),
        ("timezone", create.when.timezone.clone().map(Value::from)),
        ("catchUp", create.catch_up.clone().map(Value::from)),
        ("catchUpWindowMS", create.window.map(milliseconds)),
        ("overlap", create.overlap.clone().map(Value::from)),
        ("jitterMS", create.jitter.map(milliseconds)),
        ("startAt", create.from.map(epoch)),
        ("endAt", create.until.map(epoch)),
        ("paused", create.paused.then_some(true.into())),
    ];
    let run = [
        ("queuePartitionKey", Some(create.partition.clone().into())),
        ("recipeName", recipe.map(Value::from)),
        ("timeoutMS", create.timeout.map(milliseconds)),
    ];
    let mut body = object(given);
    body.insert("name".into(), create.name.clone().into());
    let goal = goal.unwrap_or_else(|| create.name.clone());
    body.insert("intent".into(), json!({"goal": goal, "inputs": inputs}));
    body.insert("run".into(), object(run).into());
    body.into()
}

/// A single word is a line for the shell; several are a command and its arguments.
fn shell_line(command: &[String]) -> String {
    match command {
        [line] => line.clone(),
        words => quoted(words),
    }
}

fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let given = |(key, value): (&str, Option<Value>)| Some((key.to_owned(), value?));
    members.into_iter().filter_map(given).collect()
}

fn milliseconds(span: Duration) -> Value {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).into()
}

fn epoch(at: SystemTime) -> Value {
    milliseconds(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The next times of a pattern that is no schedule yet. Nobody is asked: they follow from the pattern.
fn preview(when: &When, count: u32) -> Result<Value, CliError> {
    let timing = match (&when.cron, when.every) {
        (Some(cron), _) => Timing::cron(cron, when.timezone.as_deref().unwrap_or("UTC")),
        (None, every) => Timing::every(
            i64::try_from(every.unwrap_or_default().as_millis()).unwrap_or(i64::MAX),
            0,
        ),
    };
    let slots = Slots {
        timing: timing.map_err(|e| CliError::Usage(e.to_string()))?,
        starts_at: None,
        ends_at: None,
    };
    let now = epoch(SystemTime::now()).as_i64().unwrap_or(0);
    let zone = when.timezone.as_deref();
    let next = slots.preview(now, usize::try_from(count).unwrap_or(0));
    let next: Vec<Value> = next
        .into_iter()
        .map(|at| json!({"at": at, "local": PreviewedSlot::new(at, zone).local}))
        .collect();
    Ok(json!({"description": slots.timing.in_words(), "slots": next}))
}

fn say_preview(preview: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        say(&preview.to_string());
        return Ok(());
    }
    say(&text(&preview["description"]));
    for slot in preview["slots"].as_array().into_iter().flatten() {
        say(&format!("  {}", text(&slot["local"])));
    }
    Ok(())
}

/// One line: `nightly ACTIVE every weekday at 09:00 Europe/Berlin, next 2026-11-25T09:00:00+01:00`.
fn say_one(schedule: &Value, as_json: bool) {
    if as_json {
        say(&schedule.to_string());
        return;
    }
    let status = text(&schedule["status"]);
    let painted = match status.as_str() {
        "ACTIVE" => paint(Paint::Good, &status),
        _ => paint(Paint::Faint, &status),
    };
    let next = match schedule["nextAt"].as_i64() {
        Some(at) => format!("next {}", local(schedule, at)),
        None => "no next time".into(),
    };
    let missed = match schedule["missed"]["count"].as_i64() {
        None | Some(0) => String::new(),
        Some(missed) => paint(Paint::Bad, &format!(", {missed} missed")),
    };
    say(&format!(
        "{:<20} {painted} {}, {next}{missed}",
        text(&schedule["name"]),
        text(&schedule["description"]),
    ));
}

fn say_slots(schedule: &Value) {
    for slot in schedule["slots"].as_array().into_iter().flatten() {
        let at = slot["slotAt"].as_i64().unwrap_or(0);
        let what = match slot["workflowID"].as_str() {
            Some(workflow) => format!("{} {workflow}", text(&slot["status"])),
            None => format!(
                "{} missed until {}",
                slot["count"],
                local(schedule, slot["lastSlotAt"].as_i64().unwrap_or(at))
            ),
        };
        say(&format!(
            "  {}  {:<14} {what}",
            local(schedule, at),
            text(&slot["outcome"])
        ));
    }
}

fn local(schedule: &Value, at: i64) -> String {
    PreviewedSlot::new(at, schedule["timezone"].as_str()).local
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
