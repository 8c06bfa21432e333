//! Owns a round of claims: which queues are asked, how many workflows they may give, and what is asked again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Incarnation, Worker};
use crate::{
    engine::{
        points::{Point, reached},
        signals::{ANY_QUEUE, Hints},
    },
    store::{
        StoreError,
        backend::retrying,
        candidates::{self, Candidate},
        claims::{self, Claimed, Taken},
        queue_limits,
        turns::{self, Choice, Wish},
    },
    telemetry::instruments::GIVEN_UP,
};

/// How old the list of limited queues may be.
const SETTINGS_AGE: Duration = Duration::from_secs(1);
/// Most workflows claimed in one transaction.
const CLAIM_BATCH: u64 = 500;

impl Worker {
    /// What there may be to do now. A queue that a limit had blocked is asked again when an execution has ended here.
    pub(in crate::engine) fn hints(&self, life: &mut Incarnation) -> Hints {
        let mut hints = self.signals.take();
        if let Some(at) = hints.due_at.take() {
            life.next_due = life.next_due.into_iter().chain([at]).min();
        }
        if std::mem::take(&mut hints.ended) && !life.blocked.is_empty() {
            hints.due = true;
            hints.queues.append(&mut life.blocked);
        }
        hints
    }

    /// Claims what the hints name, as far as slots and limits allow. What could not be claimed for want of a slot is hinted again.
    pub(in crate::engine) async fn claim_round(
        &self,
        life: &mut Incarnation,
        hints: &Hints,
    ) -> Result<(), StoreError> {
        if life.suspect {
            self.release_unheld(life).await?;
        }
        if hints.is_empty() {
            return Ok(());
        }
        let mut free = self.free_slots(life);
        if free == 0 {
            self.signals.put_back(hints.clone());
            return Ok(());
        }
        if life
            .limited_read
            .is_none_or(|at| at.elapsed() >= SETTINGS_AGE)
        {
            life.limited = queue_limits::limited(&self.db.read())
                .await?
                .into_iter()
                .collect();
            life.limited_read = Some(Instant::now());
        }
        let asked: Vec<String> = if hints.queues.contains(ANY_QUEUE) {
            self.options.queue_names()
        } else {
            self.options
                .queue_names()
                .into_iter()
                .filter(|queue| hints.queues.contains(queue))
                .collect()
        };
        let (limited, open): (Vec<String>, Vec<String>) = self
            .options
            .queue_names()
            .into_iter()
            .partition(|q| life.limited.contains(q));
        let mut again = Hints::default();
        let open_asked: Vec<&String> = asked.iter().filter(|queue| open.contains(queue)).collect();
        if hints.due || !open_asked.is_empty() {
            let (claimed, more) = self
                .claim_open(
                    life,
                    hints.due.then_some(&open),
                    &open_asked,
                    free.min(CLAIM_BATCH),
                )
                .await?;
            free = free.saturating_sub(claimed.len() as u64);
            again.due |= more.due;
            again.queues.extend(more.queues);
            self.start(life, claimed).await?;
        }
        for queue in limited {
            let asked = asked.contains(&queue);
            if !hints.due && !asked {
                continue;
            }
            if free == 0 {
                again.due |= hints.due;
                again.queues.insert(queue);
                continue;
            }
            let wish = Wish {
                queue: &queue,
                due: hints.due,
                slots: free.min(CLAIM_BATCH),
                front: life.fronts.of(&queue, &life.claimer),
            };
            let (claimed, choice) = self.claim_limited(life, wish).await?;
            free = free.saturating_sub(claimed.len() as u64);
            life.turns.insert(queue.clone(), choice.turn);
            if choice.blocked {
                life.blocked.insert(queue.clone());
            }
            if choice.more {
                again.due |= hints.due;
                again.queues.insert(queue);
            }
            self.start(life, claimed).await?;
        }
        if !again.is_empty() {
            self.signals.put_back(again);
            if free > 0 {
                self.signals.again();
            }
        }
        Ok(())
    }

