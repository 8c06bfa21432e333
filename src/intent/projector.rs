//! Owns the repair of runs whose workflow ended or went on without them: cancelled, resumed or forked by an official client, cancelled by a deadline,
//! or given up.

use std::time::{Duration, Instant, SystemTime};

use super::ops::adopt;
use crate::{
    engine::WorkflowError,
    store::{
        Database, StoreError, blobs,
        runs::{self, Drift},
        status::{RunStatus, WorkflowStatus},
    },
};

/// The pause between two looks.
const EVERY: Duration = Duration::from_secs(3);
/// How far a look goes back beyond the last one that left nothing, for clocks and transactions that overlap.
const OVERLAP_MS: i64 = 60_000;
/// How far back the first look goes.
const FROM_THE_BEGINNING_MS: i64 = i64::MAX / 2;

/// How often content is looked for that nobody names, and how long it must have been nobody's.
const TIDY_EVERY: Duration = Duration::from_secs(60 * 60);
const TIDY_AFTER_MS: i64 = 24 * 60 * 60 * 1_000;

/// Looks for drift until the task is aborted, and now and then for content that nobody names. The first look goes back to the beginning.
pub async fn project_drift(db: Database) {
    let mut complete = None;
    let mut tidied = tokio::time::Instant::now();
    loop {
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = tokio::time::Instant::now();
            match blobs::collect_garbage(&db, TIDY_AFTER_MS).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "deleted content that nobody names"),
                Err(error) => error.warn("could not look for content that nobody names"),
            }
        }
        let began = Moment::now();
        match round(&db, look_back_ms(complete.as_ref().map(Moment::elapsed))).await {
            Ok(true) => complete = Some(began),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "could not look for drifted runs"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// When a round began that left nothing.
struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// What has passed since: the steady clock may stand still while the machine is suspended, the one on the wall may be set back.
    fn elapsed(&self) -> Duration {
        let by_the_wall = self.wall.elapsed().unwrap_or_default();
        self.steady.elapsed().max(by_the_wall)
    }
}

/// How far back a look goes, in milliseconds, so long after the last round that left nothing, if there was one.
fn look_back_ms(since: Option<Duration>) -> i64 {
    let since_ms = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    since_ms.map_or(FROM_THE_BEGINNING_MS, |ms| {
        ms.saturating_add(OVERLAP_MS).min(FROM_THE_BEGINNING_MS)
    })
}

/// Ends the open runs whose workflow ended within the last `look_back_ms`, opens those again whose workflow is queued again, and gives a run to
/// copies that other clients made. Answers whether that was all there was to do.
pub(super) async fn round(db: &Database, look_back_ms: i64) -> Result<bool, StoreError> {
    let drifted = runs::drifted(&db.read(), look_back_ms).await?;
    let was_all = drifted.len() < runs::MOST_DRIFTED;
    for drift in drifted {
        if drift.has_no_run {
            adopt(db, &drift.id).await?;
            continue;
        }
        if drift.status.is_unfinished() {
            runs::reopen(&db.write(), &drift.id).await?;
            continue;
        }
        let (status, next_action, error) = projection(&drift);
        runs::end(&db.write(), &drift, status, next_action, error.as_deref()).await?;
    }
    Ok(was_all)
}

/// What a run becomes when its workflow has ended without it.
fn projection(drift: &Drift) -> (RunStatus, Option<&'static str>, Option<String>) {
    match drift.status {
        WorkflowStatus::Cancelled => (RunStatus::Canceled, None, None),
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            let error = WorkflowError::given_up();
            (
                RunStatus::Failed,
                Some("REPAIR"),
                serde_json::to_string(&error).ok(),
            )
        }
        _ => (RunStatus::Failed, None, drift.error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_reaches_back_beyond_the_last_one_that_left_nothing() {
        let an_hour = Duration::from_secs(3_600);
        assert_eq!(look_back_ms(None), FROM_THE_BEGINNING_MS);
        assert_eq!(look_back_ms(Some(an_hour)), 3_600_000 + OVERLAP_MS);
        assert_eq!(look_back_ms(Some(Duration::MAX)), FROM_THE_BEGINNING_MS);
    }

    #[test]
    fn what_passes_is_told_by_the_clock_that_says_more() {
        let hour = Duration::from_secs(3_600);
        let suspended = Moment {
            steady: Instant::now(),
            wall: SystemTime::now() - hour,
        };
        let set_back = Moment {
            steady: Instant::now(),
            wall: SystemTime::now() + hour,
        };
        assert!(suspended.elapsed() >= hour);
        assert!(set_back.elapsed() < hour);
    }
}
