//! Owns the connection to the database and every difference between the two back ends. Nothing outside this file asks which one is in use
//! to choose its SQL: a difference is a named function here.

mod connect;

use std::{sync::Arc, time::Duration};

use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    ExecResult, FromQueryResult, IsolationLevel, QueryResult, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait, TryGetable, Value, sqlx,
};
use serde::Serialize;

pub use self::connect::{DatabaseOptions, SqliteSync, sqlite_path};
pub use super::patience::{jitter, persist, retrying, until_there};
use super::{
    error::StoreError,
    reach::{self, Reach},
    writes,
};
use crate::redact::shown_url;

/// How Postgres plans: by the indexes, which the statements are written for. Before it has counted a table that grows fast it takes that for
/// small, reads and sorts all of it, and keeps such a plan until it has; and no plan here is worth compiling.
const PLANS: [&str; 3] = [
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "jit = off",
];
/// What ends a session that stands in the way, where an operator has set nothing. A process that is frozen in the middle of a transaction keeps
/// its row locks, for as long as it is frozen; and who waits for a lock does not beat.
const PATIENCE: [(&str, &str); 2] = [
    ("idle_in_transaction_session_timeout", "10s"),
    ("lock_timeout", "5s"),
];
/// How long to wait for a sign of life.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle on the database: cheap to clone, the same pools behind it.
#[derive(Debug, Clone)]
pub struct Database {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
    /// For who reads without executing.
    callers: Option<DatabaseConnection>,
    /// Past the pooler, where there is one.
    direct: Option<DatabaseConnection>,
    url: String,
    reach: Arc<Reach>,
}

impl Database {
    /// The same database for who reads without executing: where connections are kept for callers they need not queue behind the workflows, of
    /// which each wants to read at the same moment.
    pub fn for_callers(&self) -> Self {
        let callers = self.callers.as_ref().unwrap_or(&self.reader);
        Self {
            reader: callers.clone(),
            ..self.clone()
        }
    }

    /// Whether the database answers now, and soon: whoever asks has a patience of their own.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let read = self.read();
        let asked = read.query_one_raw(statement(&read, "SELECT 1", []));
        match tokio::time::timeout(PING_TIMEOUT, asked).await {
            Ok(answer) => answer.map(|_| ()).map_err(StoreError::from),
            Err(_) => {
                let error = reach::no_answer_within(PING_TIMEOUT);
                self.reach.missed(&error);
                Err(error.into())
            }
        }
    }

    /// The connection for migrations: the pool itself, or past the pooler; qualifiers untouched.
    pub fn migration_connection(&self) -> &DatabaseConnection {
        self.direct.as_ref().unwrap_or(&self.writer)
    }

    /// The pool that reads.
    pub fn read(&self) -> Qualified<&DatabaseConnection> {
        Qualified(&self.reader, Arc::clone(&self.reach), Commits::Later)
    }

    /// The pool for a single statement that writes and commits by itself.
    pub fn write(&self) -> Qualified<&DatabaseConnection> {
        Qualified(
            &self.writer,
            Arc::clone(&self.reach),
            Commits::EachStatement,
        )
    }

    /// Begins a transaction that writes. SQLite takes its write lock at once, so that it never has to upgrade a read lock.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        self.transaction(&self.writer, options).await
    }

    /// Begins a transaction that only reads, and in which every statement sees the same instant. On SQLite any transaction of a reader does.
    pub async fn snapshot(&self) -> Result<Transaction, StoreError> {
        let postgres = !self.is_sqlite();
        let options = TransactionOptions {
            isolation_level: postgres.then_some(IsolationLevel::RepeatableRead),
            access_mode: postgres.then_some(AccessMode::ReadOnly),
            ..Default::default()
        };
        self.transaction(&self.reader, options).await
    }

    async fn transaction(
        &self,
        pool: &DatabaseConnection,
        options: TransactionOptions,
    ) -> Result<Transaction, StoreError> {
        let begun = begin(&self.reach, pool, options).await?;
        Ok(Qualified(begun, Arc::clone(&self.reach), Commits::Later))
    }

    /// The kind of database, for what an operator is told.
    pub fn is_sqlite(&self) -> bool {
        self.reader.get_database_backend() == DbBackend::Sqlite
    }

    /// Where this is, without the password.
    pub fn display_url(&self) -> String {
        shown_url(&self.url)
    }

    /// How far the pools are used.
    pub fn pool_use(&self) -> Vec<PoolUse> {
        let size = |idle: usize| u32::try_from(idle).unwrap_or(u32::MAX);
        let sqlite = self.is_sqlite();
        let pools = match sqlite {
            true => vec![("reader", &self.reader), ("writer", &self.writer)],
            false => vec![("postgres", &self.reader)],
        };
        let callers = self.callers.as_ref().map(|pool| ("callers", pool));
        let used = |(name, connection): (_, &DatabaseConnection)| {
            let (open, idle, most) = if sqlite {
                let pool = connection.get_sqlite_connection_pool();
                let most = pool.options().get_max_connections();
                (pool.size(), pool.num_idle(), most)
            } else {
                let pool = connection.get_postgres_connection_pool();
                let most = pool.options().get_max_connections();
                (pool.size(), pool.num_idle(), most)
            };
            let idle = size(idle);
            PoolUse {
                name,
                open,
                idle,
                most,
            }
        };
        pools.into_iter().chain(callers).map(used).collect()
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

/// A connection or transaction whose SQL names tables as `"app".x` and `"dbos".x` on both back ends: SQLite, which has one file and no
/// schemas, gets the names without the qualifier.
#[derive(Debug)]
pub struct Qualified<C>(C, Arc<Reach>, Commits);

/// When what is written becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commits {
    /// With the transaction, or nothing is written.
    Later,
    EachStatement,
}

