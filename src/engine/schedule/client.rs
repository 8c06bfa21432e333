//! Owns what people ask of schedules: create, pause, resume, trigger, delete. Each is one transaction with the schedule's rows locked.

use super::{
    Slots,
    firing::{new_workflow, retrying_engine},
    slots_of,
};
use crate::{
    engine::{Client, EngineError},
    store::{
        StoreError,
        backend::{Transaction, retrying},
        schedules::{self, Left, Missed, NewSchedule, ScheduleRow, ScheduleStatus, Skipped},
        workflows,
    },
};

impl Client {
    /// Stores a schedule; false when there is one of its name. It fires from now on.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn create_schedule(&self, new: &NewSchedule) -> Result<bool, EngineError> {
        let created = retrying(|| async {
            let tx = self.database().begin().await?;
            if schedules::insert(&tx, new).await? {
                tx.commit().await?;
                Ok(true)
            } else {
                tx.rollback().await?;
                Ok(false)
            }
        })
        .await?;
        if created {
            self.schedules_changed();
        }
        Ok(created)
    }

    /// Stops a schedule from firing. False when there is no such schedule.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn pause_schedule(&self, name: &str) -> Result<bool, EngineError> {
        self.change_schedule(name, |tx, row| async move {
            if row.status == ScheduleStatus::Active {
                schedules::set_status(&tx, &row.schedule_name, ScheduleStatus::Paused).await?;
            }
            Ok(tx)
        })
        .await
    }

    /// Lets a schedule fire again, from now on: slots that came while it was paused are noted and not made up for. On a schedule that is not
    /// paused this puts right one that a jump of the clock has led ahead of the time. False when there is no such schedule.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn resume_schedule(&self, name: &str) -> Result<bool, EngineError> {
        self.change_schedule(name, |tx, row| async move {
            if let Ok(slots) = slots_of(&row) {
                let paused = row.status == ScheduleStatus::Paused;
                pass_over(&tx, &row, &slots, paused).await?;
            }
            schedules::set_status(&tx, &row.schedule_name, ScheduleStatus::Active).await?;
            Ok(tx)
        })
        .await
    }

    /// Deletes a schedule; what it has started stays. False when there is no such schedule.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn delete_schedule(&self, name: &str) -> Result<bool, EngineError> {
        self.change_schedule(name, |tx, row| async move {
            schedules::delete(&tx, &row.schedule_name).await?;
            Ok(tx)
        })
        .await
    }

    /// Starts now what a schedule starts, whatever its times, policies and status say. Answers the workflow's id; none when there is no
    /// such schedule.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn trigger_schedule(&self, name: &str) -> Result<Option<String>, EngineError> {
        let started = retrying_engine(|| async {
            let tx = self.database().begin().await?;
            let Some(row) = schedules::lock(&tx, name).await? else {
                return Ok(None);
            };
            let id = format!("sched-{name}-trigger-{}", schedules::iso(row.now));
            let workflow = new_workflow(&row, id, row.now, self.app_version(), None)?;
            workflows::insert(&tx, std::slice::from_ref(&workflow)).await?;
            tx.commit().await?;
            Ok(Some(workflow))
        })
        .await?;
        Ok(started.map(|workflow| {
            self.queued(&workflow.queue_name);
            workflow.id
        }))
    }

    /// Changes a schedule with its rows locked; false when there is none.
    async fn change_schedule<F, Fut>(&self, name: &str, change: F) -> Result<bool, EngineError>
    where
        F: Fn(Transaction, ScheduleRow) -> Fut,
        Fut: Future<Output = Result<Transaction, StoreError>>,
    {
        let changed = retrying(|| async {
            let tx = self.database().begin().await?;
            let Some(row) = schedules::lock(&tx, name).await? else {
                return Ok(false);
            };
            change(tx, row).await?.commit().await?;
            Ok(true)
        })
        .await?;
        if changed {
            self.schedules_changed();
        }
        Ok(changed)
    }
}

/// Moves a schedule to now: no slot before now is open any more. Those that it did not fire because it was paused are noted.
async fn pass_over(
    tx: &Transaction,
    row: &ScheduleRow,
    slots: &Slots,
    paused: bool,
) -> Result<(), StoreError> {
    let open = slots.newest(row.decided(), row.now);
    let last = match open {
        Some(_) if !paused => None,
        Some(slot) => Some(slot),
        // The clock was ahead when it was last decided.
        None if row.decided() > row.now => slots.newest(i64::MIN / 2, row.now),
        None => None,
    };
    let Some(last) = last else { return Ok(()) };
    schedules::set_decided(tx, &row.schedule_name, last).await?;
    let skipped: Vec<Skipped> = if paused {
        slots
            .run(row.decided(), last, Missed::Paused)
            .into_iter()
            .collect()
    } else {
        Vec::new()
    };
    let left = Left {
        waiting_slot: row.waiting_slot,
        passed_at: Some(last),
        fired_at: row.last_fired(),
    };
    schedules::leave(tx, &row.schedule_name, &left, &skipped).await
}
