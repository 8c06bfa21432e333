//! The sandbox on this machine: a directory and a process group per command, a clean environment, a deadline. It isolates nothing else: a
//! command can read what this process can read.

mod files;
mod group;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::request::{ErrorCode, Metrics, SandboxRequest, SandboxResult};
use group::Task;
pub use group::reap;

/// Most bytes kept of each of the two streams: they are stored in the checkpoint.
const STREAM_BYTES: usize = 1024 * 1024;
/// How long a command may take to leave after it was asked to.
const GRACE: Duration = Duration::from_millis(500);
/// How long the streams may stay open after the command has ended: somebody in the background holds them.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs commands with `sh` below `root`.
#[derive(Debug, Clone)]
pub struct Local {
    /// The directory in which each command gets one.
    pub root: PathBuf,
    /// How much longer every command takes.
    pub chaos_sleep: Duration,
}

impl Local {
    pub(super) async fn run(&self, request: &SandboxRequest) -> SandboxResult {
        if !self.chaos_sleep.is_zero() {
            tokio::time::sleep(self.chaos_sleep).await;
        }
        let mut task = match Task::prepare(&self.root) {
            Ok(task) => task,
            Err(error) => {
                return SandboxResult::failed(
                    request,
                    "local",
                    ErrorCode::BootFail,
                    format!("no directory for the task: {error}"),
                );
            }
        };
        let reference = format!("local:{}", task.name());
        let inputs = match files::hand_in(task.directory(), &request.files_in) {
            Ok(inputs) => inputs,
            Err(message) => {
                return SandboxResult::failed(request, reference, ErrorCode::UploadFail, message);
            }
        };
        let started = Instant::now();
        let mut child = match command(request, task.directory()).spawn() {
            Ok(child) => child,
            Err(error) => {
                return SandboxResult::failed(
                    request,
                    reference,
                    ErrorCode::BootFail,
                    format!("sh does not start: {error}"),
                );
            }
        };
        task.started(child.id());
        let (stdout, stderr) = (capture(child.stdout.take()), capture(child.stderr.take()));
        let watch = async {
            let ended = wait(&mut child, &task, Duration::from_millis(request.timeout_ms)).await;
            // Whoever is left of the group holds the streams open and would outlive its task.
            task.kill();
            ended
        };
        let (stdout, stderr, ended) = {
            let streams = async { tokio::join!(stdout, stderr) };
            tokio::pin!(streams, watch);
            tokio::select! {
                ended = &mut watch => {
                    let (stdout, stderr) = tokio::time::timeout(DRAIN, &mut streams).await.unwrap_or_default();
                    (stdout, stderr, ended)
                }
                (stdout, stderr) = &mut streams => (stdout, stderr, watch.await),
            }
        };
        let metrics = Metrics {
            wall_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..Metrics::default()
        };
        let (err_code, exit) = match ended {
            Ended::Exit(0) => (ErrorCode::None, Some(0)),
            Ended::Exit(code) => (ErrorCode::CmdNonzero, Some(code)),
            Ended::TimedOut => (ErrorCode::Timeout, None),
            Ended::Unknown(message) => {
                return SandboxResult::failed(request, reference, ErrorCode::BootFail, message);
            }
        };
        let mut result = SandboxResult {
            stdout,
            stderr,
            metrics,
            ..SandboxResult::ended(request, reference.clone(), err_code, exit)
        };
        match files::fetch(task.directory(), &inputs) {
            Ok(files) => result.files_out = files,
            // The command's own failure says more than that its files could not be fetched.
            Err(message) if err_code == ErrorCode::None => {
                return SandboxResult {
                    stdout: result.stdout,
                    stderr: result.stderr,
                    metrics,
                    ..SandboxResult::failed(request, reference, ErrorCode::DownloadFail, message)
                };
            }
            Err(_) => {}
        }
        result
    }
}

