//! Owns the answers that the document cannot generate: errors, raw content, pages; and what every call carries.

use poem::{
    Body, Error, IntoResponse, Request, Response,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    payload::{Json, Payload},
    registry::{
        MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
    },
    types::{ToJSON, Type},
};

use crate::models;

/// What the front knows of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallInfo {
    /// The id under which the request is logged and answered.
    pub request_id: String,
    /// The caller's W3C trace context, if it is a valid one.
    pub traceparent: Option<String>,
    /// The caller's bearer token.
    pub bearer: Option<String>,
    /// What the caller has already, and which part it wants.
    pub conditions: Conditions,
}

/// The headers of a request that say what its caller has already, and which part it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `If-Range`.
    pub if_range: Option<String>,
    /// `Range`.
    pub range: Option<String>,
    /// `Last-Event-ID`.
    pub last_event_id: Option<String>,
}

impl Conditions {
    fn of(request: &Request) -> Self {
        let header = |name: &str| request.header(name).map(str::to_owned);
        Self {
            if_none_match: header("if-none-match"),
            if_range: header("if-range"),
            range: header("range"),
            last_event_id: header("last-event-id"),
        }
    }
}

/// What every operation is told beside its parameters.
pub type Call = CallInfo;

impl CallInfo {
    /// What the front has put beside the request, and what its headers say.
    pub fn of(request: &Request) -> Self {
        Self {
            conditions: Conditions::of(request),
            bearer: bearer(request),
            ..request
                .extensions()
                .get::<Self>()
                .cloned()
                .unwrap_or_default()
        }
    }
}

/// The token of an `Authorization: Bearer …`.
fn bearer(request: &Request) -> Option<String> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

/// A page whose cursor travels in a header.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; none at the end.
    pub next_cursor: Option<String>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// The fields it is about.
    pub details: Vec<String>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// A refusal with a status, a code for programs and a message for people.
    pub fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    /// The same refusal, about these fields.
    #[must_use]
    pub fn about(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let details = (!self.details.is_empty()).then_some(self.details);
        let body = models::Error {
            error: self.message,
            code: self.code,
            details,
        };
        let mut response = Json(body).into_response();
        response.set_status(self.status);
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::from_response(error.into_response())
    }
}

/// The statuses with which an operation refuses.
const REFUSALS: [(u16, &str); 11] = [
    (400, "The request does not fit."),
    (401, "A token is needed."),
    (403, "The token does not allow it."),
    (404, "There is no such thing."),
    (405, "Not with this method."),
    (409, "The state of things does not allow it."),
    (413, "The body is too large."),
    (415, "The body is not JSON."),
    (429, "Too much at once; try again later."),
    (500, "A fault of the service."),
    (503, "The database does not answer."),
];

impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let responses = REFUSALS.iter().map(|(status, description)| MetaResponse {
            description,
            status: Some(*status),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: Json::<models::Error>::CONTENT_TYPE,
                schema: models::Error::schema_ref(),
            }],
            headers: Vec::new(),
        });
        MetaResponses {
            responses: responses.collect(),
        }
    }

    fn register(registry: &mut Registry) {
        models::Error::register(registry);
    }
}

/// Bytes with a content type of their own: all of them, a part, or none because the caller has them.
#[derive(Debug)]
pub struct Content {
    /// 200, 206 or 304.
    pub status: StatusCode,
    /// The bytes; empty with 304.
    pub body: Body,
    /// How many bytes the body has.
    pub length: u64,
    /// Their content type.
    pub mime: String,
    /// The SHA-256 of the whole, hexadecimal.
    pub sha256: String,
    /// With 206: the first and the last byte of the part, and the size of the whole.
    pub part: Option<(u64, u64, u64)>,
}

const NOSNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;

impl IntoResponse for Content {
    fn into_response(self) -> Response {
        let text = |value: String| {
            HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("\"\""))
        };
        let mime = HeaderValue::from_str(&self.mime)
            .unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let mut response = Response::builder()
            .status(self.status)
            .header(header::ETAG, text(format!("\"{}\"", self.sha256)))
            .header(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))
            // An id names the newest attempt: whoever keeps a copy asks whether it still is the newest.
            .header(
                header::CACHE_CONTROL,
                HeaderValue::from_static("private, no-cache"),
            )
            .header(NOSNIFF, HeaderValue::from_static("nosniff"));
        if self.status != StatusCode::NOT_MODIFIED {
            response = response
                .header(header::CONTENT_TYPE, mime)
                .header(header::CONTENT_LENGTH, HeaderValue::from(self.length));
        }
        if let Some((first, last, size)) = self.part {
            response = response.header(
                header::CONTENT_RANGE,
                text(format!("bytes {first}-{last}/{size}")),
            );
        }
        response.body(self.body)
    }
}

/// What an answer without a model of its own says in the framework's document.
fn raw_answer(
    content_type: &'static str,
    schema: MetaSchema,
    headers: Vec<MetaHeader>,
) -> MetaResponses {
    MetaResponses {
        responses: vec![MetaResponse {
            description: "The content.",
            status: Some(200),
            status_range: None,
            content: vec![MetaMediaType {
                content_type,
                schema: MetaSchemaRef::Inline(Box::new(schema)),
            }],
            headers,
        }],
    }
}

impl ApiResponse for Content {
    fn meta() -> MetaResponses {
        let text = |name: &str| MetaHeader {
            name: name.to_owned(),
            description: None,
            required: true,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let bytes = MetaSchema {
            format: Some("binary"),
            ..MetaSchema::new("string")
        };
        raw_answer("*/*", bytes, vec![text("etag"), text(NOSNIFF.as_str())])
    }

    fn register(_registry: &mut Registry) {}
}

/// Server-sent events, as long as there are any.
#[derive(Debug)]
pub struct Events(pub Body);

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        Response::builder()
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/event-stream"),
            )
            .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
            // A proxy that gathers the stream would turn it into a long silence.
            .header("x-accel-buffering", HeaderValue::from_static("no"))
            .body(self.0)
    }
}

impl ApiResponse for Events {
    fn meta() -> MetaResponses {
        raw_answer("text/event-stream", MetaSchema::new("string"), Vec::new())
    }

    fn register(_registry: &mut Registry) {}
}

impl models::Error {
    /// The body of a refusal, for those who write responses by hand.
    pub fn to_text(&self) -> String {
        self.to_json_string()
    }
}
