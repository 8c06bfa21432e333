//! Owns the loop of a process that executes: heartbeat, claims, and the tasks that run what was claimed.

mod claiming;
mod fronts;
mod reprieve;
mod running;
mod stopping;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::Instrument;

use fronts::Fronts;
pub(super) use reprieve::Reprieve;
use running::Running;

use super::{
    EngineOptions,
    clock::Clock,
    committer::Committer,
    context::Context,
    driver::{Ended, drive},
    once::Tally,
    pace::{Pace, Phase},
    reconciler::Reconciler,
    signals::{ANY_QUEUE, Hints, Signals},
    trace::waited_for,
    vitals::Vitals,
    workflow::Registry,
};
use crate::{
    store::{
        Database, StoreError,
        backend::{jitter, retrying},
        cancellations,
        claims::{self, Charge, Claimed, Claimer},
        executors::{self, Pulse},
        queue_settings,
        turns::Turn,
        workflows::{self, StepRow},
    },
    telemetry::instruments::{CLAIMS, EXECUTIONS, RECOVERIES, WAIT_SECONDS},
};

/// How often the heart beats; with nothing to do it is all that the database hears.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The executing half of an engine.
pub(super) struct Worker {
    pub(super) db: Database,
    pub(super) options: EngineOptions,
    pub(super) registry: Registry,
    pub(super) signals: Arc<Signals>,
    pub(super) clock: Arc<Clock>,
    pub(super) committer: Committer,
    /// What commits; it ends when everything handed in is answered and nobody can hand in more.
    pub(super) committers: Vec<JoinHandle<()>>,
    pub(super) pace: Arc<Pace>,
    pub(super) vitals: Vitals,
    pub(super) phase: watch::Receiver<Phase>,
}

/// One life of the process under one executor id.
pub(super) struct Incarnation {
    claimer: Claimer,
    running: Running,
    pub(super) tasks: JoinSet<Ended>,
    pub(super) tally: Tally,
    /// How many more workflows may be claimed; none counts them.
    pub(super) jobs_left: Option<u64>,
    limited: BTreeSet<String>,
    limited_read: Option<Instant>,
    last_pulse: Option<Instant>,
    reprieve: Reprieve,
    last_sweep: Instant,
    last_round: Option<Instant>,
    /// Queues of which a limit let less start than there may be.
    blocked: BTreeSet<String>,
    /// Where the turns of each limited queue stand.
    turns: HashMap<String, Turn>,
    reconciler: Reconciler,
    fronts: Fronts,
    /// A claim ended in an error: it may stand in the database without anybody executing it.
    suspect: bool,
    /// The next time at which something is due that nobody signals, epoch milliseconds.
    next_due: Option<i64>,
}

impl Worker {
    /// Runs until told to stop, under a new executor id each time this one is declared dead. Then lets what runs finish for `grace` and
    /// hands the rest back.
    /// `entering` is let go once the process is registered.
    pub(super) async fn run(self, entering: mpsc::Sender<()>) {
        let mut entering = Some(entering);
        let mut phase = self.phase.clone();
        let mut reprieve = Reprieve::default();
        while *phase.borrow() < Phase::Stopping {
            let claimer = match self.register().await {
                Ok(claimer) => claimer,
                Err(error) => {
                    error.warn("cannot register with the database yet");
                    tokio::select! {
                        () = tokio::time::sleep(jitter(HEARTBEAT)) => {}
                        _ = phase.changed() => {}
                    }
                    continue;
                }
            };
            drop(entering.take());
            let mut life = Incarnation::new(claimer, None, reprieve);
            let log = tracing::info_span!("executor", executor = life.claimer.executor_id);
            self.live(&mut life).instrument(log).await;
            if *phase.borrow() == Phase::Stopping {
                let deadline = Instant::now() + self.options.grace;
                // What went wrong is said already.
                let _ = self.end(life, deadline, Charge::Nothing).await;
                return;
            }
            tracing::warn!(
                executor = life.claimer.executor_id,
                "declared dead by another process; starting again under a new id"
            );
            reprieve = life.reprieve;
            life.tasks.shutdown().await;
        }
    }

