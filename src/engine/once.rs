//! Owns the one-shot worker: a process that comes, does what is due, and goes. It looks first, in two statements; only where there is something
//! to do does it register. It claims until a part of its time is used, hands executions back at their next boundary, and cuts what is left.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Instrument;

use super::{
    EngineBuilder, EngineError, Parts,
    driver::Ended,
    migrate,
    pace::Pace,
    schedule::scheduler::Scheduler,
    worker::{Incarnation, Reprieve, Worker},
};
use crate::store::{
    StoreError,
    backend::jitter,
    claims::{Charge, Claimer},
    one_shot::{self, Left, Look},
    waits,
};

/// How much one invocation may do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// When the invocation began.
    pub started: Instant,
    /// How long it may last, its end included.
    pub time: Duration,
    /// How many workflows it may claim; a woken one counts again. None does not limit.
    pub jobs: Option<u64>,
}

impl Budget {
    /// What is kept back for the end: a fifth, at least half a second, at most ten.
    fn margin(&self) -> Duration {
        (self.time / 5).clamp(Duration::from_millis(500), Duration::from_secs(10))
    }

    /// From here on nothing is claimed, and executions end at their next boundary.
    fn claims_end(&self) -> Instant {
        self.started + self.time.saturating_sub(self.margin())
    }

    /// Whatever still runs here is dropped and handed back.
    fn cut(&self) -> Instant {
        self.started + self.time.saturating_sub(self.margin() / 2)
    }

    /// How long an idle invocation may look at waits.
    fn reconciling_ends(&self) -> Instant {
        self.started + self.time / 10
    }
}

/// What an invocation has done, and what it leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Workflows claimed; one that was suspended and woken counts again.
    pub claimed: u64,
    /// Those that succeeded.
    pub completed: u64,
    /// Those that wait in the database now.
    pub suspended: u64,
    /// Those that ended in an error.
    pub failed: u64,
    /// Those that were handed back: at a boundary, or cut at the end.
    pub released: u64,
    /// Workflows of this version that are queued or due.
    pub backlog: u64,
    /// When it is worth coming again, epoch milliseconds: now while something is due; none when nothing is known.
    pub next_wake_at: Option<i64>,
    /// Whether something is due that its queue would let run, or a step was left for want of time.
    pub work_left: bool,
    /// Whether nothing was due, so that nothing was done.
    pub idle: bool,
}

impl Summary {
    fn of(tally: Tally, left: Left) -> Self {
        let Tally {
            claimed,
            completed,
            suspended,
            failed,
            released,
            unfit,
        } = tally;
        Self {
            claimed,
            completed,
            suspended,
            failed,
            released,
            backlog: left.backlog,
            next_wake_at: left.next_wake_at,
            work_left: left.open > 0 || unfit,
            idle: false,
        }
    }
}

/// How the executions of an incarnation have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) claimed: u64,
    pub(super) completed: u64,
    pub(super) suspended: u64,
    pub(super) failed: u64,
    pub(super) released: u64,
    /// Whether a step was not started because it declares more time than was left.
    pub(super) unfit: bool,
}

impl Tally {
    /// Counts an execution. One that was dropped is counted when its claim is handed back; one that was cancelled, or lost, is nobody's.
    pub(super) fn count(&mut self, ended: Option<Ended>) {
        match ended {
            Some(Ended::Completed) => self.completed += 1,
            Some(Ended::Failed) => self.failed += 1,
            Some(Ended::Suspended) => self.suspended += 1,
            Some(Ended::Yielded | Ended::Released) => self.released += 1,
            Some(Ended::Stopped) | None => {}
        }
    }
}

/// The earlier of two times that may not be known.
fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

/// Why an invocation stopped to claim.
enum Over {
    /// Nothing is due, or another process declared this one dead.
    Done,
    /// The time for claims is used.
    Spent,
    /// Somebody wants the process to end.
    Interrupted,
}

impl EngineBuilder {
    /// Does what is due within `budget`, or until `stop` resolves, and answers what it did. Overlapping invocations are normal: each has an id
    /// of its own, and every write its fence. Where nothing is due this is two statements, one of them for the schedules, and two more per further
    /// round of the reconciler.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the database does not answer, and [`EngineError::Schema`] when it cannot be brought up to date.
    pub async fn run_once(
        self,
        budget: Budget,
        stop: impl Future<Output = ()>,
    ) -> Result<Summary, EngineError> {
        let next_slot = self.fire_due().await?;
        let look = match self.look().await {
            // Tables that are not there yet: the first invocation makes them.
            Err(StoreError::Database(_)) => {
                migrate(&self.db).await?;
                self.look().await?
            }
            look => look?,
        };
        if !look.is_due() && !self.finds_waits(&look, &budget).await? {
            let left = Left {
                next_wake_at: earlier(look.next_wake_at(), next_slot),
                ..Left::default()
            };
            return Ok(Summary {
                idle: true,
                ..Summary::of(Tally::default(), left)
            });
        }
        migrate(&self.db).await?;
        let claimer = self.claimer();
        let (db, queues, expiry_ms) = (
            self.db.clone(),
            self.options.queue_names(),
            self.options.executor_expiry_ms,
        );
        let Parts {
            worker,
            mut helpers,
            ..
        } = self.assemble(Pace::until(budget.started, budget.cut()));
        let tally = worker.once(&budget, stop).await;
        helpers.shutdown().await;
        let tally = tally?;
        let left = one_shot::left(&db.read(), &claimer, &queues, expiry_ms).await?;
        let left = Left {
            next_wake_at: earlier(left.next_wake_at, next_slot),
            ..left
        };
        Ok(Summary::of(tally, left))
    }

