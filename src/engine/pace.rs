//! Owns whether another step may start in this process: none once it is stopping, and none that cannot end before a one-shot worker must.

use std::{
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::context::Context;

/// How far a stop has come; it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Claims and executes.
    Working,
    /// Claims nothing more; what runs goes on, and the heart beats.
    Draining,
    /// Executions end at their next boundary.
    Stopping,
}

/// Whether a step may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Start,
    /// The workflow is handed back instead, and is due after `delay_ms`.
    Yield {
        /// Milliseconds.
        delay_ms: i64,
    },
}

/// What the executions of a process look at before each step.
#[derive(Debug, Default)]
pub(super) struct Pace {
    yielding: AtomicBool,
    /// Whether a step was not started because too little time was left for it.
    refused: AtomicBool,
    /// When this process ends whatever still runs, and how long it had from its start, where that is known before.
    cut: Option<(Instant, Duration)>,
}

impl Pace {
    /// The pace of a process that began at `started` and ends what runs at `cut`.
    pub(super) fn until(started: Instant, cut: Instant) -> Self {
        Self {
            cut: Some((cut, cut - started)),
            ..Self::default()
        }
    }

    /// From now on no step starts.
    pub(super) fn yield_now(&self) {
        self.yielding.store(true, Ordering::Release);
    }

    /// Whether a step may start that takes at most `longest`. One that does not say may take whatever is left.
    pub(super) fn admit(&self, longest: Option<Duration>) -> Admission {
        if self.yielding.load(Ordering::Acquire) {
            return Admission::Yield { delay_ms: 0 };
        }
        match (self.cut, longest) {
            (Some((cut, _)), Some(longest)) => {
                let left = cut.saturating_duration_since(Instant::now());
                if longest <= left {
                    Admission::Start
                } else {
                    self.refused.store(true, Ordering::Release);
                    // Not before this process is gone: it would claim the workflow again at once, and hand it back again.
                    Admission::Yield {
                        delay_ms: i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
                    }
                }
            }
            _ => Admission::Start,
        }
    }

    /// Whether a step did not start because it did not fit.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Whether no process with this one's time could ever start a step that takes so long.
    fn never_admits(&self, longest: Option<Duration>) -> bool {
        matches!((self.cut, longest), (Some((_, whole)), Some(longest)) if longest > whole)
    }
}

impl Context {
    /// Returns once everything recorded so far is committed and a step that takes at most `longest` may start. Where none may it never
    /// returns: the driver hands the workflow back, with what is recorded.
    pub(super) async fn admitted(&self, longest: Option<Duration>) {
        self.yield_unless_admitted(longest).await;
        self.settled().await;
        // The process may have begun to stop while the commit was under way.
        self.yield_unless_admitted(longest).await;
    }

    async fn yield_unless_admitted(&self, longest: Option<Duration>) {
        if let Admission::Yield { delay_ms } = self.pace.admit(longest) {
            if self.pace.never_admits(longest) {
                tracing::warn!(
                    workflow = self.workflow_id(),
                    ?longest,
                    "a step declares more time than such an invocation ever has; it needs a longer --max-seconds"
                );
            }
            self.hand_back(delay_ms);
            pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_starts_if_what_it_declares_fits() {
        let started = Instant::now();
        let pace = Pace::until(started, started + Duration::from_secs(10));
        assert_eq!(pace.admit(None), Admission::Start);
        assert_eq!(pace.admit(Some(Duration::from_secs(5))), Admission::Start);
        let Admission::Yield { delay_ms } = pace.admit(Some(Duration::from_secs(11))) else {
            panic!("it does not fit");
        };
        assert!((9_000..=10_000).contains(&delay_ms), "{delay_ms}");
        assert!(pace.never_admits(Some(Duration::from_secs(11))));
        assert!(!pace.never_admits(Some(Duration::from_secs(10))));
    }

    #[test]
    fn nothing_starts_once_the_process_stops() {
        let pace = Pace::default();
        assert_eq!(
            pace.admit(Some(Duration::from_secs(3_600))),
            Admission::Start
        );
        pace.yield_now();
        assert_eq!(pace.admit(None), Admission::Yield { delay_ms: 0 });
    }
}
