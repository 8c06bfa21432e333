//! The operations on workflows, and the retry of runs.

use openapi::{ApiError, ListWorkflowsQuery, Page, models};

use super::{
    cursor, errors,
    runs::{error_of, page_limit},
    service::ApiService,
};
use crate::{
    intent::{By, ForkRequest, StepSummary, WorkflowSummary},
    store::{status::WorkflowStatus, workflows::WorkflowFilter},
};

pub(super) async fn list(
    service: &ApiService,
    query: ListWorkflowsQuery,
) -> Result<Page<models::WorkflowSummary>, ApiError> {
    let query = WorkflowFilter {
        status: query.status.map(status_of_wire),
        name: query.name,
        queue: query.queue,
        since: query.since,
        after: cursor::decode(query.cursor)?,
        limit: page_limit(query.limit),
    };
    let page = service
        .product
        .workflows(query)
        .await
        .map_err(errors::of_product)?;
    Ok(Page {
        items: page.items.into_iter().map(summary).collect(),
        next_cursor: page.next.map(cursor::encode),
    })
}

pub(super) async fn get(
    service: &ApiService,
    id: &str,
) -> Result<models::WorkflowSummary, ApiError> {
    Ok(summary(
        service
            .product
            .workflow(id)
            .await
            .map_err(errors::of_product)?,
    ))
}

pub(super) async fn steps(
    service: &ApiService,
    id: &str,
) -> Result<Vec<models::WorkflowStep>, ApiError> {
    let steps = service
        .product
        .workflow_steps(id)
        .await
        .map_err(errors::of_product)?;
    Ok(steps.into_iter().map(step).collect())
}

fn by(actor: openapi::Given<openapi::Text>, reason: openapi::Given<openapi::Text>) -> By {
    By {
        actor: actor.map(String::from),
        reason: reason.map(String::from),
    }
}

pub(super) async fn cancel(
    service: &ApiService,
    workflow_id: String,
    body: models::OpsAction,
) -> Result<models::OpsAccepted, ApiError> {
    let by = by(body.actor, body.reason);
    let cancelled = service.product.cancel_workflow(&workflow_id, &by).await;
    cancelled.map_err(errors::of_product)?;
    Ok(models::OpsAccepted {
        accepted: true,
        workflow_id,
    })
}

pub(super) async fn resume(
    service: &ApiService,
    workflow_id: String,
    body: models::OpsAction,
) -> Result<models::OpsAccepted, ApiError> {
    let by = by(body.actor, body.reason);
    let resumed = service.product.resume_workflow(&workflow_id, &by).await;
    resumed.map_err(errors::of_product)?;
    Ok(models::OpsAccepted {
        accepted: true,
        workflow_id,
    })
}

pub(super) async fn fork(
    service: &ApiService,
    workflow_id: String,
    body: models::ForkWorkflow,
) -> Result<models::WorkflowForked, ApiError> {
    let request = ForkRequest {
        step_n: body.step_n,
        app_version: body.app_version.map(String::from),
        by: by(body.actor, body.reason),
    };
    let forked = service.product.fork_workflow(&workflow_id, &request).await;
    Ok(models::WorkflowForked {
        accepted: true,
        forked_workflow_id: forked.map_err(errors::of_product)?.id,
        workflow_id,
    })
}

pub(super) async fn retry(
    service: &ApiService,
    id: &str,
    body: models::OpsAction,
) -> Result<models::RunRetried, ApiError> {
    let by = by(body.actor, body.reason);
    let retried = service
        .product
        .retry_run(id, &by)
        .await
        .map_err(errors::of_product)?;
    Ok(models::RunRetried {
        accepted: true,
        new_run_id: retried.run_id,
        from_step: retried.from_step.to_owned(),
    })
}

fn summary(WorkflowSummary(row): WorkflowSummary) -> models::WorkflowSummary {
    models::WorkflowSummary {
        workflow_id: row.workflow_uuid,
        status: status_on_wire(row.status),
        workflow_name: row.name.unwrap_or_default(),
        workflow_class_name: row.class_name.unwrap_or_default(),
        queue_name: row.queue_name,
        application_version: row.application_version,
        created_at: row.created_at,
        updated_at: Some(row.updated_at),
    }
}

fn step(step: StepSummary) -> models::WorkflowStep {
    models::WorkflowStep {
        step_id: step.row.function_name,
        function_id: step.row.function_id,
        status: match step.status {
            WorkflowStatus::Pending => models::StepStatus::Pending,
            WorkflowStatus::Error => models::StepStatus::Error,
            _ => models::StepStatus::Success,
        },
        started_at: step.row.started_at_epoch_ms,
        completed_at: step.row.completed_at_epoch_ms,
        error: step.error.as_ref().map(error_of),
    }
}

pub(super) fn status_on_wire(status: WorkflowStatus) -> models::WorkflowStatus {
    match status {
        WorkflowStatus::Enqueued => models::WorkflowStatus::Enqueued,
        WorkflowStatus::Delayed => models::WorkflowStatus::Delayed,
        WorkflowStatus::Pending => models::WorkflowStatus::Pending,
        WorkflowStatus::Success => models::WorkflowStatus::Success,
        WorkflowStatus::Error => models::WorkflowStatus::Error,
        WorkflowStatus::Cancelled => models::WorkflowStatus::Cancelled,
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            models::WorkflowStatus::MaxRecoveryAttemptsExceeded
        }
    }
}

fn status_of_wire(status: models::WorkflowStatus) -> WorkflowStatus {
    match status {
        models::WorkflowStatus::Enqueued => WorkflowStatus::Enqueued,
        models::WorkflowStatus::Delayed => WorkflowStatus::Delayed,
        models::WorkflowStatus::Pending => WorkflowStatus::Pending,
        models::WorkflowStatus::Success => WorkflowStatus::Success,
        models::WorkflowStatus::Error => WorkflowStatus::Error,
        models::WorkflowStatus::Cancelled => WorkflowStatus::Cancelled,
        models::WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            WorkflowStatus::MaxRecoveryAttemptsExceeded
        }
    }
}
