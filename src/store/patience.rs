//! Owns how often and how long the database is asked again, by those who have the time.

use std::time::{Duration, Instant};

use super::error::StoreError;

/// How often a transaction is tried again after a serialization failure, a deadlock or a busy file.
const RETRIES: u32 = 10;
/// How long, if each of them takes a while: a file that stays busy is the caller's to wait for.
const RETRY_FOR: Duration = Duration::from_secs(15);
/// The longest pause between two looks at a database that is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs `work` again, with jitter, while it ends in a serialization failure, a deadlock or a busy file.
pub async fn retrying<T, F, Fut>(mut work: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let (mut tries, began) = (0, Instant::now());
    loop {
        match work().await {
            Err(StoreError::Contention(_)) if tries < RETRIES && began.elapsed() < RETRY_FOR => {
                tries += 1;
                tokio::time::sleep(jitter(Duration::from_millis(2 << tries.min(6)))).await;
            }
            other => return other,
        }
    }
}

/// Asks the database until it is there; whatever else goes wrong is the caller's.
pub async fn until_there<T, F, Fut>(ask: F) -> Result<T, StoreError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut pause = Duration::from_millis(50);
    loop {
        match ask().await {
            Err(error) if error.is_transient() => tracing::debug!(%error, "asking again"),
            other => return other,
        }
        tokio::time::sleep(jitter(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks the database until it answers: an operation of a workflow does not fail because a server restarts. An error that no retry mends
/// keeps the workflow waiting where an operator can see it, rather than ending it with the wrong result.
pub async fn persist<T, F, Fut>(what: &str, ask: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    loop {
        match until_there(&ask).await {
            Ok(answer) => return answer,
            Err(error) => tracing::error!(%error, "cannot {what}"),
        }
        tokio::time::sleep(jitter(LONGEST_PAUSE)).await;
    }
}

/// A duration between half of `base` and all of it, so that those who met once do not meet again.
pub fn jitter(base: Duration) -> Duration {
    let random = u32::from_le_bytes(
        uuid::Uuid::new_v4().as_bytes()[..4]
            .try_into()
            .unwrap_or_default(),
    );
    base / 2 + (base / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
