//! The recipes of `deploy/`, as far as they can be tried without their platforms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use harness::*;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const STEPWELL: &str = env!("CARGO_BIN_EXE_stepwell");

fn recipe(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join("deploy").join(name)).unwrap()
}

/// A recipe that is YAML.
fn document(name: &str) -> Value {
    serde_norway::from_str(&recipe(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The number after `option` in a script.
fn number_after(script: &str, option: &str) -> i64 {
    let rest = script.split(&format!("{option} ")).nth(1).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// A directory with a `stepwell`, and how to call a script there.
struct Platform(tempfile::TempDir);

impl Platform {
    /// Where `stepwell` is this script.
    fn with(stand_in: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stepwell = directory.path().join("stepwell");
        fs::write(&stepwell, format!("#!/bin/sh\n{stand_in}\n")).unwrap();
        fs::set_permissions(&stepwell, fs::Permissions::from_mode(0o755)).unwrap();
        // Where a build leaves it.
        let built = directory.path().join("target/release");
        fs::create_dir_all(&built).unwrap();
        symlink(&stepwell, built.join("stepwell")).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let search = format!("{}:/usr/bin:/bin", self.0.path().display());
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", search)
            .env("GITHUB_STEP_SUMMARY", self.path("summary"))
            .env(
                "DATABASE_URL",
                format!("sqlite://{}?mode=rwc", self.path("db").display()),
            );
        command
    }
}

/// What the recipes of platforms that read YAML start, word for word, by the name of the recipe; and how many seconds the platform gives it.
fn started_by_platforms() -> Vec<(&'static str, Vec<String>, i64)> {
    let words = |of: &Value| -> Vec<String> {
        let all = [&of["command"], &of["args"]].map(|part| part.as_array().unwrap().clone());
        all.concat()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let actions = document("github-actions/stepwell.yml");
    let once = &actions["jobs"]["once"];
    let step = once["steps"].as_array().unwrap().last().unwrap();
    // How a step without `shell` is started there: the script stands in a file.
    let step = ["bash", "-e", "-c", step["run"].as_str().unwrap()].map(str::to_owned);
    let cloud_run = &document("cloud-run/job.yaml")["spec"]["template"]["spec"]["template"]["spec"];
    let kubernetes = &document("kubernetes/cronjob.yaml")["spec"]["jobTemplate"]["spec"];
    let pod = &kubernetes["template"]["spec"];
    vec![
        (
            "github-actions",
            step.to_vec(),
            60 * once["timeout-minutes"].as_i64().unwrap(),
        ),
        (
            "cloud-run",
            words(&cloud_run["containers"][0]),
            cloud_run["timeoutSeconds"].as_i64().unwrap(),
        ),
        (
            "kubernetes",
            words(&pod["containers"][0]),
            kubernetes["activeDeadlineSeconds"].as_i64().unwrap(),
        ),
    ]
}

/// Reads one HTTP request: its first line, and its body.
async fn request(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request ends early");
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|n| n.trim().parse().unwrap())
            })
            .unwrap_or(0);
        if body.len() >= length {
            return (head.lines().next().unwrap().to_owned(), body.to_owned());
        }
    }
}

/// The runtime API of a functions platform: hands out one invocation, and returns what it was answered.
async fn invoke(listener: &TcpListener, id: &str) -> (String, Value) {
    let (mut next, _) = listener.accept().await.unwrap();
    let (line, _) = request(&mut next).await;
    assert!(
        line.starts_with("GET /2018-06-01/runtime/invocation/next "),
        "{line}"
    );
    let deadline = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
        + 30_000;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: {id}\r\nLambda-Runtime-Deadline-Ms: {deadline}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    next.write_all(answer.as_bytes()).await.unwrap();
    drop(next);
    let (mut answered, _) = listener.accept().await.unwrap();
    let (line, body) = request(&mut answered).await;
    answered
        .write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    (line, serde_json::from_str(&body).unwrap())
}

on_both_databases! {
    async fn the_runtime_of_a_function_answers_each_invocation(stage: Stage) {
        if missing_tools(&["sh", "curl"]) {
            return;
        }
        let api = stage.start("api", &[]).await;
        let run = api.start_job(json!({"command": "true"})).await;
        let task = stage.dir().join("task");
        fs::create_dir(&task).unwrap();
        fs::copy(Path::new(ROOT).join("deploy/aws-lambda/bootstrap"), task.join("bootstrap")).unwrap();
        symlink(STEPWELL, task.join("stepwell")).unwrap();
        let within = Duration::from_secs(60);
        let start = async |url: &str| {
            let platform = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let runtime = stage
                .tool("sh")
                .arg(task.join("bootstrap"))
                .env("AWS_LAMBDA_RUNTIME_API", platform.local_addr().unwrap().to_string())
                .env("STEPWELL_WORKDIR", stage.dir())
                .env("DATABASE_URL", url)
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            (platform, runtime)
        };

        let (platform, runtime) = start(stage.database_url()).await;
        let (line, summary) = tokio::time::timeout(within, invoke(&platform, "one")).await.unwrap();
        assert!(line.starts_with("POST /2018-06-01/runtime/invocation/one/response "), "{line}");
        assert_eq!((&summary["completed"], &summary["backlog"]), (&json!(2), &json!(0)), "{summary}");
        assert_eq!(api.header(&run).await["status"], "SUCCESS");
        let (line, summary) = tokio::time::timeout(within, invoke(&platform, "two")).await.unwrap();
        assert!(line.contains("/two/response ") && summary["claimed"] == 0, "{line} {summary}");
        drop(runtime);

        let nobody = format!("postgres://nobody@127.0.0.1:{}/nothing", free_port());
        let (platform, runtime) = start(&nobody).await;
        let (line, body) = tokio::time::timeout(within, invoke(&platform, "three")).await.unwrap();
        assert!(line.contains("/three/error ") && body["errorType"] == "exit_69", "{line} {body}");
        drop(runtime);
    }

    async fn the_line_of_cron_does_what_is_due(stage: Stage) {
        if missing_tools(&["sh"]) {
            return;
        }
        let api = stage.start("api", &[]).await;
        let run = api.start_job(json!({"command": "true"})).await;
        let crontab = recipe("cron/stepwell.crontab");
        let line = crontab.lines().find(|line| line.starts_with('*')).unwrap();
        let command = line.splitn(6, ' ').nth(5).unwrap();
        let bin = stage.dir().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(STEPWELL, bin.join("stepwell")).unwrap();
        fs::write(bin.join("logger"), format!("#!/bin/sh\ncat > {}/log\n", stage.dir().display())).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(bin.join("logger")).status().unwrap().success());
        let environment = stage.dir().join("stepwell.env");
        fs::write(&environment, format!("DATABASE_URL='{}'\n", stage.database_url())).unwrap();

        let status = stage
            .tool("sh")
            .args(["-c", command])
            .env_remove("DATABASE_URL")
            .env("STEPWELL_ENV", environment)
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .current_dir(stage.dir())
            .status()
            .await
            .unwrap();

        assert!(status.success(), "{status}");
        assert_eq!(api.header(&run).await["status"], "SUCCESS");
        let logged: Value = serde_json::from_str(&fs::read_to_string(stage.dir().join("log")).unwrap()).unwrap();
        assert_eq!(logged["completed"], 2, "{logged}");
    }
}

