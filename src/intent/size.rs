//! Owns how large an intent may be. The workflow of a run is told all of it, and what a workflow is told has a limit of the engine's: what could never
//! run is refused before it is stored.

use super::IntentError;
use crate::engine::{EngineError, PAYLOAD_BYTES};

/// What is kept for the rest of what a run is told: its ids, its recipe, its trace.
const RESERVE: usize = 16 * 1024;
/// Most bytes of an intent as JSON: of its goal, inputs and constraints.
pub const MOST_INTENT_BYTES: usize = PAYLOAD_BYTES - RESERVE;

/// Refuses `what`, which a workflow is told or records, when it has more `bytes` than an intent may have.
pub(super) fn check(what: &'static str, bytes: usize) -> Result<(), IntentError> {
    if bytes > MOST_INTENT_BYTES {
        return Err(EngineError::TooLarge {
            what,
            size: bytes,
            limit: MOST_INTENT_BYTES,
        }
        .into());
    }
    Ok(())
}
