//! Owns the shapes of the tables of `app` that are read and written whole.

pub mod artifacts;
pub mod intents;
pub mod opencode_calls;
pub mod plan_approvals;
pub mod recipes;
pub mod run_steps;
pub mod runs;
pub mod sbx_runs;
