//! Owns hints that there is something to do: within this process, and between processes by `LISTEN`/`NOTIFY` or a look at SQLite's data
//! version. A hint that is lost costs time, never work.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sea_orm::{ConnectionTrait, sqlx};
use tokio::sync::{Notify, watch};

use crate::store::{Database, backend::statement, waits};

/// The channel on which our processes tell each other.
const CHANNEL: &str = "stepwell";
/// The channel on which DBOS's trigger tells of messages.
const DBOS_CHANNEL: &str = "dbos_notifications_channel";
/// The payload that says that a suspended workflow is due.
const DUE: &str = "due";
/// The payload that says that workflows were cancelled; no queue's name.
const CANCELLED: &str = "*cancelled";
/// The shortest time between two notifications of one process.
const NOTIFY_EVERY: Duration = Duration::from_millis(10);
/// How often a process looks whether another one has written to its SQLite file, while another one lives.
const DATA_VERSION_EVERY: Duration = Duration::from_millis(100);
/// How long to wait before listening again after the connection broke.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// How long nothing may be heard before the connection that listens is asked whether it lives, and how long it may take to say so.
const LISTEN_LOOK: Duration = Duration::from_secs(30);
const LISTEN_ANSWER: Duration = Duration::from_secs(5);

/// What there may be to do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Hints {
    /// Whether suspended workflows may be due.
    pub(super) due: bool,
    /// The queues that may have work.
    pub(super) queues: BTreeSet<String>,
    /// Whether an execution has ended here.
    pub(super) ended: bool,
    /// Whether workflows in execution may have been cancelled.
    pub(super) cancelled: bool,
    /// When the next suspended workflow is due that nobody was told of, epoch milliseconds.
    pub(super) due_at: Option<i64>,
}

impl Hints {
    pub(super) fn is_empty(&self) -> bool {
        !self.due && self.queues.is_empty()
    }
}

/// The hints of this process, and the wish to tell the others.
#[derive(Debug, Default)]
pub(super) struct Signals {
    hints: Mutex<Hints>,
    here: Notify,
    outgoing: Mutex<BTreeSet<String>>,
    there: Notify,
    /// Whether another process lives.
    others: AtomicBool,
    /// When a schedule was last created, paused or resumed, as far as this process knows.
    schedules: watch::Sender<i64>,
}

impl Signals {
    /// Suspended workflows may be due.
    pub(super) fn due(&self) {
        self.hint(|hints| hints.due = true);
        self.tell(DUE);
    }

    /// A suspended workflow is due at `at`.
    pub(super) fn due_at(&self, at: i64) {
        self.hint(|hints| hints.due_at = hints.due_at.into_iter().chain([at]).min());
    }

    /// `queue` has work.
    pub(super) fn queued(&self, queue: &str) {
        self.hint(|hints| {
            hints.queues.insert(queue.to_owned());
        });
        self.tell(queue);
    }

    /// An execution has ended here, in a queue whose limits another process may have met.
    pub(super) fn ended(&self, limited: Option<&str>) {
        self.hint(|hints| hints.ended = true);
        if let Some(queue) = limited {
            self.tell(queue);
        }
    }

    /// Workflows in execution may have been cancelled.
    pub(super) fn cancelled(&self) {
        self.hint(|hints| hints.cancelled = true);
        self.tell(CANCELLED);
    }

    /// Schedules were changed by this process, or by any at `at`, epoch milliseconds.
    pub(super) fn schedules_changed(&self, at: Option<i64>) {
        self.schedules.send_if_modified(|known| match at {
            Some(at) if at <= *known => false,
            Some(at) => {
                *known = at;
                true
            }
            None => true,
        });
    }

    /// Changes of schedules from now on.
    pub(super) fn schedules(&self) -> watch::Receiver<i64> {
        self.schedules.subscribe()
    }

    /// Wakes the loop of this process: there is more of what was put back.
    pub(super) fn again(&self) {
        self.here.notify_one();
    }

