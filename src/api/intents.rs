//! The operations on intents.

use openapi::{ApiError, models};

use super::{errors, service::ApiService};
use crate::intent::NewIntent;

pub(super) async fn create(
    service: &ApiService,
    body: models::NewIntent,
) -> Result<models::IntentCreated, ApiError> {
    let intent = NewIntent {
        id: body.intent_id.map(String::from),
        goal: body.goal.into(),
        inputs: body.inputs.into_iter().collect(),
        constraints: body.constraints.into_iter().collect(),
        connectors: body
            .connectors
            .map(|list| list.into_iter().map(String::from).collect()),
    };
    let intent_id = service
        .product
        .create_intent(intent)
        .await
        .map_err(errors::of_product)?;
    Ok(models::IntentCreated { intent_id })
}

pub(super) async fn get(service: &ApiService, id: &str) -> Result<models::Intent, ApiError> {
    let intent = service
        .product
        .intent(id)
        .await
        .map_err(errors::of_product)?;
    Ok(models::Intent {
        intent_id: intent.id,
        goal: intent.goal,
        inputs: intent.inputs.into_iter().collect(),
        constraints: intent.constraints.into_iter().collect(),
        connectors: intent.connectors,
        created_at: intent.created_at,
    })
}
