//! `stepwell run`: a command as a durable run, with its output as it comes. Killed and typed again with the same `--id`, it goes on.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    CliError,
    api::{Api, encoded},
    artifacts::fetch,
    follow::{Begun, Event, Follower, RUNS_AGAIN},
    note,
    session::{Execute, Session, Target},
    status_line::StatusLine,
};
use crate::{config::Config, intent::MOST_INTENT_BYTES};

/// Exit codes for what is no exit of the command: those of `timeout(1)`, of a shell for SIGKILL and SIGINT, and of `sysexits.h`.
const TIMED_OUT: u8 = 124;
const KILLED: u8 = 137;
const INTERRUPTED: u8 = 130;
const INFRASTRUCTURE: u8 = 70;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Hand in a file; NAME is its path in the command's directory: the path as it is typed, or the file's name if that leads outside, unless given.
    /// Default: none.
    #[arg(long = "file", value_name = "[NAME=]FILE")]
    files: Vec<String>,
    /// Take out the files that match, relative to the command's directory: `report.csv`, `out/**`. Default: none.
    #[arg(long = "out", value_name = "GLOB")]
    outs: Vec<String>,
    /// The directory into which files are taken out. Where a run has several tasks, each has a directory in it: `0`, `1`, and so on.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out_dir: PathBuf,
    /// Set a variable of the command; without a value the one of this process is taken. Default: none of this process's variables.
    #[arg(long = "env", value_name = "K[=V]")]
    env: Vec<String>,
    /// How long the command may take: `500ms`, `60s`, `1h 30m`. Default: `SBX_DEFAULT_TIMEOUT_MS`, five minutes.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Whether the command may use the network. Default: `SBX_DEFAULT_NET`, it may.
    #[arg(long, value_name = "BOOL")]
    net: Option<bool>,
    /// The queue; only `intentQ` takes runs.
    #[arg(long, default_value = "intentQ")]
    queue: String,
    /// The tenant in the queue.
    #[arg(long, value_name = "KEY", default_value = "cli")]
    partition: String,
    /// Lower runs first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    priority: i32,
    /// The id of the run: the same command under the same id again is the same run. Default: a new one.
    #[arg(long)]
    id: Option<String>,
    /// Print the id and leave; whoever works on the database executes it.
    #[arg(long)]
    detach: bool,
    /// The recipe.
    #[arg(long, value_name = "NAME", default_value = "shell-default")]
    recipe: String,
    /// An input of the recipe; V is JSON, or text when it is none. Default: none.
    #[arg(long = "input", value_name = "K=V")]
    inputs: Vec<String>,
    /// What it is good for, in words. Default: the command.
    #[arg(long)]
    goal: Option<String>,
    /// The command and its arguments. A single argument is a line for the shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<ExitCode, CliError> {
    let intent = arguments.intent()?;
    // Who leaves at once executes nothing.
    let execute = if arguments.detach {
        Execute::Elsewhere
    } else {
        Execute::Here
    };
    let session = Session::open(config, &arguments.target, execute).await?;
    let mut interrupts = Interrupts::catch()?;
    let code = start_and_watch(&session, arguments, &intent, &mut interrupts).await;
    if matches!(code, Err(CliError::Interrupted(_))) {
        // Nothing is waited for: what executes here ends with the process.
        return code;
    }
    tokio::select! {
        () = session.close() => {}
        () = interrupts.next() => {}
    }
    code
}

async fn start_and_watch(
    session: &Session,
    arguments: &Arguments,
    intent: &Value,
    interrupts: &mut Interrupts,
) -> Result<ExitCode, CliError> {
    let id = interrupts.or(start(session, arguments, intent)).await?;
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let mut watch = Watch::new(&session.api, &id, arguments.target.json);
    let watched = watch.until_ended(interrupts).await;
    watch.line.clear();
    watched?;
    interrupts.or(tell_end(session, arguments, &id)).await
}

/// Starts the run, or finds it again under its id.
async fn start(
    session: &Session,
    arguments: &Arguments,
    intent: &Value,
) -> Result<String, CliError> {
    let created = session.api.post("/api/intents", intent).await?;
    let id = created["intentId"].as_str().unwrap_or_default().to_owned();
    let request = json!({
        "intentId": id, "recipeName": arguments.recipe, "queueName": arguments.queue, "queuePartitionKey": arguments.partition,
        "priority": arguments.priority,
    });
    let header = session.api.post("/api/runs", &request).await?;
    if arguments.detach {
        if arguments.target.json {
            super::say(&header.to_string());
        } else {
            super::say(&id);
            if !session.remote {
                note(
                    "queued; `stepwell serve` executes it, and so does `stepwell run --id` with the same command",
                );
            }
        }
    }
    Ok(id)
}

