//! Owns the store's errors, by what a caller can do about them.

use sea_orm::DbErr;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The URL names no database that this program knows.
    #[error("DATABASE_URL must start with sqlite: or postgres://")]
    Url,
    /// The directory of the SQLite file cannot be made.
    #[error("cannot create {directory:?} for the database file: {message}")]
    Directory {
        /// The directory.
        directory: std::path::PathBuf,
        /// The system's words.
        message: String,
    },
    /// The database cannot be reached or went away; the transaction did not commit. Trying again is right.
    #[error("database connection: {0}")]
    Connection(String),
    /// The connection broke while committing: look before trying again.
    #[error("outcome of the commit unknown: {0}")]
    OutcomeUnknown(String),
    /// Another transaction stood in the way; nothing was written. Trying again at once is right.
    #[error("contention: {0}")]
    Contention(String),
    /// A constraint or a type refused the data. Trying again is useless.
    #[error("refused by the database: {0}")]
    Refused(String),
    /// Something did not serialise.
    #[error("encoding: {0}")]
    Encoding(String),
    /// Anything else: a bug in a statement, or a row that this program does not understand.
    #[error("database: {0}")]
    Database(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        super::classify::classify(&error)
    }
}

impl StoreError {
    /// Whether the database may answer differently in a moment.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Contention(_) | Self::OutcomeUnknown(_)
        )
    }

    /// Says in the log that `what` happened because of this. That the database is away is said already, once.
    pub fn warn(&self, what: &str) {
        match self {
            Self::Connection(_) | Self::OutcomeUnknown(_) => {
                tracing::debug!(error = %self, "{what}")
            }
            _ => tracing::warn!(error = %self, "{what}"),
        }
    }
}
