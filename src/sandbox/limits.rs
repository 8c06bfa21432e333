//! Owns what a command may use: what its caller says, and what counts where nobody said anything.

use serde::{Deserialize, Serialize};

/// Megabytes of memory: a compiler or a test suite fits, a leak does not take a laptop down.
const MEM_MB: u64 = 2048;
/// Megabytes of one file: as large as all that is fetched together.
const FILE_MB: u64 = 1024;
/// Open files of one process: what most systems give everybody.
const OPEN_FILES: u64 = 1024;
/// Processes at once: parallel builds fit, a fork bomb is stopped before the machine feels it.
const PROCESSES: u64 = 256;
/// Threads per allowed process: threads take the same numbers as processes, and some runtimes start dozens.
const THREADS_PER_PROCESS: u64 = 4;
/// Megabytes of the whole directory: inputs, outputs, and as much again for work.
const DISK_MB: u64 = 4096;
/// Entries of the whole directory: the dependencies of a large project fit; removing more than that takes long.
const ENTRIES: u64 = 250_000;
const MB: u64 = 1024 * 1024;

/// What the command may use; what is not said has a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Processors. A part of one counts as one. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Megabytes of memory, of all its processes together. Default: 2048.
    #[serde(rename = "memMB", skip_serializing_if = "Option::is_none")]
    pub mem_mb: Option<u64>,
    /// Seconds of processor time, of all its processes together. Default: its deadline times its processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// Megabytes of each file that it writes. Default: 1024.
    #[serde(rename = "fileMB", skip_serializing_if = "Option::is_none")]
    pub file_mb: Option<u64>,
    /// Files that each of its processes may have open. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Its processes at once. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Megabytes of its whole directory. Default: 4096.
    #[serde(rename = "diskMB", skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
    /// Files and directories in its directory. Default: 250000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
}

/// Limits without a question left, in the units in which they are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bounds {
    pub(super) processors: usize,
    pub(super) memory_bytes: u64,
    pub(super) cpu_ms: u64,
    pub(super) file_bytes: u64,
    pub(super) open_files: u64,
    pub(super) processes: u64,
    /// Threads, the first one of each process included: what the kernel counts.
    pub(super) tasks: u64,
    pub(super) directory_bytes: u64,
    pub(super) entries: u64,
}

impl Bounds {
    /// What `limits` mean on a machine with `processors`, for a command that may take `timeout_ms`.
    pub(super) fn new(limits: &Limits, timeout_ms: u64, processors: usize) -> Self {
        let asked = limits.cpu.map_or(processors, whole_processors);
        let processors = asked.clamp(1, processors.max(1));
        let processes = limits.processes.unwrap_or(PROCESSES);
        let cpu_ms = match limits.cpu_seconds {
            Some(seconds) => seconds.saturating_mul(1000),
            None => timeout_ms.saturating_mul(u64::try_from(processors).unwrap_or(u64::MAX)),
        };
        Self {
            processors,
            memory_bytes: limits.mem_mb.unwrap_or(MEM_MB).saturating_mul(MB),
            cpu_ms,
            file_bytes: limits.file_mb.unwrap_or(FILE_MB).saturating_mul(MB),
            open_files: limits.open_files.unwrap_or(OPEN_FILES),
            processes,
            tasks: processes.saturating_mul(THREADS_PER_PROCESS),
            directory_bytes: limits.disk_mb.unwrap_or(DISK_MB).saturating_mul(MB),
            entries: limits.entries.unwrap_or(ENTRIES),
        }
    }
}

/// A part of a processor cannot be given without control groups. Nothing of a number that is none: such a cast saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole_processors(cpu: f64) -> usize {
    cpu.ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_says_has_a_default() {
        let bounds = Bounds::new(&Limits::default(), 1_000, 4);
        assert_eq!((bounds.processors, bounds.cpu_ms), (4, 4_000));
        assert_eq!((bounds.processes, bounds.tasks), (256, 1_024));
        assert_eq!(bounds.memory_bytes, 2 << 30);
    }

    #[test]
    fn processors_are_whole_and_at_hand() {
        for (cpu, processors) in [(0.1, 1), (1.0, 1), (1.5, 2), (64.0, 4), (f64::NAN, 1)] {
            let limits = Limits {
                cpu: Some(cpu),
                ..Limits::default()
            };
            assert_eq!(Bounds::new(&limits, 1, 4).processors, processors, "{cpu}");
        }
    }
}
