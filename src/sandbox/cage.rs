//! Owns the control group of a task, where this process may make one (as root, mostly): the kernel itself refuses more processes then, and knows
//! all of them, whoever has killed or scrubbed what.

use std::{
    fs, io,
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
}

impl Cage {
    /// A group for the task `name` with room for `tasks` processes and threads; nothing where that is not allowed.
    pub(super) fn make(name: &str, tasks: u64) -> Option<Self> {
        parents().into_iter().find_map(|parent| {
            let cage = Self::within(&parent, name);
            fs::create_dir(&cage.directory).ok()?;
            let limited = fs::write(cage.directory.join("pids.max"), tasks.to_string());
            if limited.is_err() {
                // A group that counts nothing is of no use.
                let _ = fs::remove_dir(&cage.directory);
                return None;
            }
            Some(cage)
        })
    }

    /// The group that was made for `name`.
    pub(super) fn of(name: &str) -> Option<Self> {
        parents()
            .into_iter()
            .map(|parent| Self::within(&parent, name))
            .find(|cage| cage.directory.exists())
    }

    fn within(parent: &Path, name: &str) -> Self {
        Self {
            directory: parent.join(format!("stepwell-{name}")),
        }
    }

    /// Calls `start` with this process in the group, so that whoever it starts is in it from the first instruction.
    pub(super) fn start_in<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        let usual = self.directory.parent().unwrap_or(Path::new(MOUNT));
        let own = own_groups().into_iter().find(|group| {
            // In the second version the group is beside ours, not below it.
            group == usual || group.parent().is_some_and(|parent| parent == usual)
        });
        let own = own.ok_or_else(|| io::Error::other("this process is in no control group"))?;
        enter(&self.directory)?;
        let started = start();
        enter(&own)?;
        Ok(started)
    }

    /// Kills everybody who is in it.
    pub(super) fn kill(&self) {
        let members = fs::read_to_string(self.directory.join("cgroup.procs"));
        for pid in members.unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                // Gone by itself is as good.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
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
    fs::write(group.join("cgroup.procs"), "0")
}

/// Where a group may be made: below our own in the first version; in the second, where a group with processes has no children that count,
/// beside it.
fn parents() -> Vec<PathBuf> {
    own_groups()
        .into_iter()
        .flat_map(|own| {
            let beside = own
                .parent()
                .filter(|parent| parent.starts_with(MOUNT))
                .map(Path::to_owned);
            [Some(own), beside]
        })
        .flatten()
        .collect()
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
