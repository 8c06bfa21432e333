//! Owns schedules as users know them: an intent template and when it is started. What fires them is the engine's.

use chrono::{DateTime, SecondsFormat};
use chrono_tz::Tz;

use super::{
    IntentError, Product, SCHEDULE_QUEUE, Template,
    scheduled_run::{ScheduledRun, prepare},
    size,
    tick::Tick,
};
use crate::{
    engine::{
        Workflow,
        schedule::{
            DEFAULT_WINDOW_MS, Slots, Timing, TimingError, context_in, context_text, slot_in,
            slots_of,
        },
    },
    store::{
        schedules::{
            self, CatchUp, FiredRow, Missed, NewSchedule as ScheduleRows, Overlap, ScheduleRow,
            ScheduleStatus, SkippedRow,
        },
        status::WorkflowStatus,
    },
};

/// The name of the built-in schedule.
const TICK: &str = "tick";
/// The last part of the ids that [`Product::trigger_schedule`] gives: a schedule of this name would share them.
const TRIGGER_SUFFIX: &str = "-trigger";
/// Slots told of one schedule.
const SLOTS_TOLD: u32 = 20;
/// How late a slot may be and still count as fired in time.
const LATE_MS: i64 = 60_000;

/// The schedules that the program brings along: a tick at second 0 and 30, caught up for a day.
pub fn built_in_schedules() -> Vec<ScheduleRows> {
    vec![ScheduleRows {
        name: TICK.into(),
        workflow_name: Tick::NAME.into(),
        schedule: "*/30 * * * * *".into(),
        timezone: Some("UTC".into()),
        every_ms: None,
        context: r#"{"json":null,"__dbos_serializer":"superjson"}"#.into(),
        queue_name: SCHEDULE_QUEUE.into(),
        status: ScheduleStatus::Active,
        catch_up: CatchUp::All,
        window_ms: DEFAULT_WINDOW_MS,
        overlap: Overlap::Allow,
        jitter_ms: 0,
        starts_at: None,
        ends_at: None,
        queue_partition_key: None,
        priority: 0,
        built_in: true,
    }]
}

/// A schedule that somebody wants.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name.
    pub name: String,
    /// The cron pattern.
    pub cron: Option<String>,
    /// The interval in milliseconds, instead of a pattern.
    pub every_ms: Option<i64>,
    /// The IANA zone of the pattern; UTC by default.
    pub timezone: Option<String>,
    /// What is made up for.
    pub catch_up: CatchUp,
    /// How far back, milliseconds; a day by default.
    pub window_ms: Option<i64>,
    /// What happens while the one before still runs.
    pub overlap: Overlap,
    /// Milliseconds by which a start may be put off.
    pub jitter_ms: i64,
    /// No slot before it, epoch milliseconds.
    pub starts_at: Option<i64>,
    /// No slot after it, epoch milliseconds.
    pub ends_at: Option<i64>,
    /// Whether it waits until it is resumed.
    pub paused: bool,
    /// What each slot wants done.
    pub template: Template,
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its rows.
    pub row: ScheduleRow,
    /// Its times, for people.
    pub description: String,
    /// The next slot; none when it is paused or has ended.
    pub next_at: Option<i64>,
    /// What each slot wants done; none for a schedule of the program itself.
    pub template: Option<Template>,
    /// Its last slots, newest first, where one schedule is read.
    pub slots: Vec<ScheduleSlot>,
}

/// What became of a slot, or of a run of slots.
#[derive(Debug, Clone)]
pub struct ScheduleSlot {
    /// The slot; of a run its first. Epoch milliseconds.
    pub at: i64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a slot.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It started a workflow.
    Fired {
        /// The workflow.
        workflow_id: String,
        /// Where that stands.
        status: WorkflowStatus,
        /// When it was started, epoch milliseconds.
        fired_at: i64,
        /// Whether that was in time, late, or because somebody said so.
        how: &'static str,
    },
    /// It did not fire, nor did those up to `last`.
    Missed {
        /// The last of them, epoch milliseconds.
        last: i64,
        /// How many.
        count: i64,
        /// Why.
        reason: Missed,
    },
}

/// A page of schedules.
#[derive(Debug, Clone)]
pub struct SchedulePage {
    /// Newest first.
    pub items: Vec<Schedule>,
    /// Where the next page begins; none at the end.
    pub next: Option<(i64, String)>,
}

/// A slot to come.
#[derive(Debug, Clone)]
pub struct PreviewedSlot {
    /// Epoch milliseconds.
    pub at: i64,
    /// In the schedule's zone, ISO 8601.
    pub local: String,
}

