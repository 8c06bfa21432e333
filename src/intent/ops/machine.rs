//! Owns the rules of the ops plane: what each action makes of a workflow in each state, and why not. One pure function.

use crate::store::status::WorkflowStatus;

/// What an operator does to a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// End it, and its unfinished children.
    Cancel,
    /// Put it back into its queue.
    Resume,
    /// Start a copy of it.
    Fork,
}

impl Action {
    const ALL: [Self; 3] = [Self::Cancel, Self::Resume, Self::Fork];

    /// As the trail and the routes write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Resume => "resume",
            Self::Fork => "fork",
        }
    }

    /// The states in which it is legal.
    fn legal_from(self) -> Vec<WorkflowStatus> {
        use sea_orm::Iterable;
        WorkflowStatus::iter()
            .filter(|status| after(*status, self).is_some())
            .collect()
    }

    /// Whether it is legal for the workflow `id` in `status`.
    ///
    /// # Errors
    /// Why not, and what would be.
    pub fn check(self, id: &str, status: WorkflowStatus) -> Result<(), String> {
        if after(status, self).is_some() {
            return Ok(());
        }
        let from: Vec<&str> = self.legal_from().iter().map(|s| s.as_str()).collect();
        let legal: Vec<&str> = Self::ALL
            .into_iter()
            .filter(|other| after(status, *other).is_some())
            .map(Self::as_str)
            .collect();
        Err(format!(
            "workflow {id} is {status}: {} is legal from {}; legal from {status}: {}",
            self.as_str(),
            from.join(", "),
            legal.join(", ")
        ))
    }
}

/// The state of a workflow after an action; none where the action is illegal. A fork leaves the original as it is.
fn after(status: WorkflowStatus, action: Action) -> Option<WorkflowStatus> {
    use WorkflowStatus as S;
    match (action, status) {
        (Action::Cancel, S::Pending | S::Enqueued | S::Delayed) => Some(S::Cancelled),
        (Action::Cancel, S::Success | S::Error | S::Cancelled | S::MaxRecoveryAttemptsExceeded) => {
            None
        }
        (Action::Resume, S::Cancelled | S::Enqueued | S::MaxRecoveryAttemptsExceeded) => {
            Some(S::Enqueued)
        }
        (Action::Resume, S::Pending | S::Delayed | S::Success | S::Error) => None,
        (Action::Fork, status) => Some(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WorkflowStatus as S;

    #[test]
    fn the_whole_table_is_as_the_contract_says() {
        let table = [
            // status, cancel, resume, fork
            (S::Enqueued, Some(S::Cancelled), Some(S::Enqueued)),
            (S::Delayed, Some(S::Cancelled), None),
            (S::Pending, Some(S::Cancelled), None),
            (S::Success, None, None),
            (S::Error, None, None),
            (S::Cancelled, None, Some(S::Enqueued)),
            (S::MaxRecoveryAttemptsExceeded, None, Some(S::Enqueued)),
        ];
        for (status, cancelled, resumed) in table {
            assert_eq!(after(status, Action::Cancel), cancelled, "cancel {status}");
            assert_eq!(after(status, Action::Resume), resumed, "resume {status}");
            assert_eq!(after(status, Action::Fork), Some(status), "fork {status}");
        }
    }

    #[test]
    fn a_terminal_state_is_left_by_a_resume_only() {
        for status in [
            S::Success,
            S::Error,
            S::Cancelled,
            S::MaxRecoveryAttemptsExceeded,
        ] {
            for action in [Action::Cancel, Action::Fork] {
                assert!(after(status, action).is_none_or(|then| then == status));
            }
        }
    }

    #[test]
    fn a_refusal_names_the_state_and_what_would_be_legal() {
        let refusal = Action::Cancel.check("wf", S::Success).unwrap_err();
        assert_eq!(
            refusal,
            "workflow wf is SUCCESS: cancel is legal from ENQUEUED, DELAYED, PENDING; legal from SUCCESS: fork"
        );
        Action::Resume.check("wf", S::Cancelled).unwrap();
    }
}
