//! Owns the table of open connections: a bounded number of places, and what the one at each place is doing. A newcomer for whom there is none
//! gets that of the connection which has been silent for longest.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

/// How long a newcomer waits for the place of a connection that was told to go. It goes at once unless the machine is very busy.
const EVICTION: Duration = Duration::from_millis(500);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// A request has begun to arrive, or the first one has yet to.
    Receiving,
    /// A request is worked on, or its answer is written.
    Busy,
    /// An answer is to be written, and the other side does not read.
    Stalled,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    evicted: Notify,
}

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    /// The whole answer has been handed over; it may not have been written yet.
    answered: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Receiving,
                since: Instant::now(),
                answered: false,
            }),
            evicted: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        *self.state() = State {
            phase,
            since: Instant::now(),
            answered: false,
        };
    }

    /// Its phase, and when that began.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let state = self.state();
        (state.phase, state.since)
    }

    /// Bytes have arrived.
    pub(super) fn received(&self) {
        if self.phase().0 == Phase::Idle {
            self.enter(Phase::Receiving);
        }
    }

    /// A whole head has arrived and is worked on.
    pub(super) fn called(&self) {
        self.enter(Phase::Busy);
    }

    /// The end of the answer was handed over.
    pub(super) fn answered(&self) {
        self.state().answered = true;
    }

    /// Nothing more can be written for now.
    pub(super) fn stalled(&self) {
        let mut state = self.state();
        if state.phase == Phase::Busy {
            (state.phase, state.since) = (Phase::Stalled, Instant::now());
        }
    }

    /// Something was written.
    pub(super) fn wrote(&self) {
        let mut state = self.state();
        if state.phase == Phase::Stalled {
            (state.phase, state.since) = (Phase::Busy, Instant::now());
        }
    }

    /// Everything that was handed over is written.
    pub(super) fn flushed(&self) {
        let state = *self.state();
        if state.phase == Phase::Busy && state.answered {
            self.enter(Phase::Idle);
        }
    }

    /// Returns when the place is wanted for somebody else.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// The places.
#[derive(Debug, Clone)]
pub(super) struct Table {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<u64, Arc<Progress>>>>,
    next: Arc<AtomicU64>,
}

/// A place in the table, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    progress: Arc<Progress>,
    table: Table,
    _permit: OwnedSemaphorePermit,
}

impl Table {
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(places)),
            taken: Arc::default(),
            next: Arc::default(),
        }
    }

    /// A place, if need be that of the connection which has been silent for longest; none while all of them are at work.
    pub(super) async fn place(&self) -> Option<Place> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.most_silent()?.evicted.notify_one();
                let freed = Arc::clone(&self.free).acquire_owned();
                timeout(EVICTION, freed).await.ok()?.ok()?
            }
        };
        let progress = Arc::new(Progress::new());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.taken().insert(number, Arc::clone(&progress));
        Some(Place {
            number,
            progress,
            table: self.clone(),
            _permit: permit,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Progress>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn most_silent(&self) -> Option<Arc<Progress>> {
        let taken = self.taken();
        let silent = taken.values().filter_map(|progress| {
            let (phase, since) = progress.phase();
            (phase != Phase::Busy).then_some((since, progress))
        });
        silent
            .min_by_key(|(since, _)| *since)
            .map(|(_, progress)| Arc::clone(progress))
    }
}

impl Place {
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.taken().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newcomer_gets_the_place_of_the_most_silent_and_never_that_of_one_at_work() {
        let table = Table::new(2);
        let oldest = table.place().await.unwrap();
        let other = table.place().await.unwrap();
        oldest.progress().called();
        let told = other.progress();
        let leaves = tokio::spawn(async move {
            told.evicted().await;
            drop(other);
        });
        let newcomer = table.place().await.unwrap();
        leaves.await.unwrap();
        newcomer.progress().called();
        assert!(table.place().await.is_none(), "both are at work");
        oldest.progress().answered();
        assert!(
            table.place().await.is_none(),
            "an answer that is not written yet is work"
        );
        let gone = oldest.progress();
        drop(oldest);
        let last = table.place().await.unwrap();
        last.progress().called();
        assert_eq!(
            Arc::strong_count(&gone),
            1,
            "the table forgets who has left"
        );
    }

    #[test]
    fn an_answer_ends_when_all_of_it_is_written() {
        let progress = Progress::new();
        progress.received();
        assert_eq!(progress.phase().0, Phase::Receiving);
        progress.called();
        progress.flushed();
        progress.received();
        assert_eq!(progress.phase().0, Phase::Busy);
        progress.answered();
        assert_eq!(progress.phase().0, Phase::Busy);
        progress.flushed();
        assert_eq!(progress.phase().0, Phase::Idle);
        progress.received();
        assert_eq!(progress.phase().0, Phase::Receiving);
    }
}
