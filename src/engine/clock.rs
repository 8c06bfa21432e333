//! Owns the time that workflows see: the database's clock, followed from this side between two heartbeats by what has passed here. This machine's
//! own clock may be set at any moment, and is asked only before the database has said anything.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::ClockId;

/// The database's clock as of `started`, and what has passed since.
#[derive(Debug)]
pub(super) struct Clock {
    /// Since the machine was started.
    started: Duration,
    started_ms: AtomicI64,
}

/// What has passed since the machine was started, its sleep included; nobody can set that.
fn since_boot() -> Duration {
    ClockId::CLOCK_BOOTTIME
        .now()
        .map_or(Duration::ZERO, Duration::from)
}

impl Default for Clock {
    fn default() -> Self {
        let local = SystemTime::now().duration_since(UNIX_EPOCH);
        let local_ms = local.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        Self {
            started: since_boot(),
            started_ms: AtomicI64::new(local_ms),
        }
    }
}

impl Clock {
    /// Epoch milliseconds.
    pub(super) fn now(&self) -> i64 {
        self.started_ms.load(Ordering::Relaxed) + self.passed_ms()
    }

    /// The database said that it is `now`.
    pub(super) fn set(&self, now: i64) {
        self.started_ms
            .store(now - self.passed_ms(), Ordering::Relaxed);
    }

    fn passed_ms(&self) -> i64 {
        i64::try_from(since_boot().saturating_sub(self.started).as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: Duration = Duration::from_secs(5);
    /// Longer than any test takes.
    const AN_HOUR_MS: i64 = 3_600_000;

    #[test]
    fn what_the_database_said_is_followed_by_what_has_passed_since() {
        let clock = Clock {
            started: since_boot() - PASSED,
            started_ms: AtomicI64::new(1_000),
        };
        let now = clock.now();
        assert!((6_000..AN_HOUR_MS).contains(&now), "{now}");
    }

    #[test]
    fn the_database_is_believed_whatever_this_machine_says() {
        let clock = Clock {
            started: since_boot() - PASSED,
            started_ms: AtomicI64::new(1_000),
        };
        for said in [9_000_000_000_000, 5, -7] {
            clock.set(said);
            let now = clock.now();
            assert!((said..said + AN_HOUR_MS).contains(&now), "{now}");
        }
    }
}
