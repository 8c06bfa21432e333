//! Owns the engine's bounds: sizes, batches and waits, each with its reason.

use serde::Serialize;

use super::error::{EngineError, WorkflowError};

/// Largest input, output, message or event in bytes; larger things are artifacts. It keeps a run recoverable: all outputs of a workflow are
/// loaded when it is claimed.
pub const PAYLOAD_BYTES: usize = 1024 * 1024;
/// Checkpoints that wait for a committer; whoever comes then waits too.
pub(super) const COMMIT_QUEUE: usize = 4_096;
/// Checkpoints in one transaction: enough to amortise a flush, few enough to answer soon.
pub(super) const COMMIT_BATCH: usize = 512;
/// A sleep shorter than this stays in memory: suspending would cost more than it frees.
pub(super) const SHORT_SLEEP_MS: i64 = 1_000;
/// The longest timer; tokio's own end is a few years.
pub(super) const LONGEST_TIMER_MS: u64 = 24 * 60 * 60 * 1_000;
/// The wake time of a wait without a time-out: the last millisecond of the year 9999.
pub(super) const NEVER_MS: i64 = 253_402_300_799_999;
/// The first and the longest pause before a workflow is tried again whose replay did not fit.
pub(super) const MISMATCH_PAUSE_MS: (i64, i64) = (1_000, 60_000);

/// `value` as JSON text, if it is small enough.
pub(super) fn encode(what: &'static str, value: &impl Serialize) -> Result<String, WorkflowError> {
    let text = serde_json::to_string(value)
        .map_err(|e| WorkflowError::new("output_encoding", format!("{what} is not JSON: {e}")))?;
    check(what, &text).map_err(|e| WorkflowError::new("payload_too_large", e.to_string()))?;
    Ok(text)
}

/// Refuses `text` when it is larger than [`PAYLOAD_BYTES`].
pub(super) fn check(what: &'static str, text: &str) -> Result<(), EngineError> {
    if text.len() > PAYLOAD_BYTES {
        return Err(EngineError::TooLarge {
            what,
            size: text.len(),
            limit: PAYLOAD_BYTES,
        });
    }
    Ok(())
}
