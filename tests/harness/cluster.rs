//! A Postgres cluster of one test's own, for tests that stop it, break it or fill its disk.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::server::free_port;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lab-cluster.sh");

/// Stopped and removed with the stage. Cheap to clone; all clones are the same cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    dir: PathBuf,
    port: u16,
    url: String,
}

impl Cluster {
    /// Makes and starts one in this directory, which must not exist.
    pub(crate) async fn create(dir: PathBuf, settings: &[&str]) -> Self {
        let port = free_port();
        let mut arguments = vec![port.to_string()];
        arguments.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let url = run("create", &dir, &arguments).await.trim().to_owned();
        assert!(url.starts_with("postgres://"), "{url:?}");
        Self { dir, port, url }
    }

    /// Makes and starts a copy of it that follows it.
    pub(crate) async fn standby(&self, dir: PathBuf) -> Self {
        let port = free_port();
        let primary = self.dir.display().to_string();
        run("standby", &dir, &[port.to_string(), primary]).await;
        let url = self
            .url
            .replace(&format!(":{}/", self.port), &format!(":{port}/"));
        Self { dir, port, url }
    }

    pub(crate) async fn promote(&self) {
        run("promote", &self.dir, &[]).await;
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// As a crash leaves it. Fine if it does not run.
    pub(crate) async fn stop(&self) {
        run("stop", &self.dir, &[]).await;
    }

    /// Returns when it accepts connections.
    pub(crate) async fn start(&self) {
        run("start", &self.dir, &[]).await;
    }

    /// Runs statements as the superuser; answers what psql printed, without headers.
    pub(crate) async fn admin(&self, sql: &str) -> String {
        let mut command = script("sql", &self.dir, &["-At".to_owned()]);
        let mut psql = command
            .stdin(Stdio::piped())
            .spawn()
            .expect("the script runs");
        let mut input = psql.stdin.take().expect("piped");
        input.write_all(sql.as_bytes()).await.expect("psql reads");
        drop(input);
        said(psql.wait_with_output().await, sql)
    }
}

fn script(what: &str, dir: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(SCRIPT);
    command
        .arg(what)
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(what: &str, dir: &Path, arguments: &[String]) -> String {
    said(script(what, dir, arguments).output().await, what)
}

fn said(output: std::io::Result<std::process::Output>, what: &str) -> String {
    let output = output.expect("the script runs");
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
