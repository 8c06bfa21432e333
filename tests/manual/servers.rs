//! The terminals that the manual leaves open because a server runs in them: started, awaited, ended, and looked for afterwards.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::document::Block;

/// What the manual's servers listen on.
const PORTS: [u16; 4] = [3001, 3002, 3011, 3012];
/// With lab M's receiver.
pub(crate) const ALL_PORTS: [u16; 5] = [3001, 3002, 3011, 3012, 4318];
/// Every process of such a terminal has it in its environment.
const MARKER: &str = "STEPWELL_MANUAL_SERVER";
const READY_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// The open terminals of one database.
#[derive(Default)]
pub(crate) struct Servers(Vec<(String, Child)>);

/// Fails, naming them, when somebody listens on the manual's ports.
pub(crate) fn are_free(ports: &[u16]) -> Result<(), String> {
    let taken: Vec<&u16> = ports
        .iter()
        .filter(|port| TcpListener::bind(("127.0.0.1", **port)).is_err())
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the manual's servers need the ports {ports:?} of 127.0.0.1, and {taken:?} are taken: stop what listens there (`ss -ltnp` shows it)"
    ))
}

impl Servers {
    /// Opens a terminal for the block and waits for the server in it; how long that took.
    pub(crate) async fn start(
        &mut self,
        mut bash: Command,
        block: &Block,
        dir: &Path,
    ) -> Result<Duration, String> {
        let started = Instant::now();
        let name = format!("server-{}-{}", block.lab, block.number);
        let (script, log) = (
            dir.join(format!("{name}.sh")),
            dir.join(format!("{name}.log")),
        );
        std::fs::write(&script, &block.text).expect("the stage's directory is writable");
        let output = File::create(&log).expect("the stage's directory is writable");
        let child = bash
            .args(["--noprofile", "--norc"])
            .arg(&script)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env(MARKER, dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("bash runs");
        self.0.push((block.name(), child));

        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        let url = format!("http://127.0.0.1:{}/healthz", port_that_answers(block)?);
        while started.elapsed() < READY_DEADLINE {
            if let Ok(answer) = client.get(&url).send().await
                && answer.status().is_success()
            {
                return Ok(started.elapsed());
            }
            let (_, child) = self.0.last_mut().expect("pushed above");
            if let Some(status) = child.try_wait().expect("the process is ours") {
                return Err(format!("it ended with {status}: {}", tail(&log)));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!(
            "no answer from {url} within {READY_DEADLINE:?}: {}",
            tail(&log)
        ))
    }

    /// Closes the terminals, and fails when something of them outlives its grace or still listens.
    pub(crate) async fn end(self, dir: &Path) -> Result<(), String> {
        for (_, child) in &self.0 {
            if let Some(group) = child.id() {
                let group = format!("-{group}");
                let _ = std::process::Command::new("kill")
                    .args(["-TERM", "--", &group])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        for (_, mut child) in self.0 {
            let _ = tokio::time::timeout(END_DEADLINE, child.wait()).await;
        }
        let started = Instant::now();
        loop {
            let left = marked(dir);
            let free = are_free(&PORTS);
            if left.is_empty() && free.is_ok() {
                return Ok(());
            }
            if started.elapsed() >= END_DEADLINE {
                for process in &left {
                    let _ = std::process::Command::new("kill")
                        .args(["-KILL", process])
                        .status();
                }
                free?;
                return Err(format!(
                    "these processes of the manual's servers did not end: {left:?}"
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The port on which the block's server answers `/healthz`: a worker has its admin port alone.
fn port_that_answers(block: &Block) -> Result<u16, String> {
    let variable = if block.text.contains("start:worker") {
        "ADMIN_PORT="
    } else {
        "PORT="
    };
    let value = block
        .text
        .split_whitespace()
        .find_map(|word| word.strip_prefix(variable)?.parse().ok());
    value.ok_or_else(|| format!("no {variable} in {}", block.text))
}

/// The ids of processes that were started in this database's terminals. Where there is no `/proc`, the ports alone tell.
fn marked(dir: &Path) -> Vec<String> {
    let marker = format!("{MARKER}={}", dir.display()).into_bytes();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|pair| pair == marker)
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
