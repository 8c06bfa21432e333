//! The table of refusals: what is sent, and what must be answered.

use super::{
    contents::{of_bodies, of_intents, of_json, of_runs, of_sizes, of_starts},
    doors::{of_heads, of_names, of_queries, of_routes},
    request::Sender,
};
pub(crate) use super::{doors::of_tokens, request::Case};

pub(super) const INTENTS: &str = "/api/intents";
pub(super) const RUNS: &str = "/api/runs";
pub(super) const SCHEDULES: &str = "/api/schedules";

/// What the cases speak of.
pub(crate) struct Given {
    pub(crate) host: String,
    /// An intent that was not started.
    pub(crate) intent: String,
    /// One whose inputs no job can have.
    pub(crate) bad_inputs: String,
    /// A run that waits for approval, with the deduplication id `one of a kind`.
    pub(crate) waiting: String,
    /// A run of a recipe without a gate that has ended.
    pub(crate) finished: String,
}

/// Every case that needs no token.
pub(crate) fn all(given: &Given) -> Vec<Case> {
    let sender = Sender { host: &given.host };
    let mut cases = of_json(&sender);
    cases.extend(of_intents(&sender));
    cases.extend(of_sizes(&sender));
    cases.extend(of_starts(&sender, given));
    cases.extend(of_runs(&sender, given));
    cases.extend(of_queries(&sender));
    cases.extend(of_routes(&sender));
    cases.extend(of_bodies(&sender));
    cases.extend(of_heads(&sender));
    cases.extend(of_names(&sender));
    cases
}
