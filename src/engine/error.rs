//! Owns the errors of workflows and of the engine's own calls.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::store::StoreError;

/// Why a step or a workflow failed, as it is stored: DBOS's portable error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WorkflowError {
    /// The kind of error in its own language; ours is `StepwellError`.
    pub name: String,
    /// For the reader.
    pub message: String,
    /// For programs: one word in snake case or capitals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What else is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
}

impl WorkflowError {
    /// An error with a code for programs and a message for readers.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            name: "StepwellError".into(),
            message: message.into(),
            code: Some(code.into()),
            data: None,
        }
    }

    /// The error of a workflow that was claimed as often as it may be, without progress.
    pub fn given_up() -> Self {
        Self::new(
            "max_recovery_attempts",
            "given up after too many recoveries without progress",
        )
    }

    /// The same error with data beside it.
    #[must_use]
    pub fn with_data(mut self, data: Json) -> Self {
        self.data = Some(data);
        self
    }

    /// Its code, or the name of the error where it has none.
    pub fn code(&self) -> &str {
        self.code.as_deref().unwrap_or(&self.name)
    }

    /// Reads an error of any writer: what is not a portable error is shown as it is.
    pub fn from_stored(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|_| Self {
            name: "Error".into(),
            message: serde_json::from_str::<Json>(text)
                .ok()
                .and_then(|v| {
                    Some(
                        v.pointer("/json/message")
                            .or_else(|| v.get("message"))?
                            .as_str()?
                            .to_owned(),
                    )
                })
                .unwrap_or_else(|| text.to_owned()),
            code: None,
            data: None,
        })
    }

    pub(super) fn to_stored(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|_| r#"{"name":"StepwellError","message":"unprintable"}"#.into())
    }
}

/// Why the engine refused a call from outside.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The input or message does not serialise.
    #[error("cannot be written as JSON: {0}")]
    Encoding(#[from] serde_json::Error),
    /// Larger than the limit.
    #[error(
        "{what} has {size} bytes, more than the {limit} that are allowed; put large things into artifacts"
    )]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The tables are not there, or are too old, and cannot be made.
    #[error(transparent)]
    Schema(#[from] migration::MigrateError),
    /// Two workflows of one name.
    #[error("workflow {0} is registered twice")]
    RegisteredTwice(&'static str),
}
