//! Owns group commit: whatever waits when the previous transaction returns goes into the next one. No artificial delay.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot},
    task::JoinSet,
};

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

/// The pauses between two tries: the first one, the longest while the database is away, and the longest of what waits aside.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_ASIDE: Duration = Duration::from_secs(30);

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
    // No more than there are executions: each hands in one at a time.
    let mut aside = JoinSet::new();
    loop {
        let mut batch = Vec::new();
        if receiver
            .lock()
            .await
            .recv_many(&mut batch, limits::COMMIT_BATCH)
            .await
            == 0
        {
            while aside.join_next().await.is_some() {}
            return;
        }
        while aside.try_join_next().is_some() {}
        for submission in commit(&db, &signals, &looks, batch).await {
            aside.spawn(insist(
                db.clone(),
                Arc::clone(&signals),
                Arc::clone(&looks),
                submission,
            ));
        }
    }
}

/// Commits `batch`, answers it, and looks at what it made due. Gives back those that the database answers oddly: they wait aside, not their
/// neighbours with them.
async fn commit(
    db: &Database,
    signals: &Signals,
    looks: &Looks,
    batch: Vec<Submission>,
) -> Vec<Submission> {
    looks.open.fetch_add(1, Ordering::AcqRel);
    let began = Instant::now();
    let settled = settle(db, &batch.iter().map(|s| &s.checkpoint).collect::<Vec<_>>()).await;
    let (mut odd, mut answered) = (Vec::new(), Vec::with_capacity(batch.len()));
    for (submission, settled) in batch.into_iter().zip(settled) {
        match settled {
            Ok(committed) => answered.push((submission, committed)),
            Err(error) => {
                let workflow = &submission.checkpoint.workflow_id;
                tracing::warn!(workflow, %error, "a checkpoint cannot be written; trying again by itself");
                odd.push(submission);
            }
        }
    }
    measure(began, &answered);
    let facts = Facts::of(&answered);
    for (submission, committed) in answered {
        let _ = submission.reply.send(committed);
    }
    facts.look(db, signals).await;
    looks.open.fetch_sub(1, Ordering::AcqRel);
    looks.ended.notify_waiters();
    odd
}

/// Hands in `submission` by itself until the database carries it out, and once more when nobody waits for that any more: an error that no retry mends keeps a
/// workflow where an operator can see it, rather than ending it with the wrong result.
async fn insist(
    db: Database,
    signals: Arc<Signals>,
    looks: Arc<Looks>,
    mut submission: Submission,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let is_last = tokio::select! {
            () = tokio::time::sleep(jitter(pause)) => false,
            // Its process ends: a body that has ended is to be recorded if that can be done by now.
            () = submission.reply.closed() => true,
        };
        pause = (pause * 2).min(LONGEST_ASIDE);
        match commit(&db, &signals, &looks, vec![submission]).await.pop() {
            Some(left) if !is_last => submission = left,
            _ => return,
        }
    }
}

#[allow(clippy::cast_precision_loss)] // a batch is small
fn measure(began: Instant, answered: &[(Submission, Committed)]) {
    COMMITS.add(&[], 1);
    COMMIT_SECONDS.observe(&[], began.elapsed().as_secs_f64());
    COMMIT_BATCH.observe(&[], answered.len() as f64);
    for (_, committed) in answered {
        match committed {
            Committed::Verdict(Verdict::Go) => {}
            Committed::Verdict(stopped) => FENCED_WRITES.add(&[stopped.as_str()], 1),
            Committed::Refused(_) => FENCED_WRITES.add(&["refused"], 1),
        }
    }
}

/// Commits `members`, as often as it takes while the database is away or others stand in the way, and answers each one; with an error
/// where neither a moment nor the data explains it, like a table that is not there.
async fn settle(db: &Database, members: &[&Checkpoint]) -> Vec<Result<Committed, StoreError>> {
    let mut pause = FIRST_PAUSE;
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
                return verdicts
                    .into_iter()
                    .map(|verdict| Ok(Committed::Verdict(verdict)))
                    .collect();
            }
            // One bad member must not fail its neighbours, nor hold them up: halve the batch until it stands alone.
            Err(error) if !error.is_transient() && members.len() > 1 => {
                let (left, right) = members.split_at(members.len() / 2);
                let mut settled = Box::pin(settle(db, left)).await;
                settled.extend(Box::pin(settle(db, right)).await);
                return settled;
            }
            Err(StoreError::Refused(message)) => return vec![Ok(Committed::Refused(message))],
            Err(error) if !error.is_transient() => return vec![Err(error)],
            Err(error) => {
                error.warn("a commit did not succeed; looking again");
                tokio::time::sleep(jitter(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                if matches!(error, StoreError::OutcomeUnknown(_)) {
                    let mut settled = Vec::with_capacity(members.len());
                    for member in members {
                        settled.extend(Box::pin(settle_unknown(db, member)).await);
                    }
                    return settled;
                }
            }
        }
    }
}

/// Settles a checkpoint that may have been committed. Where it was not it is handed in again, and then the fence decides.
async fn settle_unknown(db: &Database, member: &Checkpoint) -> Vec<Result<Committed, StoreError>> {
    const GO: Committed = Committed::Verdict(Verdict::Go);
    if is_written(db, member).await {
        return vec![Ok(GO)];
    }
    let settled = settle(db, &[member]).await;
    match settled.as_slice() {
        // The COMMIT may have been under way still, unseen by the first look. The fence has waited for it since, and what it met then is this
        // member's own record, or the end that it wanted.
        [Ok(Committed::Refused(_) | Committed::Verdict(Verdict::Lost))]
            if is_written(db, member).await =>
        {
            vec![Ok(GO)]
        }
        _ => settled,
    }
}

async fn is_written(db: &Database, member: &Checkpoint) -> bool {
    persist("read a checkpoint whose outcome is unknown", || {
        checkpoints::was_committed(db, member)
    })
    .await
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
    fn of(answered: &[(Submission, Committed)]) -> Self {
        let mut facts = Self::default();
        for (submission, committed) in answered {
            match committed {
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
