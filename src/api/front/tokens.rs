//! Owns who is let in: with a token configured, those who bring it.

use openapi::ApiError;
use poem::{
    IntoResponse, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};
use sha2::{Digest, Sha256};

use crate::config::{Access, Token};

/// What anybody may read: whether the service works, and how to talk to it.
const OPEN: [&str; 3] = ["/healthz", "/openapi.json", "/docs"];

/// The tokens that are known, as digests: comparing those tells nothing of the tokens.
#[derive(Debug)]
pub(in crate::api) struct Tokens {
    full: Option<[u8; 32]>,
    read: Option<[u8; 32]>,
}

impl Tokens {
    pub(in crate::api) fn new(access: &Access) -> Self {
        let digest_of = |token: &Token| digest(token.reveal());
        Self {
            full: access.token.as_ref().map(digest_of),
            read: access.read_token.as_ref().map(digest_of),
        }
    }

    /// Lets a request pass that brings a token which allows it, or everybody when no token is configured.
    ///
    /// # Errors
    /// 401 without a token that is known, 403 for one that only reads.
    pub(in crate::api) fn check(&self, request: &Request, path: &str) -> Result<(), Response> {
        let Some(full) = &self.full else {
            return Ok(());
        };
        if OPEN.contains(&path) {
            return Ok(());
        }
        let brought = bearer(request).map(digest);
        let is = |known: &[u8; 32]| brought.as_ref().is_some_and(|it| equal(it, known));
        if is(full) {
            return Ok(());
        }
        if self.read.as_ref().is_some_and(is) {
            return if [Method::GET, Method::HEAD].contains(request.method()) {
                Ok(())
            } else {
                let message = "this token may only read";
                Err(
                    ApiError::new(StatusCode::FORBIDDEN, "read_only_token", message)
                        .into_response(),
                )
            };
        }
        let message = "a valid token is needed, as `Authorization: Bearer <token>`";
        let refusal = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message);
        let mut response = refusal.into_response();
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Err(response)
    }
}

/// The one bearer token of a request.
fn bearer(request: &Request) -> Option<&str> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether two digests are the same, in a time that does not depend on where they differ.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(tokens: &Tokens, method: Method, path: &str, headers: &[&str]) -> u16 {
        let mut builder = Request::builder().method(method);
        for value in headers {
            builder = builder.header(header::AUTHORIZATION, *value);
        }
        match tokens.check(&builder.finish(), path) {
            Ok(()) => 200,
            Err(refusal) => refusal.status().as_u16(),
        }
    }

    #[test]
    fn a_token_opens_what_it_may() {
        let tokens = Tokens {
            full: Some(digest("full-0123456789ab")),
            read: Some(digest("read-0123456789ab")),
        };
        let full = ["Bearer full-0123456789ab"];
        let read = ["bearer read-0123456789ab"];
        assert_eq!(status(&tokens, Method::POST, "/api/runs", &full), 200);
        assert_eq!(status(&tokens, Method::GET, "/api/runs", &read), 200);
        assert_eq!(status(&tokens, Method::HEAD, "/api/runs", &read), 200);
        assert_eq!(status(&tokens, Method::POST, "/api/runs", &read), 403);
        assert_eq!(status(&tokens, Method::GET, "/healthz", &[]), 200);
        for wrong in [
            vec![],
            vec!["Bearer"],
            vec!["Bearer "],
            vec!["Bearer full-0123456789a"],
            vec!["Basic full-0123456789ab"],
            vec!["full-0123456789ab"],
            vec!["Bearer full-0123456789ab", "Bearer full-0123456789ab"],
        ] {
            assert_eq!(
                status(&tokens, Method::GET, "/api/runs", &wrong),
                401,
                "{wrong:?}"
            );
        }
    }
}
