//! Owns the shapes of the tables that are read and written whole: those of `app`, and the four of `dbos` that hold a workflow.

pub mod artifacts;
pub mod intents;
pub mod opencode_calls;
pub mod operation_outputs;
pub mod plan_approvals;
pub mod recipes;
pub mod run_steps;
pub mod runs;
pub mod sbx_runs;
pub mod workflow_input;
pub mod workflow_output;
pub mod workflow_status;
