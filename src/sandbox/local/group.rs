//! Owns the life of a task's directory and process group: both end with the task, with its future, or at the next start of the program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// A directory and, once started, a process group. Dropped, both are gone.
#[derive(Debug)]
pub(super) struct Task {
    directory: PathBuf,
    record: PathBuf,
    leader: Option<Pid>,
}

impl Task {
    /// Makes a directory below `root`, and a record beside it that says whose it is.
    pub(super) fn prepare(root: &Path) -> io::Result<Self> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let (directory, record) = (root.join(&name), root.join(format!("{name}.owner")));
        fs::create_dir_all(&directory)?;
        fs::write(&record, Identity::of(std::process::id()).to_string())?;
        Ok(Self {
            directory,
            record,
            leader: None,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn name(&self) -> String {
        self.directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Notes the leader of the group, so that a later start can end it.
    pub(super) fn started(&mut self, leader: Option<u32>) {
        let Some(leader) = leader else { return };
        self.leader = i32::try_from(leader).ok().and_then(Pid::from_raw);
        let both = format!(
            "{}\n{}",
            Identity::of(std::process::id()),
            Identity::of(leader)
        );
        if let Err(error) = fs::write(&self.record, both) {
            tracing::warn!(%error, "cannot note the process group of a task; it would survive a crash");
        }
    }

    /// Asks the group to leave.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Makes the group leave.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // Nobody left to signal is what is wanted.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.kill();
        remove(&self.directory, &self.record);
    }
}

fn remove(directory: &Path, record: &Path) {
    let gone = |result: io::Result<()>| {
        result.is_ok() || result.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    };
    if !gone(fs::remove_dir_all(directory)) {
        tracing::warn!(
            ?directory,
            "cannot remove the directory of a task; the next start tries again"
        );
        return;
    }
    let _ = fs::remove_file(record);
}

/// A process, told apart from a later one with the same number by when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    pid: u32,
    started: Option<u64>,
}

impl Identity {
    fn of(pid: u32) -> Self {
        Self {
            pid,
            started: start_time(pid),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok(),
        })
    }

    fn lives(&self) -> bool {
        self.started.is_some() && start_time(self.pid) == self.started
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.started {
            Some(started) => write!(f, "{} {started}", self.pid),
            None => write!(f, "{} -", self.pid),
        }
    }
}

/// When a process started, in ticks since the machine did: field 22 of its `stat`, counted after the name, which may hold anything.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Ends what processes that are dead have left below `root`: their groups and their directories. What cannot be proved to be theirs stays.
pub fn reap(root: &Path) -> io::Result<usize> {
    let mut reaped = 0;
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let record = entry?.path();
        if record
            .extension()
            .is_none_or(|extension| extension != "owner")
        {
            continue;
        }
        let text = fs::read_to_string(&record).unwrap_or_default();
        let mut lines = text.lines().map(Identity::parse);
        let Some(Some(owner)) = lines.next() else {
            continue;
        };
        if owner.lives() {
            continue;
        }
        if let Some(Some(leader)) = lines.next()
            && leader_or_group_is_ours(&leader)
            && let Some(group) = i32::try_from(leader.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        remove(&record.with_extension(""), &record);
        reaped += 1;
    }
    Ok(reaped)
}

/// Whether the group that `leader` led is still the one that was started: its leader lives, or its members do and started later. A number
/// that was given to another process since names a group of its own, whose leader lives and started at another time.
fn leader_or_group_is_ours(leader: &Identity) -> bool {
    leader.lives() || (leader.started.is_some() && start_time(leader.pid).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::of(std::process::id());
        assert!(own.lives());
        assert_eq!(Identity::parse(&own.to_string()), Some(own.clone()));
        assert!(
            !Identity {
                started: own.started.map(|t| t + 1),
                ..own
            }
            .lives()
        );
    }

    #[test]
    fn only_what_dead_processes_left_is_reaped() {
        let root = tempfile::tempdir().unwrap();
        let mine = Task::prepare(root.path()).unwrap();
        let dead = root.path().join("dead");
        fs::create_dir_all(&dead).unwrap();
        fs::write(root.path().join("dead.owner"), "4194304 17").unwrap();
        fs::create_dir_all(root.path().join("somebody-elses")).unwrap();
        assert_eq!(reap(root.path()).unwrap(), 1);
        assert!(
            !dead.exists()
                && mine.directory().exists()
                && root.path().join("somebody-elses").exists()
        );
    }
}
