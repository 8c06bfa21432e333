//! Owns what operators see of workflows and do to them: ours, and those of any DBOS application on the same database.

mod actions;
mod adopt;
mod audit;
mod fork;
mod machine;
mod moving;
mod read;
mod retry;

pub use actions::By;
pub(super) use adopt::adopt;
pub use audit::Accepted;
pub use fork::{ForkRequest, Forked, legal_step};
pub use machine::Action;
pub use read::{StepSummary, WorkflowPage, WorkflowSummary};
pub use retry::Retried;
