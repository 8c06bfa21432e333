//! Owns the retries of steps: which errors are tried again, how often, and after which pauses. Nothing of it is in memory alone: each failed
//! attempt is a recorded step, each pause a recorded sleep, so that a crash in a pause neither loses nor repeats an attempt.

use std::{future::Future, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{context::Context, error::WorkflowError};
use crate::{store::backend::jitter, telemetry::instruments::RETRIES};

/// How a step is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Executions in all, the first one included. Default: 3.
    pub attempts: u32,
    /// The pause before the second execution. Default: a second.
    pub first_pause: Duration,
    /// By how much each pause is longer than the one before it. Default: 2.
    pub factor: f64,
    /// The longest pause. Default: an hour.
    pub longest_pause: Duration,
    /// Whether a pause is shortened at random, by up to a half, so that those who failed together do not come back together. Default: no.
    pub jitter: bool,
    /// Whether an error is worth another attempt; any other one ends the step at once. Default: every error is.
    pub retries: fn(&WorkflowError) -> bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            first_pause: Duration::from_secs(1),
            factor: 2.0,
            longest_pause: Duration::from_secs(60 * 60),
            jitter: false,
            retries: |_| true,
        }
    }
}

impl Retry {
    /// The pause after the failed execution number `attempt`, from 1, before it is shortened at random.
    fn pause(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first_pause.as_secs_f64() * self.factor.powi(exponent);
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.longest_pause)
            .min(self.longest_pause)
    }
}

impl Context {
    /// Like [`Self::step`], tried again as `retry` says; `body` is told which execution it is, from 1. A step that succeeds at once is
    /// recorded as one operation. Each failure that is tried again adds two: the pause, `DBOS.sleep`, and the next execution; a pause longer than a
    /// second suspends the workflow. So it is a sequence of operations, and not to be run beside another one.
    pub fn step_retried<T, F, Fut>(
        &self,
        name: &str,
        retry: Retry,
        body: F,
    ) -> impl Future<Output = Result<T, WorkflowError>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        F: Fn(u32) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, WorkflowError>> + Send,
    {
        let mut call = self.call(name);
        async move {
            let mut attempt = 1;
            loop {
                let executed = self
                    .execute(&call, None, || async {
                        if attempt > 1 {
                            RETRIES.add(&[name], 1);
                        }
                        Ok((body(attempt).await?, Vec::new()))
                    })
                    .await;
                match executed {
                    Err(error) if attempt < retry.attempts && (retry.retries)(&error) => {
                        let pause = retry.pause(attempt);
                        // A replay sleeps until the recorded time, whatever is drawn now.
                        let pause = if retry.jitter { jitter(pause) } else { pause };
                        self.sleep(pause).await?;
                        call = self.call(&call.name);
                        attempt += 1;
                    }
                    outcome => return outcome,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = Retry {
            first_pause: Duration::from_millis(500),
            factor: 3.0,
            longest_pause: Duration::from_secs(4),
            ..Retry::default()
        };
        let pauses: Vec<u128> = (1..5)
            .map(|attempt| retry.pause(attempt).as_millis())
            .collect();
        assert_eq!(pauses, [500, 1_500, 4_000, 4_000]);
        assert_eq!(retry.pause(u32::MAX), Duration::from_secs(4));
    }
}
