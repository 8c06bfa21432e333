//! Owns the front door: every request passes it before any operation sees it, and every answer on its way out. It refuses what no operation
//! takes, and makes every refusal JSON.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use openapi::{ApiError, Body, CallInfo, OPERATIONS, Operation};
use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    error::ReadBodyError,
    http::{HeaderValue, Method, StatusCode, header},
};

use super::{errors, json_check};

/// Paths beside the operations; they are read only.
const PAGES: [&str; 2] = ["/openapi.json", "/docs"];
const REQUEST_ID: &str = "x-request-id";
/// The longest request id that is taken over from a caller.
const LONGEST_REQUEST_ID: usize = 128;

/// The front door.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front {
    /// Largest body in bytes. Larger inputs are artifacts.
    pub(super) body_bytes: usize,
}

impl Default for Front {
    fn default() -> Self {
        Self {
            body_bytes: 2 * 1024 * 1024,
        }
    }
}

impl<E: Endpoint> Middleware<E> for Front {
    type Output = Guarded<E>;

    fn transform(&self, inner: E) -> Guarded<E> {
        Guarded {
            inner,
            front: *self,
        }
    }
}

/// An endpoint behind the front door.
#[derive(Debug)]
pub(super) struct Guarded<E> {
    inner: E,
    front: Front,
}

impl<E: Endpoint> Endpoint for Guarded<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let info = CallInfo {
            request_id: request_id(&request),
            traceparent: traceparent(&request),
            ..CallInfo::default()
        };
        request.set_data(info.clone());
        let mut response = match admit(&mut request, &self.front).await {
            Err(refusal) => refusal,
            Ok(()) => match AssertUnwindSafe(self.inner.call(request))
                .catch_unwind()
                .await
            {
                Ok(Ok(answer)) => answer.into_response(),
                Ok(Err(error)) => errors::of_framework(error),
                Err(_) => {
                    tracing::error!(request_id = info.request_id, "a request panicked");
                    errors::internal().into_response()
                }
            },
        };
        if let Ok(id) = HeaderValue::from_str(&info.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        Ok(response)
    }
}

fn request_id(request: &Request) -> String {
    let sane = |id: &&str| {
        !id.is_empty() && id.len() <= LONGEST_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic())
    };
    request
        .header(REQUEST_ID)
        .filter(sane)
        .map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// The caller's trace context, if it is a valid one of version 00.
fn traceparent(request: &Request) -> Option<String> {
    let header = request.header("traceparent")?;
    let lower_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<&str> = header.split('-').collect();
    let valid = matches!(parts.as_slice(), ["00", trace, span, flags]
        if lower_hex(trace, 32) && lower_hex(span, 16) && lower_hex(flags, 2) && trace.bytes().any(|b| b != b'0') && span.bytes().any(|b| b != b'0'));
    valid.then(|| header.to_owned())
}

/// Lets a request pass whose path, method, query and body some operation takes.
async fn admit(request: &mut Request, front: &Front) -> Result<(), Response> {
    let bad = |code: &str, message: String| {
        Err(ApiError::new(StatusCode::BAD_REQUEST, code, message).into_response())
    };
    let path = request.uri().path().to_owned();
    if decoded(&path).is_none_or(|text| text.contains('\0')) {
        return bad(
            "invalid_path",
            "the path contains NUL, or is not UTF-8".into(),
        );
    }
    if PAGES.contains(&path.as_str()) {
        return if request.method() == Method::GET {
            Ok(())
        } else {
            Err(not_allowed("GET"))
        };
    }
    let matching: Vec<&Operation> = OPERATIONS
        .iter()
        .filter(|operation| matches(operation.path, &path))
        .collect();
    if matching.is_empty() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "route_not_found",
            format!("there is no route {path}"),
        )
        .into_response());
    }
    let Some(operation) = matching
        .iter()
        .find(|operation| operation.method == request.method().as_str())
    else {
        let methods: Vec<&str> = matching.iter().map(|operation| operation.method).collect();
        return Err(not_allowed(&methods.join(", ")));
    };
    if let Err(message) = check_query(request.uri().query().unwrap_or_default(), operation.query) {
        return bad("invalid_query", message);
    }
    check_body(request, operation.body, front.body_bytes).await
}