#[test]
fn platforms_take_what_is_left_for_a_success_and_every_failure_for_one() {
    if missing_tools(&["bash", "sh"]) {
        return;
    }
    for (platform, words, seconds) in started_by_platforms() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let script = words.last().unwrap();
        assert!(
            number_after(script, "--max-seconds") + 10 <= seconds,
            "{platform} kills what takes {seconds} s: {script}"
        );
        for (code, seen) in [(0, 0), (75, 0), (78, 78), (69, 69)] {
            let there = Platform::with(&format!("echo \"$@\" >called\necho '{{}}'\nexit {code}"));
            let output = there.command(&words).output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(seen),
                "{platform}, {code}: {output:?}"
            );
            let called = fs::read_to_string(there.path("called")).unwrap();
            assert!(
                called.starts_with("worker --once --max-seconds "),
                "{platform}: {called}"
            );
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "{}\n",
                "{platform}: the summary is shown"
            );
        }
        // The real one takes these options, and nothing is due.
        let there = Platform::with(&format!("exec {STEPWELL} \"$@\""));
        let output = there.command(&words).output().unwrap();
        assert!(output.status.success(), "{platform}: {output:?}");
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["claimed"], 0, "{platform}: {output:?}");
        if platform == "github-actions" {
            let shown = fs::read(there.path("summary")).unwrap();
            assert_eq!(shown, output.stdout, "the page of the job shows it, too");
        }
    }
}

