//! One process of the real binary: started, watched until ready, signalled, started again on the same ports.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::Mutex;

use super::eventually::eventually;
use super::http;
use super::stage::Stage;
use super::tools::send_signal;

const READY_DEADLINE: Duration = Duration::from_secs(60);
const EXIT_DEADLINE: Duration = Duration::from_secs(60);
const LOG_TAIL_LINES: usize = 120;
/// Below the ephemeral range, so that no outgoing connection takes a port between the check and the start.
const FIRST_PORT: u32 = 15_000;
const PORTS: u32 = 15_000;

static NEXT_PORT: AtomicU32 = AtomicU32::new(0);

/// Cheap to clone; all clones are the same process.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    stage: Stage,
    /// With its options, as a shell would split them at blanks.
    subcommand: String,
    env: Vec<(String, String)>,
    base: String,
    admin_base: String,
    log: PathBuf,
    client: reqwest::Client,
    child: Mutex<Option<Child>>,
}

impl Server {
    pub(super) async fn spawn(
        stage: &Stage,
        subcommand: &str,
        number: usize,
        env: &[(&str, &str)],
    ) -> Self {
        let (port, admin_port) = (free_port().to_string(), free_port().to_string());
        let role = subcommand.split(' ').next().unwrap_or_default();
        // A worker answers on its admin port alone.
        let main_port = if role == "worker" { &admin_port } else { &port };
        let base = format!("http://127.0.0.1:{main_port}");
        let mut variables = vec![
            ("PORT".to_owned(), port.clone()),
            ("ADMIN_PORT".to_owned(), admin_port.clone()),
        ];
        variables.extend(
            env.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let server = Self(Arc::new(Inner {
            stage: stage.clone(),
            subcommand: subcommand.to_owned(),
            env: variables,
            base,
            admin_base: format!("http://127.0.0.1:{admin_port}"),
            log: stage.dir().join(format!("{role}-{number}.log")),
            client: http::client(),
            child: Mutex::new(None),
        }));
        server.launch(&[]).await;
        server
    }

    /// `http://127.0.0.1:<port>`, no slash at the end.
    pub(crate) fn base(&self) -> &str {
        &self.0.base
    }

    /// `http://127.0.0.1:<admin port>`, no slash at the end.
    pub(crate) fn admin_base(&self) -> &str {
        &self.0.admin_base
    }

    pub(crate) fn stage(&self) -> &Stage {
        &self.0.stage
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.0.client
    }

    pub(crate) fn log_path(&self) -> &Path {
        &self.0.log
    }

    /// Everything the process has printed, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.0.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// The process id; panics when it does not run.
    pub(crate) async fn pid(&self) -> u32 {
        self.0
            .child
            .lock()
            .await
            .as_ref()
            .and_then(Child::id)
            .expect("the server runs")
    }

    /// Returns once `/healthz` says ok; panics with the log when the process ends before.
    pub(crate) async fn wait_ready(&self) {
        eventually(READY_DEADLINE, "the server answers /healthz", || async {
            if let Some(status) = self.exit_status().await {
                panic!("the server ended with {status}:\n{}", self.log_tail());
            }
            match self.try_send("GET", "/healthz", None).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{answer}; its log: {}", self.log_tail())),
                Err(error) => Err(format!("{error}; its log: {}", self.log_tail())),
            }
        })
        .await;
        // Somebody else's server on that port would have answered, too.
        assert!(
            self.exit_status().await.is_none(),
            "the server ended:\n{}",
            self.log_tail()
        );
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn wait_exit(&self) -> ExitStatus {
        eventually(EXIT_DEADLINE, "the process ends", || async {
            self.exit_status()
                .await
                .ok_or_else(|| format!("it runs; its log: {}", self.log_tail()))
        })
        .await
    }

    /// SIGKILL. Returns when the process is gone; fine if it was gone before.
    pub(crate) async fn kill_9(&self) {
        let child = self.0.child.lock().await.take();
        if let Some(mut child) = child {
            child.kill().await.expect("the process is ours");
        }
    }

    /// SIGTERM. Returns how the process ended.
    pub(crate) async fn terminate(&self) -> ExitStatus {
        self.signal("TERM").await;
        self.wait_exit().await
    }

    /// Sends a signal by name: TERM, STOP, CONT, …
    pub(crate) async fn signal(&self, name: &str) {
        send_signal(self.pid().await, name);
    }

    /// Starts the ended process again, same ports and environment, and waits until it is ready.
    pub(crate) async fn start_again(&self) {
        self.start_again_with(&[]).await;
    }

    /// As `start_again`, with these variables on top for this start alone.
    pub(crate) async fn start_again_with(&self, env: &[(&str, &str)]) {
        self.launch(env).await;
        self.wait_ready().await;
    }

    async fn exit_status(&self) -> Option<ExitStatus> {
        let mut child = self.0.child.lock().await;
        child
            .as_mut()
            .expect("the server was started")
            .try_wait()
            .expect("the process is ours")
    }

    async fn launch(&self, env: &[(&str, &str)]) {
        let mut slot = self.0.child.lock().await;
        if let Some(child) = slot.as_mut() {
            let ended = child.try_wait().expect("the process is ours");
            assert!(ended.is_some(), "the server still runs");
        }
        let log = open_log(&self.0.log);
        let child = self
            .0
            .stage
            .command(&self.0.subcommand.split(' ').collect::<Vec<_>>())
            .envs(self.0.env.iter().map(|(name, value)| (name, value)))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {}: {error}", env!("CARGO_BIN_EXE_stepwell"))
            });
        *slot = Some(child);
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A port nobody listens on. Another process may still take it before it is used.
pub(crate) fn free_port() -> u16 {
    // Different processes start at different places, so that suites run side by side seldom meet.
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let candidate =
            FIRST_PORT + offset.wrapping_add(NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(candidate).expect("below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!(
        "no free port between {FIRST_PORT} and {}",
        FIRST_PORT + PORTS
    )
}
