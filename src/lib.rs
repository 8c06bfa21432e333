//! Stepwell: a durable job runner. One library, one binary; SQLite on a laptop, Postgres in production, the same guarantees.
//!
//! Arrows point down only: `cli` → `api` → `intent` → `planner`, `sandbox`, `engine` → `store`.

pub mod api;
pub mod canonical;
pub mod cli;
pub mod config;
pub mod engine;
pub mod intent;
pub mod planner;
mod redact;
pub mod sandbox;
pub mod store;
pub mod telemetry;
