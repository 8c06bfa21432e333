//! Owns what a shim does to itself before it starts a command, which inherits it.

use std::{fs, os::fd::RawFd};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        prctl::{set_child_subreaper, set_dumpable},
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Pid, close, setsid},
};

use crate::sandbox::{limits::Bounds, process::tasks_of_user};

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Closes what the server's own parents have left open: a command would inherit it. Nothing else is open yet.
pub(super) fn close_inherited() {
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<RawFd> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The listing itself is closed by now.
        let _ = close(number);
    }
}

/// A session of its own, and every orphan among the descendants becomes a child of this process: nobody is lost, whatever session it opens.
pub(super) fn be_responsible() -> nix::Result<()> {
    match setsid() {
        // Somebody runs the shim by hand, and it is the leader already.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    set_child_subreaper(true)
}

/// When the machine has no memory left, the command goes first. Answers what was said before.
pub(super) fn prefer_for_oom() -> Option<String> {
    let usual = fs::read_to_string(OOM_SCORE).ok()?;
    fs::write(OOM_SCORE, "1000").ok()?;
    Some(usual)
}

/// The shim itself is needed to the last.
pub(super) fn restore_for_oom(usual: Option<&str>) {
    if let Some(usual) = usual {
        // Refused: it shares the fate of its command.
        let _ = fs::write(OOM_SCORE, usual);
    }
}

/// The limits that the kernel enforces for each process. It counts the processes of a user and not those of a task, so
/// `tasks` come on top of what this user has already; the superuser is free of that limit and has control groups instead.
pub(super) fn limit(bounds: &Bounds, tasks: u64) -> Result<(), String> {
    for (resource, value) in [
        (
            Resource::RLIMIT_NPROC,
            tasks_of_user().saturating_add(tasks),
        ),
        (Resource::RLIMIT_FSIZE, bounds.file_bytes),
        (Resource::RLIMIT_NOFILE, bounds.open_files),
        (Resource::RLIMIT_CORE, 0),
    ] {
        let refused = |e| format!("cannot limit {resource:?} to {value}: {e}");
        let (_, most) = getrlimit(resource).map_err(refused)?;
        let value = value.min(most);
        setrlimit(resource, value, value).map_err(refused)?;
    }
    share_processors(bounds.processors)
        .map_err(|e| format!("cannot limit to {} processors: {e}", bounds.processors))
}

/// Takes `wanted` of the processors at hand. Different shims begin at different ones, so that tasks do not crowd on the first.
fn share_processors(wanted: usize) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let mine = sched_getaffinity(this)?;
    let at_hand: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| mine.is_set(*cpu).unwrap_or(false))
        .collect();
    if wanted >= at_hand.len() {
        return Ok(());
    }
    let first = usize::try_from(Pid::this().as_raw()).unwrap_or(0);
    let mut share = CpuSet::new();
    for n in 0..wanted {
        share.set(at_hand[(first + n) % at_hand.len()])?;
    }
    sched_setaffinity(this, &share)
}

/// Closes this process's memory and files to the command, which runs as the same user and could speak in its name otherwise.
pub(super) fn hide() {
    // A kernel that refuses leaves it as it was; the command can still do no more than its user.
    let _ = set_dumpable(false);
}
