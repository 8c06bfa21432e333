//! Owns the time that workflows see: the database's clock, followed from this side between two heartbeats.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// The database's clock as an offset from this machine's.
#[derive(Debug, Default)]
pub(super) struct Clock {
    offset_ms: AtomicI64,
}

fn local_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

impl Clock {
    /// Epoch milliseconds.
    pub(super) fn now(&self) -> i64 {
        local_ms() + self.offset_ms.load(Ordering::Relaxed)
    }

    /// The database said that it is `now`.
    pub(super) fn set(&self, now: i64) {
        self.offset_ms.store(now - local_ms(), Ordering::Relaxed);
    }
}