/// A transaction that writes; dropped without [`Transaction::commit`] it rolls back.
pub type Transaction = Qualified<DatabaseTransaction>;

impl Transaction {
    /// Makes the transaction's effects durable. An error here leaves the outcome unknown.
    pub async fn commit(self) -> Result<(), StoreError> {
        writes::around(self.1.boundary(self.0.commit()))
            .await
            .map_err(|e| match StoreError::from(e) {
                StoreError::Connection(message) => StoreError::OutcomeUnknown(message),
                other => other,
            })
    }

    /// Undoes everything, and says so to the database now.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.1.boundary(self.0.rollback()).await?)
    }
}

impl<C: AsConnection> Qualified<C> {
    /// The transaction of a statement that has none, where it needs one: behind a pooler the server on which it is prepared has to be the one
    /// that executes it.
    async fn pinned(&self) -> Result<Option<DatabaseTransaction>, DbErr> {
        match self.0.pool() {
            Some(pool) if self.1.is_behind_a_pooler() => {
                let options = TransactionOptions::default();
                begin(&self.1, pool, options).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl<C> Qualified<C> {
    async fn ask<T>(&self, call: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        self.counted(self.1.statement(call)).await
    }

    /// Ends the transaction of a statement that has its own.
    async fn end(&self, tx: DatabaseTransaction) -> Result<(), DbErr> {
        self.counted(self.1.boundary(tx.commit())).await
    }

    async fn counted<T>(&self, call: impl Future<Output = T>) -> T {
        match self.2 {
            Commits::Later => call.await,
            Commits::EachStatement => writes::around(call).await,
        }
    }

    fn translate(&self, backend: DbBackend, mut statement: Statement) -> Statement {
        if backend == DbBackend::Sqlite {
            statement.sql = unqualified(&statement.sql);
        }
        statement
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
        let stmt = self.translate(self.get_database_backend(), stmt);
        if let Some(tx) = self.pinned().await? {
            let done = self.1.statement(tx.execute_raw(stmt)).await?;
            return self.end(tx).await.map(|()| done);
        }
        self.ask(self.0.connection().execute_raw(stmt)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let plain = match self.get_database_backend() {
            DbBackend::Sqlite => unqualified(sql),
            _ => sql.to_owned(),
        };
        self.ask(self.0.connection().execute_unprepared(&plain))
            .await
    }

    async fn query_one_raw(&self, stmt: Statement) -> Result<Option<QueryResult>, DbErr> {
        let stmt = self.translate(self.get_database_backend(), stmt);
        if let Some(tx) = self.pinned().await? {
            let found = self.1.statement(tx.query_one_raw(stmt)).await?;
            return self.end(tx).await.map(|()| found);
        }
        self.ask(self.0.connection().query_one_raw(stmt)).await
    }

    async fn query_all_raw(&self, stmt: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let stmt = self.translate(self.get_database_backend(), stmt);
        if let Some(tx) = self.pinned().await? {
            let found = self.1.statement(tx.query_all_raw(stmt)).await?;
            return self.end(tx).await.map(|()| found);
        }
        self.ask(self.0.connection().query_all_raw(stmt)).await
    }
}

/// Begins a transaction. Behind a pooler it begins with a server on which others may have prepared statements under the names that this
/// process is about to use, and that keeps no setting of ours.
async fn begin(
    reach: &Reach,
    pool: &DatabaseConnection,
    options: TransactionOptions,
) -> Result<DatabaseTransaction, DbErr> {
    let tx = reach.boundary(pool.begin_with_options(options)).await?;
    if reach.is_behind_a_pooler() {
        let text = format!("DEALLOCATE ALL; {}", settings(Lasting::Transaction));
        reach.statement(tx.execute_unprepared(&text)).await?;
    }
    Ok(tx)
}

/// For how long a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Session,
    Transaction,
}

/// The statements that make our settings on Postgres.
fn settings(lasting: Lasting) -> String {
    let (set, local) = match lasting {
        Lasting::Session => ("SET", false),
        Lasting::Transaction => ("SET LOCAL", true),
    };
    let plans: String = PLANS.map(|plan| format!("{set} {plan}; ")).concat();
    let patience = PATIENCE.map(|(name, time)| format!("('{name}', '{time}')"));
    format!(
        "{plans}SELECT set_config(v.name, v.wanted, {local}) FROM (VALUES {}) AS v (name, wanted) WHERE current_setting(v.name) = '0'",
        patience.join(", ")
    )
}

/// What [`Qualified`] wraps.
pub trait AsConnection {
    /// sea-orm's own connection.
    type Connection: ConnectionTrait;
    /// The connection behind the wrapper.
    fn connection(&self) -> &Self::Connection;
    /// The pool, if it is one.
    fn pool(&self) -> Option<&DatabaseConnection> {
        None
    }
}

impl AsConnection for &DatabaseConnection {
    type Connection = DatabaseConnection;
    fn connection(&self) -> &DatabaseConnection {
        self
    }
    fn pool(&self) -> Option<&DatabaseConnection> {
        Some(self)
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