/// Takes out what a run that has ended has left, and answers with the exit code that stands for its end.
async fn tell_end(
    session: &Session,
    arguments: &Arguments,
    id: &str,
) -> Result<ExitCode, CliError> {
    let view = session
        .api
        .get(&format!("/api/runs/{}/view", encoded(id)))
        .await?;
    if !arguments.outs.is_empty() {
        take_out(&session.api, &view, &arguments.out_dir).await?;
    }
    if arguments.target.json {
        let ended = json!({"event": "ended", "runId": id, "status": view["header"]["status"], "tasks": view["tasks"]});
        super::say(&ended.to_string());
    }
    Ok(ExitCode::from(exit_code(&view, id)))
}

/// Ctrl-C, caught from the moment this exists: one that comes while something else is under way waits here, and is not lost.
struct Interrupts(Signal);

impl Interrupts {
    fn catch() -> Result<Self, CliError> {
        signal(SignalKind::interrupt())
            .map(Self)
            .map_err(|e| CliError::Failed(format!("cannot listen for Ctrl-C: {e}")))
    }

    /// Until somebody types it.
    async fn next(&mut self) {
        self.0.recv().await;
    }

    /// What `work` answers, unless somebody leaves before it does.
    async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        tokio::select! {
            done = work => done,
            () = self.next() => Err(CliError::Interrupted(INTERRUPTED)),
        }
    }
}

impl Arguments {
    /// The intent that says what was typed.
    fn intent(&self) -> Result<Value, CliError> {
        let mut inputs = Map::new();
        for input in &self.inputs {
            let (key, value) = input
                .split_once('=')
                .ok_or_else(|| usage(format!("--input {input:?} is not K=V")))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            inputs.insert(key.to_owned(), value);
        }
        match (self.command.as_slice(), inputs.contains_key("command")) {
            ([], false) if self.recipe == "shell-default" => {
                return Err(usage(
                    "there is no command; type it behind `--`: stepwell run -- echo hello".into(),
                ));
            }
            ([], _) => {}
            ([line], _) => {
                inputs.insert("command".into(), line.as_str().into());
            }
            (words, _) => {
                // In the place of the shell: what ends the command is told of the command.
                inputs.insert("command".into(), format!("exec {}", quoted(words)).into());
            }
        }
        if !self.files.is_empty() {
            inputs.insert("files".into(), self.handed_in()?.into());
        }
        if !self.outs.is_empty() {
            inputs.insert("out".into(), self.outs.clone().into());
        }
        if !self.env.is_empty() {
            inputs.insert("env".into(), self.variables()?.into());
        }
        if let Some(timeout) = self.timeout {
            let ms = u64::try_from(timeout.as_millis())
                .unwrap_or(u64::MAX)
                .max(1);
            inputs.insert("timeoutMs".into(), ms.into());
        }
        if let Some(net) = self.net {
            inputs.insert("net".into(), net.into());
        }
        let typed = (!self.command.is_empty()).then(|| self.command.join(" "));
        let goal = self.goal.clone().or(typed);
        let goal = goal.unwrap_or_else(|| self.recipe.clone());
        let mut intent = json!({"goal": goal, "inputs": inputs, "constraints": {}});
        if let Some(id) = &self.id {
            intent["intentId"] = id.as_str().into();
        }
        fits(intent.to_string().len())?;
        Ok(intent)
    }

    fn handed_in(&self) -> Result<Vec<Value>, CliError> {
        use base64::Engine;
        let mut files = Vec::new();
        let mut total = 0;
        for argument in &self.files {
            let (name, path) = match argument.split_once('=') {
                Some((name, path)) => (name.to_owned(), Path::new(path)),
                None => (name_inside(argument), Path::new(argument.as_str())),
            };
            let bytes = std::fs::read(path)
                .map_err(|e| CliError::Failed(format!("cannot read {}: {e}", path.display())))?;
            total += bytes.len();
            // Encoded they become more.
            fits(total)?;
            files.push(match String::from_utf8(bytes) {
                Ok(text) => json!({"path": name, "inline": text}),
                Err(error) => {
                    let encoded =
                        base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
                    json!({"path": name, "uri": format!("data:application/octet-stream;base64,{encoded}")})
                }
            });
        }
        Ok(files)
    }