    /// Fires the slots of schedules that are due; answers when the next one is.
    async fn fire_due(&self) -> Result<Option<i64>, EngineError> {
        let (signals, clock) = (Arc::default(), Arc::default());
        let scheduler = Scheduler::of(&self.db, &self.options, &self.registry, &signals, &clock);
        let Some(scheduler) = scheduler else {
            return Ok(None);
        };
        match scheduler.fire_due().await {
            // Tables that are not there yet: the first invocation makes them.
            Err(StoreError::Database(_)) => {
                migrate(&self.db).await?;
                Ok(scheduler.fire_due().await?)
            }
            fired => Ok(fired?),
        }
    }

    /// As this process would claim, whatever its id. Rows without a version count as its own: who claims knows better.
    fn claimer(&self) -> Claimer {
        Claimer {
            executor_id: String::new(),
            app_version: self.options.app_version.clone(),
            newest_version: true,
            names: self.registry.names(),
            max_recovery_attempts: self.options.max_recovery_attempts,
        }
    }

    async fn look(&self) -> Result<Look, StoreError> {
        one_shot::look(
            &self.db.read(),
            &self.claimer(),
            &self.options.queue_names(),
            self.options.executor_expiry_ms,
        )
        .await
    }

    /// Whether a wait holds that nobody signalled. Where no process lives nobody else would find it.
    async fn finds_waits(&self, look: &Look, budget: &Budget) -> Result<bool, StoreError> {
        let mut from = String::new();
        let mut end = look.round_end.clone().filter(|_| look.executors == 0);
        // Of the first round the look has said whether there is any.
        let mut may_find = look.unsignalled;
        while let Some(to) = end {
            if may_find && waits::reconcile(&self.db.write(), &from, &to).await? > 0 {
                return Ok(true);
            }
            may_find = true;
            end = if look.more_rounds && Instant::now() < budget.reconciling_ends() {
                waits::round_end(&self.db.read(), &to).await?
            } else {
                None
            };
            from = to;
        }
        Ok(false)
    }
}

impl Worker {
    async fn once(
        self,
        budget: &Budget,
        stop: impl Future<Output = ()>,
    ) -> Result<Tally, StoreError> {
        let claimer = self.register().await?;
        let log = tracing::info_span!("executor", executor = claimer.executor_id);
        let mut life = Incarnation::new(claimer, budget.jobs, Reprieve::default());
        let over = self.work(&mut life, budget, stop).instrument(log).await;
        let (deadline, charge) = match over {
            Over::Done => (Instant::now(), Charge::Nothing),
            // What did not reach a boundary in a whole invocation may never do so: it counts, so that it is given up one day.
            Over::Spent => (budget.cut(), Charge::UnlessProgress),
            Over::Interrupted => (
                budget.cut().min(Instant::now() + self.options.grace),
                Charge::Nothing,
            ),
        };
        self.end(life, deadline, charge).await
    }

    /// Claims and executes until nothing is left that could be claimed now. The first heartbeat does what no daemon does here: it takes over
    /// the work of the dead, lets time pass, and reconciles a round.
    async fn work(
        &self,
        life: &mut Incarnation,
        budget: &Budget,
        stop: impl Future<Output = ()>,
    ) -> Over {
        let mut stop = pin!(stop);
        let mut claims_end = pin!(tokio::time::sleep_until(budget.claims_end()));
        loop {
            life.count_ended();
            let before = life.tally.claimed;
            let pause = match self.look_and_claim(life).await {
                Ok(true) => self.until_beat(life).min(self.until_due(life)),
                Ok(false) => return Over::Done,
                Err(error) => {
                    error.warn("could not look for work; trying again");
                    jitter(Duration::from_millis(200))
                }
            };
            if life.tasks.is_empty() && life.tally.claimed == before {
                // What the last executions have made due is marked by now, or nothing was.
                self.committer.quiet().await;
                if !life.may_claim() || !self.signals.any() {
                    return Over::Done;
                }
            }
            tokio::select! {
                () = self.signals.hinted() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = life.tasks.join_next() => life.tally.count(ended.ok()),
                () = &mut claims_end => return Over::Spent,
                () = &mut stop => return Over::Interrupted,
            }
        }
    }

    /// Beats if it is time, and claims what is hinted at. False when another process declared this one dead.
    async fn look_and_claim(&self, life: &mut Incarnation) -> Result<bool, StoreError> {
        if (self.until_beat(life).is_zero() || self.is_due(life)) && !self.pulse(life).await? {
            return Ok(false);
        }
        let hints = self.hints(life);
        if let Err(error) = self.claim_round(life, &hints).await {
            self.signals.put_back(hints);
            life.doubt();
            return Err(error);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_time_is_kept_for_the_end() {
        let budget = |seconds| Budget {
            started: Instant::now(),
            time: Duration::from_secs(seconds),
            jobs: None,
        };
        for (seconds, claims, cut) in [(1, 500, 750), (5, 4_000, 4_500), (60, 50_000, 55_000)] {
            let budget = budget(seconds);
            let after = |at: Instant| (at - budget.started).as_millis();
            assert_eq!(
                (after(budget.claims_end()), after(budget.cut())),
                (claims, cut)
            );
        }
    }

    #[test]
    fn every_end_is_counted_once() {
        let mut tally = Tally::default();
        for ended in [
            Ended::Completed,
            Ended::Failed,
            Ended::Suspended,
            Ended::Yielded,
            Ended::Released,
            Ended::Stopped,
        ] {
            tally.count(Some(ended));
        }
        tally.count(None);
        let expected = Tally {
            claimed: 0,
            completed: 1,
            failed: 1,
            suspended: 1,
            released: 2,
            unfit: false,
        };
        assert_eq!(tally, expected);
    }
}
