//! Owns what Prometheus is answered.

use poem::{
    Response,
    http::{HeaderValue, header},
};

use super::{metrics, prometheus};

/// Everything that is measured, for a scrape; it belongs on the administrators' port alone.
pub async fn scraped() -> Response {
    let mut response = Response::from(prometheus::text(&metrics::gather().await));
    let kind = HeaderValue::from_static(prometheus::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
