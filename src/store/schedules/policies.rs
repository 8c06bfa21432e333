//! Owns the words of schedules: whether one fires, what it makes up for, what it does while the one before runs, why a slot did not fire.

use sea_orm::{DeriveActiveEnum, EnumIter};

/// Whether a schedule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum ScheduleStatus {
    /// It does.
    #[sea_orm(string_value = "ACTIVE")]
    Active,
    /// It does not until somebody resumes it.
    #[sea_orm(string_value = "PAUSED")]
    Paused,
}

impl ScheduleStatus {
    /// As the database and the wire write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Paused => "PAUSED",
        }
    }
}

/// Which of the slots that were missed are made up for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum CatchUp {
    /// Every one that lies within the window.
    #[sea_orm(string_value = "all")]
    All,
    /// The newest one, if it lies within the window.
    #[default]
    #[sea_orm(string_value = "latest")]
    Latest,
    /// None: a slot fires when it is due, or not at all.
    #[sea_orm(string_value = "none")]
    None,
}

impl CatchUp {
    /// As the database writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Latest => "latest",
            Self::None => "none",
        }
    }
}

/// What happens to a slot that is due while what an earlier one started still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum Overlap {
    /// It fires beside it.
    #[sea_orm(string_value = "allow")]
    Allow,
    /// It is passed over.
    #[default]
    #[sea_orm(string_value = "skip")]
    Skip,
    /// It fires when the earlier one has ended; only one waits, those that come meanwhile are passed over.
    #[sea_orm(string_value = "queue_one")]
    QueueOne,
    /// It fires, and what the earlier one started is cancelled.
    #[sea_orm(string_value = "cancel_running")]
    CancelRunning,
}

impl Overlap {
    /// As the database writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::QueueOne => "queue_one",
            Self::CancelRunning => "cancel_running",
        }
    }
}

/// Why a slot did not fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum Missed {
    /// Nothing ran when it was due, and it lies before the window.
    #[sea_orm(string_value = "outside_window")]
    OutsideWindow,
    /// Nothing ran when it was due, and only the newest slot is made up for.
    #[sea_orm(string_value = "superseded")]
    Superseded,
    /// Nothing ran when it was due, and nothing is made up for.
    #[sea_orm(string_value = "not_caught_up")]
    NotCaughtUp,
    /// What an earlier slot started was still running.
    #[sea_orm(string_value = "overlap")]
    Overlap,
    /// The schedule was paused.
    #[sea_orm(string_value = "paused")]
    Paused,
}

impl Missed {
    /// As the database and the wire write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutsideWindow => "outside_window",
            Self::Superseded => "superseded",
            Self::NotCaughtUp => "not_caught_up",
            Self::Overlap => "overlap",
            Self::Paused => "paused",
        }
    }
}
