//! Owns the count of writes, so that a test can let the process die at each of them: at every commit of a transaction, and at every statement
//! that commits by itself, whoever asks for it. Without such a wish nothing is counted.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// On which side of a write the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the database is told.
    Before,
    /// After it has answered, before anybody here knows.
    After,
}

static DEATH: OnceLock<(u64, Side)> = OnceLock::new();
static REACHED: AtomicU64 = AtomicU64::new(0);

/// Lets this process abort at its `nth` write, counted from 1.
pub fn die_at(nth: u64, side: Side) {
    let _ = DEATH.set((nth, side));
}

/// Awaits a write, and dies beside it if that is wished.
pub(super) async fn around<T>(write: impl Future<Output = T>) -> T {
    let Some((nth, side)) = DEATH.get() else {
        return write.await;
    };
    let is_it = REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *nth;
    if is_it && *side == Side::Before {
        // As abrupt as a kill: no destructor runs, nothing is flushed.
        std::process::abort();
    }
    let written = write.await;
    if is_it {
        std::process::abort();
    }
    written
}
