//! Owns the span of a request: it continues the caller's trace, or begins one, and what the request starts belongs to it.

use std::time::{Instant, SystemTime};

use openapi::OPERATIONS;
use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{HeaderName, HeaderValue},
};
use tracing::Instrument;

use super::errors;
use crate::telemetry::{
    instruments::HTTP_SECONDS,
    spans::{self, Span, SpanId, SpanKind, TraceContext, TraceId},
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What asks every few seconds whether this process lives; a span for each would bury the others.
const PROBE: &str = "/healthz";
/// Pages beside the operations.
const PAGES: [&str; 2] = ["/openapi.json", "/docs"];
/// The label of what no operation has.
const UNKNOWN: &str = "unknown";

/// Gives every request its span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traced;

impl<E: Endpoint> Middleware<E> for Traced {
    type Output = TracedEndpoint<E>;

    fn transform(&self, inner: E) -> TracedEndpoint<E> {
        TracedEndpoint { inner }
    }
}

/// An endpoint whose requests have spans.
#[derive(Debug)]
pub(super) struct TracedEndpoint<E> {
    inner: E,
}

impl<E: Endpoint> Endpoint for TracedEndpoint<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let (began, started) = (SystemTime::now(), Instant::now());
        let caller = request.header(TRACEPARENT).and_then(TraceContext::parse);
        let trace_id = caller.map_or_else(TraceId::random, |caller| caller.trace_id);
        let context = TraceContext {
            trace_id,
            span_id: SpanId::random(),
            sampled: spans::sampled(trace_id, caller.map(|caller| caller.sampled)),
        };
        // What stands in the header from here on is this request's own place in the trace.
        if let Ok(own) = HeaderValue::from_str(&context.to_string()) {
            request.headers_mut().insert(TRACEPARENT, own);
        }
        let (method, route) = (known_method(&request), template(request.uri().path()));
        let around = tracing::info_span!(
            "request",
            method,
            route,
            trace_id = %context.trace_id,
            span_id = %context.span_id
        );
        let answer = spans::within(context, self.inner.call(request))
            .instrument(around)
            .await;
        let response = match answer {
            Ok(answer) => answer.into_response(),
            Err(error) => errors::of_framework(error),
        };
        let status = response.status();
        HTTP_SECONDS.observe(
            &[method, route, status.as_str()],
            started.elapsed().as_secs_f64(),
        );
        if route != PROBE && spans::takes(context) {
            let mut span =
                Span::below(context, context.span_id, format!("{method} {route}"), began)
                    .with("http.request.method", method)
                    .with("http.route", route)
                    .with("http.response.status_code", i64::from(status.as_u16()));
            span.parent = caller.map(|caller| caller.span_id);
            span.kind = SpanKind::Server;
            span.error = status.is_server_error().then(|| status.as_str().to_owned());
            spans::record(span);
        }
        Ok(response)
    }
}

/// The method of a request, of which a caller could invent any number.
fn known_method(request: &Request) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == request.method().as_str())
        .unwrap_or("_OTHER")
}

/// The template of a raw path: there are as many as operations, and of paths as many as callers think of.
fn template(path: &str) -> &'static str {
    let fits = |template: &str| {
        template.split('/').count() == path.split('/').count()
            && template
                .split('/')
                .zip(path.split('/'))
                .all(|(expected, found)| expected == found || expected.starts_with('{'))
    };
    OPERATIONS
        .iter()
        .map(|operation| operation.path)
        .chain(PAGES)
        .find(|template| fits(template))
        .unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_template_of_its_operation() {
        assert_eq!(template("/api/runs/it_1"), "/api/runs/{wid}");
        assert_eq!(template("/api/runs/it_1/view"), "/api/runs/{wid}/view");
        assert_eq!(template("/docs"), "/docs");
        assert_eq!(template("/nowhere/at/all"), UNKNOWN);
    }
}
