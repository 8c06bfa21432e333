//! Owns what can be seen of a running engine from outside its loop, and the one thing that can be told to it: to stop, in two phases.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use super::pace::Phase;

/// How an engine fares; cheap to clone.
#[derive(Debug, Clone)]
pub struct Vitals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reachable: AtomicBool,
    running: AtomicUsize,
    phase: watch::Sender<Phase>,
}

impl Vitals {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            reachable: AtomicBool::new(true),
            running: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Working),
        }))
    }

    /// Whether the database answered the last heartbeat.
    pub fn is_reachable(&self) -> bool {
        self.0.reachable.load(Ordering::Relaxed)
    }

    /// Workflows in execution here.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Whether nothing more is claimed here.
    pub fn is_draining(&self) -> bool {
        *self.0.phase.borrow() >= Phase::Draining
    }

    /// Claims nothing more, for good. What runs goes on, and this process stays alive for it.
    pub fn drain(&self) {
        self.enter(Phase::Draining);
    }

    pub(super) fn stop(&self) {
        self.enter(Phase::Stopping);
    }

    fn enter(&self, next: Phase) {
        self.0.phase.send_if_modified(|phase| {
            let later = next > *phase;
            *phase = (*phase).max(next);
            later
        });
    }

    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Remembers whether the database answers.
    pub(super) fn say_reachable(&self, reachable: bool) {
        self.0.reachable.store(reachable, Ordering::Relaxed);
    }

    pub(super) fn one_more(&self) {
        self.0.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn one_less(&self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_never_goes_back() {
        let vitals = Vitals::new();
        assert!(!vitals.is_draining());
        vitals.stop();
        vitals.drain();
        assert_eq!(*vitals.phases().borrow(), Phase::Stopping);
    }
}
