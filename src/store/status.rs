//! Owns the statuses: enums from the database to the wire, and the one projection from workflow to run.

use std::fmt;

use sea_orm::{DeriveActiveEnum, EnumIter};
use serde::{Deserialize, Serialize};

/// The workflows that have still to end, for SQL. Written as the index of deadlines writes it: SQLite uses that only for the same text.
pub(super) const UNFINISHED: &str = "('ENQUEUED', 'PENDING', 'DELAYED')";
/// The runs that have still to end, for SQL.
pub(super) const OPEN_RUN: &str = "('queued', 'running', 'waiting_input', 'repairing')";
/// The runs that have ended, for SQL.
pub(super) const ENDED_RUN: &str = "('succeeded', 'failed', 'retries_exceeded', 'canceled')";

/// Where a workflow stands, in `dbos.workflow_status`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize,
)]
#[sea_orm(rs_type = "String", db_type = "Text")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkflowStatus {
    /// In its queue.
    #[sea_orm(string_value = "ENQUEUED")]
    Enqueued,
    /// Not to be queued before its time.
    #[sea_orm(string_value = "DELAYED")]
    Delayed,
    /// Claimed, or suspended.
    #[sea_orm(string_value = "PENDING")]
    Pending,
    /// Ended with an output.
    #[sea_orm(string_value = "SUCCESS")]
    Success,
    /// Ended with an error.
    #[sea_orm(string_value = "ERROR")]
    Error,
    /// Stopped by somebody, or by its deadline.
    #[sea_orm(string_value = "CANCELLED")]
    Cancelled,
    /// Given up after too many claims without progress.
    #[sea_orm(string_value = "MAX_RECOVERY_ATTEMPTS_EXCEEDED")]
    MaxRecoveryAttemptsExceeded,
}

impl WorkflowStatus {
    /// Whether it has still to end.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::Enqueued | Self::Delayed | Self::Pending)
    }

    /// As the database and the wire write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enqueued => "ENQUEUED",
            Self::Delayed => "DELAYED",
            Self::Pending => "PENDING",
            Self::Success => "SUCCESS",
            Self::Error => "ERROR",
            Self::Cancelled => "CANCELLED",
            Self::MaxRecoveryAttemptsExceeded => "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
        }
    }
}

/// Where a run stands, in `app.runs`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum, Serialize, Deserialize,
)]
#[sea_orm(rs_type = "String", db_type = "Text")]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Waits to be claimed for the first time.
    #[sea_orm(string_value = "queued")]
    Queued,
    /// In execution, or waiting for its tasks.
    #[sea_orm(string_value = "running")]
    Running,
    /// Waits for a human.
    #[sea_orm(string_value = "waiting_input")]
    WaitingInput,
    /// Executed again after a failure.
    #[sea_orm(string_value = "repairing")]
    Repairing,
    /// Ended well.
    #[sea_orm(string_value = "succeeded")]
    Succeeded,
    /// Ended in an error.
    #[sea_orm(string_value = "failed")]
    Failed,
    /// Ended because infrastructure failed as often as it may.
    #[sea_orm(string_value = "retries_exceeded")]
    RetriesExceeded,
    /// Stopped by somebody, or by its deadline.
    #[sea_orm(string_value = "canceled")]
    Canceled,
}

impl RunStatus {
    /// As the database writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::WaitingInput => "waiting_input",
            Self::Repairing => "repairing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::RetriesExceeded => "retries_exceeded",
            Self::Canceled => "canceled",
        }
    }

    /// Whether it has ended; only a resume or a retry leaves such a status.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::RetriesExceeded | Self::Canceled
        )
    }

    /// As the run's header says it on the wire.
    pub fn on_the_wire(self) -> WorkflowStatus {
        match self {
            Self::Queued => WorkflowStatus::Enqueued,
            Self::Running | Self::WaitingInput | Self::Repairing => WorkflowStatus::Pending,
            Self::Succeeded => WorkflowStatus::Success,
            Self::Failed | Self::RetriesExceeded => WorkflowStatus::Error,
            Self::Canceled => WorkflowStatus::Cancelled,
        }
    }
}

impl fmt::Display for WorkflowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::Iterable;

    use super::*;

    #[test]
    fn the_lists_for_sql_say_what_the_enums_say() {
        for status in WorkflowStatus::iter() {
            let listed = UNFINISHED.contains(&format!("'{status}'"));
            assert_eq!(listed, status.is_unfinished(), "{status}");
        }
        for status in RunStatus::iter() {
            let written = format!("'{status}'");
            assert_eq!(ENDED_RUN.contains(&written), status.is_terminal());
            assert_eq!(OPEN_RUN.contains(&written), !status.is_terminal());
        }
    }
}
