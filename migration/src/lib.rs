//! The schema: `app`, which is ours and has a ledger of its own, and `dbos`, which is DBOS Transact's, column for column. Two halves, so that
//! each can be rebuilt without the other.

mod app;
mod dbos;
mod dialect;
mod status;

use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};

pub use status::Status;

/// The version of the `dbos` schema that this program creates and needs at least.
pub const DBOS_VERSION: i64 = 123;
/// The newest migration of `app` that this program brings.
pub fn newest() -> String {
    app::newest()
}

/// The key of the transaction-level lock under which the schema changes; any number that nobody else takes.
const LOCK_KEY: i64 = 0x5747_4550_5745_4c4c;

/// Why the schema cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused.
    #[error("cannot migrate the database: {0}")]
    Database(#[from] DbErr),
    /// A DBOS application made the `dbos` tables, and they are older than this program understands. Only DBOS can upgrade them.
    #[error(
        "the dbos schema of this database has version {found}, and version {DBOS_VERSION} is needed; upgrade it with \
         `npx dbos schema <database-url>` (npm @dbos-inc/dbos-sdk 5.3.0 or later)"
    )]
    DbosTooOld {
        /// The version found; 0 if the tables are there without one.
        found: i64,
    },
}

/// Brings both halves up to date. Any number of processes may do this at once on one database.
///
/// # Errors
/// [`MigrateError`]; then nothing has changed.
pub async fn up(db: &DatabaseConnection) -> Result<(), MigrateError> {
    if status::read(db).await?.is_current() {
        return Ok(());
    }
    let tx = begin(db).await?;
    dbos::up(&tx).await?;
    app::up(&tx).await?;
    Ok(tx.commit().await?)
}

/// Drops and rebuilds the half that is ours; what was in it is gone.
///
/// # Errors
/// [`MigrateError`]; then nothing has changed.
pub async fn reset_app(db: &DatabaseConnection) -> Result<(), MigrateError> {
    let tx = begin(db).await?;
    app::drop(&tx).await?;
    dbos::up(&tx).await?;
    app::up(&tx).await?;
    Ok(tx.commit().await?)
}

/// Drops and rebuilds the half that is DBOS's; what was in it is gone, and so are the engine's claims and waits, which were about it. Intents,
/// runs and artifacts stay.
///
/// # Errors
/// [`MigrateError`]; then nothing has changed.
pub async fn reset_dbos(db: &DatabaseConnection) -> Result<(), MigrateError> {
    let tx = begin(db).await?;
    // The views of `app` look at `dbos`: they go with it and come back.
    app::drop_views(&tx).await?;
    dbos::drop(&tx).await?;
    dbos::up(&tx).await?;
    app::up(&tx).await?;
    app::create_views(&tx).await?;
    app::forget_workflows(&tx).await?;
    Ok(tx.commit().await?)
}

/// What both halves hold.
///
/// # Errors
/// [`MigrateError::Database`].
pub async fn status(db: &DatabaseConnection) -> Result<Status, MigrateError> {
    Ok(status::read(db).await?)
}

/// Begins the transaction in which everything happens. The lock is the transaction's own, so that it also works behind a pooler.
async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let postgres = db.get_database_backend() == DbBackend::Postgres;
    let options = TransactionOptions {
        // What is there is read again after the wait for the lock: a snapshot from before it would not show the other process's work.
        isolation_level: postgres.then_some(IsolationLevel::ReadCommitted),
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    let tx = db.begin_with_options(options).await?;
    if postgres {
        // Whoever comes second waits for the first one's migrations, however long they take: the patience of a connection for work is not theirs.
        tx.execute_unprepared("SET LOCAL lock_timeout TO DEFAULT")
            .await?;
        let lock = Statement::from_sql_and_values(
            DbBackend::Postgres,
            "SELECT pg_advisory_xact_lock($1)",
            [LOCK_KEY.into()],
        );
        tx.query_one_raw(lock).await?;
    }
    Ok(tx)
}