    pub(super) async fn register(&self) -> Result<Claimer, StoreError> {
        let executor_id = format!(
            "{}-{}",
            self.options.hostname,
            uuid::Uuid::new_v4().simple()
        );
        let version = &self.options.app_version;
        retrying(|| async {
            let tx = self.db.begin().await?;
            executors::register(&tx, &executor_id, version, &self.options.hostname).await?;
            queue_settings::ensure(&tx, &self.options.queues).await?;
            tx.commit().await
        })
        .await?;
        let newest_version = executors::is_newest_version(&self.db.read(), version).await?;
        self.signals.put_back(Hints {
            due: true,
            queues: [ANY_QUEUE.to_owned()].into(),
            ..Hints::default()
        });
        Ok(Claimer {
            executor_id,
            app_version: version.clone(),
            newest_version,
            names: self.registry.names(),
            max_recovery_attempts: self.options.max_recovery_attempts,
        })
    }

    /// Beats, claims and starts until told to stop or declared dead.
    async fn live(&self, life: &mut Incarnation) {
        let mut phase = self.phase.clone();
        while *phase.borrow() < Phase::Stopping {
            life.count_ended();
            if life.last_pulse.is_none_or(|at| at.elapsed() >= self.beat()) || self.is_due(life) {
                match self.pulse(life).await {
                    Ok(true) => self.vitals.say_reachable(true),
                    Ok(false) => return,
                    Err(error) => {
                        self.vitals.say_reachable(false);
                        error.warn("the heart could not beat; trying again");
                        tokio::time::sleep(jitter(Duration::from_millis(500))).await;
                        continue;
                    }
                };
            }
            let hints = self.hints(life);
            if hints.cancelled
                && let Err(error) = self.interrupt_cancelled(life).await
            {
                tracing::debug!(%error, "could not look for cancelled workflows; the next heartbeat does");
            }
            if *phase.borrow() == Phase::Working
                && let Err(error) = self.claim_round(life, &hints).await
            {
                self.signals.put_back(hints);
                error.warn("a claim did not succeed");
                life.doubt();
                tokio::time::sleep(jitter(Duration::from_millis(100))).await;
            }
            tokio::select! {
                () = self.signals.hinted() => {}
                () = tokio::time::sleep(self.until_beat(life).min(self.until_due(life))) => {}
                _ = phase.changed() => {}
            }
        }
    }

    /// The time until the heart is to beat again.
    pub(super) fn until_beat(&self, life: &Incarnation) -> Duration {
        life.last_pulse.map_or(Duration::ZERO, |at| {
            self.beat().saturating_sub(at.elapsed())
        })
    }

    /// The time between two heartbeats: several fit into an expiry.
    fn beat(&self) -> Duration {
        HEARTBEAT.min(Duration::from_millis(
            self.options.executor_expiry_ms.unsigned_abs() / 4,
        ))
    }

    pub(super) fn until_due(&self, life: &Incarnation) -> Duration {
        match life.next_due {
            Some(at) => {
                Duration::from_millis(u64::try_from(at - self.clock.now()).unwrap_or(0).max(1))
            }
            None => HEARTBEAT,
        }
    }

    pub(super) fn is_due(&self, life: &Incarnation) -> bool {
        life.next_due.is_some_and(|at| at <= self.clock.now())
    }

