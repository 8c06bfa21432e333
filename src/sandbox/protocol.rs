//! Owns what a server and a task's shim say to each other: one job as a line of JSON on the shim's standard input, then frames on its standard
//! output. The standard input stays open as long as the server wants the task to live.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::limits::Bounds;

/// Most bytes kept of each of the two streams: they are stored in a checkpoint.
pub(super) const STREAM_BYTES: usize = 1024 * 1024;
/// Most bytes of output in one frame.
pub(super) const CHUNK_BYTES: usize = 32 * 1024;
/// Most bytes of any frame; a report is the largest.
pub(super) const FRAME_BYTES: usize = 64 * 1024;
/// A kind and a length.
pub(super) const HEADER_BYTES: usize = 5;
/// Most bytes of a job: a command and its variables, which come from a row of the database.
pub(super) const JOB_BYTES: usize = 16 * 1024 * 1024;

/// What a shim is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) cmd: String,
    /// All of it: nothing is inherited.
    pub(super) env: BTreeMap<String, String>,
    /// Where it starts.
    pub(super) workdir: PathBuf,
    pub(super) timeout_ms: u64,
    pub(super) net: bool,
    pub(super) bounds: Bounds,
    /// The program that isolates further, where there is one.
    pub(super) bwrap: Option<PathBuf>,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    Stderr,
    Report,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Report => 3,
        }
    }
}

/// A frame, ready to be written.
pub(super) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.push(kind.byte());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Kind and length of the frame that begins so; nothing when no shim of ours would have written it.
pub(super) fn header(bytes: [u8; HEADER_BYTES]) -> Option<(Kind, usize)> {
    let [kind, length @ ..] = bytes;
    let kind = [Kind::Stdout, Kind::Stderr, Kind::Report]
        .into_iter()
        .find(|known| known.byte() == kind)?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (length <= FRAME_BYTES).then_some((kind, length))
}

/// How a job ended, and what it took.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// Why the shim ended it, if it did.
    pub(super) verdict: Option<Verdict>,
    /// The verdict, or what else is worth knowing, in words.
    pub(super) message: Option<String>,
    /// How the command ended, where that is known.
    pub(super) ending: Option<Ending>,
    pub(super) wall_ms: u64,
    pub(super) cpu_ms: u64,
    pub(super) mem_peak_bytes: u64,
}

/// Why a shim ended its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// It never started.
    NotStarted,
    /// Its deadline, or its processor time, was over.
    Timeout,
    /// Too much memory.
    Memory,
    /// Too much of something that has no code of its own: processes, or the directory.
    Excess,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    Exit(i32),
    Signal(i32),
}

impl Ending {
    /// As shells count: 128 and the signal's number.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back() {
        let frame = frame(Kind::Stderr, b"abc");
        let (head, payload) = frame.split_first_chunk().unwrap();
        assert_eq!(header(*head), Some((Kind::Stderr, 3)));
        assert_eq!(payload, b"abc");
        assert_eq!(header([9, 0, 0, 0, 1]), None);
        assert_eq!(header([1, 0xff, 0, 0, 1]), None);
    }
}
