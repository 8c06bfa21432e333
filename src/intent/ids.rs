//! Owns the ids that the product gives out.

/// A prefix and 16 hexadecimal digits.
fn with_prefix(prefix: &str) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}_{}", &random[..16])
}

/// The id of a new intent, and of its first run.
pub(super) fn intent() -> String {
    with_prefix("it")
}

/// The id of a fork of ours, and of its run.
pub(super) fn fork() -> String {
    with_prefix("rn")
}

/// How the ids of a run's artifacts begin.
pub(super) fn artifact_prefix(run: &str) -> String {
    format!("artifact://run/{run}/")
}

/// The id of the intent, and of its run, that the workflow of a schedule's slot starts.
pub(super) fn scheduled_intent(workflow: &str) -> String {
    let hash = crate::canonical::sha256_hex(workflow.as_bytes());
    format!("it_{}", hash.get(..16).unwrap_or(&hash))
}

/// The id of an artifact on the wire.
pub(super) fn artifact_uri(run: &str, step: &str, task: &str, name: &str) -> String {
    format!("{}step/{step}/task/{task}/{name}", artifact_prefix(run))
}
