//! Every query and every row. The back ends' differences live in [`backend`] and nowhere else; what an intent or a plan means lives above.

pub mod app_rows;
pub mod artifacts;
pub mod backend;
pub mod blobs;
pub mod checkpoints;
pub mod claims;
pub mod dialect;
pub mod entity;
pub mod error;
pub mod executors;
pub mod explain;
pub mod gauges;
pub mod intents;
pub mod messages;
pub mod planner_calls;
pub mod queue_limits;
pub mod run_stream;
pub mod runs;
pub mod status;
pub mod waits;
pub mod workflows;

pub use backend::{Database, DatabaseOptions, SqliteSync};
pub use error::StoreError;