fn not_allowed(methods: &str) -> Response {
    let refusal = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this path takes {methods}"),
    );
    let mut response = refusal.into_response();
    if let Ok(allow) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Whether a raw path is that of a template. A parameter is one segment, whatever is encoded in it.
fn matches(template: &str, path: &str) -> bool {
    let mut expected = template.split('/');
    let mut found = path.split('/');
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return true,
            (Some(expected), Some(found))
                if expected == found || (expected.starts_with('{') && !found.is_empty()) => {}
            _ => return false,
        }
    }
}

fn check_query(query: &str, known: &[&str]) -> Result<(), String> {
    let mut seen: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let both = decoded(&key.replace('+', " ")).zip(decoded(&value.replace('+', " ")));
        let Some((key, value)) = both else {
            return Err("the query is not UTF-8".into());
        };
        if key.contains('\0') || value.contains('\0') {
            return Err("the query contains NUL".into());
        }
        if !known.contains(&key.as_str()) {
            let takes = if known.is_empty() {
                "this route takes none".to_owned()
            } else {
                format!("this route takes {}", known.join(", "))
            };
            return Err(format!("unknown query key {key:?}; {takes}"));
        }
        if seen.contains(&key) {
            return Err(format!("the query key {key:?} stands twice"));
        }
        seen.push(key);
    }
    Ok(())
}

/// Reads the body up to the limit, checks it, and puts it back.
async fn check_body(request: &mut Request, wanted: Body, limit: usize) -> Result<(), Response> {
    let refuse = |status, code: &str, message: String| {
        Err(ApiError::new(status, code, message).into_response())
    };
    let bytes = match request.take_body().into_bytes_limit(limit).await {
        Ok(bytes) => bytes,
        Err(ReadBodyError::PayloadTooLarge) => {
            let message = format!("the body is larger than {limit} bytes");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
        }
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "unreadable_body",
                error.to_string(),
            );
        }
    };
    match (wanted, bytes.is_empty()) {
        (Body::None, true) => return Ok(()),
        (Body::None, false) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "unexpected_body",
                "this operation takes no body".into(),
            );
        }
        (Body::Required, true) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "body_required",
                "this operation needs a JSON body".into(),
            );
        }
        (Body::EmptyAsObject, true) => {
            request.set_body("{}");
            request.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            return Ok(());
        }
        (Body::Required | Body::EmptyAsObject, false) => {}
    }
    let kind = request.content_type().unwrap_or_default();
    if !kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/json")
    {
        let message = format!("the content type is {kind:?}; application/json is accepted");
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        );
    }
    if let Err(message) = json_check::check(&bytes) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            format!("the body is not acceptable JSON: {message}"),
        );
    }
    request.set_body(bytes);
    Ok(())
}

/// Undoes percent-encoding; none when the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_one_raw_segment() {
        assert!(matches("/api/runs/{wid}", "/api/runs/a%2Fb"));
        assert!(matches("/healthz", "/healthz"));
        for path in [
            "/api/runs",
            "/api/runs/",
            "/api/runs/a/b",
            "/api/run/a",
            "/healthz/",
        ] {
            assert!(!matches("/api/runs/{wid}", path), "{path}");
        }
    }

    #[test]
    fn queries_are_checked_by_key() {
        check_query("", &[]).unwrap();
        check_query("limit=5&since=1", &["limit", "since"]).unwrap();
        for query in [
            "unknown=1",
            "limit=1&limit=2",
            "limit=%00",
            "l%69mit=1&limit=1",
            "%ff=1",
        ] {
            check_query(query, &["limit"]).unwrap_err();
        }
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(decoded("a%2Fb%252F%").as_deref(), Some("a/b%2F%"));
        assert_eq!(decoded("%ff"), None);
    }
}
