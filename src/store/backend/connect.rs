//! Owns how a database is opened: what may be asked for, which pools there are, and who waits for whom meanwhile.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::{ConnectOptions, Database as SeaDatabase, DatabaseConnection, DbErr, sqlx};

use super::{Database, Lasting, jitter, settings};
use crate::{
    redact::shown_url,
    store::{
        error::StoreError,
        reach::{self, Reach},
    },
};

/// How long a process that starts waits for a database that does not listen yet, unless its options say otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a statement may wait for a free connection of the pool unless its options say otherwise. While nothing listens, the driver
/// waits so long for somebody who does.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SQLite waits for another process's write lock before it answers `SQLITE_BUSY`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Statements kept prepared per connection: the checkpoint's statements vary with the columns they carry.
const STATEMENT_CACHE: usize = 300;
/// Connections that read from SQLite beside the one that writes.
const SQLITE_READERS: u32 = 4;
/// Connections that are kept for callers, who read while workflows are executed: more readers of SQLite, and at most a third of what a Postgres
/// pool may open.
const CALLERS: u32 = 3;

/// Whether SQLite flushes every commit to disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SqliteSync {
    /// Every acknowledged commit survives a power cut.
    #[default]
    Full,
    /// A commit survives a crash of the process; the last ones may be lost with the machine's power.
    Normal,
}

/// How to reach a database.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// `sqlite://…` or `postgres://…`.
    pub url: String,
    /// Most connections that a Postgres pool opens.
    pub max_connections: u32,
    /// Durability of a SQLite commit.
    pub sqlite_sync: SqliteSync,
    /// How long to wait for a connection.
    pub acquire_timeout: Duration,
    /// How long to wait for the first connection while nothing listens.
    pub connect_timeout: Duration,
    /// The same Postgres without the pooler that stands between, if one does. What a transaction-mode pooler cannot carry goes there
    /// (migrations; `LISTEN` is the engine's), and every statement has a transaction of its own.
    pub direct_url: Option<String>,
    /// Whether connections are kept for callers: so it is in a process that executes workflows and answers requests.
    pub for_callers: bool,
}

impl DatabaseOptions {
    /// Options with the defaults for `url`: ten connections, none kept for callers, SQLite flushed at every commit.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 10,
            sqlite_sync: SqliteSync::default(),
            acquire_timeout: ACQUIRE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            direct_url: None,
            for_callers: false,
        }
    }

    /// How many connections are kept for callers.
    fn kept_for_callers(&self) -> u32 {
        match self.for_callers {
            true if self.url.starts_with("sqlite:") => CALLERS,
            true => CALLERS.min(self.max_connections / 3),
            false => 0,
        }
    }
}

