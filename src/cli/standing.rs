//! Owns what is told of a run beside its output while somebody follows it: what holds it up.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::api::{Api, encoded};
use crate::intent::Reason;

/// How often somebody looks who follows a run: seldom beside what a look costs, and more than once before a dead process is replaced.
const LOOK: Duration = Duration::from_secs(3);
/// Where there is nothing to tell: the run goes on, or its stream says that it has ended.
const GOES_ON: [Reason; 3] = [Reason::Executing, Reason::WaitingForChildren, Reason::Ended];

/// Looks again and again at why a run is where it is.
pub(super) struct Standing<'a> {
    api: &'a Api,
    path: String,
    looks: Interval,
    /// The reason that was seen last.
    reason: String,
}

impl<'a> Standing<'a> {
    pub(super) fn new(api: &'a Api, run: &str) -> Self {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            api,
            path: format!("/api/runs/{}/view", encoded(run)),
            looks,
            reason: String::new(),
        }
    }

    /// What holds the run up, in a sentence; waits until that is something else than before. Nothing is lost when the waiting is given up.
    pub(super) async fn changed(&mut self) -> String {
        loop {
            self.looks.tick().await;
            // A server that does not answer is noticed by the stream.
            let Ok(view) = self.api.get(&self.path).await else {
                continue;
            };
            let explain = &view["explain"];
            let reason = explain["reason"].as_str().unwrap_or_default();
            if reason == self.reason {
                continue;
            }
            reason.clone_into(&mut self.reason);
            if GOES_ON.iter().all(|goes_on| goes_on.as_str() != reason) {
                return explain["sentence"].as_str().unwrap_or_default().to_owned();
            }
        }
    }
}
