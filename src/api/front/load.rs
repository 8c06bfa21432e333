//! Owns admission: how many requests are worked on at once. What there is no room for is refused before it costs the database anything.

use std::time::Duration;

use openapi::ApiError;
use poem::http::StatusCode;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};

use super::body;

/// Requests that write, at once. SQLite has one writer, and a Postgres pool is shared with the checkpoints: more at once only wait inside.
const WRITES: usize = 4;
/// Requests that read, at once. Fewer than a Postgres pool has connections, so that heartbeats and claims always find one.
const READS: usize = 6;
/// Requests of a kind that may wait for their turn: a burst of so many is served, and only what goes on for longer is refused.
const WRITES_WAITING: usize = 64;
const READS_WAITING: usize = 256;
/// How long they wait. Longer than a burst takes; who is not served by then is better told so than kept.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a refusal for want of room is held back: longer, the more are. Callers who ask again at once, whatever they are told, are slowed to
/// the pace of those who heed `Retry-After`; a refusal is cheap, thousands of them a second are not.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(RETRY_AFTER_S);
/// How many refusals that are held back make the pause longer by its shortest.
const PER_PAUSE: u32 = 16;
/// Refusals held back at once; a connection has one at most.
const PAUSING: usize = 1_024;
/// Seconds after which to try again.
const RETRY_AFTER_S: u64 = 1;

/// What the service has room for.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) writes: Lane,
    pub(super) reads: Lane,
    /// A permit per byte of the bodies in memory.
    pub(super) bodies: Semaphore,
    pausing: Semaphore,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            writes: Lane::new(WRITES, WRITES_WAITING, PATIENCE),
            reads: Lane::new(READS, READS_WAITING, PATIENCE),
            bodies: Semaphore::new(body::ALL_AT_ONCE),
            pausing: Semaphore::new(PAUSING),
        }
    }
}

impl Load {
    /// The refusal for want of room, after a short pause.
    pub(super) async fn refuse(&self) -> ApiError {
        if let Ok(_place) = self.pausing.try_acquire() {
            sleep(pause(PAUSING - self.pausing.available_permits())).await;
        }
        let message = "too many requests at once; try again later";
        ApiError {
            retry_after: Some(RETRY_AFTER_S),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message)
        }
    }
}

/// How long a refusal is held back when so many are.
fn pause(held: usize) -> Duration {
    let steps = u32::try_from(held).unwrap_or(u32::MAX) / PER_PAUSE;
    SHORTEST_PAUSE
        .saturating_mul(steps.saturating_add(1))
        .min(LONGEST_PAUSE)
}

/// Room for requests of one kind: so many at once, so many that wait, so long.
#[derive(Debug)]
pub(super) struct Lane {
    at_once: Semaphore,
    waiting: Semaphore,
    patience: Duration,
}

impl Lane {
    fn new(at_once: usize, waiting: usize, patience: Duration) -> Self {
        Self {
            at_once: Semaphore::new(at_once),
            waiting: Semaphore::new(waiting),
            patience,
        }
    }

    /// Room for one request, if there is any or comes in time.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.at_once.try_acquire() {
            return Some(permit);
        }
        let _place = self.waiting.try_acquire().ok()?;
        timeout(self.patience, self.at_once.acquire())
            .await
            .ok()?
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_waits_the_longer_the_more_there_are() {
        let paused = |held| pause(held).as_millis();
        assert_eq!([1, 16, 80, 1_024].map(paused), [100, 200, 600, 1_000]);
    }

    #[tokio::test]
    async fn a_full_lane_lets_some_wait_and_refuses_the_rest_at_once() {
        let lane = Lane::new(1, 1, Duration::from_millis(20));
        let first = lane.enter().await.unwrap();
        let begun = tokio::time::Instant::now();
        let (second, third) = tokio::join!(
            async { (lane.enter().await.is_some(), begun.elapsed()) },
            async { (lane.enter().await.is_some(), begun.elapsed()) }
        );
        assert!(!second.0 && !third.0);
        assert!(
            second.1 >= Duration::from_millis(20),
            "the second had a place to wait"
        );
        assert!(third.1 < second.1, "the third had none");
        let (second, ()) = tokio::join!(lane.enter(), async { drop(first) });
        assert!(second.is_some(), "the room that is left goes to who waits");
    }
}
