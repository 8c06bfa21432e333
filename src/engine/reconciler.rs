//! Owns the repair of what nobody signalled: a crash between a commit and its look, psql, an official client. It walks over the waits by key,
//! one round per heartbeat. One process at a time does it; two would do no harm.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Database, StoreError, cancellations, executors, waits};

/// How often stale waits and strays are looked for: they do no harm, they only look untidy or wait.
const TIDY_EVERY: Duration = Duration::from_secs(15);

/// How long heartbeats may fail to come before what they say of cancels by other clients is not enough.
const LONGEST_GAP: Duration = Duration::from_secs(4);
/// How far back a look for cancels by other clients goes beyond the one before, for clocks and transactions that overlap.
const OVERLAP_MS: i64 = 30_000;

/// What a round has found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Whether something suspended is due.
    pub(super) due: bool,
    /// Whether workflows were cancelled.
    pub(super) cancelled: bool,
}

/// Where the rounds stand.
#[derive(Debug)]
pub(super) struct Reconciler {
    from: String,
    strays: i64,
    tidied: Instant,
    /// When the last round was; none before the first, which looks back to the beginning.
    last: Option<Instant>,
}

impl Reconciler {
    pub(super) fn new() -> Self {
        Self {
            from: String::new(),
            strays: 0,
            tidied: Instant::now(),
            last: None,
        }
    }

    /// The key after which the next round begins.
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// Looks at the waits up to `end`, or begins again from the start, and carries on cancels by other clients.
    pub(super) async fn round(
        &mut self,
        db: &Database,
        end: Option<String>,
        cancelled_elsewhere: bool,
        expiry_ms: i64,
    ) -> Result<Found, StoreError> {
        let tidy = self.tidied.elapsed() >= TIDY_EVERY;
        let mut found = Found::default();
        let gap = self.last.map(|at| at.elapsed());
        if cancelled_elsewhere || gap.is_none_or(|gap| gap > LONGEST_GAP) {
            let look_back_ms = gap
                .and_then(|gap| i64::try_from(gap.as_millis()).ok())
                .map_or(i64::MAX / 2, |gap_ms| gap_ms + OVERLAP_MS);
            found.cancelled = cancellations::carry_on(db, look_back_ms).await?;
            found.due = found.cancelled;
        }
        self.last = Some(Instant::now());
        match end {
            Some(end) => {
                found.due |= waits::reconcile(&db.write(), &self.from, &end).await? > 0;
                if tidy {
                    waits::delete_stale(&db.write(), &self.from, &end).await?;
                }
                self.from = end;
            }
            None => self.from.clear(),
        }
        if tidy {
            self.tidied = Instant::now();
            self.strays = executors::reclaim_strays(db, self.strays, expiry_ms)
                .await?
                .unwrap_or(0);
        }
        Ok(found)
    }
}
