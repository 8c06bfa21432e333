//! Owns the `dbos` half: creates it where there is none, and never alters one that is there. Its ledger is DBOS's own, one row with a version.

mod postgres;
mod tables;

use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, DbErr};

use crate::{DBOS_VERSION, MigrateError, dialect::translate, status};
use tables::{INDEXES, Index, Only, TABLES};

/// Creates the tables where there are none.
pub(crate) async fn up<C: ConnectionTrait>(tx: &C) -> Result<(), MigrateError> {
    match status::read(tx).await?.dbos {
        Some(found) if found >= DBOS_VERSION => return Ok(()),
        Some(found) => return Err(MigrateError::DbosTooOld { found }),
        None => {}
    }
    let backend = tx.get_database_backend();
    let qualifier = qualifier(backend);
    if backend == DbBackend::Postgres {
        tx.execute_unprepared("CREATE SCHEMA IF NOT EXISTS dbos")
            .await?;
    }
    for (name, columns) in TABLES {
        tx.execute_unprepared(&translate(
            backend,
            &format!("CREATE TABLE {qualifier}{name} ({columns})"),
        ))
        .await?;
    }
    for index in INDEXES {
        tx.execute_unprepared(&index.statement(backend)).await?;
    }
    if backend == DbBackend::Postgres {
        for statement in postgres::STATEMENTS {
            tx.execute_unprepared(statement).await?;
        }
    }
    tx.execute_unprepared(&format!(
        "INSERT INTO {qualifier}dbos_migrations (version) VALUES ({DBOS_VERSION})"
    ))
    .await?;
    Ok(())
}

/// Drops all of it.
pub(crate) async fn drop<C: ConnectionTrait>(tx: &C) -> Result<(), DbErr> {
    if tx.get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared("DROP SCHEMA IF EXISTS dbos CASCADE")
            .await?;
        return Ok(());
    }
    for (name, _) in TABLES.iter().rev() {
        tx.execute_unprepared(&format!("DROP TABLE IF EXISTS {name}"))
            .await?;
    }
    Ok(())
}

fn qualifier(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Postgres {
        "dbos."
    } else {
        ""
    }
}

impl Index {
    fn statement(&self, backend: DbBackend) -> String {
        let unique = if self.unique { "UNIQUE " } else { "" };
        let include = match (backend, self.include) {
            (DbBackend::Postgres, Some(columns)) => format!(" INCLUDE ({columns})"),
            _ => String::new(),
        };
        let only = match &self.only {
            Only::Any => String::new(),
            Only::Where(condition) => format!(" WHERE {condition}"),
            Only::Status(one, other, and) => {
                let statuses = match backend {
                    DbBackend::Sqlite => format!("(status = '{one}' OR status = '{other}')"),
                    _ => format!("status IN ('{one}', '{other}')"),
                };
                format!(
                    " WHERE {statuses}{}",
                    and.map(|more| format!(" AND {more}")).unwrap_or_default()
                )
            }
        };
        let (name, table, columns) = (self.name, self.table, self.columns);
        format!(
            "CREATE {unique}INDEX {name} ON {}{table} ({columns}){include}{only}",
            qualifier(backend)
        )
    }
}