    /// Beats and learns what there is to do. False when this incarnation was declared dead.
    pub(super) async fn pulse(&self, life: &mut Incarnation) -> Result<bool, StoreError> {
        let queues = self.options.queue_names();
        let expiry = self.options.executor_expiry_ms;
        let pulse = retrying(|| async {
            executors::pulse(
                &self.db.write(),
                &life.claimer.executor_id,
                &queues,
                expiry,
                life.reconciler.from(),
            )
            .await
        })
        .await?;
        let Some(pulse) = pulse else { return Ok(false) };
        let has_beaten = life.last_pulse.replace(Instant::now()).is_some();
        self.clock.set(pulse.now);
        life.reprieve.beat(pulse.now, expiry);
        self.signals.others_live(pulse.executors > 1);
        self.signals
            .schedules_changed(pulse.schedules_changed_at.or(Some(0)));
        if pulse.expired > 0
            || life.last_sweep.elapsed() >= Duration::from_millis(expiry.unsigned_abs())
        {
            life.last_sweep = Instant::now();
            if life.reprieve.is_over(pulse.now) {
                let taken_over = executors::bury_expired(&self.db, expiry).await?;
                RECOVERIES.add(&["expired"], taken_over);
                if taken_over > 0 {
                    self.signals.due();
                }
            }
            self.release_unheld(life).await?;
            life.claimer.newest_version =
                executors::is_newest_version(&self.db.read(), &life.claimer.app_version).await?;
        }
        let timed = pulse
            .next_delay
            .into_iter()
            .chain(pulse.next_deadline)
            .min();
        let mut hints = hints_of(&pulse);
        if timed.is_some_and(|at| at <= pulse.now) {
            let started = executors::pass_delays(&self.db, &life.claimer.names).await?;
            let late = cancellations::pass_deadlines(&self.db).await?;
            if started > 0 || !late.is_empty() {
                hints.queues.insert(ANY_QUEUE.to_owned());
                hints.due = true;
                self.signals.cancelled();
            }
        }
        // Behind what lets time pass: what was delayed is as old as the front that it comes into.
        // Not at the start: an invocation that does what is due and goes has no use for it.
        if pulse.queued && has_beaten {
            let queues = self.options.queue_names();
            life.fronts
                .look(&self.db, &life.claimer, queues, &self.signals);
        }
        let leads = pulse.leader.as_deref() == Some(life.claimer.executor_id.as_str());
        if leads && life.last_round.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
            life.last_round = Some(Instant::now());
            let found = life
                .reconciler
                .round(&self.db, pulse.round_end, pulse.cancelled_elsewhere, expiry)
                .await?;
            hints.due |= found.due;
            if found.cancelled {
                self.signals.cancelled();
            }
        }
        self.interrupt_cancelled(life).await?;
        // A process is dead a moment after its expiry, and its work is taken over then, not with the next heartbeat.
        let next_death = pulse
            .next_expiry
            .map(|at| (at + 1).max(life.reprieve.until()));
        life.next_due = [pulse.next_due, timed, next_death]
            .into_iter()
            .flatten()
            .filter(|at| *at > pulse.now)
            .min();
        self.signals.put_back(hints);
        Ok(true)
    }

    /// Interrupts executions whose workflow is no longer theirs, if there are any that may be interrupted.
    async fn interrupt_cancelled(&self, life: &Incarnation) -> Result<(), StoreError> {
        if !life.running.any_may_be_interrupted() {
            return Ok(());
        }
        for claim in claims::stopped(&self.db.read(), &life.claimer.executor_id).await? {
            life.running.interrupt(&claim.token);
        }
        Ok(())
    }

    /// Releases claims that carry this executor's id and that nobody here executes: the answer to their transaction was lost.
    async fn release_unheld(&self, life: &mut Incarnation) -> Result<(), StoreError> {
        let held = claims::held_by(&self.db.read(), &life.claimer.executor_id).await?;
        let unheld: Vec<_> = held
            .into_iter()
            .filter(|claim| !life.running.holds(&claim.token))
            .collect();
        if !unheld.is_empty() {
            let tx = self.db.begin().await?;
            let released = claims::release(&tx, &unheld, Charge::UnlessProgress).await?;
            tx.commit().await?;
            RECOVERIES.add(&["unheld"], released);
            self.signals.due();
        }
        life.suspect = false;
        Ok(())
    }

    /// Starts a task for each claimed workflow.
    async fn start(&self, life: &mut Incarnation, claimed: Vec<Claimed>) -> Result<(), StoreError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let replayed: Vec<&str> = claimed
            .iter()
            .filter(|c| c.outputs > 0)
            .map(|c| c.workflow.workflow_uuid.as_str())
            .collect();
        let mut recorded: HashMap<String, Vec<StepRow>> = HashMap::new();
        if !replayed.is_empty() {
            for row in workflows::steps(&self.db.read(), &replayed).await? {
                recorded
                    .entry(row.workflow_uuid.clone())
                    .or_default()
                    .push(row);
            }
        }
        for claimed in claimed {
            let id = claimed.workflow.workflow_uuid.clone();
            let Some(workflow) = self.registry.get(&claimed.workflow.name) else {
                continue;
            };
            let interrupt = life.running.enter(&claimed.token);
            life.tally.claimed += 1;
            life.jobs_left = life.jobs_left.map(|left| left.saturating_sub(1));
            self.vitals.one_more();
            EXECUTIONS.add(&[], 1);
            let slot = Slot {
                running: life.running.clone(),
                signals: Arc::clone(&self.signals),
                vitals: self.vitals.clone(),
                token: claimed.token.clone(),
                limited: life.limited.get(&claimed.workflow.queue_name).cloned(),
            };
            measure(&claimed, self.clock.now());
            let log = tracing::info_span!(
                "workflow",
                workflow = id,
                executor = life.claimer.executor_id,
                run = tracing::field::Empty,
                trace_id = tracing::field::Empty,
                span_id = tracing::field::Empty
            );
            let steps = recorded.remove(&id).unwrap_or_default();
            let context = Context::new(
                claimed,
                steps,
                self.db.clone(),
                Arc::clone(&self.clock),
                interrupt,
                Arc::clone(&self.pace),
                self.options.app_version.clone(),
            );
            let committer = self.committer.clone();
            let executor = life.claimer.executor_id.clone();
            let execution = async move {
                let ended = drive(workflow.as_ref(), &context, &committer).await;
                tracing::debug!(workflow = context.workflow_id(), ?ended, "left");
                if ended == Ended::Stopped {
                    tracing::info!(
                        workflow = context.workflow_id(),
                        "stopped: cancelled, or claimed by another process"
                    );
                }
                context
                    .spans
                    .ended(&context.claimed.workflow, &executor, ended);
                drop(slot);
                ended
            };
            life.tasks.spawn(execution.instrument(log));
        }
        Ok(())
    }
}