    fn variables(&self) -> Result<Map<String, Value>, CliError> {
        let one = |argument: &String| match argument.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), Value::from(value))),
            None => {
                let value = crate::config::variable(argument).ok_or_else(|| {
                    usage(format!(
                        "--env {argument}: this process has no such variable"
                    ))
                })?;
                Ok((argument.clone(), value.into()))
            }
        };
        self.env.iter().map(one).collect()
    }
}

/// Whether an intent may have so many bytes.
fn fits(bytes: usize) -> Result<(), CliError> {
    if bytes <= MOST_INTENT_BYTES {
        return Ok(());
    }
    Err(usage(format!(
        "the intent with its files has more than {MOST_INTENT_BYTES} bytes as JSON, where bytes that are no text count four thirds; let a run write \
         larger files, and hand them in as --input 'files=[{{\"path\":…,\"uri\":\"artifact://…\"}}]'"
    )))
}

fn usage(message: String) -> CliError {
    CliError::Usage(message)
}

/// The path of a file in the command's directory: as it was typed, unless that leads outside.
fn name_inside(typed: &str) -> String {
    let path = Path::new(typed);
    let inside = path
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if inside {
        return typed.to_owned();
    }
    path.file_name().map_or_else(
        || typed.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// `words` as a line that the shell reads back as these words.
pub(super) fn quoted(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Prints what a run does until it has ended. Ctrl-C cancels it, once; a second one leaves.
struct Watch<'a> {
    api: &'a Api,
    id: &'a str,
    json: bool,
    line: StatusLine,
    cancelling: bool,
    begun: Begun,
}

impl<'a> Watch<'a> {
    fn new(api: &'a Api, id: &'a str, json: bool) -> Self {
        let line = StatusLine::new(!json && std::io::stderr().is_terminal(), id);
        Self {
            api,
            id,
            json,
            line,
            cancelling: false,
            begun: Begun::default(),
        }
    }

    async fn until_ended(&mut self, interrupts: &mut Interrupts) -> Result<(), CliError> {
        let mut follower = Follower::new(self.api, self.id, true);
        loop {
            let event = tokio::select! {
                event = follower.next() => event?,
                () = interrupts.next() => {
                    if self.cancelling {
                        return Err(CliError::Interrupted(INTERRUPTED));
                    }
                    self.cancelling = true;
                    interrupts.or(self.cancel()).await?;
                    continue;
                }
            };
            match event {
                Some(event) => self.show(&event),
                None => return Ok(()),
            }
        }
    }

    async fn cancel(&mut self) -> Result<(), CliError> {
        self.line.print(&format!(
            "cancelling {}; Ctrl-C again leaves it to itself",
            self.id
        ));
        let path = format!("/api/ops/wf/{}/cancel", encoded(self.id));
        let body = json!({"actor": "stepwell run", "reason": "Ctrl-C"});
        match self.api.post(&path, &body).await {
            // It ended meanwhile: its stream says so.
            Ok(_) | Err(CliError::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn show(&mut self, event: &Event) {
        if self.json {
            super::say(&json!({"event": event.name, "data": event.data}).to_string());
            return;
        }
        match event.name.as_str() {
            "stdout" => self.line.write(&mut std::io::stdout(), &event.bytes()),
            "stderr" => self.line.write(&mut std::io::stderr(), &event.bytes()),
            "status" => {
                let status = event.data["status"].as_str().unwrap_or_default();
                self.line.say(status);
                if event.data["nextAction"] == "APPROVE_PLAN" {
                    self.line.print(&format!(
                        "waits for somebody to approve its plan: stepwell approve {}",
                        self.id
                    ));
                }
            }
            "task" if self.begun.is_again(event) => self.line.print(RUNS_AGAIN),
            _ => {}
        }
    }
}

/// Writes the files of a run's tasks below `directory`.
async fn take_out(api: &Api, view: &Value, directory: &Path) -> Result<(), CliError> {
    for (id, path) in taken_out(view)? {
        fetch(api, id, &directory.join(path)).await?;
    }
    Ok(())
}

/// The files of a run's tasks, and where they go: those of several tasks have the same names, so each task has a directory of its own.
fn taken_out(view: &Value) -> Result<Vec<(&str, PathBuf)>, CliError> {
    let tasks = view["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    let mut files = Vec::new();
    for task in tasks {
        let below = if tasks.len() > 1 {
            PathBuf::from(task["ordinal"].to_string())
        } else {
            PathBuf::new()
        };
        let refs = task["artifactRefs"].as_array().into_iter().flatten();
        for artifact in refs.filter(|artifact| artifact["kind"] == "file") {
            let id = artifact["id"].as_str().unwrap_or_default();
            let name = id.split_once("/files/").map_or(id, |(_, name)| name);
            let inside = Path::new(name)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            if !inside {
                return Err(CliError::Failed(format!(
                    "{name:?} is no path below a directory; it is not taken out"
                )));
            }
            files.push((id, below.join(name)));
        }
    }
    Ok(files)
}

/// The exit code that stands for the end of a run, and a line that says what is no exit of the command.
fn exit_code(view: &Value, id: &str) -> u8 {
    let header = &view["header"];
    if header["status"] == "CANCELLED" {
        note(&format!("{id} was cancelled"));
        return INTERRUPTED;
    }
    let failed = view["tasks"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|task| task["errCode"] != "NONE");
    let message = header["error"]["message"].as_str().unwrap_or_default();
    let Some(task) = failed else {
        if header["status"] == "SUCCESS" {
            return 0;
        }
        note(&format!("{id} failed: {message}"));
        return 1;
    };
    let exit = task["exit"]
        .as_u64()
        .and_then(|exit| u8::try_from(exit).ok());
    match (task["errCode"].as_str().unwrap_or_default(), exit) {
        ("CMD_NONZERO", Some(exit)) => {
            if let Some(signal) = task["signal"].as_u64() {
                note(&format!("the command was ended by signal {signal}"));
            }
            exit
        }
        ("TIMEOUT", _) => {
            note(&format!("{message}: it ran over its time"));
            TIMED_OUT
        }
        ("OOM", _) => {
            note(&format!("{message}: it took too much memory"));
            KILLED
        }
        _ => {
            note(message);
            INFRASTRUCTURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        let words = ["sh", "-c", "kill -9 $$", "it's", ""].map(str::to_owned);
        assert_eq!(quoted(&words), r"sh -c 'kill -9 $$' 'it'\''s' ''");
    }

    #[test]
    fn a_file_keeps_its_path_unless_that_leads_outside() {
        assert_eq!(name_inside("data/words.txt"), "data/words.txt");
        assert_eq!(name_inside("/etc/hosts"), "hosts");
        assert_eq!(name_inside("../up.txt"), "up.txt");
    }

    #[test]
    fn the_files_of_several_tasks_do_not_meet() {
        let task = |ordinal: usize, name: &str| {
            let id = format!("artifact://run/r/step/ExecuteST/task/k{ordinal}/files/{name}");
            json!({"ordinal": ordinal, "artifactRefs": [{"id": "artifact://x", "kind": "stdout"}, {"id": id, "kind": "file"}]})
        };
        let paths = |tasks: Value| {
            let view = json!({"tasks": tasks});
            let files = taken_out(&view);
            files.map(|files| files.into_iter().map(|(_, path)| path).collect::<Vec<_>>())
        };
        assert_eq!(
            paths(json!([task(0, "r.txt")])).unwrap(),
            [Path::new("r.txt")]
        );
        assert_eq!(
            paths(json!([task(0, "r.txt"), task(1, "r.txt")])).unwrap(),
            [Path::new("0/r.txt"), Path::new("1/r.txt")]
        );
        paths(json!([task(0, "../r.txt")])).unwrap_err();
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        let view = |status: &str, code: &str, exit: Value| json!({"header": {"status": status}, "tasks": [{"errCode": code, "exit": exit}]});
        for (view, code) in [
            (view("SUCCESS", "NONE", json!(0)), 0),
            (view("ERROR", "CMD_NONZERO", json!(3)), 3),
            (view("ERROR", "TIMEOUT", Value::Null), 124),
            (view("ERROR", "OOM", json!(137)), 137),
            (view("ERROR", "BOOT_FAIL", Value::Null), 70),
            (view("CANCELLED", "NONE", json!(0)), 130),
            (json!({"header": {"status": "ERROR"}, "tasks": []}), 1),
        ] {
            assert_eq!(exit_code(&view, "r"), code, "{view}");
        }
    }
}
