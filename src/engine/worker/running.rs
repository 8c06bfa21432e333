//! Owns what runs under one incarnation, by the tokens of the claims. A suspended workflow may be woken and claimed here again before the task of its
//! last claim has gone: by the workflow's id, the end of the one would be taken for the end of the other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::engine::interrupt::Interrupt;

/// The executions of one incarnation; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<String, Arc<Interrupt>>>>);

impl Running {
    /// An execution begins under the claim of this token; the answer is the word that reaches it.
    pub(super) fn enter(&self, token: &str) -> Arc<Interrupt> {
        Arc::clone(self.executions().entry(token.to_owned()).or_default())
    }

    /// The execution under this token has gone.
    pub(super) fn leave(&self, token: &str) {
        self.executions().remove(token);
    }

    /// Whether the claim of this token is executed here.
    pub(super) fn holds(&self, token: &str) -> bool {
        self.executions().contains_key(token)
    }

    pub(super) fn count(&self) -> usize {
        self.executions().len()
    }

    pub(super) fn any_may_be_interrupted(&self) -> bool {
        self.executions().values().any(|word| word.is_allowed())
    }

    /// The workflow of the claim of this token is no longer its execution's.
    pub(super) fn interrupt(&self, token: &str) {
        if let Some(word) = self.executions().get(token) {
            word.want();
        }
    }

    fn executions(&self) -> MutexGuard<'_, HashMap<String, Arc<Interrupt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_late_end_of_a_claim_leaves_the_next_one_of_its_workflow_alone() {
        let running = Running::default();
        running.enter("first");
        let word = running.enter("second");

        running.leave("first");

        assert!(!running.holds("first") && running.holds("second"));
        assert_eq!(running.count(), 1);
        word.allow();
        assert!(running.any_may_be_interrupted());
        running.leave("second");
        assert_eq!(running.count(), 0);
    }
}
