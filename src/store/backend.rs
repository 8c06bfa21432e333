//! Owns the connection to the database and every difference between the two back ends. Nothing outside this file asks which one is in use
//! to choose its SQL: a difference is a named function here.

use std::time::Duration;

use sea_orm::{
    AccessMode, ConnectOptions, ConnectionTrait, Database as SeaDatabase, DatabaseConnection,
    DatabaseTransaction, DbBackend, DbErr, ExecResult, FromQueryResult, IsolationLevel,
    QueryResult, RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait, TryGetable, Value, sqlx,
};
use serde::Serialize;

use super::error::StoreError;

/// How long a statement may wait for a free connection of the pool unless its options say otherwise.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long SQLite waits for another process's write lock before it answers `SQLITE_BUSY`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest a statement may take, waiting for the server included; then its connection is dropped and the caller looks again. Kept on this
/// side because a pooler may refuse it as a session setting.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Statements kept prepared per connection: the checkpoint's statements vary with the columns they carry.
const STATEMENT_CACHE: usize = 300;
/// Connections that read from SQLite beside the one that writes.
const SQLITE_READERS: u32 = 4;
/// How often a transaction is tried again after a serialization failure, a deadlock or a busy file.
const RETRIES: u32 = 10;

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
    /// How long to wait for a connection, also for the first one while nothing listens.
    pub acquire_timeout: Duration,
}

impl DatabaseOptions {
    /// Options with the defaults for `url`: ten connections, SQLite flushed at every commit.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 10,
            sqlite_sync: SqliteSync::default(),
            acquire_timeout: ACQUIRE_TIMEOUT,
        }
    }
}

/// A handle on the database: cheap to clone, one pool behind it.
#[derive(Debug, Clone)]
pub struct Database {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
    url: String,
}

impl Database {
    /// Opens the pool. A SQLite file is created when missing, its directory too.
    ///
    /// # Errors
    /// [`StoreError::Url`] for a scheme that is neither, and the driver's error when the database cannot be reached.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self, StoreError> {
        if options.url.starts_with("sqlite:") {
            Self::connect_sqlite(options).await
        } else {
            Self::connect_postgres(options).await
        }
    }

    async fn connect_postgres(options: &DatabaseOptions) -> Result<Self, StoreError> {
        if !options.url.starts_with("postgres://") && !options.url.starts_with("postgresql://") {
            return Err(StoreError::Url);
        }
        let mut connect = ConnectOptions::new(&options.url);
        connect
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .sqlx_logging(false);
        connect.map_sqlx_postgres_opts(|o| {
            o.application_name("stepwell")
                .statement_cache_capacity(STATEMENT_CACHE)
        });
        let pool = SeaDatabase::connect(connect).await?;
        Ok(Self {
            reader: pool.clone(),
            writer: pool,
            url: options.url.clone(),
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
            connect
        };
        let writer = SeaDatabase::connect(open(1)).await?;
        let reader = SeaDatabase::connect(open(SQLITE_READERS)).await?;
        Ok(Self {
            reader,
            writer,
            url: options.url.clone(),
        })
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let read = self.read();
        read.query_one_raw(statement(&read, "SELECT 1", [])).await?;
        Ok(())
    }

    /// The connection for migrations: the pool itself, qualifiers untouched.
    pub fn migration_connection(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// The pool that reads.
    pub fn read(&self) -> Qualified<&DatabaseConnection> {
        Qualified(&self.reader)
    }

    /// The pool for a single statement that writes and commits by itself.
    pub fn write(&self) -> Qualified<&DatabaseConnection> {
        Qualified(&self.writer)
    }

    /// Begins a transaction that writes. SQLite takes its write lock at once, so that it never has to upgrade a read lock.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        Ok(Qualified(self.writer.begin_with_options(options).await?))
    }

    /// Begins a transaction that only reads, and in which every statement sees the same instant. On SQLite any transaction of a reader does.
    pub async fn snapshot(&self) -> Result<Transaction, StoreError> {
        let postgres = !self.is_sqlite();
        let options = TransactionOptions {
            isolation_level: postgres.then_some(IsolationLevel::RepeatableRead),
            access_mode: postgres.then_some(AccessMode::ReadOnly),
            ..Default::default()
        };
        Ok(Qualified(self.reader.begin_with_options(options).await?))
    }

    /// The kind of database, for what an operator is told.
    pub fn is_sqlite(&self) -> bool {
        self.reader.get_database_backend() == DbBackend::Sqlite
    }

    /// Where this is, without the password.
    pub fn display_url(&self) -> String {
        match (self.url.find("://"), self.url.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => {
                let user = self.url[scheme + 3..at]
                    .split(':')
                    .next()
                    .unwrap_or_default();
                format!("{}{user}@{}", &self.url[..scheme + 3], &self.url[at + 1..])
            }
            _ => self.url.clone(),
        }
    }

    /// How far the pools are used.
    pub fn pool_use(&self) -> Vec<PoolUse> {
        let size = |idle: usize| u32::try_from(idle).unwrap_or(u32::MAX);
        if self.is_sqlite() {
            let pools = [("reader", &self.reader), ("writer", &self.writer)];
            let used = pools.map(|(name, connection)| {
                let pool = connection.get_sqlite_connection_pool();
                PoolUse {
                    name,
                    open: pool.size(),
                    idle: size(pool.num_idle()),
                    most: pool.options().get_max_connections(),
                }
            });
            return used.into();
        }
        let pool = self.reader.get_postgres_connection_pool();
        vec![PoolUse {
            name: "postgres",
            open: pool.size(),
            idle: size(pool.num_idle()),
            most: pool.options().get_max_connections(),
        }]
    }

    /// The pool, for `LISTEN`; none on SQLite.
    pub fn postgres_pool(&self) -> Option<&sqlx::PgPool> {
        (!self.is_sqlite()).then(|| self.reader.get_postgres_connection_pool())
    }

    /// The pool of readers, to watch the file's version; none on Postgres.
    pub fn sqlite_pool(&self) -> Option<&sqlx::SqlitePool> {
        self.is_sqlite()
            .then(|| self.reader.get_sqlite_connection_pool())
    }
}

