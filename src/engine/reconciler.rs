//! Owns the repair of what nobody signalled: a crash between a commit and its look, psql, an official client. It walks over the waits by key,
//! one round per heartbeat. One process at a time does it; two would do no harm.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Database, StoreError, executors, waits};

/// How often stale waits and strays are looked for: they do no harm, they only look untidy or wait.
const TIDY_EVERY: Duration = Duration::from_secs(15);

/// Where the rounds stand.
#[derive(Debug)]
pub(super) struct Reconciler {
    from: String,
    strays: i64,
    tidied: Instant,
}

impl Reconciler {
    pub(super) fn new() -> Self {
        Self {
            from: String::new(),
            strays: 0,
            tidied: Instant::now(),
        }
    }

    /// The key after which the next round begins.
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// Looks at the waits up to `end`, or begins again from the start; answers how many were due.
    pub(super) async fn round(
        &mut self,
        db: &Database,
        end: Option<String>,
        expiry_ms: i64,
    ) -> Result<u64, StoreError> {
        let tidy = self.tidied.elapsed() >= TIDY_EVERY;
        let mut found = 0;
        match end {
            Some(end) => {
                found = waits::reconcile(&db.write(), &self.from, &end).await?;
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
