//! Owns the one mapping from errors to HTTP: the product's, the framework's, and panics.

use openapi::ApiError;
use poem::{
    Error, IntoResponse, Response,
    error::{MethodNotAllowedError, NotFoundError},
    http::StatusCode,
};
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};

use crate::{intent::IntentError, store::StoreError};

/// Seconds after which a caller should try again when the database is away.
const RETRY_AFTER_S: u64 = 2;
/// Seconds after which a caller should try again when too many runs wait already: a backlog takes a while to shrink.
const BACKLOG_RETRY_AFTER_S: u64 = 5;

/// The answer to a refusal of the product.
pub(super) fn of_product(error: IntentError) -> ApiError {
    match error {
        IntentError::Invalid { code, message } => {
            ApiError::new(StatusCode::BAD_REQUEST, code, message)
        }
        error @ IntentError::NotFound { what, .. } => ApiError::new(
            StatusCode::NOT_FOUND,
            format!("{what}_not_found"),
            error.to_string(),
        ),
        IntentError::Conflict {
            code,
            message,
            details,
        } => ApiError::new(StatusCode::CONFLICT, code, message).about(details),
        IntentError::Backlog { message } => ApiError {
            retry_after: Some(BACKLOG_RETRY_AFTER_S),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "backlog_full", message)
        },
        IntentError::Store(error) => of_store(&error),
    }
}

/// The answer when the database did not do it. What it said is for the log, not for the caller.
pub(super) fn of_store(error: &StoreError) -> ApiError {
    if error.is_transient() {
        error.warn("a request could not be served");
        return unavailable();
    }
    tracing::error!(%error, "a request failed");
    internal()
}

/// The answer when the database is away, or slower than a caller waits. What was asked may have happened: asked again, it happens once.
pub(super) fn unavailable() -> ApiError {
    let refusal = ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "database_unavailable",
        "the database does not answer; try again",
    );
    ApiError {
        retry_after: Some(RETRY_AFTER_S),
        ..refusal
    }
}

/// The answer to a fault of ours.
pub(super) fn internal() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "an internal error; the log of the service says more",
    )
}

/// The answer to an error of the framework, or to one that carries its answer already.
pub(super) fn of_framework(error: Error) -> Response {
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "schema_violation", message);
    let refusal = if let Some(e) = error.downcast_ref::<ParseParamError>() {
        bad(format!("{}: {}", e.name, e.reason)).about(vec![e.name.to_owned()])
    } else if let Some(e) = error.downcast_ref::<ParsePathError>() {
        bad(format!("{}: {}", e.name, e.reason)).about(vec![e.name.to_owned()])
    } else if let Some(e) = error.downcast_ref::<ParseRequestPayloadError>() {
        bad(e.reason.clone())
    } else if error.is::<ContentTypeError>() {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            error.to_string(),
        )
    } else if error.is::<AuthorizationError>() {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a valid token is needed",
        )
    } else if error.is::<NotFoundError>() {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "route_not_found",
            "there is no such route",
        )
    } else if error.is::<MethodNotAllowedError>() {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "not with this method",
        )
    } else {
        // An operation's own refusal carries its whole answer; anything else says nothing of our insides.
        let response = error.into_response();
        let ours = response
            .content_type()
            .is_some_and(|mime| mime.starts_with("application/json"));
        return if ours {
            response
        } else {
            internal().into_response()
        };
    };
    refusal.into_response()
}
