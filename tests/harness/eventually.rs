//! Waiting for something to become true, with a deadline and a failure that shows what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Asks `probe` until it answers `Ok`; its `Err` is what was seen instead. Panics past the deadline, naming both.
pub(crate) async fn eventually<T, E, Probe, Answer>(
    deadline: Duration,
    what: &str,
    mut probe: Probe,
) -> T
where
    Probe: FnMut() -> Answer,
    Answer: Future<Output = Result<T, E>>,
    E: Display,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if started.elapsed() >= deadline => {
                panic!(
                    "not within {} ms: {what}; last seen: {seen}",
                    deadline.as_millis()
                )
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// This machine's clock, epoch milliseconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a clock before the year 292 million")
}
