//! What the database says. SQL is written once, as the manual writes it (`app.runs`, `dbos.workflow_status`).
//! Reads through connections of its own, never through the server.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sea_orm::sqlx::{self, AssertSqlSafe, Column, PgPool, Row, SqlitePool, TypeInfo, ValueRef};
use serde_json::{Map, Value};

use super::backend::Backend;
use super::eventually::eventually;
use super::stage::Stage;

/// The statements that this Postgres database was asked, but for those that ask about statements.
pub(crate) const ASKED_BY_OTHERS: &str = "pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
     WHERE d.datname = current_database() AND s.query NOT LIKE '%pg_stat_%'";
/// How many sessions of this Postgres database wait for a lock.
pub(crate) const SESSIONS_THAT_WAIT: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
const COUNT_DEADLINE: Duration = Duration::from_secs(60);
const CONNECTIONS: u32 = 2;
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);
/// The columns that say to which workflow a row belongs.
const OWNER_COLUMNS: [&str; 3] = ["workflow_uuid", "workflow_id", "run_id"];

/// The manual's checks. Each must return no row.
const DUPLICATE_CHECKS: [&str; 3] = [
    "SELECT run_id, count(*) AS dup FROM app.mock_receipts WHERE seen_count > 1 GROUP BY run_id",
    "SELECT run_id, step_id, attempt, count(*) AS c FROM app.run_steps GROUP BY run_id, step_id, attempt HAVING count(*) > 1",
    "SELECT run_id, step_id, attempt, idx, count(*) AS c FROM app.artifacts GROUP BY run_id, step_id, attempt, idx HAVING count(*) > 1",
];

pub(super) enum Oracle {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Oracle {
    pub(super) async fn connect(backend: Backend, url: &str) -> Self {
        let connected = match backend {
            Backend::Sqlite => {
                let options: Result<SqliteConnectOptions, _> = url.parse();
                let options = options
                    .expect("a sqlite URL")
                    .create_if_missing(false)
                    .busy_timeout(BUSY_TIMEOUT);
                SqlitePoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .connect_with(options)
                    .await
                    .map(Self::Sqlite)
            }
            Backend::Postgres => sqlx::postgres::PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .connect(url)
                .await
                .map(Self::Postgres),
        };
        connected.unwrap_or_else(|error| panic!("the oracle cannot open {url}: {error}"))
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }

    async fn rows(&self, sql: &str) -> Result<Vec<Value>, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => {
                let rows = sqlx::query(AssertSqlSafe(without_schemas(sql)))
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(sqlite_row).collect()
            }
            Self::Postgres(pool) => {
                let sql = format!(
                    "SELECT row_to_json(q)::text FROM ({}) q",
                    sql.trim_end_matches([';', ' ', '\n'])
                );
                let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_all(pool)
                    .await?;
                Ok(rows
                    .iter()
                    .map(|row| serde_json::from_str(row).expect("row_to_json gives JSON"))
                    .collect())
            }
        }
    }

    async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool) => sqlx::raw_sql(AssertSqlSafe(without_schemas(sql)))
                .execute(pool)
                .await?
                .rows_affected(),
            Self::Postgres(pool) => sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .execute(pool)
                .await?
                .rows_affected(),
        })
    }
}

