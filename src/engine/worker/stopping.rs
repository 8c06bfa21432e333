//! Owns the end of an incarnation: what runs reaches its boundary, the heart beats meanwhile, and what is left is handed back.

use tokio::time::Instant;

use super::{HEARTBEAT, Incarnation, Worker};
use crate::{
    engine::{once::Tally, signals},
    store::{StoreError, backend::jitter, claims::Charge, executors},
};

impl Worker {
    /// Ends this life: executions reach their next boundary, or are dropped at `deadline`; `charge` is what that costs them. Answers what it did.
    ///
    /// # Errors
    /// The database is away: nothing was handed back, and whoever would ask it more waits in vain.
    pub(in crate::engine) async fn end(
        mut self,
        mut life: Incarnation,
        deadline: Instant,
        charge: Charge,
    ) -> Result<Tally, StoreError> {
        self.pace.yield_now();
        // Past the deadline whatever still runs is dropped below.
        let _ = tokio::time::timeout_at(deadline, self.finish_running(&mut life)).await;
        life.tasks.shutdown().await;
        life.tally.unfit = self.pace.has_refused();
        // What was handed in before is committed before its claim is handed back: a step that has ended does not run again.
        drop(self.committer);
        let longest = self.options.grace.max(HEARTBEAT);
        let settled = async {
            for committer in self.committers.drain(..) {
                let _ = committer.await;
            }
            executors::retire(&self.db, &life.claimer.executor_id, charge).await
        };
        match tokio::time::timeout(longest, settled).await {
            Ok(Ok(handed_back)) => {
                life.tally.released += handed_back;
                tracing::info!(handed_back, "retired");
                if life.tally.released > 0 {
                    signals::tell_due(&self.db).await;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not hand back; another process takes over after the expiry");
                if matches!(error, StoreError::Connection(_)) {
                    return Err(error);
                }
            }
            Err(_) => tracing::warn!(
                "could not hand back in time; another process takes over after the expiry"
            ),
        }
        Ok(life.tally)
    }

    /// Waits until every execution has ended, and beats meanwhile: a process whose heart stopped would be declared dead, and its work done
    /// twice.
    async fn finish_running(&self, life: &mut Incarnation) {
        while !life.tasks.is_empty() {
            let until_beat = self.until_beat(life);
            tokio::select! {
                ended = life.tasks.join_next() => {
                    if let Some(ended) = ended {
                        life.tally.count(ended.ok());
                    }
                }
                () = tokio::time::sleep(until_beat) => match self.pulse(life).await {
                    Ok(true) => {}
                    // Declared dead: whatever still runs here is somebody else's.
                    Ok(false) => return,
                    Err(error) => {
                        tracing::debug!(%error, "the database does not answer");
                        tokio::time::sleep(jitter(HEARTBEAT / 4)).await;
                    }
                },
            }
        }
    }
}
