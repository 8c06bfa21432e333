//! Reads `/proc`: who a process is, who descends from it, who carries a task's mark; and sends signals to all of them.

use std::{
    collections::HashMap,
    fmt, fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, getpgrp},
};

/// Between two looks at whether killed processes are gone: nobody tells about those that are not our children.
const PAUSE: Duration = Duration::from_millis(5);
/// Looks in a row that must find nobody before nobody is there.
const QUIET_LOOKS: u32 = 3;

/// A process, told apart from a later one with the same number by when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pid: Pid,
    started: Option<u64>,
}

impl Identity {
    pub(super) fn of(pid: Pid) -> Self {
        Self {
            pid,
            started: Stat::of(pid).map(|stat| stat.started),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: Pid::from_raw(pid.parse().ok()?),
            started: started.parse().ok(),
        })
    }

    /// A zombie does not live: it runs nothing, and where nobody waits for it it stays for ever.
    pub(super) fn lives(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| !stat.zombie && Some(stat.started) == self.started)
    }

    /// Kills this process and its descendants, until it is gone or `patience` is over.
    pub(super) fn end(&self, patience: Duration) {
        let given_up = Instant::now() + patience;
        while self.lives() && Instant::now() < given_up {
            let found = descendants(self.pid, usize::MAX);
            // First, so that it starts nobody for those that end.
            let _ = kill(self.pid, Signal::SIGKILL);
            kill_all(&found);
            std::thread::sleep(PAUSE);
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.started {
            Some(started) => write!(f, "{} {started}", self.pid),
            None => write!(f, "{} -", self.pid),
        }
    }
}

/// One descendant; a zombie counts as one, because it holds its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// Its process group.
    pub(super) group: Pid,
    /// 1 for a child, 2 for a grandchild, and so on.
    pub(super) depth: usize,
    pub(super) threads: u64,
    pub(super) rss_pages: u64,
    /// Clock ticks of processor time, with that of the children it has waited for.
    pub(super) cpu_ticks: u64,
}

/// At most `most` descendants of `root`, parents first. Who forks or ends meanwhile may be missed: who must find everybody looks again.
pub(super) fn descendants(root: Pid, most: usize) -> Vec<Process> {
    let children = Children::known();
    let mut found: Vec<Process> = Vec::new();
    let mut waiting = vec![(root, 0)];
    while let Some((parent, depth)) = waiting.pop() {
        for pid in children.of(parent) {
            if found.len() == most {
                return found;
            }
            let Some(stat) = Stat::of(pid) else { continue };
            waiting.push((pid, depth + 1));
            found.push(Process {
                pid,
                group: stat.group,
                depth: depth + 1,
                threads: stat.threads,
                rss_pages: stat.rss_pages,
                cpu_ticks: stat.cpu_ticks,
            });
        }
    }
    found
}

/// Kills `processes`: their groups first, which the kernel does in one go, so that nobody forks away in between. The caller's group is left out.
pub(super) fn kill_all(processes: &[Process]) {
    let mut groups: Vec<Pid> = processes.iter().map(|process| process.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let own = getpgrp();
    for group in groups.into_iter().filter(|group| *group != own) {
        // Nobody left to signal is what is wanted, here and below.
        let _ = killpg(group, Signal::SIGKILL);
    }
    for process in processes {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
}

/// Kills everybody who carries `mark`, a word that nobody else has, until nobody does or `patience` is over.
pub(super) fn kill_marked(mark: &str, patience: Duration) {
    let given_up = Instant::now() + patience;
    let mut quiet = 0;
    // One look may miss who forks, and whoever the kernel is just loading: such a process shows no environment yet.
    while quiet < QUIET_LOOKS && Instant::now() < given_up {
        let marked = marked(mark);
        quiet = if marked.is_empty() { quiet + 1 } else { 0 };
        for pid in marked {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Processes that were started with `mark` in their environment, or work in a directory that has it in its path.
fn marked(mark: &str) -> Vec<Pid> {
    let carries = |bytes: &[u8]| {
        bytes
            .windows(mark.len())
            .any(|part| part == mark.as_bytes())
    };
    all()
        .filter(|pid| {
            let process = Path::new("/proc").join(pid.to_string());
            fs::read(process.join("environ")).is_ok_and(|environment| carries(&environment))
                || fs::read_link(process.join("cwd"))
                    .is_ok_and(|directory| carries(directory.as_os_str().as_bytes()))
        })
        .collect()
}

/// The processes and threads of the user that this process is.
pub(super) fn tasks_of_user() -> u64 {
    let user = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.uid());
    let own = user(Path::new("/proc/self"));
    all()
        .filter(|pid| user(&Path::new("/proc").join(pid.to_string())) == own)
        .filter_map(|pid| Stat::of(pid).map(|stat| stat.threads))
        .sum()
}

/// Everybody, as far as this process may see.
fn all() -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
}

/// Who is whose child. The kernel's own lists cost as much as the tree is large; a kernel built without them makes us read every process.
enum Children {
    Listed,
    Scanned(HashMap<Pid, Vec<Pid>>),
}

impl Children {
    fn known() -> Self {
        if Path::new("/proc/thread-self/children").exists() {
            return Self::Listed;
        }
        let mut of_parent: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for pid in all() {
            if let Some(stat) = Stat::of(pid) {
                of_parent.entry(stat.parent).or_default().push(pid);
            }
        }
        Self::Scanned(of_parent)
    }

    fn of(&self, parent: Pid) -> Vec<Pid> {
        match self {
            Self::Scanned(of_parent) => of_parent.get(&parent).cloned().unwrap_or_default(),
            Self::Listed => fs::read_dir(format!("/proc/{parent}/task"))
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
                .flat_map(|line| {
                    line.split_whitespace()
                        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
                        .collect::<Vec<_>>()
                })
                .collect(),
        }
    }
}

/// What is needed of `/proc/PID/stat`.
struct Stat {
    zombie: bool,
    parent: Pid,
    group: Pid,
    cpu_ticks: u64,
    threads: u64,
    /// Ticks since the machine started.
    started: u64,
    rss_pages: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The fields are counted after the process's name, which stands in brackets and may hold anything, brackets and bad UTF-8 too.
    fn parse(line: &[u8]) -> Option<Self> {
        let name_ends = line.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(&line[name_ends + 1..])
            .ok()?
            .split_whitespace()
            .collect();
        // Numbered as in proc(5); the first field after the name is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let pid = |number: usize| Some(Pid::from_raw(fields.get(number - 3)?.parse().ok()?));
        Some(Self {
            zombie: matches!(fields.first(), Some(&"Z" | &"X")),
            parent: pid(4)?,
            group: pid(5)?,
            cpu_ticks: field(14)? + field(15)? + field(16)? + field(17)?,
            threads: field(20)?,
            started: field(22)?,
            rss_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::of(Pid::this());
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
    fn a_name_may_hold_anything() {
        let mut line = b"7 (a) \xff) S 1 7".to_vec();
        line.extend_from_slice(b" 0 0 0 0 0 0 0 0 1 2 3 4 20 0 6 0 99 1000 55 0".as_slice());
        // session 6, tty 7, tpgid 8, flags 9, four fault counts 10-13, then the times
        let stat = Stat::parse(&line).unwrap();
        assert_eq!(
            (stat.parent, stat.group, stat.cpu_ticks),
            (Pid::from_raw(1), Pid::from_raw(7), 10)
        );
        assert_eq!((stat.threads, stat.started, stat.rss_pages), (6, 99, 55));
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let found = descendants(Pid::this(), usize::MAX);
        assert!(found.iter().any(|p| p.pid == pid && p.depth == 1));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
