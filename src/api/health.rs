//! `GET /healthz`.

use openapi::{ApiError, models};

use super::{errors, service::ApiService};

pub(super) async fn get(service: &ApiService) -> Result<models::Health, ApiError> {
    service
        .db
        .ping()
        .await
        .map_err(|error| errors::of_store(&error))?;
    let database = if service.db.is_sqlite() {
        "sqlite"
    } else {
        "postgres"
    };
    Ok(models::Health {
        ok: true,
        database: database.into(),
        version: service.app_version.clone(),
    })
}
