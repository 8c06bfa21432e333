//! Stepwell's API: the document, and what is generated from it. `openapi.yaml` is the source; `cargo run -p openapi` writes the rest.

mod answers;
pub mod generated;
mod given;
mod text;

use std::collections::BTreeMap;

pub use answers::{ApiError, Call, CallInfo, Conditions, Content, Events, Page};
pub use generated::{
    models,
    // Whatever the document names: a list would have to change before the generator that writes the names can be built.
    routes::*,
    tables::OPERATIONS,
};

pub use given::Given;
pub use text::Text;

/// The document, as it is written.
pub const YAML: &str = include_str!("../openapi.yaml");

/// A JSON object whose keys are free.
pub type JsonObject = BTreeMap<String, serde_json::Value>;

/// An operation as the front sees it.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Upper case.
    pub method: &'static str,
    /// With `{parameters}`, each one segment.
    pub path: &'static str,
    /// The query keys that it takes.
    pub query: &'static [&'static str],
    /// The body that it takes.
    pub body: Body,
}

/// Whether an operation takes a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It takes none.
    None,
    /// It needs one.
    Required,
    /// It takes one; an empty one counts as `{}`.
    EmptyAsObject,
}

/// The document as JSON.
///
/// # Errors
/// The YAML parser's, which a test rules out.
pub fn document() -> Result<serde_json::Value, serde_norway::Error> {
    serde_norway::from_str(YAML)
}
