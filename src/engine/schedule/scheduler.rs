//! Owns the task that knows when schedules are to be looked at. It keeps the next slot of each in memory, asks the database nothing until one
//! is due, and hears of new schedules by the heartbeat. Any number of processes may do this at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{DEFAULT_WINDOW_MS, firing::look, slots_of};
use crate::{
    engine::{
        EngineError, EngineOptions, Firing, clock::Clock, pace::Phase, signals::Signals,
        workflow::Registry,
    },
    store::{
        Database, StoreError,
        backend::{jitter, retrying},
        schedules::{self, NewSchedule, ScheduleRow},
    },
};

/// How often the clock is looked at while nothing is due: it may have been set.
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// The pause after the database did not answer.
const AGAIN_MS: i64 = 1_000;

/// Fires schedules whose workflows this process knows.
#[derive(Clone)]
pub(in crate::engine) struct Scheduler {
    pub(in crate::engine) db: Database,
    pub(in crate::engine) signals: Arc<Signals>,
    pub(in crate::engine) clock: Arc<Clock>,
    pub(in crate::engine) app_version: String,
    /// The names registered here: a slot whose workflow nobody here can run is somebody else's.
    pub(in crate::engine) names: Vec<String>,
    /// The schedules of the program itself, stored when they are not there.
    pub(in crate::engine) built_in: Vec<NewSchedule>,
}

/// When each schedule is to be looked at, by the database's clock.
type Looks = BTreeMap<String, i64>;

impl Scheduler {
    /// Fires until told to stop, also after a panic: a schedule that has silently stopped is the worst of all. `entering` is let go once the
    /// schedules of the program itself are there.
    pub(in crate::engine) async fn run(
        self,
        phase: watch::Receiver<Phase>,
        entering: mpsc::Sender<()>,
    ) {
        let mut entering = Some(entering);
        let mut tasks = JoinSet::new();
        loop {
            tasks.spawn(self.clone().fire(phase.clone(), entering.take()));
            match tasks.join_next().await {
                Some(Err(panicked)) if *phase.borrow() == Phase::Working => {
                    tracing::error!(%panicked, "the scheduler stopped; it starts again");
                    tokio::time::sleep(CLOCK_EVERY).await;
                }
                _ => return,
            }
        }
    }

    /// What fires the schedules of a process with these options, if it fires any.
    pub(in crate::engine) fn of(
        db: &Database,
        options: &EngineOptions,
        registry: &Registry,
        signals: &Arc<Signals>,
        clock: &Arc<Clock>,
    ) -> Option<Self> {
        let Firing::On(built_in) = &options.schedules else {
            return None;
        };
        Some(Self {
            db: db.clone(),
            signals: Arc::clone(signals),
            clock: Arc::clone(clock),
            app_version: options.app_version.clone(),
            names: registry.names(),
            built_in: built_in.clone(),
        })
    }

    /// Fires what is due, once, for a process that does not stay; answers when to look again. Where nothing is due this is one statement.
    pub(in crate::engine) async fn fire_due(&self) -> Result<Option<i64>, StoreError> {
        let known = schedules::all(&self.db.read()).await?;
        if let Some(row) = known.first() {
            self.clock.set(row.now);
        }
        let next = self.looks(&known).into_values().min();
        if self.missing(&known).is_empty() && next.is_none_or(|at| at > self.clock.now()) {
            return Ok(next);
        }
        let mut looks = self.read().await?;
        self.round(&mut looks).await;
        Ok(looks.into_values().min())
    }

    /// The schedules of the program itself that are not there.
    fn missing(&self, known: &[ScheduleRow]) -> Vec<&NewSchedule> {
        let lacks = |new: &&NewSchedule| known.iter().all(|row| row.schedule_name != new.name);
        self.built_in.iter().filter(lacks).collect()
    }

