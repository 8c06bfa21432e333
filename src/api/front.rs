//! Owns the front door: every request passes it before any operation sees it, and every answer on its way out. It refuses what no operation
//! takes, and makes every refusal JSON. Who asks comes first, then what for, then the body, then whether there is room.

mod body;
pub(super) mod hosts;
mod load;
mod target;
pub(super) mod tokens;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use openapi::{ApiError, CallInfo};
use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{HeaderValue, Method},
};
use tokio::{sync::SemaphorePermit, time::timeout};

use self::{body::Granted, hosts::Hosts, load::Load, target::Target, tokens::Tokens};
use super::errors;
use crate::config::Access;

/// The header that names a request, on its way in and out.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// The longest request id that is taken over from a caller.
const LONGEST_REQUEST_ID: usize = 128;
/// Told whatever the load is: an overloaded service that looks dead is started again for nothing.
const HEALTH: &str = "/healthz";
/// Lasts as long as its caller says. It has room of its own: the few that there may be would keep everybody else from writing for so long.
const TICK: &str = "/tick";
/// Longest an operation may take until its answer begins. Callers lose their patience after thirty seconds, and some have waited for room
/// before: who is told nothing does not know what to think.
const LONGEST_OPERATION: Duration = Duration::from_secs(20);

/// The front door.
#[derive(Debug, Clone)]
pub(super) struct Front(Arc<Door>);

#[derive(Debug)]
struct Door {
    hosts: Hosts,
    tokens: Tokens,
    load: Load,
}

impl Front {
    pub(super) fn new(access: &Access) -> Self {
        Self(Arc::new(Door {
            hosts: Hosts(access.allowed_hosts.clone()),
            tokens: Tokens::new(access),
            load: Load::default(),
        }))
    }
}

impl<E: Endpoint> Middleware<E> for Front {
    type Output = Guarded<E>;

    fn transform(&self, inner: E) -> Guarded<E> {
        Guarded {
            inner,
            door: Arc::clone(&self.0),
        }
    }
}

/// An endpoint behind the front door.
#[derive(Debug)]
pub(super) struct Guarded<E> {
    inner: E,
    door: Arc<Door>,
}

/// What a request holds while it is worked on: the memory of its body, and its place in a lane.
type Room<'a> = (Granted<'a>, Option<SemaphorePermit<'a>>);

impl<E: Endpoint> Endpoint for Guarded<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let info = CallInfo {
            request_id: request_id(&request),
            traceparent: traceparent(&request),
            ..CallInfo::default()
        };
        request.set_data(info.clone());
        let longest = match request.uri().path() {
            TICK => Duration::MAX,
            _ => LONGEST_OPERATION,
        };
        let mut response = match self.door.admit(&mut request).await {
            Err(refusal) => {
                body::let_arrive(request);
                refusal
            }
            Ok(_room) => match AssertUnwindSafe(timeout(longest, self.inner.call(request)))
                .catch_unwind()
                .await
            {
                Ok(Ok(Ok(answer))) => answer.into_response(),
                Ok(Ok(Err(error))) => errors::of_framework(error),
                Ok(Err(_)) => errors::unavailable().into_response(),
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

impl Door {
    /// Lets a request pass that may ask, whose path, method, query and body some operation takes, and for which there is room.
    async fn admit(&self, request: &mut Request) -> Result<Option<Room<'_>>, Response> {
        self.hosts.check(request).map_err(ApiError::into_response)?;
        self.tokens.check(request, request.uri().path())?;
        let operation = match Target::of(request)? {
            Target::Page => return Ok(None),
            Target::Operation(operation) => operation,
        };
        let granted = match body::check(request, operation.body, &self.load.bodies).await {
            Ok(granted) => granted,
            Err(Some(refusal)) => return Err(refusal),
            Err(None) => return Err(self.load.refuse().await.into_response()),
        };
        if request.method() == Method::HEAD {
            request.set_method(Method::GET);
        }
        if [HEALTH, TICK].contains(&operation.path) {
            return Ok(Some((granted, None)));
        }
        let lane = if request.method() == Method::GET {
            &self.load.reads
        } else {
            &self.load.writes
        };
        match lane.enter().await {
            Some(place) => Ok(Some((granted, Some(place)))),
            None => Err(self.load.refuse().await.into_response()),
        }
    }
}

fn request_id(request: &Request) -> String {
    let sane = |id: &&str| {
        !id.is_empty() && id.len() <= LONGEST_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic())
    };
    request
        .header(REQUEST_ID)
        .filter(sane)
        .map_or_else(new_request_id, str::to_owned)
}

/// An id for a request that brings none.
pub(super) fn new_request_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
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
