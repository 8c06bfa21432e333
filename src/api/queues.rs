//! The operations on queues.

use openapi::{ApiError, models};
use poem_openapi::types::MaybeUndefined;

use super::{errors, service::ApiService};
use crate::store::queue_settings::{QueueChange, QueueState};

pub(super) async fn list(service: &ApiService) -> Result<Vec<models::Queue>, ApiError> {
    let queues = service.product.queues().await;
    Ok(queues
        .map_err(errors::of_product)?
        .into_iter()
        .map(queue)
        .collect())
}

pub(super) async fn get(service: &ApiService, name: &str) -> Result<models::Queue, ApiError> {
    let found = service.product.queue(name).await;
    Ok(queue(found.map_err(errors::of_product)?))
}

pub(super) async fn change(
    service: &ApiService,
    name: &str,
    body: models::QueueChange,
) -> Result<models::Queue, ApiError> {
    let change = QueueChange {
        concurrency: changed(body.concurrency),
        worker_concurrency: changed(body.worker_concurrency),
        partition_concurrency: changed(body.partition_concurrency),
        rate_limit: changed(body.rate_limit)
            .map(|rate| rate.map(|rate| (rate.max, rate.period_ms))),
        max_backlog: changed(body.max_backlog),
        fair: body.fair.0,
        paused: body.paused.0,
    };
    apply(service, name, &change).await
}

pub(super) async fn pause(
    service: &ApiService,
    name: &str,
    paused: bool,
) -> Result<models::Queue, ApiError> {
    let change = QueueChange {
        paused: Some(paused),
        ..QueueChange::default()
    };
    apply(service, name, &change).await
}

async fn apply(
    service: &ApiService,
    name: &str,
    change: &QueueChange,
) -> Result<models::Queue, ApiError> {
    let changed = service.product.change_queue(name, change).await;
    Ok(queue(changed.map_err(errors::of_product)?))
}

/// What a member of a change says: nothing, that the limit goes, or what it is to be.
fn changed<T>(member: MaybeUndefined<T>) -> Option<Option<T>> {
    match member {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(value) => Some(Some(value)),
    }
}

fn queue(state: QueueState) -> models::Queue {
    let rate = state.rate_limit_max.zip(state.rate_limit_period_ms);
    models::Queue {
        name: state.name,
        concurrency: state.concurrency,
        worker_concurrency: state.worker_concurrency,
        partition_concurrency: state.partition_concurrency,
        rate_limit: rate.map(|(max, period_ms)| models::RateLimit { max, period_ms }),
        max_backlog: state.max_backlog,
        fair: state.fair,
        paused: state.paused,
        queued: state.queued,
        running: state.running,
        updated_at: state.updated_at,
    }
}
