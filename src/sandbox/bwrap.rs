//! Owns `bwrap`, where it is installed: whether it works here, and with which arguments. It makes the file system read-only but for the task's
//! own directory, hides other tasks and other processes, and takes all privileges away.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use super::local::PATH;

/// Processes of `bwrap` and ours between a shim and its command: the monitor, the first process of the namespace, and our inner one.
pub(super) const WRAPPERS: usize = 3;
/// How long a trial may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program, if it is installed and does here what we need.
pub(super) async fn detect() -> Result<PathBuf, String> {
    let program = PATH
        .split(':')
        .map(|directory| Path::new(directory).join("bwrap"))
        .find(|program| program.is_file())
        .ok_or("bwrap is not installed")?;
    let trial = Command::new(&program)
        .args(namespaces(true))
        .args(["--", "true"])
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, trial).await {
        Ok(Ok(output)) if output.status.success() => Ok(program),
        Ok(Ok(output)) => Err(format!(
            "bwrap does not work here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Ok(Err(error)) => Err(format!("bwrap does not start: {error}")),
        Err(_) => Err(format!(
            "bwrap did not run `true` within {} s",
            PATIENCE.as_secs()
        )),
    }
}

/// The arguments for a command of the task in `task`, which has the directories `work` and `tmp`.
pub(super) fn arguments(task: &Path, root: &Path, workdir: &Path, net: bool) -> Vec<OsString> {
    let tmp = task.join("tmp");
    let mut arguments: Vec<OsString> = namespaces(net).map(OsString::from).collect();
    let mut mount = |words: &[&Path]| {
        arguments.extend(words.iter().map(|word| OsString::from(word.as_os_str())));
    };
    // Memory that nobody counts would be written there otherwise.
    mount(&[Path::new("--bind"), &tmp, Path::new("/dev/shm")]);
    mount(&[Path::new("--remount-ro"), Path::new("/dev")]);
    for private in ["/tmp", "/var/tmp"].map(Path::new) {
        if private.is_dir() {
            mount(&[Path::new("--bind"), &tmp, private]);
        }
    }
    // Other tasks are not there.
    mount(&[Path::new("--tmpfs"), root]);
    mount(&[Path::new("--bind"), task, task]);
    mount(&[Path::new("--remount-ro"), root]);
    mount(&[Path::new("--chdir"), workdir]);
    arguments
}

fn namespaces(net: bool) -> impl Iterator<Item = &'static str> {
    let always = [
        "--die-with-parent",
        "--unshare-user-try",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--cap-drop",
        "ALL",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
    ];
    always.into_iter().chain((!net).then_some("--unshare-net"))
}
