//! Owns what this process knows of whether its database answers: the deadline of every call, the one line in the log per change, and the
//! connections that must not go back to the pool. Nobody else says in the log that the database is away.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, Connection},
};

use super::error::StoreError;

/// Longest a statement may take, waiting for the server included; then its connection is closed and the caller looks again. Kept on this
/// side because a pooler may refuse it as a session setting, and because a server that is gone keeps none.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest the begin or the end of a transaction may take, waiting for a connection included.
const BOUNDARY_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a connection may take to show that it lives.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);
/// How long a process that starts waits for its first connection before it says so: longer, and somebody wonders.
const SOON: Duration = Duration::from_secs(2);
/// How long no call may have failed before the database is said to answer again: a server that comes back does so for one connection after
/// the other, and one whose disk is full answers whoever reads. It doubles while the database comes and goes, up to the longest.
const QUIET: Duration = Duration::from_secs(1);
const LONGEST_QUIET: Duration = Duration::from_secs(60);
/// For how long connections are looked at on their way back to the pool after a call was given up: the one whose answer is still to come is
/// among them.
const SUSPICION: Duration = Duration::from_secs(5);

/// Whether the database answers, as far as calls have shown.
#[derive(Debug, Default)]
pub struct Reach {
    pooler: bool,
    away: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    away_since: Option<Instant>,
    back_at: Option<Instant>,
    quiet: Duration,
    missed: Option<Instant>,
    given_up: Option<Instant>,
}

impl Reach {
    /// Nothing has gone wrong yet. `pooler`: one stands between this process and its database.
    pub(super) fn new(pooler: bool) -> Self {
        Self {
            pooler,
            ..Self::default()
        }
    }

    pub(super) fn is_behind_a_pooler(&self) -> bool {
        self.pooler
    }

    /// Runs a statement, and remembers whether it was answered.
    pub(super) async fn statement<T>(
        &self,
        call: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        self.within(STATEMENT_TIMEOUT, call).await
    }

    /// Begins or ends a transaction, and remembers whether it was answered.
    pub(super) async fn boundary<T>(
        &self,
        call: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        self.within(BOUNDARY_TIMEOUT, call).await
    }

    /// Opens the pool, and says so when the database is not there soon. How long that may take is the caller's to know.
    pub(super) async fn opening<T>(
        &self,
        open: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let mut open = Box::pin(open);
        if let Ok(opened) = tokio::time::timeout(SOON, open.as_mut()).await {
            return opened;
        }
        self.missed(&no_answer_within(SOON));
        open.await
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let mut call = std::pin::pin!(call);
        // Dropped before the call, whoever drops them: then the call's connection is looked at on its way back.
        let given_up = GivenUp(Some(self));
        let answer = match tokio::time::timeout(deadline, call.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                let error = no_answer_within(deadline);
                self.missed(&error);
                return Err(error);
            }
        };
        given_up.not();
        match &answer {
            Err(error) => self.missed(error),
            Ok(_) => self.answered(),
        }
        answer
    }

    /// A call was not answered, or refused by a server that cannot serve.
    pub(super) fn missed(&self, error: &DbErr) {
        let StoreError::Connection(error) = StoreError::from(error.clone()) else {
            return;
        };
        let mut told = self.told();
        told.missed = Some(Instant::now());
        if told.away_since.is_none() {
            told.away_since = told.missed;
            told.quiet = match told.back_at {
                Some(at) if at.elapsed() < LONGEST_QUIET => (told.quiet * 2).min(LONGEST_QUIET),
                _ => QUIET,
            };
            self.away.store(true, Ordering::Relaxed);
            tracing::warn!(%error, "the database does not answer; trying again until it does");
        }
    }

    fn answered(&self) {
        if !self.away.load(Ordering::Relaxed) {
            return;
        }
        let mut told = self.told();
        if told.missed.is_some_and(|at| at.elapsed() < told.quiet) {
            return;
        }
        if let Some(since) = told.away_since.take() {
            told.back_at = Some(Instant::now());
            self.away.store(false, Ordering::Relaxed);
            let away_ms = since.elapsed().as_millis();
            tracing::warn!(away_ms, "the database answers again");
        }
    }

    /// Whether a connection that comes back may be one that never answers again.
    fn is_suspicious(&self) -> bool {
        let given_up = self.told().given_up;
        self.away.load(Ordering::Relaxed) || given_up.is_some_and(|at| at.elapsed() < SUSPICION)
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that has not ended yet.
struct GivenUp<'a>(Option<&'a Reach>);

impl GivenUp<'_> {
    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(reach) = self.0 {
            reach.told().given_up = Some(Instant::now());
        }
    }
}

/// The error of a call that was given up.
pub(super) fn no_answer_within(deadline: Duration) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!(
        "no answer within {} s",
        deadline.as_secs()
    )))
}

/// Makes a pool look at its connections with a deadline. Its own look has none: a connection that a proxy has silently forgotten, or whose
/// server stands still, would keep its place in the pool for ever.
pub(super) fn watch(
    pool: sqlx::pool::PoolOptions<sqlx::Postgres>,
    reach: &Arc<Reach>,
) -> sqlx::pool::PoolOptions<sqlx::Postgres> {
    let reach = Arc::clone(reach);
    pool.before_acquire(|connection, _| Box::pin(async { Ok(is_alive(connection).await) }))
        .after_release(move |connection, _| {
            let suspicious = reach.is_suspicious();
            Box::pin(async move { Ok(!suspicious || is_alive(connection).await) })
        })
}

/// Keeps a SQLite connection out of the pool that believes to be in a transaction. When a disk is full SQLite ends the transaction by itself, the
/// rollback that follows fails, and the driver goes on counting: the next transaction would be a savepoint in one that nobody commits, and what it
/// acknowledges would be lost.
pub(super) fn without_leftovers(
    pool: sqlx::pool::PoolOptions<sqlx::Sqlite>,
) -> sqlx::pool::PoolOptions<sqlx::Sqlite> {
    pool.after_release(|connection, _| {
        Box::pin(async move {
            // A rollback that is under way is over when this is answered.
            let answered = connection.ping().await.is_ok();
            Ok(answered && !connection.is_in_transaction())
        })
    })
}

async fn is_alive(connection: &mut sqlx::PgConnection) -> bool {
    matches!(
        tokio::time::timeout(ALIVE_WITHIN, connection.ping()).await,
        Ok(Ok(()))
    )
}

#[cfg(test)]
mod tests {
    use sea_orm::ConnectionTrait;

    use crate::store::{Database, DatabaseOptions, backend};

    #[tokio::test]
    async fn a_full_disk_leaves_no_transaction_behind() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("full.db").display());
        let db = Database::connect(&DatabaseOptions::new(&url))
            .await
            .unwrap();
        let run = async |text: &str| db.write().execute_unprepared(text).await.map(|_| ());
        run("CREATE TABLE kept (n INTEGER PRIMARY KEY, content BLOB)")
            .await
            .unwrap();
        run("PRAGMA max_page_count = 20").await.unwrap();

        let tx = db.begin().await.unwrap();
        let large = "INSERT INTO kept VALUES (1, zeroblob(1000000))";
        tx.execute_unprepared(large).await.unwrap_err();
        drop(tx);
        drop(db.begin().await.unwrap());
        run("INSERT INTO kept VALUES (2, NULL)").await.unwrap();

        let seen: Vec<i64> = backend::column(&db.read(), "SELECT n FROM kept", [])
            .await
            .unwrap();
        assert_eq!(seen, [2], "what was acknowledged is committed");
    }
}
