//! Owns the life of a task on this machine: its place, and a shim on a leash. The leash is the shim's standard input: when it is let go, by us or
//! by our death, the shim ends whatever the command has started and removes the place.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::sandbox::{
    cage::Cage,
    place::Place,
    process::{Identity, kill_marked},
};

/// How long a shim may take to end everything after its leash was let go; most of it goes into a directory full of small files. After that
/// somebody has stopped it.
const STUCK: Duration = Duration::from_secs(60);
/// How long killed processes may take to leave.
const LEAVING: Duration = Duration::from_secs(5);

/// A place and its shim. Dropped, both end.
#[derive(Debug)]
pub(in crate::sandbox) struct Task {
    place: Place,
    shim: Option<Child>,
    leash: Option<ChildStdin>,
}

impl Task {
    /// Makes a place below `root` and starts the shim that will end it.
    pub(super) fn start(root: &Path, shim: &Path) -> io::Result<Self> {
        let mut task = Self {
            place: Place::make(root)?,
            shim: None,
            leash: None,
        };
        let mut child = Command::new(shim)
            .args(["sandbox-shim", "--"])
            .arg(task.place.directory())
            // What this process was told is none of a task's business.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        task.leash = child.stdin.take();
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // So that a later start of the program can end it, should it have been stopped.
            task.place.note_shim(&Identity::of(Pid::from_raw(pid)))?;
        }
        task.shim = Some(child);
        Ok(task)
    }

    pub(super) fn name(&self) -> String {
        self.place.name()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(in crate::sandbox) fn work(&self) -> PathBuf {
        self.place.work()
    }

    /// Where the shim listens; it stays open as long as this task lives.
    pub(super) fn leash(&mut self) -> Option<&mut ChildStdin> {
        self.leash.as_mut()
    }

    /// Where the shim speaks. Once only.
    pub(super) fn voice(&mut self) -> Option<ChildStdout> {
        self.shim.as_mut()?.stdout.take()
    }

    /// The shim does not do its part any more: what it started is ended without it.
    pub(super) fn give_up(&mut self) {
        if let Some(shim) = &mut self.shim {
            // Gone by itself is as good.
            let _ = shim.start_kill();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        drop(self.leash.take());
        let (place, shim) = (self.place.clone(), self.shim.take());
        // Without a runtime there is nobody to see it off: the program ends, the shim does its part, and the next start the rest.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(see_off(place, shim));
        }
    }
}

/// Waits until the shim has ended and removed its place. Does so in its stead when it does not.
async fn see_off(place: Place, shim: Option<Child>) {
    if let Some(mut shim) = shim {
        let ended = tokio::time::timeout(STUCK, shim.wait()).await;
        if ended.is_ok() && !place.exists() {
            return;
        }
    }
    let cleared = tokio::task::spawn_blocking(move || clear(&place)).await;
    if let Ok(Err(error)) = cleared {
        tracing::warn!(%error, "cannot remove the directory of a task; the next start tries again");
    }
}

/// Ends what is left of a task, and removes its place.
fn clear(place: &Place) -> io::Result<()> {
    if let (_, Some(shim)) = place.owners() {
        shim.end(LEAVING);
    }
    if let Some(cage) = Cage::of(&place.name()) {
        cage.end(LEAVING);
    }
    kill_marked(&place.name(), LEAVING);
    place.remove()
}

/// Ends what processes that are dead have left below `root`: their commands and their directories. What cannot be proved to be theirs stays.
///
/// # Errors
/// What the system says about `root`.
pub fn reap(root: &Path) -> io::Result<usize> {
    let mut reaped = 0;
    for place in Place::all(root)? {
        let (Some(owner), _) = place.owners() else {
            continue;
        };
        if owner.lives() {
            continue;
        }
        match clear(&place) {
            Ok(()) => reaped += 1,
            Err(error) => {
                tracing::warn!(%error, place = %place.name(), "cannot remove the directory of a task");
            }
        }
    }
    Ok(reaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Read, os::unix::process::ExitStatusExt};

    #[test]
    fn only_what_dead_processes_left_is_reaped() {
        let root = tempfile::tempdir().unwrap();
        let mine = Place::make(root.path()).unwrap();
        let dead = root.path().join("dead");
        fs::create_dir_all(&dead).unwrap();
        fs::write(root.path().join("dead.owner"), "4194304 17\n").unwrap();
        fs::create_dir_all(root.path().join("somebody-elses")).unwrap();
        fs::create_dir_all(root.path().join("unproved")).unwrap();
        fs::write(root.path().join("unproved.owner"), "").unwrap();
        assert_eq!(reap(root.path()).unwrap(), 1);
        assert!(!dead.exists() && mine.work().exists());
        assert!(root.path().join("somebody-elses").exists());
        assert!(root.path().join("unproved").exists());
    }

    #[test]
    fn processes_of_a_dead_owner_are_ended_even_without_their_shim() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::make(root.path()).unwrap();
        let record = root.path().join(format!("{}.owner", place.name()));
        fs::write(record, "4194304 17\n4194304 17\n").unwrap();
        let mut stray = std::process::Command::new("sh")
            .args(["-c", "echo up; read _"])
            .env("TMPDIR", place.tmp())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        stray.stdout.take().unwrap().read_exact(&mut up).unwrap();
        assert_eq!(reap(root.path()).unwrap(), 1);
        // Waiting closes its input, at which it would end by itself, without a signal.
        assert_eq!(stray.wait().unwrap().signal(), Some(9));
    }
}