    fn looks(&self, rows: &[ScheduleRow]) -> Looks {
        rows.iter()
            .filter(|row| self.names.contains(&row.workflow_name))
            .filter_map(|row| Some((row.schedule_name.clone(), first_look(row)?)))
            .collect()
    }

    async fn fire(self, mut phase: watch::Receiver<Phase>, mut entering: Option<mpsc::Sender<()>>) {
        let mut changed = self.signals.schedules();
        let mut looks: Option<Looks> = None;
        while *phase.borrow() == Phase::Working {
            if changed.has_changed().unwrap_or(false) || looks.is_none() {
                changed.mark_unchanged();
                match self.read().await {
                    Ok(read) => {
                        looks = Some(read);
                        drop(entering.take());
                    }
                    Err(error) => {
                        error.warn("cannot read the schedules yet");
                        changed.mark_changed();
                        tokio::time::sleep(jitter(CLOCK_EVERY)).await;
                        continue;
                    }
                }
            }
            let next = match &mut looks {
                Some(looks) => {
                    self.round(looks).await;
                    looks.values().min().copied()
                }
                None => None,
            };
            let until = next.map_or(CLOCK_EVERY, |at| {
                Duration::from_millis(u64::try_from(at - self.clock.now()).unwrap_or(0))
            });
            tokio::select! {
                () = tokio::time::sleep(until.min(CLOCK_EVERY)) => {}
                _ = changed.changed() => changed.mark_changed(),
                _ = phase.changed() => {}
            }
        }
    }

    /// Reads all schedules, those of the program included.
    async fn read(&self) -> Result<Looks, StoreError> {
        let rows = retrying(|| async {
            let known = schedules::all(&self.db.read()).await?;
            let missing = self.missing(&known);
            schedules::adopt(&self.db.write(), DEFAULT_WINDOW_MS).await?;
            for new in missing {
                let tx = self.db.begin().await?;
                schedules::insert(&tx, new).await?;
                tx.commit().await?;
            }
            schedules::all(&self.db.read()).await
        })
        .await?;
        Ok(self.looks(&rows))
    }

    /// Looks at every schedule that is due, until none is.
    async fn round(&self, looks: &mut Looks) {
        loop {
            let now = self.clock.now();
            let due: Vec<String> = looks
                .iter()
                .filter(|(_, at)| **at <= now)
                .map(|(name, _)| name.clone())
                .collect();
            if due.is_empty() {
                return;
            }
            for name in due {
                match self.look_at(&name).await {
                    Ok(Some(next)) => looks.insert(name, next),
                    Ok(None) => looks.remove(&name),
                    Err(error) => {
                        match error {
                            EngineError::Store(error) => {
                                error.warn("a schedule could not be looked at");
                            }
                            error => {
                                tracing::warn!(schedule = name, %error, "a schedule could not be looked at");
                            }
                        }
                        looks.insert(name, now + AGAIN_MS)
                    }
                };
            }
        }
    }

    /// Fires what is due of one schedule, and answers when to look again.
    async fn look_at(&self, name: &str) -> Result<Option<i64>, EngineError> {
        let looked = look(&self.db, &self.app_version, name).await?;
        if let Some(now) = looked.now {
            self.clock.set(now);
        }
        for queue in &looked.queues {
            self.signals.queued(queue);
        }
        if !looked.cancelled.is_empty() {
            self.signals.due();
        }
        if looked.started > 0 {
            tracing::debug!(schedule = name, started = looked.started, "fired");
        }
        Ok(looked.next)
    }
}

/// When a schedule that was just read is to be looked at: at its first open slot, which may be long past, or now if one waits.
fn first_look(row: &ScheduleRow) -> Option<i64> {
    match slots_of(row) {
        Ok(_) if row.waiting_slot.is_some() => Some(row.now),
        Ok(slots) => slots.next_after(row.decided()),
        Err(error) => {
            tracing::warn!(schedule = row.schedule_name, %error, "a schedule makes no sense and does not fire");
            None
        }
    }
}
