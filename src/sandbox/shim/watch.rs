//! Owns the look at what a command takes: memory, processor time, processes, and its directory, against what it may.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    unistd::{Pid, SysconfVar, sysconf},
};

use super::directory::Walk;
use crate::sandbox::{
    limits::Bounds,
    process::{Process, descendants},
    protocol::Verdict,
};

/// Between two looks: a fork bomb doubles in less than a millisecond, and memory fills at a few gigabytes per second.
const OFTEN: Duration = Duration::from_millis(20);
/// A look may cost this part of the time, so that a command with a thousand threads is looked at less often.
const PART: u32 = 20;
/// But never more seldom than this: a fork bomb takes the processor from the one who looks, and the look seems to cost much.
const SELDOM: Duration = Duration::from_millis(200);

/// What is watched.
pub(super) struct Watch {
    bounds: Bounds,
    /// Processes around the command that are ours.
    wrappers: usize,
    page_bytes: u64,
    tick_ms: u64,
    walk: Walk,
    /// The most memory this shim had: a child of ours that had no more tells nothing.
    own_peak_bytes: u64,
    sampled_peak_bytes: u64,
    sampled_cpu_ms: u64,
    next: Instant,
}

impl Watch {
    pub(super) fn new(bounds: Bounds, wrappers: usize, directory: &Path) -> Self {
        let system = |variable, usual| match sysconf(variable) {
            Ok(Some(value)) => u64::try_from(value).unwrap_or(usual),
            _ => usual,
        };
        Self {
            bounds,
            wrappers,
            page_bytes: system(SysconfVar::PAGE_SIZE, 4096),
            tick_ms: 1000 / system(SysconfVar::CLK_TCK, 100).clamp(1, 1000),
            walk: Walk::new(directory),
            own_peak_bytes: own_peak_bytes(),
            sampled_peak_bytes: 0,
            sampled_cpu_ms: 0,
            next: Instant::now(),
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Looks, and says what there is too much of.
    pub(super) fn look(&mut self) -> Option<(Verdict, String)> {
        let began = Instant::now();
        // One more than allowed is enough to know, and a fork bomb leaves no time to count.
        let allowed = usize::try_from(self.bounds.processes).unwrap_or(usize::MAX);
        let all = descendants(Pid::this(), allowed.saturating_add(self.wrappers + 1));
        let excess = self.judge(&all);
        self.next = Instant::now() + (began.elapsed() * PART).clamp(OFTEN, SELDOM);
        excess.or_else(|| {
            let held = self.walk.step(&self.bounds)?;
            Some((Verdict::Excess, held))
        })
    }

    fn judge(&mut self, all: &[Process]) -> Option<(Verdict, String)> {
        let command = all.iter().filter(|process| process.depth > self.wrappers);
        let (mut processes, mut threads, mut pages) = (0, 0, 0);
        for process in command {
            processes += 1;
            threads += process.threads;
            pages += process.rss_pages;
        }
        let memory = pages * self.page_bytes;
        self.sampled_peak_bytes = self.sampled_peak_bytes.max(memory);
        let living: u64 = all.iter().map(|process| process.cpu_ticks).sum();
        let cpu_ms = ended_cpu_ms() + living * self.tick_ms;
        self.sampled_cpu_ms = self.sampled_cpu_ms.max(cpu_ms);
        let bounds = &self.bounds;
        if memory > bounds.memory_bytes {
            let most = bounds.memory_bytes / (1024 * 1024);
            return Some((
                Verdict::Memory,
                format!("it used more than {most} MB of memory"),
            ));
        }
        if processes > bounds.processes || threads > bounds.tasks {
            return Some((
                Verdict::Excess,
                format!(
                    "it had more than {} processes, or {} threads",
                    bounds.processes, bounds.tasks
                ),
            ));
        }
        if cpu_ms > bounds.cpu_ms {
            return Some((
                Verdict::Timeout,
                format!("it used more than {} ms of processor time", bounds.cpu_ms),
            ));
        }
        None
    }

    /// Processor time of everybody, in milliseconds. The kernel's own sum lacks those who were killed with nobody to wait for them.
    pub(super) fn cpu_ms(&self) -> u64 {
        ended_cpu_ms().max(self.sampled_cpu_ms)
    }

    /// The most memory at once: of all together when somebody looked, or of one process that was too quick for that.
    pub(super) fn peak_bytes(&self) -> u64 {
        let largest = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| usage.max_rss());
        let largest = u64::try_from(largest).unwrap_or(0) * 1024;
        // A child starts with the memory of its parent, which is not its own.
        if largest > self.own_peak_bytes {
            self.sampled_peak_bytes.max(largest)
        } else {
            self.sampled_peak_bytes
        }
    }
}

fn ended_cpu_ms() -> u64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
        let spent = usage.user_time() + usage.system_time();
        u64::try_from(spent.num_milliseconds()).unwrap_or(0)
    })
}

fn own_peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