impl PreviewedSlot {
    /// The slot at `at`, as a clock in `zone` shows it.
    pub fn new(at: i64, zone: Option<&str>) -> Self {
        let zone: Tz = zone.and_then(|zone| zone.parse().ok()).unwrap_or(Tz::UTC);
        let local = DateTime::from_timestamp_millis(at)
            .unwrap_or_default()
            .with_timezone(&zone)
            .to_rfc3339_opts(SecondsFormat::Secs, true);
        Self { at, local }
    }
}

impl Product {
    /// Stores a schedule, which fires from now on.
    ///
    /// # Errors
    /// [`IntentError::Invalid`] where its times or its template make no sense, [`IntentError::Conflict`] when its name is taken.
    pub async fn create_schedule(&self, new: NewSchedule) -> Result<Schedule, IntentError> {
        self.executing()?;
        let slots = slots_asked(&new)?;
        if slots.next_after(self.now().await?).is_none() {
            return Err(invalid(
                "the schedule never fires: its last slot lies before now",
            ));
        }
        if new.name.ends_with(TRIGGER_SUFFIX) {
            return Err(invalid(format!(
                "the name of a schedule must not end in {TRIGGER_SUFFIX}"
            )));
        }
        // As each slot does it: a template is refused here that no slot could start a run of.
        let slot = prepare(self.db(), self.partition_required, &new.name, &new.template).await?;
        size::check("what a slot of the schedule records", slot.size()?)?;
        let context = context_text(&new.template).map_err(crate::engine::EngineError::from)?;
        let stored = ScheduleRows {
            schedule: new
                .cron
                .clone()
                .unwrap_or_else(|| format!("@{}", slots.timing.in_words())),
            timezone: new
                .cron
                .as_ref()
                .map(|_| new.timezone.clone().unwrap_or_else(|| "UTC".into())),
            name: new.name.clone(),
            workflow_name: ScheduledRun::NAME.into(),
            every_ms: new.every_ms,
            context,
            queue_name: SCHEDULE_QUEUE.into(),
            status: if new.paused {
                ScheduleStatus::Paused
            } else {
                ScheduleStatus::Active
            },
            catch_up: new.catch_up,
            window_ms: new.window_ms.unwrap_or(DEFAULT_WINDOW_MS),
            overlap: new.overlap,
            jitter_ms: new.jitter_ms,
            starts_at: new.starts_at,
            ends_at: new.ends_at,
            queue_partition_key: new.template.run.queue_partition_key.clone(),
            priority: new.template.run.priority.unwrap_or(0),
            built_in: false,
        };
        if self.client.create_schedule(&stored).await? {
            return self.schedule(&new.name).await;
        }
        Err(IntentError::conflict(
            "schedule_exists",
            format!(
                "there is a schedule {:?} already; delete it first, or take another name",
                new.name
            ),
        ))
    }

    /// A page of schedules, newest first, without their slots.
    ///
    /// # Errors
    /// [`IntentError::Store`].
    pub async fn schedules(
        &self,
        after: Option<(i64, String)>,
        limit: u64,
    ) -> Result<SchedulePage, IntentError> {
        let mut rows = schedules::page(&self.db().read(), after.as_ref(), limit + 1).await?;
        let more = rows.len() as u64 > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| (row.created_at, row.schedule_name.clone()));
        Ok(SchedulePage {
            items: rows.into_iter().map(seen).collect(),
            next,
        })
    }

    /// One schedule with its last slots.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn schedule(&self, name: &str) -> Result<Schedule, IntentError> {
        let read = self.db().read();
        let row = schedules::find(&read, name)
            .await?
            .ok_or_else(|| not_found(name))?;
        let fired = schedules::fired(&read, name, SLOTS_TOLD).await?;
        let skipped = schedules::skipped(&read, name, SLOTS_TOLD).await?;
        Ok(Schedule {
            slots: slots_told(name, fired, skipped),
            ..seen(row)
        })
    }

    /// Stops a schedule from firing.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn pause_schedule(&self, name: &str) -> Result<Schedule, IntentError> {
        there(name, self.client.pause_schedule(name).await?)?;
        self.schedule(name).await
    }

    /// Lets a schedule fire again, from now on.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn resume_schedule(&self, name: &str) -> Result<Schedule, IntentError> {
        there(name, self.client.resume_schedule(name).await?)?;
        self.schedule(name).await
    }

    /// Deletes a schedule; what it has started stays.
    ///
    /// # Errors
    /// [`IntentError::NotFound`], [`IntentError::Conflict`] for one of the program itself.
    pub async fn delete_schedule(&self, name: &str) -> Result<(), IntentError> {
        let row = schedules::find(&self.db().read(), name).await?;
        if row.ok_or_else(|| not_found(name))?.built_in {
            return Err(IntentError::conflict(
                "schedule_built_in",
                format!("the schedule {name:?} is the program's own; pause it instead"),
            ));
        }
        there(name, self.client.delete_schedule(name).await?)
    }

    /// Starts now what a schedule starts; answers the workflow's id.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn trigger_schedule(&self, name: &str) -> Result<String, IntentError> {
        self.executing()?;
        let started = self.client.trigger_schedule(name).await?;
        started.ok_or_else(|| not_found(name))
    }

    /// The next `count` slots of a schedule, and what its times are called.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn preview_schedule(
        &self,
        name: &str,
        count: usize,
    ) -> Result<(String, Vec<PreviewedSlot>), IntentError> {
        let row = schedules::find(&self.db().read(), name)
            .await?
            .ok_or_else(|| not_found(name))?;
        let slots = slots_of(&row).map_err(|e| senseless(&e))?;
        let next = slots
            .preview(row.now.max(row.decided()), count)
            .into_iter()
            .map(|at| PreviewedSlot::new(at, row.cron_timezone.as_deref()))
            .collect();
        Ok((slots.timing.in_words(), next))
    }
}

