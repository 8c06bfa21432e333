//! The operations on schedules.

use openapi::{ApiError, Given, ListSchedulesQuery, PreviewScheduleQuery, Text, models};

use super::{cursor, errors, ops::status_on_wire, runs::page_limit, service::ApiService};
use crate::{
    intent::{AskedWorkload, NewSchedule, Outcome, Schedule, ScheduleSlot, StartRun, Template},
    store::schedules::{CatchUp, Overlap, ScheduleStatus},
};

/// Slots that a preview tells when it is not told how many.
const PREVIEWED: i64 = 10;

pub(super) async fn create(
    service: &ApiService,
    body: models::NewSchedule,
) -> Result<models::Schedule, ApiError> {
    let run = body.run.map(run_of_wire).unwrap_or_default();
    let new = NewSchedule {
        name: body.name.into(),
        cron: body.cron.map(String::from),
        every_ms: body.every_ms.0,
        timezone: body.timezone.map(String::from),
        catch_up: body.catch_up.map(catch_up_of_wire).unwrap_or_default(),
        window_ms: body.catch_up_window_ms.0,
        overlap: body.overlap.map(overlap_of_wire).unwrap_or_default(),
        jitter_ms: body.jitter_ms.0.unwrap_or(0),
        starts_at: body.start_at.0,
        ends_at: body.end_at.0,
        paused: body.paused.0.unwrap_or(false),
        template: Template {
            goal: body.intent.goal.into(),
            inputs: body
                .intent
                .inputs
                .0
                .unwrap_or_default()
                .into_iter()
                .collect(),
            constraints: body
                .intent
                .constraints
                .0
                .unwrap_or_default()
                .into_iter()
                .collect(),
            connectors: body
                .intent
                .connectors
                .map(|list| list.into_iter().map(String::from).collect()),
            run,
        },
    };
    let created = service.product.create_schedule(new).await;
    Ok(schedule(created.map_err(errors::of_product)?))
}

pub(super) async fn list(
    service: &ApiService,
    query: ListSchedulesQuery,
) -> Result<models::ScheduleList, ApiError> {
    let page = service
        .product
        .schedules(cursor::decode(query.cursor)?, page_limit(query.limit))
        .await
        .map_err(errors::of_product)?;
    Ok(models::ScheduleList {
        items: page
            .items
            .into_iter()
            .map(|one| models::Schedule {
                slots: None,
                ..schedule(one)
            })
            .collect(),
        next_cursor: page.next.map(cursor::encode),
    })
}

pub(super) async fn get(service: &ApiService, name: &str) -> Result<models::Schedule, ApiError> {
    let found = service.product.schedule(name).await;
    Ok(schedule(found.map_err(errors::of_product)?))
}

pub(super) async fn pause(service: &ApiService, name: &str) -> Result<models::Schedule, ApiError> {
    let paused = service.product.pause_schedule(name).await;
    Ok(schedule(paused.map_err(errors::of_product)?))
}

pub(super) async fn resume(service: &ApiService, name: &str) -> Result<models::Schedule, ApiError> {
    let resumed = service.product.resume_schedule(name).await;
    Ok(schedule(resumed.map_err(errors::of_product)?))
}

pub(super) async fn delete(service: &ApiService, name: &str) -> Result<models::Accepted, ApiError> {
    let deleted = service.product.delete_schedule(name).await;
    deleted.map_err(errors::of_product)?;
    Ok(models::Accepted { accepted: true })
}

pub(super) async fn trigger(
    service: &ApiService,
    name: &str,
) -> Result<models::ScheduleTriggered, ApiError> {
    let started = service.product.trigger_schedule(name).await;
    Ok(models::ScheduleTriggered {
        accepted: true,
        workflow_id: started.map_err(errors::of_product)?,
    })
}

pub(super) async fn preview(
    service: &ApiService,
    name: &str,
    query: PreviewScheduleQuery,
) -> Result<models::SchedulePreview, ApiError> {
    let count = usize::try_from(query.count.unwrap_or(PREVIEWED)).unwrap_or(0);
    let (description, slots) = service
        .product
        .preview_schedule(name, count)
        .await
        .map_err(errors::of_product)?;
    Ok(models::SchedulePreview {
        name: name.to_owned(),
        description,
        slots: slots
            .into_iter()
            .map(|slot| models::PreviewedSlot {
                at: slot.at,
                local: slot.local,
            })
            .collect(),
    })
}

