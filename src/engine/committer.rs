//! Owns group commit: whatever waits when the previous transaction returns goes into the next one. No artificial delay.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use super::{
    limits, points,
    signals::{ANY_QUEUE, Signals},
};
use crate::{
    store::{
        Database, StoreError,
        backend::{jitter, persist, retrying},
        checkpoints::{self, Checkpoint, Ending, Verdict},
        status::WorkflowStatus,
        waits::{self, Condition},
    },
    telemetry::instruments::{COMMIT_BATCH, COMMIT_SECONDS, COMMITS, FENCED_WRITES},
};

/// What became of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Committed {
    /// The database said so.
    Verdict(Verdict),
    /// A constraint refused this one; nothing of it was written.
    Refused(String),
}

/// One checkpoint on its way.
#[derive(Debug)]
pub(super) struct Submission {
    checkpoint: Checkpoint,
    /// Who awaits this workflow, to be looked at when it ends.
    parent: Option<String>,
    reply: oneshot::Sender<Committed>,
}

/// Where checkpoints are handed in.
#[derive(Debug, Clone)]
pub(super) struct Committer {
    sender: mpsc::Sender<Submission>,
    looks: Arc<Looks>,
}

/// The batches that were answered, or are about to be, and whose look at the waits of others has not ended.
#[derive(Debug, Default)]
struct Looks {
    open: AtomicUsize,
    ended: Notify,
}

impl Committer {
    /// Starts `tasks` tasks that commit. They end when the last handle is dropped and everything handed in is answered.
    pub(super) fn start(
        db: &Database,
        signals: &Arc<Signals>,
        tasks: usize,
    ) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let (sender, receiver) = mpsc::channel(limits::COMMIT_QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        let looks = Arc::<Looks>::default();
        let handles = (0..tasks)
            .map(|_| {
                tokio::spawn(run(
                    db.clone(),
                    Arc::clone(signals),
                    Arc::clone(&receiver),
                    Arc::clone(&looks),
                ))
            })
            .collect();
        (Self { sender, looks }, handles)
    }