/// The slots that somebody asks for.
fn slots_asked(new: &NewSchedule) -> Result<Slots, IntentError> {
    let timing = match (&new.cron, new.every_ms) {
        (Some(cron), None) => Timing::cron(cron, new.timezone.as_deref().unwrap_or("UTC")),
        (None, Some(_)) if new.timezone.is_some() => {
            return Err(invalid(
                "timezone belongs to cron; everyMS counts the time that passes",
            ));
        }
        (None, Some(every_ms)) => Timing::every(every_ms, new.starts_at.unwrap_or(0)),
        _ => return Err(invalid("give either cron or everyMS")),
    };
    if let (Some(starts_at), Some(ends_at)) = (new.starts_at, new.ends_at)
        && ends_at < starts_at
    {
        return Err(invalid("endAt lies before startAt"));
    }
    Ok(Slots {
        timing: timing.map_err(|e| senseless(&e))?,
        starts_at: new.starts_at,
        ends_at: new.ends_at,
    })
}

/// A schedule as its row shows it.
fn seen(row: ScheduleRow) -> Schedule {
    let slots = slots_of(&row);
    let active = row.status == ScheduleStatus::Active;
    let next = |slots: &Slots| slots.next_after(row.now.max(row.decided()));
    Schedule {
        description: match &slots {
            Ok(slots) => slots.timing.in_words(),
            Err(error) => error.to_string(),
        },
        next_at: slots.as_ref().ok().filter(|_| active).and_then(next),
        template: serde_json::from_value(context_in(&row.context)).ok(),
        slots: Vec::new(),
        row,
    }
}

/// What became of the last slots, newest first.
fn slots_told(name: &str, fired: Vec<FiredRow>, skipped: Vec<SkippedRow>) -> Vec<ScheduleSlot> {
    let fired = fired.into_iter().map(|row| {
        let slot = slot_in(name, &row.workflow_uuid);
        let at = slot.unwrap_or(row.created_at);
        let how = match slot {
            None => "triggered",
            Some(slot) if row.created_at - slot > LATE_MS => "fired_late",
            Some(_) => "fired",
        };
        ScheduleSlot {
            at,
            outcome: Outcome::Fired {
                workflow_id: row.workflow_uuid,
                status: row.status,
                fired_at: row.created_at,
                how,
            },
        }
    });
    let skipped = skipped.into_iter().map(|row| ScheduleSlot {
        at: row.first_slot,
        outcome: Outcome::Missed {
            last: row.last_slot,
            count: row.count,
            reason: row.reason,
        },
    });
    let mut told: Vec<ScheduleSlot> = fired.chain(skipped).collect();
    told.sort_by_key(|slot| std::cmp::Reverse(slot.at));
    told.truncate(SLOTS_TOLD as usize);
    told
}

fn invalid(message: impl Into<String>) -> IntentError {
    IntentError::invalid("schedule_invalid", message)
}

fn senseless(error: &TimingError) -> IntentError {
    invalid(error.to_string())
}

fn there(name: &str, found: bool) -> Result<(), IntentError> {
    if found { Ok(()) } else { Err(not_found(name)) }
}

fn not_found(name: &str) -> IntentError {
    IntentError::NotFound {
        what: "schedule",
        id: name.to_owned(),
    }
}
