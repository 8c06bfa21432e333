//! HTTP as a client of Stepwell sees it: an answer keeps its request, so that a failed expectation explains itself.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::server::Server;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// One response, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `Null` when it is empty.
    pub(crate) fn json(&self) -> Value {
        if self.bytes.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The JSON body of an answer that must have this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self}");
        self.json()
    }

    /// A refusal in the contract's shape: `{error, code, details?}` with this status. Returns the body.
    pub(crate) fn expect_refusal(&self, status: u16) -> Value {
        let body = self.expect(status);
        assert!(
            body["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "no error message: {self}"
        );
        assert!(
            body["code"].as_str().is_some_and(|code| !code.is_empty()),
            "no error code: {self}"
        );
        body
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} answered {}: {}",
            self.request,
            self.status,
            self.text()
        )
    }
}

pub(super) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()
        .expect("an HTTP client")
}

impl Server {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, Some(body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, Some(body.to_string())).await
    }

    /// Posts exactly these bytes as `application/json`.
    pub(crate) async fn post_raw(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, Some(body.to_owned())).await
    }

    /// Any method, on the public port. Panics when no answer comes.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<String>) -> Answer {
        self.try_send(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// As `send`, for moments when the server may be gone.
    pub(crate) async fn try_send(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, String> {
        let request = format!("{method} {path} {}", body.as_deref().unwrap_or(""));
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("an HTTP method");
        let mut builder = self
            .client()
            .request(method, format!("{}{path}", self.base()));
        if let Some(body) = body {
            builder = builder
                .header("content-type", "application/json")
                .body(body);
        }
        let fail = |error: reqwest::Error| format!("{request} got no answer: {error:?}");
        let response = builder.send().await.map_err(fail)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.map_err(fail)?.to_vec();
        Ok(Answer {
            request,
            status,
            headers,
            bytes,
        })
    }
}
