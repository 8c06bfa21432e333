//! The small workflows of the manual's labs.

use std::time::Duration;

use openapi::{ApiError, StartCrashDemoQuery, StartSleepQuery, StartSlowStepQuery, models};

use super::{errors, service::ApiService};

/// Milliseconds of a sleep that does not say.
const SLEEP_MS: u64 = 5_000;

fn sleep_of(asked: Option<i64>) -> Duration {
    Duration::from_millis(asked.map_or(SLEEP_MS, i64::unsigned_abs))
}

fn accepted(workflow_id: String) -> models::OpsAccepted {
    models::OpsAccepted {
        accepted: true,
        workflow_id,
    }
}

pub(super) async fn start_sleep(
    service: &ApiService,
    query: StartSleepQuery,
) -> Result<models::OpsAccepted, ApiError> {
    let started = service
        .product
        .start_sleep(&query.wf, sleep_of(query.sleep))
        .await;
    started.map_err(errors::of_product)?;
    Ok(accepted(query.wf))
}

pub(super) async fn start_slow_step(
    service: &ApiService,
    query: StartSlowStepQuery,
) -> Result<models::OpsAccepted, ApiError> {
    let started = service
        .product
        .start_slow_step(&query.wf, sleep_of(query.sleep))
        .await;
    started.map_err(errors::of_product)?;
    Ok(accepted(query.wf))
}

pub(super) async fn start_crash_demo(
    service: &ApiService,
    query: StartCrashDemoQuery,
) -> Result<models::OpsAccepted, ApiError> {
    let started = service.product.start_crash_demo(&query.wf).await;
    started.map_err(errors::of_product)?;
    Ok(accepted(query.wf))
}

pub(super) async fn marks(service: &ApiService, id: &str) -> Result<models::Marks, ApiError> {
    let marks = service
        .product
        .marks(id)
        .await
        .map_err(errors::of_product)?;
    Ok(models::Marks {
        s1: marks.s1,
        s2: marks.s2,
    })
}
