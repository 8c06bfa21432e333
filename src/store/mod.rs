//! Every query and every row. The back ends' differences live in [`backend`] and nowhere else; what an intent or a plan means lives above.

pub mod app_rows;
pub mod artifacts;
pub mod backend;
pub mod blobs;
pub mod cancellations;
pub mod candidates;
pub mod checkpoints;
pub mod claims;
mod classify;
pub mod dialect;
pub mod doctor;
pub mod entity;
pub mod error;
pub mod executors;
pub mod explain;
pub mod gauges;
pub mod intents;
mod looks;
pub mod marks;
pub mod messages;
pub mod one_shot;
pub mod ops;
pub mod planner_calls;
mod portable;
pub mod queue_limits;
pub mod queue_settings;
pub mod reach;
pub mod run_stream;
pub mod runs;
pub mod schedules;
pub mod status;
pub mod turns;
pub mod waits;
pub mod workflows;

pub use backend::{Database, DatabaseOptions, SqliteSync};
pub use error::StoreError;
