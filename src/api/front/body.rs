//! Owns the bodies of requests: they are read here, within a size and a time, and checked before anything looks for their meaning.

use std::time::Duration;

use futures_util::StreamExt;
use openapi::{ApiError, Body as Wanted};
use poem::{
    Body, IntoResponse, Request, Response,
    http::{HeaderValue, StatusCode, header},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

use super::super::json_check;

/// Largest body in bytes. Larger inputs are artifacts.
pub(super) const LARGEST: usize = 2 * 1024 * 1024;
/// Bytes of bodies in memory at once, those of requests that wait their turn included: thirty-two of the largest.
pub(super) const ALL_AT_ONCE: usize = 32 * LARGEST;
/// How long a body may take to arrive. Who is slower holds a connection and what is already here of the body.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is still taken in of a body that is refused, so that its sender comes to read the answer instead of a reset.
const LINGER_BYTES: usize = 4 * LARGEST;
const LINGER: Duration = Duration::from_secs(2);

/// The memory that a body was granted, for as long as it is worked on; none for an empty one.
pub(super) type Granted<'a> = Option<SemaphorePermit<'a>>;

/// Reads the body up to the limit, checks it, and puts it back. `memory` has a permit per byte.
///
/// # Errors
/// None in place of the answer when there is no memory for it.
pub(super) async fn check<'a>(
    request: &mut Request,
    wanted: Wanted,
    memory: &'a Semaphore,
) -> Result<Granted<'a>, Option<Response>> {
    let refuse = |status, code: &str, message: String| {
        Err(Some(ApiError::new(status, code, message).into_response()))
    };
    let bad = |code: &str, message: &str| refuse(StatusCode::BAD_REQUEST, code, message.to_owned());
    let announced = request
        .header(header::CONTENT_LENGTH)
        .and_then(|length| length.parse::<usize>().ok());
    let too_large = || {
        let message = format!("the body is larger than {LARGEST} bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if announced.is_some_and(|length| length > LARGEST) {
        return too_large();
    }
    let mut granted: Granted<'a> = None;
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(64 * 1024));
    let deadline = Instant::now() + PATIENCE;
    let mut arriving = Box::pin(request.take_body().into_bytes_stream());
    loop {
        let chunk = match timeout_at(deadline, arriving.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => return bad("unreadable_body", &error.to_string()),
            Err(_) => {
                let message = format!("the body took longer than {} s", PATIENCE.as_secs());
                return bad("slow_body", &message);
            }
        };
        if bytes.len() + chunk.len() > LARGEST {
            request.set_body(Body::from_bytes_stream(arriving));
            return too_large();
        }
        let Ok(permit) = memory.try_acquire_many(u32::try_from(chunk.len()).unwrap_or(u32::MAX))
        else {
            request.set_body(Body::from_bytes_stream(arriving));
            return Err(None);
        };
        match &mut granted {
            Some(granted) => granted.merge(permit),
            None => granted = Some(permit),
        }
        bytes.extend_from_slice(&chunk);
    }
    match (wanted, bytes.is_empty()) {
        (Wanted::None, true) => return Ok(granted),
        (Wanted::None, false) => return bad("unexpected_body", "this operation takes no body"),
        (Wanted::Required, true) => {
            return bad("body_required", "this operation needs a JSON body");
        }
        (Wanted::EmptyAsObject, true) => {
            request.set_body("{}");
            request.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            return Ok(granted);
        }
        (Wanted::Required | Wanted::EmptyAsObject, false) => {}
    }
    if let Err(message) = check_type(request) {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        );
    }
    if let Err(message) = json_check::check(&bytes) {
        return bad(
            "malformed_json",
            &format!("the body is not acceptable JSON: {message}"),
        );
    }
    request.set_body(bytes);
    Ok(granted)
}

fn check_type(request: &Request) -> Result<(), String> {
    let kind = request.content_type().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(format!(
            "the content type is {kind:?}; application/json is accepted"
        ));
    }
    match request.header(header::CONTENT_ENCODING) {
        None => Ok(()),
        Some(coding) if coding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(coding) => Err(format!(
            "the content encoding is {coding:?}; none is accepted"
        )),
    }
}

/// Takes in the rest of the body of a refused request, beside the answer.
pub(super) fn let_arrive(mut request: Request) {
    let rest = request.take_body();
    // Who asked whether to send it learns from the answer that he need not.
    if rest.is_empty() || request.header(header::EXPECT).is_some() {
        return;
    }
    let mut rest = Box::pin(rest.into_bytes_stream());
    tokio::spawn(timeout(LINGER, async move {
        let mut taken = 0;
        while let Some(Ok(chunk)) = rest.next().await {
            taken += chunk.len();
            if taken > LINGER_BYTES {
                return;
            }
        }
    }));
}