impl Stage {
    /// The rows of a SELECT as JSON objects. Integers and booleans keep the back end's type (SQLite: 0 and 1), jsonb
    /// columns are JSON values on Postgres and text on SQLite, bytes are hexadecimal text.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<Value> {
        self.oracle()
            .await
            .rows(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The single value of a SELECT with one row and one column.
    pub(crate) async fn sql_value(&self, sql: &str) -> Value {
        let rows = self.sql(sql).await;
        let [Value::Object(row)] = rows.as_slice() else {
            panic!("{sql}: not one row but {rows:?}")
        };
        let mut values = row.values();
        let (Some(value), None) = (values.next(), values.next()) else {
            panic!("{sql}: not one column but {row:?}")
        };
        value.clone()
    }

    /// `sql_value` as an integer, for counts.
    pub(crate) async fn sql_count(&self, sql: &str) -> i64 {
        self.sql_value(sql)
            .await
            .as_i64()
            .unwrap_or_else(|| panic!("{sql}: not an integer"))
    }

    /// Until a count is `wanted`, a minute at most.
    pub(crate) async fn until_count(&self, what: &str, sql: &str, wanted: i64) {
        eventually(COUNT_DEADLINE, what, || async {
            let found = self.sql_count(sql).await;
            if found == wanted {
                Ok(())
            } else {
                Err(format!("{found}, not {wanted}"))
            }
        })
        .await;
    }

    /// Runs statements that change rows; returns how many they changed.
    pub(crate) async fn sql_execute(&self, sql: &str) -> u64 {
        self.oracle()
            .await
            .execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// How many rows each table has, for tests that a refusal writes nothing. The built-in schedule's own rows
    /// (`sched-…`) are left out, because it ticks while a test runs.
    pub(crate) async fn row_counts(&self) -> BTreeMap<String, i64> {
        let columns = match self.backend() {
            Backend::Sqlite => {
                "SELECT t.name AS tbl, c.name AS col FROM sqlite_master t JOIN pragma_table_info(t.name) c \
                 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
            }
            Backend::Postgres => {
                "SELECT t.table_schema || '.' || t.table_name AS tbl, c.column_name AS col \
                 FROM information_schema.tables t JOIN information_schema.columns c USING (table_schema, table_name) \
                 WHERE t.table_schema IN ('app', 'dbos') AND t.table_type = 'BASE TABLE'"
            }
        };
        let mut owners: BTreeMap<String, Option<String>> = BTreeMap::new();
        for row in self.sql(columns).await {
            let (table, column) = (text(&row["tbl"]), text(&row["col"]));
            let owner = owners.entry(table).or_default();
            if OWNER_COLUMNS.contains(&column.as_str()) {
                *owner = Some(column);
            }
        }
        let mut counts = BTreeMap::new();
        for (table, owner) in owners {
            let unscheduled = owner.map_or(String::new(), |column| {
                format!(" WHERE {column} NOT LIKE 'sched-%'")
            });
            let count = self
                .sql_count(&format!("SELECT count(*) AS n FROM {table}{unscheduled}"))
                .await;
            counts.insert(table, count);
        }
        counts
    }

    /// Statements that this Postgres database was asked so far: our own questions aside, and what a connection is set up with.
    pub(crate) async fn statements(&self) -> i64 {
        let sql = format!(
            "SELECT COALESCE(sum(calls), 0)::bigint FROM {ASKED_BY_OTHERS} AND s.query NOT LIKE 'SET %' AND s.query NOT LIKE 'SELECT set_config(%'"
        );
        self.sql_count(&sql).await
    }

    /// Pauses the built-in schedule of a server that has started.
    pub(crate) async fn pause_ticks(&self) {
        let pause =
            "UPDATE dbos.workflow_schedules SET status = 'PAUSED' WHERE schedule_name = 'tick'";
        eventually(
            Duration::from_secs(60),
            "the built-in schedule is there",
            || async {
                match self.sql_execute(pause).await {
                    1 => Ok(()),
                    _ => Err("not yet"),
                }
            },
        )
        .await;
    }

    /// What the manual's exactly-once checks find. Must be empty.
    pub(crate) async fn duplicates(&self) -> Vec<Value> {
        let mut found = Vec::new();
        for check in DUPLICATE_CHECKS {
            found.extend(self.sql(check).await);
        }
        found
    }

    /// `stepwell doctor` finds nothing: every invariant holds. For the end of a test that let processes die.
    pub(crate) async fn assert_sound(&self) {
        let examined = self
            .command(&["doctor"])
            .output()
            .await
            .expect("the binary runs");
        assert!(
            examined.status.success(),
            "{}{}",
            String::from_utf8_lossy(&examined.stdout),
            String::from_utf8_lossy(&examined.stderr)
        );
    }

    pub(crate) async fn assert_no_duplicates(&self) {
        let duplicates = self.duplicates().await;
        assert!(
            duplicates.is_empty(),
            "the manual's duplicate checks found {duplicates:?}"
        );
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not text: {value}"))
        .to_owned()
}

/// Drops the qualifiers `app.` and `dbos.`: SQLite has both halves in one file.
fn without_schemas(sql: &str) -> String {
    let mut plain = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(character) = rest.chars().next() {
        let inside_a_word = plain
            .chars()
            .last()
            .is_some_and(|last| last.is_alphanumeric() || "_.-'".contains(last));
        let qualifier = ["app.", "dbos."]
            .into_iter()
            .find(|name| !inside_a_word && rest.starts_with(name));
        if let Some(name) = qualifier {
            rest = &rest[name.len()..];
        } else {
            plain.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    plain
}

fn sqlite_row(row: &SqliteRow) -> Result<Value, sqlx::Error> {
    let mut object = Map::new();
    for column in row.columns() {
        let index = column.ordinal();
        let raw = row.try_get_raw(index)?;
        // The type of the stored value, not of the column: expressions have none.
        let value = match (raw.is_null(), raw.type_info().name()) {
            (true, _) => Value::Null,
            (_, "INTEGER" | "BOOLEAN") => Value::from(row.try_get_unchecked::<i64, _>(index)?),
            (_, "REAL") => Value::from(row.try_get_unchecked::<f64, _>(index)?),
            (_, "BLOB") => {
                let bytes: Vec<u8> = row.try_get_unchecked(index)?;
                Value::from(
                    bytes
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect::<String>(),
                )
            }
            _ => Value::from(row.try_get_unchecked::<String, _>(index)?),
        };
        object.insert(column.name().to_owned(), value);
    }
    Ok(Value::Object(object))
}
