//! The operations on artifacts.

use openapi::{ApiError, Content};

use super::{errors, service::ApiService};

pub(super) async fn get(service: &ApiService, id: &str) -> Result<Content, ApiError> {
    let content = service
        .product
        .artifact(id)
        .await
        .map_err(errors::of_product)?;
    Ok(Content {
        bytes: content.bytes,
        mime: content.mime,
        sha256: content.sha256,
    })
}
