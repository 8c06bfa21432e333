//! Owns what this process knows of stalled fronts: looked for with the heartbeat, beside the claims, and passed over by them. So a workflow in a
//! front that becomes ours, by a resume for example, is found with the next heartbeat.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinHandle;

use crate::{
    engine::signals::Signals,
    store::{Database, claims::Claimer, stalled, stalled::Front},
};

/// The stalled fronts of the queues that a process serves.
#[derive(Debug, Default)]
pub(super) struct Fronts {
    known: Arc<Known>,
    looking: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Known(Mutex<HashMap<String, Front>>);

impl Fronts {
    /// The front of `queue` that `claimer` may pass over.
    pub(super) fn of(&self, queue: &str, claimer: &Claimer) -> Option<Front> {
        let front = self.known.lock().get(queue).copied();
        front.filter(|front| front.is_of(claimer))
    }

    /// Looks at `queues` again, unless the last look is still under way. Where a front has become shorter its queue is hinted at.
    pub(super) fn look(
        &mut self,
        db: &Database,
        claimer: &Claimer,
        queues: Vec<String>,
        signals: &Arc<Signals>,
    ) {
        if self
            .looking
            .as_ref()
            .is_some_and(|look| !look.is_finished())
        {
            return;
        }
        let (known, db, claimer, signals) = (
            Arc::clone(&self.known),
            db.clone(),
            claimer.clone(),
            Arc::clone(signals),
        );
        self.looking = Some(tokio::spawn(async move {
            for queue in queues {
                match stalled::look(&db.read(), &claimer, &queue).await {
                    Ok(front) if known.set(&queue, front) => signals.queued(&queue),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "could not look for a stalled front; the next heartbeat does");
                        known.set(&queue, None);
                    }
                }
            }
        }));
    }
}

impl Drop for Fronts {
    fn drop(&mut self) {
        if let Some(look) = self.looking.take() {
            look.abort();
        }
    }
}

impl Known {
    /// Answers whether something that was passed over no longer is.
    fn set(&self, queue: &str, front: Option<Front>) -> bool {
        let mut known = self.lock();
        let before = match front {
            Some(front) => known.insert(queue.to_owned(), front),
            None => known.remove(queue),
        };
        before.is_some_and(|before| front.is_none_or(|front| !front.covers(&before)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Front>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
