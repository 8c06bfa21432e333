//! The operations on runs.

use openapi::{ApiError, Call, JsonObject, ListRunsQuery, models};
use serde_json::Value;

use super::{cursor, errors, service::ApiService};
use crate::{
    engine::WorkflowError,
    intent::{
        ArtifactRef, AskedWorkload, NewApproval, NewEvent, RunHeader, RunQuery, RunStep, RunTask,
        RunView, StartRun,
    },
    store::status::WorkflowStatus,
};

/// Rows of a page that does not say.
const PAGE: i64 = 50;

/// How many rows a page has at most.
pub(super) fn page_limit(limit: Option<i64>) -> u64 {
    limit.unwrap_or(PAGE).unsigned_abs()
}

pub(super) async fn start(
    service: &ApiService,
    call: &Call,
    body: models::StartRun,
) -> Result<models::RunHeader, ApiError> {
    let request = StartRun {
        intent_id: body.intent_id.into(),
        queue_name: body.queue_name.map(String::from),
        queue_partition_key: body.queue_partition_key.map(String::from),
        recipe_name: body.recipe_name.map(String::from),
        recipe_version: body.recipe_version.0,
        workload: body.workload.map(|w| AskedWorkload {
            concurrency: w.concurrency.0,
            steps: w.steps.0,
            sandbox_minutes: w.sandbox_minutes.0,
        }),
        priority: body.priority.0,
        deduplication_id: body.deduplication_id.map(String::from),
        timeout_ms: body.timeout_ms.0,
        delay_ms: body.delay_ms.0,
        tenant_id: body.tenant_id.map(String::from),
        task_key: body.task_key.map(String::from),
        trace_id: body.trace_id.map(String::from),
    };
    let started = service
        .product
        .start_run(request, call.traceparent.as_deref())
        .await;
    Ok(header(started.map_err(errors::of_product)?))
}

pub(super) async fn list(
    service: &ApiService,
    query: ListRunsQuery,
) -> Result<models::RunList, ApiError> {
    let query = RunQuery {
        status: query.status.map(status_of_wire),
        recipe_name: query.recipe_name,
        tenant_id: query.tenant_id,
        since: query.since,
        after: cursor::decode(query.cursor)?,
        limit: page_limit(query.limit),
    };
    let page = service
        .product
        .runs(query)
        .await
        .map_err(errors::of_product)?;
    Ok(models::RunList {
        items: page.items.into_iter().map(header).collect(),
        next_cursor: page.next.map(cursor::encode),
    })
}

pub(super) async fn get(service: &ApiService, id: &str) -> Result<models::RunHeader, ApiError> {
    Ok(header(
        service.product.run(id).await.map_err(errors::of_product)?,
    ))
}

pub(super) async fn steps(
    service: &ApiService,
    id: &str,
) -> Result<Vec<models::StepRow>, ApiError> {
    let steps = service
        .product
        .run_steps(id)
        .await
        .map_err(errors::of_product)?;
    Ok(steps.into_iter().map(step).collect())
}

pub(super) async fn view(service: &ApiService, id: &str) -> Result<models::RunView, ApiError> {
    let RunView {
        header: run,
        explain,
        steps,
        tasks,
        approval,
        forks,
    } = service
        .product
        .run_view(id)
        .await
        .map_err(errors::of_product)?;
    Ok(models::RunView {
        header: header(run),
        explain: models::Explanation {
            reason: explain.reason.as_str().into(),
            sentence: explain.sentence,
            data: object(explain.data),
        },
        steps: steps.into_iter().map(step).collect(),
        tasks: tasks.into_iter().map(task).collect(),
        approval: approval.map(|row| models::Approval {
            approved_by: row.approved_by,
            notes: row.notes,
            approved_at: row.approved_at,
        }),
        forks,
    })
}

pub(super) async fn approve(
    service: &ApiService,
    id: &str,
    body: models::ApprovePlan,
) -> Result<models::PlanApproved, ApiError> {
    let approval = NewApproval {
        approved_by: body.approved_by.into(),
        notes: body.notes.map(String::from),
    };
    let approved = service
        .product
        .approve_plan(id, approval)
        .await
        .map_err(errors::of_product)?;
    Ok(models::PlanApproved {
        accepted: true,
        run_id: approved.run_id,
        approved_at: approved.approved_at,
    })
}

