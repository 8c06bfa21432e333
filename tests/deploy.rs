//! The recipes of `deploy/`, as far as they can be tried without their platforms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
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
        assert!(std::process::Command::new("chmod").arg("+x").arg(bin.join("logger")).status().unwrap().success());
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
fn systemd_accepts_the_units() {
    if missing_tools(&["systemd-analyze"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("systemd-analyze");
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