/// How far a pool is used.
#[derive(Debug, Clone, Copy)]
pub struct PoolUse {
    /// Which.
    pub name: &'static str,
    /// Connections that are open.
    pub open: u32,
    /// Those of them that nobody uses.
    pub idle: u32,
    /// Connections that there may be.
    pub most: u32,
}

/// The file of a `sqlite:` URL; none for a database in memory.
pub fn sqlite_path(url: &str) -> Option<std::path::PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next().unwrap_or_default();
    (!path.is_empty() && path != ":memory:").then(|| path.into())
}

/// A connection or transaction whose SQL names tables as `"app".x` and `"dbos".x` on both back ends: SQLite, which has one file and no
/// schemas, gets the names without the qualifier.
#[derive(Debug)]
pub struct Qualified<C>(C);

/// A transaction that writes; dropped without [`Transaction::commit`] it rolls back.
pub type Transaction = Qualified<DatabaseTransaction>;

impl Transaction {
    /// Makes the transaction's effects durable. An error here leaves the outcome unknown.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.0
            .commit()
            .await
            .map_err(|e| match StoreError::from(e) {
                StoreError::Connection(message) => StoreError::OutcomeUnknown(message),
                other => other,
            })
    }

    /// Undoes everything, and says so to the database now.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.0.rollback().await?)
    }
}

impl<C> Qualified<C> {
    fn translate(&self, backend: DbBackend, mut statement: Statement) -> Statement {
        if backend == DbBackend::Sqlite {
            statement.sql = unqualified(&statement.sql);
        }
        statement
    }
}

async fn within<T>(call: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(DbErr::Conn(RuntimeErr::Internal(format!(
            "no answer within {} s",
            STATEMENT_TIMEOUT.as_secs()
        )))),
    }
}

fn unqualified(sql: &str) -> String {
    sql.replace("\"app\".", "").replace("\"dbos\".", "")
}

#[async_trait::async_trait]
impl<C: AsConnection + Sync> ConnectionTrait for Qualified<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.0.connection().get_database_backend()
    }

    async fn execute_raw(&self, stmt: Statement) -> Result<ExecResult, DbErr> {
        within(
            self.0
                .connection()
                .execute_raw(self.translate(self.get_database_backend(), stmt)),
        )
        .await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self.get_database_backend() {
            DbBackend::Sqlite => {
                within(self.0.connection().execute_unprepared(&unqualified(sql))).await
            }
            _ => within(self.0.connection().execute_unprepared(sql)).await,
        }
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        within(
            self.0
                .connection()
                .query_one_raw(self.translate(self.get_database_backend(), stmt)),
        )
        .await
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        within(
            self.0
                .connection()
                .query_all_raw(self.translate(self.get_database_backend(), stmt)),
        )
        .await
    }
}

/// What [`Qualified`] wraps.
pub trait AsConnection {
    /// sea-orm's own connection.
    type Connection: ConnectionTrait;
    /// The connection behind the wrapper.
    fn connection(&self) -> &Self::Connection;
}

impl AsConnection for &DatabaseConnection {
    type Connection = DatabaseConnection;
    fn connection(&self) -> &DatabaseConnection {
        self
    }
}

impl AsConnection for DatabaseTransaction {
    type Connection = DatabaseTransaction;
    fn connection(&self) -> &DatabaseTransaction {
        self
    }
}

/// A statement with its values.
pub fn statement(
    db: &impl ConnectionTrait,
    sql: impl Into<String>,
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    Statement::from_sql_and_values(db.get_database_backend(), sql, values)
}