impl Incarnation {
    pub(super) fn new(claimer: Claimer, jobs: Option<u64>, reprieve: Reprieve) -> Self {
        Self {
            claimer,
            running: Running::default(),
            tasks: JoinSet::new(),
            tally: Tally::default(),
            jobs_left: jobs,
            limited: BTreeSet::new(),
            limited_read: None,
            last_pulse: None,
            reprieve,
            last_sweep: Instant::now(),
            last_round: None,
            blocked: BTreeSet::new(),
            turns: HashMap::new(),
            reconciler: Reconciler::new(),
            fronts: Fronts::default(),
            suspect: false,
            next_due: None,
        }
    }

    /// Whether one more workflow may be claimed.
    pub(super) fn may_claim(&self) -> bool {
        self.jobs_left != Some(0)
    }

    /// A claim ended in an error: it may stand in the database.
    pub(super) fn doubt(&mut self) {
        self.suspect = true;
    }

    /// Counts the executions that have ended since the last look.
    pub(super) fn count_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.tally.count(ended.ok());
        }
    }
}

/// Counts a claim, and the wait that it ends.
fn measure(claimed: &Claimed, now: i64) {
    let workflow = &claimed.workflow;
    let origin = if workflow.woken { "woken" } else { "queued" };
    CLAIMS.add(&[&workflow.queue_name, origin], 1);
    if let Some(since) = workflow.waiting_since {
        WAIT_SECONDS.observe_ms(&[waited_for(workflow)], now - since);
    }
}

fn hints_of(pulse: &Pulse) -> Hints {
    let queues = if pulse.queued {
        [ANY_QUEUE.to_owned()].into()
    } else {
        BTreeSet::new()
    };
    Hints {
        due: pulse.next_due.is_some_and(|at| at <= pulse.now),
        queues,
        ..Hints::default()
    }
}

/// A place in the process for one execution; dropping it, however the task ends, frees it.
struct Slot {
    running: Running,
    signals: Arc<Signals>,
    vitals: Vitals,
    token: String,
    /// The queue, where it has limits: another process may have been blocked by this execution.
    limited: Option<String>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.running.leave(&self.token);
        self.vitals.one_less();
        EXECUTIONS.add(&[], -1);
        self.signals.ended(self.limited.as_deref());
    }
}
