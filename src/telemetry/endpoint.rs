//! Owns `GET /metrics`.

use poem::{
    Endpoint, Response, endpoint,
    http::{HeaderValue, Method, StatusCode, header},
};

use super::{metrics, prometheus};

/// The endpoint that Prometheus scrapes; it belongs on the administrators' port alone.
pub fn metrics_endpoint() -> impl Endpoint<Output = Response> {
    endpoint::make(|request| async move {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let refusal = r#"{"error":"this path takes GET","code":"method_not_allowed"}"#;
            let response = Response::builder()
                .status(StatusCode::METHOD_NOT_ALLOWED)
                .header(header::ALLOW, "GET")
                .content_type("application/json");
            return Ok(response.body(refusal));
        }
        let mut response = Response::from(prometheus::text(&metrics::gather().await));
        let kind = HeaderValue::from_static(prometheus::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok::<_, poem::Error>(response)
    })
}