    /// Until whatever the answered checkpoints make due is marked and signalled.
    pub(super) async fn quiet(&self) {
        loop {
            let ended = self.looks.ended.notified();
            if self.looks.open.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Hands in a checkpoint; the answer comes when its transaction has ended.
    pub(super) async fn submit(
        &self,
        checkpoint: Checkpoint,
        parent: Option<String>,
    ) -> oneshot::Receiver<Committed> {
        let (reply, answer) = oneshot::channel();
        // A closed channel drops the reply, which the driver takes for a lost claim: the process is ending.
        let _ = self
            .sender
            .send(Submission {
                checkpoint,
                parent,
                reply,
            })
            .await;
        answer
    }
}

async fn run(
    db: Database,
    signals: Arc<Signals>,
    receiver: Arc<Mutex<mpsc::Receiver<Submission>>>,
    looks: Arc<Looks>,
) {
    loop {
        let mut batch = Vec::new();
        if receiver
            .lock()
            .await
            .recv_many(&mut batch, limits::COMMIT_BATCH)
            .await
            == 0
        {
            return;
        }
        looks.open.fetch_add(1, Ordering::AcqRel);
        let began = Instant::now();
        let verdicts = settle(
            &db,
            &batch.iter().map(|s| &s.checkpoint).collect::<Vec<_>>(),
        )
        .await;
        measure(began, &verdicts);
        let facts = Facts::of(&batch, &verdicts);
        for (submission, verdict) in batch.into_iter().zip(verdicts) {
            let _ = submission.reply.send(verdict);
        }
        facts.look(&db, &signals).await;
        looks.open.fetch_sub(1, Ordering::AcqRel);
        looks.ended.notify_waiters();
    }
}

#[allow(clippy::cast_precision_loss)] // a batch is small
fn measure(began: Instant, verdicts: &[Committed]) {
    COMMITS.add(&[], 1);
    COMMIT_SECONDS.observe(&[], began.elapsed().as_secs_f64());
    COMMIT_BATCH.observe(&[], verdicts.len() as f64);
    for verdict in verdicts {
        match verdict {
            Committed::Verdict(Verdict::Go) => {}
            Committed::Verdict(stopped) => FENCED_WRITES.add(&[stopped.as_str()], 1),
            Committed::Refused(_) => FENCED_WRITES.add(&["refused"], 1),
        }
    }
}

/// Commits `members`, however often it takes, and answers each one.
async fn settle(db: &Database, members: &[&Checkpoint]) -> Vec<Committed> {
    let mut pause = Duration::from_millis(20);
    loop {
        for member in members {
            points::before_commit(member);
        }
        let outcome = retrying(|| checkpoints::commit(db, members)).await;
        match outcome {
            Ok(verdicts) => {
                for member in members {
                    points::after_commit(member);
                }
                return verdicts.into_iter().map(Committed::Verdict).collect();
            }
            Err(StoreError::Refused(message)) if members.len() == 1 => {
                return vec![Committed::Refused(message)];
            }
            // One bad member must not fail its neighbours: halve the batch until it stands alone.
            Err(StoreError::Refused(_)) => {
                let (left, right) = members.split_at(members.len() / 2);
                let mut verdicts = Box::pin(settle(db, left)).await;
                verdicts.extend(Box::pin(settle(db, right)).await);
                return verdicts;
            }
            Err(error) => {
                error.warn("a commit did not succeed; looking again");
                tokio::time::sleep(jitter(pause)).await;
                pause = (pause * 2).min(Duration::from_secs(5));
                if matches!(error, StoreError::OutcomeUnknown(_)) && members.len() > 1 {
                    let mut verdicts = Vec::with_capacity(members.len());
                    for member in members {
                        verdicts.extend(Box::pin(settle_unknown(db, member)).await);
                    }
                    return verdicts;
                }
                if let (StoreError::OutcomeUnknown(_), [member]) = (&error, members) {
                    return Box::pin(settle_unknown(db, member)).await;
                }
            }
        }
    }
}

/// Settles a checkpoint that may have been committed. Where it was not it is handed in again, and then the fence decides.
async fn settle_unknown(db: &Database, member: &Checkpoint) -> Vec<Committed> {
    let written = persist("read a checkpoint whose outcome is unknown", || {
        checkpoints::was_committed(db, member)
    })
    .await;
    if written {
        vec![Committed::Verdict(Verdict::Go)]
    } else {
        settle(db, &[member]).await
    }
}

/// What a batch changed that others may wait for.
#[derive(Debug, Default)]
struct Facts {
    /// Workflows whose own wait may hold: suspenders, receivers, parents of the ended.
    waiting: BTreeSet<String>,
    /// Workflows that set an event.
    event_setters: BTreeSet<String>,
    /// Queues that got work.
    queues: BTreeSet<String>,
    /// When the next of the suspended is due, epoch milliseconds.
    next_due: Option<i64>,
    /// Whether something is due already.
    due: bool,
}

impl Facts {
    fn of(batch: &[Submission], verdicts: &[Committed]) -> Self {
        let mut facts = Self::default();
        for (submission, verdict) in batch.iter().zip(verdicts) {
            match verdict {
                Committed::Verdict(Verdict::Go) => {
                    facts.add(&submission.checkpoint, submission.parent.as_deref());
                }
                // It may have been resumed already, and its old claim was all that kept it in its queue.
                Committed::Verdict(Verdict::KeptStop) => {
                    facts.queues.insert(ANY_QUEUE.to_owned());
                }
                Committed::Verdict(Verdict::Lost) | Committed::Refused(_) => {}
            }
        }
        facts
    }

    fn add(&mut self, checkpoint: &Checkpoint, parent: Option<&str>) {
        self.queues.extend(
            checkpoint
                .children
                .iter()
                .map(|child| child.queue_name.clone()),
        );
        self.queues
            .extend(checkpoint.put_back.iter().map(|child| child.queue.clone()));
        self.waiting.extend(
            checkpoint
                .messages
                .iter()
                .map(|message| message.destination.clone()),
        );
        if !checkpoint.events.is_empty() {
            self.event_setters.insert(checkpoint.workflow_id.clone());
        }
        match &checkpoint.ending {
            Some(Ending::Completed {
                status: WorkflowStatus::Success | WorkflowStatus::Error,
                ..
            }) => {
                self.waiting.extend(parent.map(str::to_owned));
            }
            Some(Ending::Suspended(wait)) => {
                if wait
                    .conditions
                    .iter()
                    .any(|c| !matches!(c, Condition::Time { .. } | Condition::Mismatch { .. }))
                {
                    self.waiting.insert(checkpoint.workflow_id.clone());
                }
                self.next_due = self.next_due.into_iter().chain(wait.due_at()).min();
                self.due |= wait.conditions.is_empty();
            }
            Some(Ending::Yielded { delay_ms: 0 }) => self.due = true,
            _ => {}
        }
    }

    /// Looks at the waits that may hold now. The facts are committed: whoever suspends after this look sees them in its own.
    async fn look(self, db: &Database, signals: &Signals) {
        let mut due = self.due;
        let ids = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
        for (set, watchers) in [
            (ids(&self.waiting), false),
            (ids(&self.event_setters), true),
        ] {
            if set.is_empty() {
                continue;
            }
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let looked = retrying(|| async {
                if watchers {
                    waits::look_at_watchers(&db.write(), &set).await
                } else {
                    waits::look(&db.write(), &set).await
                }
            })
            .await;
            match looked {
                Ok(found) => due |= found > 0,
                Err(error) => error.warn("could not look at waits; the reconciler will"),
            }
        }
        points::reached(points::Point::AfterLook, "");
        if due {
            signals.due();
        }
        if let Some(at) = self.next_due {
            signals.due_at(at);
        }
        for queue in self.queues {
            signals.queued(&queue);
        }
    }
}
