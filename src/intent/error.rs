//! Owns the product's refusals, by what the caller can do about them.

use crate::{engine::EngineError, store::StoreError};

/// Why the product did not do what it was asked. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// The request does not fit.
    #[error("{message}")]
    Invalid {
        /// For programs.
        code: &'static str,
        /// What, and what is accepted.
        message: String,
    },
    /// There is no such thing.
    #[error("{what} not found: {id}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// The state of things does not allow it.
    #[error("{message}")]
    Conflict {
        /// For programs.
        code: &'static str,
        /// Why, and what would be legal.
        message: String,
        /// The fields it is about.
        details: Vec<String>,
    },
    /// As much waits in the queue as may wait there. Later it may be less.
    #[error(
        "queue {queue} holds {limit} workflows that wait to start, which is its limit; try again later"
    )]
    BacklogFull {
        /// The queue.
        queue: String,
        /// Its limit.
        limit: i32,
    },
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IntentError {
    pub(super) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid {
            code,
            message: message.into(),
        }
    }

    /// A rule of queues, recipes or caps is broken.
    pub(super) fn policy(message: impl Into<String>) -> Self {
        Self::invalid("queue_policy_violation", message)
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(super) fn run_not_found(id: &str) -> Self {
        Self::NotFound {
            what: "run",
            id: id.to_owned(),
        }
    }
}

impl From<EngineError> for IntentError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => Self::Store(error),
            EngineError::Encoding(error) => Self::invalid("not_json", error.to_string()),
            error @ EngineError::TooLarge { .. } => {
                Self::invalid("payload_too_large", error.to_string())
            }
            EngineError::RegisteredTwice(name) => {
                Self::Store(StoreError::Database(format!("{name} is registered twice")))
            }
        }
    }
}