fn command(request: &SandboxRequest, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(&request.cmd)
        .current_dir(directory)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .env("LANG", "C.UTF-8")
        .envs(&request.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

enum Ended {
    Exit(i32),
    TimedOut,
    Unknown(String),
}

/// Waits for the command, and asks, then makes it leave when its time is over.
async fn wait(child: &mut Child, task: &Task, limit: Duration) -> Ended {
    match tokio::time::timeout(limit, child.wait()).await {
        Ok(Ok(status)) => {
            use std::os::unix::process::ExitStatusExt;
            let of_signal = || status.signal().map_or(1, |signal| 128 + signal);
            Ended::Exit(status.code().unwrap_or_else(of_signal))
        }
        Ok(Err(error)) => Ended::Unknown(format!("the command cannot be waited for: {error}")),
        Err(_) => {
            task.terminate();
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                task.kill();
                // Killed processes leave; the guard of the task sees to those that cannot yet.
                let _ = tokio::time::timeout(GRACE, child.wait()).await;
            }
            Ended::TimedOut
        }
    }
}

/// Reads a stream to its end and keeps its beginning, so that a flood neither fills memory nor blocks the command.
async fn capture(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    let mut dropped = 0_usize;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                let take = read.min(STREAM_BYTES - kept.len());
                kept.extend_from_slice(&buffer[..take]);
                dropped += read - take;
            }
        }
    }
    if dropped > 0 {
        kept.extend_from_slice(format!("\n[cut here: {dropped} more bytes]\n").as_bytes());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::request::{FileIn, request};

    fn local() -> (tempfile::TempDir, Local) {
        let root = tempfile::tempdir().unwrap();
        let local = Local {
            root: root.path().to_owned(),
            chaos_sleep: Duration::ZERO,
        };
        (root, local)
    }

    fn file(path: &str, inline: &str) -> FileIn {
        FileIn {
            path: path.into(),
            inline: Some(inline.into()),
            uri: None,
        }
    }

    /// Whether a process with `marker` among its arguments lives.
    fn lives(marker: &str) -> bool {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(marker) && !stat.contains(") Z ")
        })
    }

    async fn gone(marker: &str) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while lives(marker) {
            assert!(Instant::now() < deadline, "{marker} is still alive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn files_go_in_and_come_out() {
        let (_root, local) = local();
        let request = SandboxRequest {
            files_in: vec![file("words.txt", "b\na\nb\n"), file("deep/er.txt", "x")],
            ..request("sort -u words.txt | wc -l; echo new > out.txt; cat deep/er.txt >&2")
        };
        let result = local.run(&request).await;
        assert_eq!(
            (result.err_code, result.exit),
            (ErrorCode::None, Some(0)),
            "{result:?}"
        );
        assert_eq!(String::from_utf8(result.stdout).unwrap().trim(), "2");
        assert_eq!(result.stderr, b"x");
        let names: Vec<&str> = result.files_out.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, ["out.txt"]);
        assert_eq!(result.files_out[0].content, b"new\n");
    }

    #[tokio::test]
    async fn exit_codes_and_signals_are_told() {
        let (_root, local) = local();
        let failed = local.run(&request("exit 3")).await;
        assert_eq!(
            (failed.err_code, failed.exit),
            (ErrorCode::CmdNonzero, Some(3))
        );
        let killed = local.run(&request("kill -9 $$")).await;
        assert_eq!(
            (killed.err_code, killed.exit),
            (ErrorCode::CmdNonzero, Some(137))
        );
    }

    #[tokio::test]
    async fn a_time_out_ends_the_whole_group() {
        let (root, local) = local();
        let request = SandboxRequest {
            timeout_ms: 300,
            ..request("trap '' TERM; sleep 7311 & sleep 7311")
        };
        let result = local.run(&request).await;
        assert_eq!(result.err_code, ErrorCode::Timeout);
        gone("7311").await;
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_process_left_in_the_background_does_not_hold_the_task() {
        let (_root, local) = local();
        let result = local.run(&request("sleep 7312 & echo done")).await;
        assert_eq!(
            (result.err_code, result.stdout.as_slice()),
            (ErrorCode::None, b"done\n".as_slice())
        );
        gone("7312").await;
    }

    #[tokio::test]
    async fn dropping_the_future_ends_the_command() {
        let (root, local) = local();
        let request = request("sleep 7313");
        let run = local.run(&request);
        assert!(
            tokio::time::timeout(Duration::from_millis(300), run)
                .await
                .is_err()
        );
        gone("7313").await;
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn no_file_leaves_the_directory() {
        let (_root, local) = local();
        for path in ["../x", "/tmp/x", "a/../../x", ""] {
            let request = SandboxRequest {
                files_in: vec![file(path, "x")],
                ..request("true")
            };
            assert_eq!(
                local.run(&request).await.err_code,
                ErrorCode::UploadFail,
                "{path:?}"
            );
        }
        let result = local
            .run(&request("ln -s /etc/passwd stolen; ln -s / root"))
            .await;
        assert!(result.files_out.is_empty(), "{:?}", result.files_out);
    }

    #[tokio::test]
    async fn a_flood_is_cut() {
        let (_root, local) = local();
        let result = local.run(&request("head -c 3000000 /dev/zero")).await;
        assert_eq!(result.err_code, ErrorCode::None);
        assert!(result.stdout.len() < STREAM_BYTES + 100);
        assert!(
            String::from_utf8_lossy(&result.stdout).ends_with("[cut here: 1951424 more bytes]\n")
        );
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let (_root, local) = local();
        let request = SandboxRequest {
            env: [("MINE".to_owned(), "1".to_owned())].into(),
            ..request("env | cut -d= -f1 | sort | tr '\\n' ' '")
        };
        let result = local.run(&request).await;
        assert_eq!(
            String::from_utf8(result.stdout).unwrap().trim(),
            "HOME LANG MINE PATH PWD TMPDIR"
        );
    }
}