    fn free_slots(&self, life: &Incarnation) -> u64 {
        let free = self.options.slots.saturating_sub(life.running.count()) as u64;
        free.min(life.jobs_left.unwrap_or(u64::MAX))
    }

    /// Claims from queues without limits: rows that somebody else has locked are passed over.
    async fn claim_open(
        &self,
        life: &Incarnation,
        due: Option<&Vec<String>>,
        queues: &[&String],
        limit: u64,
    ) -> Result<(Vec<Claimed>, Hints), StoreError> {
        retrying(|| async {
            let tx = self.db.begin().await?;
            let mut more = Hints::default();
            let mut found = Vec::new();
            if let Some(open) = due {
                found = candidates::lock_due(&tx, &life.claimer, open, limit).await?;
                more.due = found.len() as u64 == limit;
            }
            let woken = found.len();
            for queue in queues {
                let left = limit - found.len() as u64;
                if left == 0 {
                    more.queues.insert((*queue).clone());
                    continue;
                }
                let front = life.fronts.of(queue, &life.claimer);
                let queued =
                    candidates::lock_queued(&tx, &life.claimer, queue, left, front).await?;
                if queued.len() as u64 == left {
                    more.queues.insert((*queue).clone());
                }
                found.extend(queued);
            }
            claimable_at_point(woken, found.len());
            let Taken { claimed, given_up } = claims::take(&tx, &life.claimer, found, None).await?;
            tx.commit().await?;
            tell(&given_up);
            claimed_at_point(woken, claimed.len());
            Ok((claimed, more))
        })
        .await
    }

    /// Claims from a queue with limits, whose row is the lock: what is counted after it is true until the commit.
    async fn claim_limited(
        &self,
        life: &Incarnation,
        wish: Wish<'_>,
    ) -> Result<(Vec<Claimed>, Choice), StoreError> {
        let (claimer, queue) = (&life.claimer, wish.queue);
        let turn = life.turns.get(queue).cloned().unwrap_or_default();
        retrying(|| async {
            let tx = self.db.begin().await?;
            let Some(row) = queue_limits::lock(&tx, queue).await? else {
                return Ok((Vec::new(), Choice::default()));
            };
            let live =
                queue_limits::live(&tx, queue, &claimer.executor_id, row.takes_turns()).await?;
            let allowance = queue_limits::allowance(&row, &live, wish.slots);
            let mut choice =
                turns::choose(&tx, claimer, wish, &row, (&live, &allowance), &turn).await?;
            let found = std::mem::take(&mut choice.candidates);
            let (woken, started) = (choice.woken, found.len() - choice.woken);
            claimable_at_point(woken, found.len());
            let rated_at = allowance.rate_limited.then_some(live.now);
            let Taken { claimed, given_up } = claims::take(&tx, claimer, found, rated_at).await?;
            if allowance.rate_limited && started > 0 {
                queue_limits::spend(&tx, queue, &row, live.now, started).await?;
            }
            tx.commit().await?;
            tell(&given_up);
            if let Some(opens_at) = allowance.opens_at {
                self.signals.due_at(opens_at);
            }
            claimed_at_point(woken, claimed.len());
            Ok((claimed, choice))
        })
        .await
    }
}

/// Tells of workflows that have just ended because they were claimed too often without progress: nobody executes them, so nobody else does.
fn tell(given_up: &[Candidate]) {
    for workflow in given_up {
        GIVEN_UP.add(&[&workflow.name], 1);
        tracing::warn!(
            workflow = workflow.workflow_uuid,
            name = workflow.name,
            attempts = workflow.recovery_attempts,
            "given up: it was claimed too often without progress"
        );
    }
}

fn claimable_at_point(woken: usize, found: usize) {
    match (woken, found) {
        (_, 0) => {}
        (0, _) => reached(Point::BeforeClaim, ""),
        _ => reached(Point::BeforeWake, ""),
    }
}

fn claimed_at_point(woken: usize, claimed: usize) {
    match (woken, claimed) {
        (_, 0) => {}
        (0, _) => reached(Point::AfterClaim, ""),
        _ => reached(Point::AfterWake, ""),
    }
}
