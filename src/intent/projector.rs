//! Owns the repair of runs whose workflow ended or went on without them: cancelled, resumed or forked by an official client, cancelled by a deadline,
//! or given up.

use std::time::Duration;

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
/// How far back a look goes: a few times its pause, for clocks and transactions that overlap.
const LOOK_BACK_MS: i64 = 60_000;

/// How often content is looked for that nobody names, and how long it must have been nobody's.
const TIDY_EVERY: Duration = Duration::from_secs(60 * 60);
const TIDY_AFTER_MS: i64 = 24 * 60 * 60 * 1_000;

/// Looks for drift until the task is aborted, and now and then for content that nobody names. The first look goes back to the beginning.
pub async fn project_drift(db: Database) {
    let mut look_back_ms = i64::MAX / 2;
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
        match round(&db, look_back_ms).await {
            Ok(()) => look_back_ms = LOOK_BACK_MS,
            Err(error) => tracing::debug!(%error, "could not look for drifted runs"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Ends the open runs whose workflow ended within the last `look_back_ms`, opens those again whose workflow is queued again, and gives a run to
/// copies that other clients made.
pub(super) async fn round(db: &Database, look_back_ms: i64) -> Result<(), StoreError> {
    for drift in runs::drifted(&db.read(), look_back_ms).await? {
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
    Ok(())
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
