//! Owns the answers that the document cannot generate: errors, raw content, pages; and what every call carries.

use poem::{
    Error, IntoResponse, Request, Response,
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
}

/// What every operation is told beside its parameters.
pub type Call = CallInfo;

impl CallInfo {
    /// What the front has put beside the request.
    pub fn of(request: &Request) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_default()
    }
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

/// Bytes with a content type of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// All of them.
    pub bytes: Vec<u8>,
    /// Their content type.
    pub mime: String,
    /// The SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
}

const NOSNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;

impl IntoResponse for Content {
    fn into_response(self) -> Response {
        let mime = HeaderValue::from_str(&self.mime)
            .unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let etag = HeaderValue::from_str(&format!("\"{}\"", self.sha256))
            .unwrap_or(HeaderValue::from_static("\"\""));
        Response::builder()
            .header(header::CONTENT_TYPE, mime)
            .header(header::ETAG, etag)
            .header(NOSNIFF, HeaderValue::from_static("nosniff"))
            .body(self.bytes)
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
        let bytes = MetaSchemaRef::Inline(Box::new(MetaSchema {
            format: Some("binary"),
            ..MetaSchema::new("string")
        }));
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The content.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "*/*",
                    schema: bytes,
                }],
                headers: vec![text("etag"), text(NOSNIFF.as_str())],
            }],
        }
    }

    fn register(_registry: &mut Registry) {}
}

impl models::Error {
    /// The body of a refusal, for those who write responses by hand.
    pub fn to_text(&self) -> String {
        self.to_json_string()
    }
}
