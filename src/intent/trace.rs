//! Owns the trace that a run belongs to. The ids of its spans follow from the run, so that every process gives the same thing the same id, and
//! the rows say what was exported.

use crate::telemetry::spans::{self, Span, SpanId, TraceContext, TraceId, at_ms};

/// A run's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span of the request that started it, as W3C's `traceparent`.
    pub caller: Option<String>,
    /// Whether its spans are exported.
    pub sampled: bool,
}

impl Trace {
    /// The place of `run` in the trace asked for, in the caller's, or in a new one.
    pub fn begin(run: &str, trace_id: Option<&str>, traceparent: Option<&str>) -> Self {
        let caller = traceparent.and_then(TraceContext::parse);
        let trace_id = trace_id
            .and_then(TraceId::parse)
            .or(caller.map(|caller| caller.trace_id))
            .unwrap_or_else(TraceId::random);
        let decided = caller.filter(|caller| caller.trace_id == trace_id);
        Self {
            trace_id: trace_id.to_string(),
            span_id: run_span(trace_id, run).to_string(),
            caller: caller.map(|caller| caller.to_string()),
            sampled: spans::sampled(trace_id, decided.map(|caller| caller.sampled)),
        }
    }
}

/// The id of the span of a run.
pub(super) fn run_span(trace_id: TraceId, run: &str) -> SpanId {
    SpanId::derived(trace_id, &["run", run])
}

/// The id of the span of a run that is a copy of one in the trace `trace_id`, as its row has it.
pub(super) fn span_of_copy(trace_id: &str, run: &str) -> String {
    let trace_id = TraceId::parse(trace_id).unwrap_or_else(TraceId::random);
    run_span(trace_id, run).to_string()
}

/// The id of the span of a step of a run.
pub(super) fn step_span(trace_id: TraceId, run: &str, step: &str) -> SpanId {
    SpanId::derived(trace_id, &["step", run, step])
}

/// The id of the span of an attempt of a task.
pub(super) fn attempt_span(trace_id: TraceId, task: &str, attempt: u32) -> SpanId {
    SpanId::derived(trace_id, &["attempt", task, &attempt.to_string()])
}

/// The span of a run that was created at `created_at` and ends now: below the request that started it, or, when it was asked to belong to another
/// trace, linked to it.
pub(super) fn span_of_run(trace: TraceContext, caller: Option<&str>, created_at: i64) -> Span {
    let caller = caller.and_then(TraceContext::parse);
    let mut span = Span::below(trace, trace.span_id, "run", at_ms(created_at));
    span.parent = caller
        .filter(|caller| caller.trace_id == trace.trace_id)
        .map(|caller| caller.span_id);
    if span.parent.is_none() {
        span.links.extend(caller);
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_callers_trace_goes_on() {
        let of_caller = Trace::begin("r", None, Some(PARENT));
        assert_eq!(of_caller.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(of_caller.caller.as_deref(), Some(PARENT));
        let own = "1af7651916cd43dd8448eb211c80319c";
        assert_eq!(Trace::begin("r", Some(own), Some(PARENT)).trace_id, own);
        assert_eq!(Trace::begin("r", None, Some("garbage")).trace_id.len(), 32);
    }

    #[test]
    fn runs_in_one_trace_have_spans_of_their_own() {
        let span = |run| Trace::begin(run, None, Some(PARENT)).span_id;
        assert_eq!(span("a"), span("a"));
        assert_ne!(span("a"), span("b"));
    }
}