/// All rows that `sql` finds.
pub async fn rows<T: FromQueryResult>(
    db: &impl ConnectionTrait,
    sql: impl Into<String>,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<T>, StoreError> {
    let rows = db.query_all_raw(statement(db, sql, values)).await?;
    Ok(rows
        .iter()
        .map(|row| T::from_query_result(row, ""))
        .collect::<Result<_, _>>()?)
}

/// The row that `sql` finds, if there is one.
pub async fn row<T: FromQueryResult>(
    db: &impl ConnectionTrait,
    sql: impl Into<String>,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<T>, StoreError> {
    let row = db.query_one_raw(statement(db, sql, values)).await?;
    Ok(row.map(|row| T::from_query_result(&row, "")).transpose()?)
}

/// The first column of all rows that `sql` finds.
pub async fn column<T: TryGetable>(
    db: &impl ConnectionTrait,
    sql: impl Into<String>,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<T>, StoreError> {
    let rows = db.query_all_raw(statement(db, sql, values)).await?;
    Ok(rows
        .iter()
        .map(|row| row.try_get_by_index(0))
        .collect::<Result<_, _>>()?)
}

/// `rows` as the JSON array that [`Dialect::rows`] reads.
pub fn json_rows(rows: &impl Serialize) -> Result<Value, StoreError> {
    Ok(Value::from(
        serde_json::to_string(rows).map_err(|e| StoreError::Encoding(e.to_string()))?,
    ))
}

/// Runs `work` again, with jitter, while it ends in a serialization failure, a deadlock or a busy file.
pub async fn retrying<T, F, Fut>(mut work: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut tries = 0;
    loop {
        match work().await {
            Err(StoreError::Contention(_)) if tries < RETRIES => {
                tries += 1;
                tokio::time::sleep(jitter(Duration::from_millis(2 << tries.min(6)))).await;
            }
            other => return other,
        }
    }
}

/// Asks the database until it answers: an operation of a workflow does not fail because a server restarts. An error that no retry mends
/// keeps the workflow waiting where an operator can see it, rather than ending it with the wrong result.
pub async fn persist<T, F, Fut>(what: &str, ask: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut pause = Duration::from_millis(50);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if error.is_transient() => tracing::debug!(%error, "cannot {what} yet"),
            Err(error) => tracing::error!(%error, "cannot {what}"),
        }
        tokio::time::sleep(jitter(pause)).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// A duration between half of `base` and all of it, so that those who met once do not meet again.
pub fn jitter(base: Duration) -> Duration {
    let random = u32::from_le_bytes(
        uuid::Uuid::new_v4().as_bytes()[..4]
            .try_into()
            .unwrap_or_default(),
    );
    base / 2 + (base / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Classifies the driver's error by what the caller can do about it.
pub(super) fn classify(error: &DbErr) -> StoreError {
    let message = error.to_string();
    let source = match error {
        DbErr::Conn(e) | DbErr::Exec(e) | DbErr::Query(e) => e,
        DbErr::ConnectionAcquire(_) => return StoreError::Connection(message),
        _ => return StoreError::Database(message),
    };
    let RuntimeErr::SqlxError(source) = source else {
        return StoreError::Connection(message);
    };
    let sqlx::Error::Database(database) = source.as_ref() else {
        return StoreError::Connection(message);
    };
    let code = database.code().unwrap_or_default().into_owned();
    match code.as_str() {
        "40001" | "40P01" => StoreError::Contention(message),
        // SQLite: the low byte of the extended code; 5 busy, 6 locked.
        _ if code.parse::<u32>().is_ok_and(|c| matches!(c & 0xff, 5 | 6))
            && database.kind_is_sqlite() =>
        {
            StoreError::Contention(message)
        }
        // SQLite 19 constraint, 18 too big, 20 mismatch; Postgres classes 22 (data) and 23 (integrity), 54 (limits).
        _ if database.kind_is_sqlite()
            && code
                .parse::<u32>()
                .is_ok_and(|c| matches!(c & 0xff, 18..=20)) =>
        {
            StoreError::Refused(message)
        }
        _ if !database.kind_is_sqlite()
            && ["22", "23", "54"]
                .iter()
                .any(|class| code.starts_with(class)) =>
        {
            StoreError::Refused(message)
        }
        // Class 08 connection, 57 operator intervention, 53 resources: the server, not the statement.
        _ if !database.kind_is_sqlite()
            && ["08", "57", "53"]
                .iter()
                .any(|class| code.starts_with(class)) =>
        {
            StoreError::Connection(message)
        }
        _ => StoreError::Database(message),
    }
}

trait KindOfDatabase {
    fn kind_is_sqlite(&self) -> bool;
}

impl KindOfDatabase for Box<dyn sqlx::error::DatabaseError> {
    fn kind_is_sqlite(&self) -> bool {
        self.try_downcast_ref::<sqlx::sqlite::SqliteError>()
            .is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_displayed() {
        let shown = |url: &str| {
            let at = url.to_owned();
            Database {
                reader: DatabaseConnection::default(),
                writer: DatabaseConnection::default(),
                url: at,
            }
            .display_url()
        };
        assert_eq!(
            shown("postgres://me:secret@localhost:5432/x"),
            "postgres://me@localhost:5432/x"
        );
        assert_eq!(shown("postgres://localhost/x"), "postgres://localhost/x");
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
