//! Owns the word that reaches an execution in the middle of a step: its workflow was cancelled. Only one that has said so is interrupted; all
//! others end their step and stop at the boundary.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The word, shared by the execution and the loop that learns of the cancel.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    allowed: AtomicBool,
    wanted: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    /// The execution may be dropped in the middle of a step.
    pub(super) fn allow(&self) {
        self.allowed.store(true, Ordering::Release);
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.allowed.load(Ordering::Acquire)
    }

    /// The workflow is no longer this execution's.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Until the execution is to be dropped, if it may be.
    pub(super) async fn interrupted(&self) {
        while !(self.wanted.load(Ordering::Acquire) && self.is_allowed()) {
            self.notify.notified().await;
        }
    }
}