    /// Remembers what could not be done yet, without waking anybody.
    pub(super) fn put_back(&self, put: Hints) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        hints.due |= put.due;
        hints.ended |= put.ended;
        hints.cancelled |= put.cancelled;
        hints.queues.extend(put.queues);
        hints.due_at = hints.due_at.into_iter().chain(put.due_at).min();
    }

    /// Whether there is anything to do that was not taken yet.
    pub(super) fn any(&self) -> bool {
        !self
            .hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    pub(super) fn take(&self) -> Hints {
        std::mem::take(&mut *self.hints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until there is a hint.
    pub(super) async fn hinted(&self) {
        self.here.notified().await;
    }

    pub(super) fn others_live(&self, live: bool) {
        self.others.store(live, Ordering::Relaxed);
    }

    fn hint(&self, change: impl FnOnce(&mut Hints)) {
        change(&mut self.hints.lock().unwrap_or_else(PoisonError::into_inner));
        self.here.notify_one();
    }

    fn tell(&self, what: &str) {
        if self.others.load(Ordering::Relaxed) {
            self.outgoing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(what.to_owned());
            self.there.notify_one();
        }
    }
}

/// Tells other processes, at most every [`NOTIFY_EVERY`], in transactions of their own: a `NOTIFY` inside another transaction would hold a
/// lock of the whole database until its commit.
pub(super) async fn tell_others(db: Database, signals: Arc<Signals>) {
    loop {
        signals.there.notified().await;
        let payloads = std::mem::take(
            &mut *signals
                .outgoing
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for payload in payloads {
            notify(&db, &payload).await;
        }
        tokio::time::sleep(NOTIFY_EVERY).await;
    }
}

/// Tells other processes at once that suspended workflows are due: for one that will not be there to tell them later.
pub(super) async fn tell_due(db: &Database) {
    notify(db, DUE).await;
}

/// Tells other processes now that `queue` may start more, and that suspended workflows may be due.
pub(super) async fn tell_now(db: &Database, queue: &str) {
    for payload in [queue, DUE] {
        notify(db, payload).await;
    }
}

async fn notify(db: &Database, payload: &str) {
    if db.is_sqlite() {
        return;
    }
    let write = db.write();
    let values = [CHANNEL.into(), payload.into()];
    let told = write
        .execute_raw(statement(&write, "SELECT pg_notify($1, $2)", values))
        .await;
    if let Err(error) = told {
        tracing::debug!(%error, "could not notify; the others poll");
    }
}

/// Listens to other processes until the task is aborted. `url` may name another way to the same database where a pooler stands between.
pub(super) async fn listen(db: Database, signals: Arc<Signals>, url: Option<String>) {
    loop {
        let ended = match db.postgres_pool() {
            Some(pool) => listen_on_postgres(&db, pool, &signals, url.as_deref()).await,
            None => watch_sqlite(&db, &signals).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "lost the connection that listens");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn listen_on_postgres(
    db: &Database,
    pool: &sqlx::PgPool,
    signals: &Signals,
    url: Option<&str>,
) -> Result<(), sqlx::Error> {
    let mut listener = match url {
        Some(url) => sqlx::postgres::PgListener::connect(url).await?,
        None => sqlx::postgres::PgListener::connect_with(pool).await?,
    };
    listener.listen_all([CHANNEL, DBOS_CHANNEL]).await?;
    // What happened before the connection stood was told to nobody.
    signals.hint(|hints| hints.due = true);
    loop {
        let notification = match tokio::time::timeout(LISTEN_LOOK, listener.recv()).await {
            Ok(notification) => notification?,
            // A connection that was forgotten on its way hears nothing and says nothing for ever. An empty statement has no row in any
            // statistics.
            Err(_) => {
                let asked = sqlx::raw_sql("").execute(&mut listener);
                let answered = tokio::time::timeout(LISTEN_ANSWER, asked).await;
                answered.map_err(|late| sqlx::Error::Io(late.into()))??;
                continue;
            }
        };
        let payload = notification.payload();
        match (notification.channel(), payload) {
            (CHANNEL, DUE) => signals.hint(|hints| hints.due = true),
            (CHANNEL, CANCELLED) => signals.hint(|hints| hints.cancelled = true),
            (CHANNEL, queue) => signals.hint(|hints| {
                hints.queues.insert(queue.to_owned());
            }),
            (_, message) => {
                let destination = message.split("::").next().unwrap_or_default();
                match waits::look(&db.write(), &[destination]).await {
                    Ok(0) => {}
                    Ok(_) => signals.hint(|hints| hints.due = true),
                    Err(error) => {
                        tracing::debug!(%error, "could not look at the wait of a message; the reconciler will")
                    }
                }
            }
        }
    }
}

async fn watch_sqlite(db: &Database, signals: &Signals) -> Result<(), sqlx::Error> {
    let Some(pool) = db.sqlite_pool() else {
        return Ok(());
    };
    // The version is counted per connection, so it is always the same one that asks.
    let mut connection = pool.acquire().await?;
    let mut seen = 0_i64;
    loop {
        tokio::time::sleep(DATA_VERSION_EVERY).await;
        if !signals.others.load(Ordering::Relaxed) {
            continue;
        }
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *connection)
            .await?;
        if version != seen {
            seen = version;
            signals.hint(|hints| {
                hints.due = true;
                hints.cancelled = true;
                hints.queues.insert(ANY_QUEUE.to_owned());
            });
        }
    }
}

/// In the place of a queue's name: all of them.
pub(super) const ANY_QUEUE: &str = "*";