fn schedule(schedule: Schedule) -> models::Schedule {
    let row = schedule.row;
    let last_reason = schedule.slots.iter().find_map(|slot| match slot.outcome {
        Outcome::Missed { reason, .. } => Some(reason.as_str().to_owned()),
        Outcome::Fired { .. } => None,
    });
    let (intent, run) = schedule.template.map(template_on_wire).unzip();
    models::Schedule {
        last_fired_at: row.last_fired(),
        name: row.schedule_name,
        status: match row.status {
            ScheduleStatus::Active => models::ScheduleStatus::Active,
            ScheduleStatus::Paused => models::ScheduleStatus::Paused,
        },
        description: schedule.description,
        workflow_name: row.workflow_name,
        built_in: row.built_in,
        cron: row.every_ms.is_none().then_some(row.schedule),
        every_ms: row.every_ms,
        timezone: row.cron_timezone,
        catch_up: match row.catch_up {
            CatchUp::All => models::CatchUp::All,
            CatchUp::Latest => models::CatchUp::Latest,
            CatchUp::None => models::CatchUp::None,
        },
        catch_up_window_ms: row.window_ms,
        overlap: match row.overlap {
            Overlap::Allow => models::Overlap::Allow,
            Overlap::Skip => models::Overlap::Skip,
            Overlap::QueueOne => models::Overlap::QueueOne,
            Overlap::CancelRunning => models::Overlap::CancelRunning,
        },
        jitter_ms: row.jitter_ms,
        start_at: row.starts_at,
        end_at: row.ends_at,
        created_at: row.created_at,
        next_at: schedule.next_at,
        waiting_slot_at: row.waiting_slot,
        missed: models::MissedSlots {
            count: row.missed,
            reason: last_reason,
        },
        slots: Some(schedule.slots.into_iter().map(slot_on_wire).collect()),
        intent,
        run,
    }
}

fn slot_on_wire(slot: ScheduleSlot) -> models::ScheduleSlot {
    let told = models::ScheduleSlot {
        slot_at: slot.at,
        outcome: String::new(),
        workflow_id: None,
        status: None,
        fired_at: None,
        count: None,
        last_slot_at: None,
    };
    match slot.outcome {
        Outcome::Fired {
            workflow_id,
            status,
            fired_at,
            how,
        } => models::ScheduleSlot {
            outcome: how.to_owned(),
            workflow_id: Some(workflow_id),
            status: Some(status_on_wire(status)),
            fired_at: Some(fired_at),
            ..told
        },
        Outcome::Missed {
            last,
            count,
            reason,
        } => models::ScheduleSlot {
            outcome: reason.as_str().to_owned(),
            count: Some(count),
            last_slot_at: Some(last),
            ..told
        },
    }
}

fn run_of_wire(run: models::RunTemplate) -> StartRun {
    StartRun {
        queue_partition_key: run.queue_partition_key.map(String::from),
        recipe_name: run.recipe_name.map(String::from),
        recipe_version: run.recipe_version.0,
        workload: run.workload.map(|w| AskedWorkload {
            concurrency: w.concurrency.0,
            steps: w.steps.0,
            sandbox_minutes: w.sandbox_minutes.0,
        }),
        priority: run.priority.0,
        timeout_ms: run.timeout_ms.0,
        tenant_id: run.tenant_id.map(String::from),
        ..StartRun::default()
    }
}

fn template_on_wire(template: Template) -> (models::IntentTemplate, models::RunTemplate) {
    let run = template.run;
    let intent = models::IntentTemplate {
        goal: Text(template.goal),
        inputs: Given(Some(template.inputs.into_iter().collect())),
        constraints: Given(Some(template.constraints.into_iter().collect())),
        connectors: Given(
            template
                .connectors
                .map(|list| list.into_iter().map(Text).collect()),
        ),
    };
    let run = models::RunTemplate {
        queue_partition_key: Given(run.queue_partition_key.map(Text)),
        recipe_name: Given(run.recipe_name.map(Text)),
        recipe_version: Given(run.recipe_version),
        workload: Given(run.workload.map(|w| models::Workload {
            concurrency: Given(w.concurrency),
            steps: Given(w.steps),
            sandbox_minutes: Given(w.sandbox_minutes),
        })),
        priority: Given(run.priority),
        timeout_ms: Given(run.timeout_ms),
        tenant_id: Given(run.tenant_id.map(Text)),
    };
    (intent, run)
}

fn catch_up_of_wire(catch_up: models::CatchUp) -> CatchUp {
    match catch_up {
        models::CatchUp::All => CatchUp::All,
        models::CatchUp::Latest => CatchUp::Latest,
        models::CatchUp::None => CatchUp::None,
    }
}

fn overlap_of_wire(overlap: models::Overlap) -> Overlap {
    match overlap {
        models::Overlap::Allow => Overlap::Allow,
        models::Overlap::Skip => Overlap::Skip,
        models::Overlap::QueueOne => Overlap::QueueOne,
        models::Overlap::CancelRunning => Overlap::CancelRunning,
    }
}
