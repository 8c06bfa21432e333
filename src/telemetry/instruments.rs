//! Owns the instruments: what is counted and measured, once, for every reader. Anybody may count here; it depends on nothing and never blocks
//! for longer than a look through a short list.

mod kinds;

pub use kinds::{Counter, Gauge, Histogram, Kind, Metric, Value};

use kinds::Instrument;

/// Upper bounds in seconds, from half a millisecond to a quarter of an hour.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0, 900.0,
];
/// Upper bounds of batches, up to the largest one.
const MEMBERS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Workflows claimed.
pub static CLAIMS: Counter = Counter::new(
    "stepwell_claims_total",
    "Workflows claimed, by queue and by where they came from: queued or woken.",
    &["queue", "origin"],
);
/// Workflows in execution in this process.
pub static EXECUTIONS: Gauge = Gauge::new(
    "stepwell_executions",
    "Workflows in execution in this process; suspended ones are none.",
    "{workflow}",
    &[],
);
/// Transactions of the committer.
pub static COMMITS: Counter = Counter::new(
    "stepwell_commits_total",
    "Transactions that committed checkpoints.",
    &[],
);
/// Time of such a transaction.
pub static COMMIT_SECONDS: Histogram = Histogram::new(
    "stepwell_commit_seconds",
    "How long committing a batch of checkpoints took, retries included.",
    "s",
    &[],
    SECONDS,
);
/// Checkpoints in such a transaction.
pub static COMMIT_BATCH: Histogram = Histogram::new(
    "stepwell_commit_batch_size",
    "Checkpoints in one transaction.",
    "{checkpoint}",
    &[],
    MEMBERS,
);
/// Checkpoints that did not count.
pub static FENCED_WRITES: Counter = Counter::new(
    "stepwell_fenced_writes_total",
    "Checkpoints that the fence stopped: kept (cancelled meanwhile; only what bodies did is written), lost (the claim is another's), refused \
     (by a constraint).",
    &["verdict"],
);
/// Time of a step's body.
pub static STEP_SECONDS: Histogram = Histogram::new(
    "stepwell_step_seconds",
    "How long the body of a step took.",
    "s",
    &["step", "outcome"],
    SECONDS,
);
/// Time from creation to end.
pub static RUN_SECONDS: Histogram = Histogram::new(
    "stepwell_run_seconds",
    "How long a workflow took from its creation to its end, waits included. stepwell.run are runs, stepwell.task their tasks.",
    "s",
    &["workflow", "status"],
    SECONDS,
);
/// Workflows that nobody tries any more.
pub static GIVEN_UP: Counter = Counter::new(
    "stepwell_given_up_total",
    "Workflows that were given up: claimed MAX_RECOVERY_ATTEMPTS times without progress. They are in none of the times of runs.",
    &["workflow"],
);
/// Executions of tasks after the first.
pub static RETRIES: Counter = Counter::new(
    "stepwell_retries_total",
    "Attempts of tasks after the first, by the step that retried.",
    &["step"],
);
/// Claims of others that were taken over.
pub static RECOVERIES: Counter = Counter::new(
    "stepwell_recoveries_total",
    "Claims that were released because nobody executed them: their process expired, or the answer to the claim was lost (unheld).",
    &["reason"],
);
/// Suspensions.
pub static WAITS: Counter = Counter::new(
    "stepwell_waits_total",
    "Suspensions, by what the workflow waits for.",
    &["kind"],
);
/// Time that a suspension took.
pub static WAIT_SECONDS: Histogram = Histogram::new(
    "stepwell_wait_seconds",
    "How long workflows were suspended before they were claimed again.",
    "s",
    &["kind"],
    SECONDS,
);
/// How late a slot of a schedule was fired.
pub static SCHEDULE_LAG: Histogram = Histogram::new(
    "stepwell_schedule_lag_seconds",
    "How long after its time a slot of a schedule was fired.",
    "s",
    &[],
    SECONDS,
);
/// Requests.
pub static HTTP_SECONDS: Histogram = Histogram::new(
    "stepwell_http_request_seconds",
    "How long requests took, by the template of their path.",
    "s",
    &["method", "route", "status"],
    SECONDS,
);
/// What the telemetry itself delivered.
pub static EXPORTED: Counter = Counter::new(
    "stepwell_telemetry_exported_total",
    "Spans, log records and batches of metrics that a receiver took.",
    &["signal"],
);
/// What the telemetry itself lost.
pub static DROPPED: Counter = Counter::new(
    "stepwell_telemetry_dropped_total",
    "Spans, log records and batches of metrics that were lost: queue_full, refused, unreachable, stopped (the process ended first), or rejected by \
     a receiver that took the rest.",
    &["signal", "reason"],
);

/// The instruments, in the order in which they are shown.
static ALL: [&(dyn Instrument + Sync); 17] = [
    &CLAIMS,
    &EXECUTIONS,
    &COMMITS,
    &COMMIT_SECONDS,
    &COMMIT_BATCH,
    &FENCED_WRITES,
    &STEP_SECONDS,
    &RUN_SECONDS,
    &GIVEN_UP,
    &RETRIES,
    &RECOVERIES,
    &WAITS,
    &WAIT_SECONDS,
    &SCHEDULE_LAG,
    &HTTP_SECONDS,
    &EXPORTED,
    &DROPPED,
];

/// What every instrument shows now.
pub fn read() -> Vec<Metric> {
    ALL.iter().map(|instrument| instrument.read()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_prometheus_takes_them() {
        let mut names: Vec<&str> = read().iter().map(|metric| metric.name).collect();
        assert!(names.iter().all(|name| {
            name.starts_with("stepwell_")
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        }));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
