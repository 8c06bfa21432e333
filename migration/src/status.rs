//! Owns the question what is there already. Reads only, and takes no lock: whoever acts on the answer asks again under the lock.

use sea_orm_migration::{
    MigratorTrait,
    sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement},
};

use crate::{DBOS_VERSION, app};

/// What both halves hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The schema version of `dbos`; 0 if its tables are there and its ledger says nothing, none if they are not there.
    pub dbos: Option<i64>,
    /// The names of the `app` migrations applied, sorted.
    pub app: Vec<String>,
}

impl Status {
    /// Whether [`up`](crate::up) has nothing to do.
    pub fn is_current(&self) -> bool {
        self.dbos.is_some_and(|version| version >= DBOS_VERSION)
            && app::Migrator::migrations()
                .iter()
                .all(|migration| self.app.iter().any(|name| name == migration.name()))
    }
}

/// Two queries: which ledgers there are, and what they say.
pub(crate) async fn read(db: &impl ConnectionTrait) -> Result<Status, DbErr> {
    let backend = db.get_database_backend();
    let (tables, schema) = match backend {
        DbBackend::Sqlite => (
            "(SELECT '' AS schemaname, name AS tablename FROM sqlite_master WHERE type = 'table')",
            ["", ""],
        ),
        _ => ("pg_tables", ["dbos", "app"]),
    };
    let [dbos, app] = schema;
    let ledger = app::LEDGER;
    let presence = format!(
        "SELECT EXISTS (SELECT 1 FROM {tables} t WHERE schemaname = '{dbos}' AND tablename = 'dbos_migrations') AS dbos_ledger, \
         EXISTS (SELECT 1 FROM {tables} t WHERE schemaname = '{dbos}' AND tablename = 'workflow_status') AS dbos_tables, \
         EXISTS (SELECT 1 FROM {tables} t WHERE schemaname = '{app}' AND tablename = '{ledger}') AS app_ledger"
    );
    let Some(row) = db
        .query_one_raw(Statement::from_string(backend, presence))
        .await?
    else {
        return Err(DbErr::RecordNotFound(
            "the database does not say which tables it has".to_owned(),
        ));
    };
    let dbos_ledger: bool = row.try_get("", "dbos_ledger")?;
    let dbos_tables: bool = row.try_get("", "dbos_tables")?;
    let app_ledger: bool = row.try_get("", "app_ledger")?;

    let qualified = |schema: &str, table: &str| {
        if schema.is_empty() {
            table.to_owned()
        } else {
            format!("{schema}.{table}")
        }
    };
    let version = match (dbos_ledger, dbos_tables) {
        (true, _) => format!(
            "(SELECT coalesce(max(version), 0) FROM {})",
            qualified(dbos, "dbos_migrations")
        ),
        (false, true) => "CAST(0 AS bigint)".to_owned(),
        (false, false) => "CAST(NULL AS bigint)".to_owned(),
    };
    let ledgers = if app_ledger {
        format!(
            "SELECT {version} AS dbos, a.version AS app FROM (SELECT 1 AS one) o LEFT JOIN {} a ON true ORDER BY 2",
            qualified(app, ledger)
        )
    } else {
        format!("SELECT {version} AS dbos, CAST(NULL AS text) AS app")
    };
    let rows = db
        .query_all_raw(Statement::from_string(backend, ledgers))
        .await?;
    let mut status = Status {
        dbos: None,
        app: Vec::new(),
    };
    for row in &rows {
        status.dbos = row.try_get("", "dbos")?;
        status.app.extend(row.try_get::<Option<String>>("", "app")?);
    }
    Ok(status)
}