pub(super) async fn send_event(
    service: &ApiService,
    id: &str,
    body: models::RunEvent,
) -> Result<models::Accepted, ApiError> {
    let event = NewEvent {
        kind: body.kind.into(),
        payload: body.payload.into_iter().collect(),
    };
    service
        .product
        .send_event(id, event)
        .await
        .map_err(errors::of_product)?;
    Ok(models::Accepted { accepted: true })
}

pub(super) fn header(header: RunHeader) -> models::RunHeader {
    let RunHeader {
        run,
        status,
        error,
        output,
        trace_url,
    } = header;
    models::RunHeader {
        workflow_id: run.workflow_id,
        run_id: run.id,
        intent_id: run.intent_id,
        status: status_on_wire(status),
        workflow_name: run.workflow_name,
        recipe_name: run.recipe_name,
        recipe_version: run.recipe_version,
        queue: run.queue_name,
        priority: run.priority,
        queue_partition_key: run.queue_partition_key,
        tenant_id: run.tenant_id,
        created_at: run.created_at,
        updated_at: run.updated_at,
        started_at: run.started_at,
        ended_at: run.ended_at,
        error: error.as_ref().map(error_of),
        output: output.map(object),
        trace_id: run.trace_id,
        span_id: run.span_id,
        trace_url,
        next_action: run.next_action.as_deref().map(|action| match action {
            "APPROVE_PLAN" => models::NextAction::ApprovePlan,
            "REPAIR" => models::NextAction::Repair,
            _ => models::NextAction::None,
        }),
        last_step: run.last_step,
        retry_count: run.retry_count,
        forked_from: run.forked_from,
    }
}

pub(super) fn step(step: RunStep) -> models::StepRow {
    models::StepRow {
        step_id: step.step.step_id,
        name: step.step.name,
        attempt: step.step.attempt,
        started_at: step.step.started_at,
        ended_at: step.step.finished_at,
        error: step.error.as_ref().map(error_of),
        artifact_refs: step.artifacts.into_iter().map(artifact).collect(),
        trace_id: step.step.trace_id,
        span_id: step.step.span_id,
    }
}

fn task(task: RunTask) -> models::RunTask {
    models::RunTask {
        command: task.command(),
        signal: task.signal(),
        ordinal: task.task.ordinal,
        task_key: task.task.task_key,
        attempt: task.task.attempt,
        err_code: task.task.err_code,
        exit: task.task.exit,
        wall_ms: task.task.wall_ms,
        artifact_refs: task.artifacts.into_iter().map(artifact).collect(),
    }
}

fn artifact(reference: ArtifactRef) -> models::ArtifactRef {
    models::ArtifactRef {
        id: reference.id,
        workflow_id: reference.workflow_id,
        step_id: reference.step_id,
        kind: reference.kind,
        mime: reference.mime,
        size: reference.size,
        sha256: reference.sha256,
        storage_key: reference.storage_key,
    }
}

/// An error as the wire shows it.
pub(super) fn error_of(error: &WorkflowError) -> models::RunError {
    models::RunError {
        message: error.message.clone(),
        code: error.code().to_owned(),
    }
}

/// A JSON object; any other value stands alone in one.
fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(map) => map.into_iter().collect(),
        other => [("value".to_owned(), other)].into(),
    }
}

pub(super) fn status_on_wire(status: WorkflowStatus) -> models::RunStatus {
    match status {
        WorkflowStatus::Enqueued | WorkflowStatus::Delayed => models::RunStatus::Enqueued,
        WorkflowStatus::Pending => models::RunStatus::Pending,
        WorkflowStatus::Success => models::RunStatus::Success,
        WorkflowStatus::Error | WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            models::RunStatus::Error
        }
        WorkflowStatus::Cancelled => models::RunStatus::Cancelled,
    }
}

fn status_of_wire(status: models::RunStatus) -> WorkflowStatus {
    match status {
        models::RunStatus::Enqueued => WorkflowStatus::Enqueued,
        models::RunStatus::Pending => WorkflowStatus::Pending,
        models::RunStatus::Success => WorkflowStatus::Success,
        models::RunStatus::Error => WorkflowStatus::Error,
        models::RunStatus::Cancelled => WorkflowStatus::Cancelled,
    }
}
