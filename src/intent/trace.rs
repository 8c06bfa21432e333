//! Owns the trace that a run belongs to: W3C ids.

/// A position in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
}

impl Trace {
    /// A new span, in the trace asked for, in the caller's, or in a new one.
    pub fn begin(trace_id: Option<&str>, traceparent: Option<&str>) -> Self {
        let of_caller = traceparent.and_then(|parent| parent.split('-').nth(1));
        let fresh = || uuid::Uuid::new_v4().simple().to_string();
        let good = |id: &&str| {
            id.len() == 32
                && id.bytes().all(|b| b.is_ascii_hexdigit())
                && id.bytes().any(|b| b != b'0')
        };
        let trace_id = trace_id
            .filter(good)
            .or(of_caller.filter(good))
            .map_or_else(fresh, str::to_ascii_lowercase);
        Self {
            trace_id,
            span_id: new_span(),
        }
    }
}

/// The id of a new span.
pub(super) fn new_span() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    random[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_trace_goes_on() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(
            Trace::begin(None, Some(parent)).trace_id,
            "0af7651916cd43dd8448eb211c80319c"
        );
        let own = "1af7651916cd43dd8448eb211c80319c";
        assert_eq!(Trace::begin(Some(own), Some(parent)).trace_id, own);
        assert_eq!(Trace::begin(None, Some("garbage")).trace_id.len(), 32);
    }
}