on_both_databases! {
    async fn a_container_that_is_told_to_end_lets_its_worker_hand_back(stage: Stage) {
        let api = stage.start("api", &[]).await;
        for (platform, words, _) in started_by_platforms() {
            if platform == "github-actions" {
                // It kills what it cancels.
                continue;
            }
            let run = api.start_job(json!({"command": "true"})).await;
            let there = Platform::with(&format!("exec {STEPWELL} \"$@\""));
            let search = format!("{}:/usr/bin:/bin", there.0.path().display());
            let child = stage
                .tool(&words[0])
                .args(&words[1..])
                .current_dir(stage.dir())
                .envs([("PATH", search.as_str()), ("CHAOS_SLEEP_EXECUTE", "600000"), ("SHUTDOWN_GRACE_MS", "200")])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            stage.until_count("the task runs", "SELECT count(*) FROM app.claims WHERE queue_name = 'sbxQ'", 1).await;
            send_signal(child.id().unwrap(), "TERM");

            let ended = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;

            let output = ended.unwrap_or_else(|_| panic!("{platform}: the worker does not hear of it")).unwrap();
            // It was 75: the task is left.
            assert!(output.status.success(), "{platform}: {output:?}");
            let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((&summary["released"], &summary["backlog"]), (&json!(1), &json!(1)), "{platform}: {output:?}");
            assert_eq!(stage.sql_count("SELECT count(*) FROM app.claims").await, 0, "{platform}");
            api.post(&format!("/api/ops/wf/{run}/cancel"), &json!({})).await.expect(202);
        }
    }
}

#[test]
fn a_pod_may_take_longer_to_stop_than_its_worker() {
    let spec = &document("kubernetes/worker.yaml")["spec"]["template"]["spec"];
    let worker = &spec["containers"][0];
    let variables = worker["env"].as_array().unwrap();
    let grace = variables
        .iter()
        .find(|one| one["name"] == "SHUTDOWN_GRACE_MS");
    let grace_ms: i64 = grace.unwrap()["value"].as_str().unwrap().parse().unwrap();
    assert!(spec["terminationGracePeriodSeconds"].as_i64().unwrap() * 1_000 > grace_ms);
    let command = worker["args"].as_array().unwrap();
    let known = Command::new(STEPWELL)
        .args(command.iter().map(|word| word.as_str().unwrap()))
        .arg("--help")
        .output()
        .unwrap();
    assert!(known.status.success(), "{command:?}: {known:?}");
}

#[test]
fn systemd_accepts_the_units() {
    if missing_tools(&["systemd-analyze"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.arg("verify");
    for name in [
        "stepwell.service",
        "stepwell-once.service",
        "stepwell-once.timer",
        "stepwell-worker.service",
        "stepwell-api.service",
    ] {
        let unit = recipe(&format!("systemd/{name}")).replace("/usr/local/bin/stepwell", STEPWELL);
        let path = directory.path().join(name);
        fs::write(&path, unit).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && !complaints.contains("stepwell"),
        "{complaints}"
    );
}
