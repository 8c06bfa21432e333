//! Owns the control group of a task, where this process may make one (as root, mostly): the kernel itself refuses more processes then, and knows
//! all of them, whoever has killed or scrubbed what.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Between two rounds of killing: the kernel tells nobody when a group is empty.
const ROUND: Duration = Duration::from_millis(5);

/// A control group of one task.
#[derive(Debug)]
pub(super) struct Cage {
    directory: PathBuf,
    /// Where the process that made or looks for it is.
    usual: PathBuf,
}

impl Cage {
    /// A group for the task `name` with room for `tasks` processes and threads; nothing where that is not allowed.
    pub(super) fn make(name: &str, tasks: u64) -> Option<Self> {
        Self::candidates(name).into_iter().find_map(|cage| {
            fs::create_dir(&cage.directory).ok()?;
            if tell(&cage.directory.join("pids.max"), &tasks.to_string()).is_err() {
                // A group that counts nothing, or no group at all, is of no use.
                let _ = fs::remove_dir(&cage.directory);
                return None;
            }
            Some(cage)
        })
    }

    /// The group that was made for `name`.
    pub(super) fn of(name: &str) -> Option<Self> {
        let mut candidates = Self::candidates(name).into_iter();
        candidates.find(|cage| cage.directory.exists())
    }

    /// Where the group may be: below our own in the first version; in the second, where a group with processes has no children that count,
    /// beside it.
    fn candidates(name: &str) -> Vec<Self> {
        let mut candidates = Vec::new();
        for usual in own_groups() {
            let beside = usual.parent().filter(|parent| parent.starts_with(MOUNT));
            for parent in [Some(usual.as_path()), beside].into_iter().flatten() {
                candidates.push(Self {
                    directory: parent.join(format!("stepwell-{name}")),
                    usual: usual.clone(),
                });
            }
        }
        candidates
    }

    /// Puts this process into the group, so that whoever it starts is in it from the first instruction. Removes the group if that is refused.
    pub(super) fn enter(&self) -> bool {
        let entered = enter(&self.directory).is_ok();
        if !entered {
            let _ = fs::remove_dir(&self.directory);
        }
        entered
    }

    /// Puts this process back where it was. Refused, it stays, and counts as one of the command's.
    pub(super) fn leave(&self) {
        let _ = enter(&self.usual);
    }

    /// Kills everybody who is in it, but not the caller.
    pub(super) fn kill(&self) {
        let members = fs::read_to_string(self.directory.join("cgroup.procs"));
        for pid in members.unwrap_or_default().lines() {
            let pid = pid.parse().map(Pid::from_raw);
            if let Ok(pid) = pid
                && pid != Pid::this()
            {
                // Gone by itself is as good.
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Kills everybody who is in it, until nobody is or `patience` is over, and removes it.
    pub(super) fn end(&self, patience: Duration) {
        let given_up = Instant::now() + patience;
        while fs::remove_dir(&self.directory).is_err() && self.directory.exists() {
            if Instant::now() >= given_up {
                return;
            }
            self.kill();
            std::thread::sleep(ROUND);
        }
    }
}

fn enter(group: &Path) -> io::Result<()> {
    // 0 is the writer.
    tell(&group.join("cgroup.procs"), "0")
}

/// Writes to a file of the kernel's. Never makes one: where control groups are mounted otherwise than we think, there is an ordinary directory.
fn tell(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}

/// The groups of this process that may count processes.
fn own_groups() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let mount = match controllers {
                "" => Path::new(MOUNT).to_owned(),
                _ if controllers.split(',').any(|name| name == "pids") => {
                    Path::new(MOUNT).join(controllers)
                }
                _ => return None,
            };
            Some(mount.join(path.trim_start_matches('/')))
        })
        .collect()
}