impl Database {
    /// Opens the pool. A SQLite file is created when missing, its directory too.
    ///
    /// # Errors
    /// [`StoreError::Url`] for a scheme that is neither, and the driver's error, with where that was, when the database cannot be reached.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self, StoreError> {
        let connected = if options.url.starts_with("sqlite:") {
            Self::connect_sqlite(options).await
        } else {
            Self::connect_postgres(options).await
        };
        connected.map_err(|error| match error {
            StoreError::Connection(message) => {
                let place = shown_url(&options.url);
                StoreError::Connection(format!("{place} does not answer: {message}"))
            }
            other => other,
        })
    }

    async fn connect_postgres(options: &DatabaseOptions) -> Result<Self, StoreError> {
        if !options.url.starts_with("postgres://") && !options.url.starts_with("postgresql://") {
            return Err(StoreError::Url);
        }
        let callers = options.kept_for_callers();
        let mut connect = ConnectOptions::new(&options.url);
        connect
            .max_connections(options.max_connections - callers)
            .acquire_timeout(options.acquire_timeout)
            // The pool's own ping has no deadline.
            .test_before_acquire(false)
            .sqlx_logging(false);
        // What is prepared on one server is not there on the next one that the pooler gives.
        let pooler = options.direct_url.is_some();
        let cache = if pooler { 0 } else { STATEMENT_CACHE };
        connect.map_sqlx_postgres_opts(move |o| {
            o.application_name("stepwell")
                .statement_cache_capacity(cache)
        });
        let reach = Arc::new(Reach::new(pooler));
        let watched = Arc::clone(&reach);
        connect.map_sqlx_postgres_pool_opts(move |pool| {
            let pool = reach::watch(pool, &watched);
            if pooler {
                return pool;
            }
            pool.after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(settings(Lasting::Session)))
                        .execute(connection)
                        .await
                        .map(|_| ())
                })
            })
        });
        let passes = StoreError::is_transient;
        let pause = Duration::from_millis(500);
        let open = connected(&connect, passes, options.connect_timeout, pause);
        let pool = reach.opening(open).await?;
        let callers = match callers {
            0 => None,
            n => Some(later(connect.max_connections(n)).await?),
        };
        let direct = match &options.direct_url {
            Some(url) => {
                let mut connect = ConnectOptions::new(url);
                Some(later(connect.max_connections(1).sqlx_logging(false)).await?)
            }
            None => None,
        };
        Ok(Self {
            reader: pool.clone(),
            writer: pool,
            callers,
            direct,
            url: options.url.clone(),
            reach,
        })
    }

    async fn connect_sqlite(options: &DatabaseOptions) -> Result<Self, StoreError> {
        if let Some(directory) =
            sqlite_path(&options.url).and_then(|p| p.parent().map(std::path::Path::to_path_buf))
        {
            std::fs::create_dir_all(&directory).map_err(|e| StoreError::Directory {
                directory,
                message: e.to_string(),
            })?;
        }
        let sync = match options.sqlite_sync {
            SqliteSync::Full => sqlx::sqlite::SqliteSynchronous::Full,
            SqliteSync::Normal => sqlx::sqlite::SqliteSynchronous::Normal,
        };
        let open = |connections: u32| {
            let mut connect = ConnectOptions::new(&options.url);
            connect
                .max_connections(connections)
                .acquire_timeout(options.acquire_timeout)
                .sqlx_logging(false);
            connect.map_sqlx_sqlite_opts(move |o| {
                o.create_if_missing(true)
                    .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                    .synchronous(sync)
                    .busy_timeout(BUSY_TIMEOUT)
                    .foreign_keys(true)
                    .statement_cache_capacity(STATEMENT_CACHE)
            });
            connect.map_sqlx_sqlite_pool_opts(reach::without_leftovers);
            connect
        };
        // Others may be opening the file for the first time, too: who makes it a WAL database needs it alone for a moment, and SQLite does not wait
        // for that as it waits for a lock.
        let passes = |error: &StoreError| matches!(error, StoreError::Contention(_));
        let pause = Duration::from_millis(20);
        let writer = connected(&open(1), passes, BUSY_TIMEOUT, pause).await?;
        let reader = SeaDatabase::connect(open(SQLITE_READERS)).await?;
        let callers = match options.kept_for_callers() {
            0 => None,
            n => Some(later(&mut open(n)).await?),
        };
        Ok(Self {
            reader,
            writer,
            callers,
            direct: None,
            url: options.url.clone(),
            reach: Arc::default(),
        })
    }
}

/// Opens a pool, and tries again with `pause` between for as long as `patience`, while what goes wrong `passes`.
async fn connected(
    options: &ConnectOptions,
    passes: impl Fn(&StoreError) -> bool,
    patience: Duration,
    pause: Duration,
) -> Result<DatabaseConnection, DbErr> {
    let began = Instant::now();
    loop {
        match SeaDatabase::connect(options.clone()).await {
            Err(error)
                if passes(&StoreError::from(error.clone())) && began.elapsed() < patience =>
            {
                tokio::time::sleep(jitter(pause)).await;
            }
            connected => return connected,
        }
    }
}

/// A pool that opens its connections when somebody needs them.
async fn later(options: &mut ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    SeaDatabase::connect(options.connect_lazy(true).clone()).await
}

/// The file of a `sqlite:` URL; none for a database in memory.
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next().unwrap_or_default();
    (!path.is_empty() && path != ":memory:").then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_fresh_file_may_be_opened_by_many_at_once() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let options =
                DatabaseOptions::new(format!("sqlite://{}/fresh.db", directory.path().display()));
            let mut opening = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let options = options.clone();
                opening.spawn(async move { Database::connect(&options).await.map(|_| ()) });
            }
            for opened in opening.join_all().await {
                opened.unwrap();
            }
        }
    }

    #[test]
    fn sqlite_paths_are_read_from_urls() {
        assert_eq!(
            sqlite_path("sqlite://a/b.db?mode=rwc"),
            Some("a/b.db".into())
        );
        assert_eq!(sqlite_path("sqlite:///abs/b.db"), Some("/abs/b.db".into()));
        assert_eq!(sqlite_path("sqlite::memory:"), None);
    }
}
