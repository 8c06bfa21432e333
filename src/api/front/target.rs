//! Owns what a request is for: which operation its method and path name, and which query keys that one takes.

use openapi::{ApiError, OPERATIONS, Operation};
use poem::{
    IntoResponse, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};

/// Paths beside the operations; they are read only.
const PAGES: [&str; 2] = ["/openapi.json", "/docs"];
/// Longest path and query together. The longest legal one names an artifact: 4,096 characters, most of them percent-encoded.
const LONGEST: usize = 16 * 1024;

/// What a request is for.
#[derive(Debug)]
pub(super) enum Target {
    /// A page: it takes no body and costs nothing.
    Page,
    /// An operation.
    Operation(&'static Operation),
}

impl Target {
    /// Finds it.
    ///
    /// # Errors
    /// 400 for a path or query that cannot be read, 404 without such a path, 405 without such a method, 400 for a query key that is unknown.
    pub(super) fn of(request: &Request) -> Result<Self, Response> {
        let bad = |code: &str, message: String| {
            Err(ApiError::new(StatusCode::BAD_REQUEST, code, message).into_response())
        };
        let uri = request.uri();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        if path.len() + query.len() > LONGEST {
            let message = format!("path and query are longer than {LONGEST} bytes");
            return bad("uri_too_long", message);
        }
        if decoded(path).is_none_or(|text| text.contains('\0')) {
            let message = "the path contains NUL, a broken percent-encoding, or is not UTF-8";
            return bad("invalid_path", message.into());
        }
        // HEAD is GET without the body, which the connection leaves out.
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        let (known, target) = if PAGES.contains(&path) {
            if method != Method::GET {
                return Err(not_allowed(&["GET"]));
            }
            (&[][..], Self::Page)
        } else {
            let operation = operation(path, method)?;
            (operation.query, Self::Operation(operation))
        };
        match check_query(query, known) {
            Ok(()) => Ok(target),
            Err(message) => bad("invalid_query", message),
        }
    }
}

fn operation(path: &str, method: &Method) -> Result<&'static Operation, Response> {
    let matching: Vec<&Operation> = OPERATIONS
        .iter()
        .filter(|operation| matches(operation.path, path))
        .collect();
    if matching.is_empty() {
        let message = format!("there is no route {path}");
        return Err(
            ApiError::new(StatusCode::NOT_FOUND, "route_not_found", message).into_response(),
        );
    }
    let of_method = matching.iter().find(|o| o.method == method.as_str());
    of_method.copied().ok_or_else(|| {
        let methods: Vec<&str> = matching.iter().map(|o| o.method).collect();
        not_allowed(&methods)
    })
}

fn not_allowed(methods: &[&str]) -> Response {
    let mut methods = methods.join(", ");
    if methods.contains("GET") {
        methods.push_str(", HEAD");
    }
    let refusal = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this path takes {methods}"),
    );
    let mut response = refusal.into_response();
    if let Ok(allow) = HeaderValue::from_str(&methods) {
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
            return Err(
                "the query contains a broken percent-encoding, or what is not UTF-8".into(),
            );
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

/// Undoes percent-encoding; none when an escape is broken or the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let (hex, tail) = tail.split_at_checked(2)?;
            if !hex.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
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
            "limit=%",
        ] {
            check_query(query, &["limit"]).unwrap_err();
        }
    }

    #[test]
    fn escapes_are_undone_once_and_must_be_whole() {
        assert_eq!(decoded("a%2Fb%252F%c3%bc").as_deref(), Some("a/b%2Fü"));
        for broken in ["%ff", "%", "%1", "%zz", "%+1", "%c3"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }
}
