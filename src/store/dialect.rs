//! Owns the SQL fragments in which the two back ends differ, so that every query is written once.

use sea_orm::{ConnectionTrait, DbBackend};

/// No limit, in a form whose value Postgres does not know while it plans: it expects a tenth of the rows.
const UNKNOWN_LIMIT: &str = "LIMIT (SELECT NULL::bigint)";

/// The SQL fragments in which the back ends differ.
#[derive(Debug, Clone, Copy)]
pub struct Dialect(DbBackend);

/// The dialect of a connection.
pub fn dialect(db: &impl ConnectionTrait) -> Dialect {
    Dialect(db.get_database_backend())
}

/// The type of a column in [`Dialect::rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Text.
    Text,
    /// A 64-bit integer.
    Int,
    /// True or false.
    Bool,
}

impl Dialect {
    /// The database's clock in epoch milliseconds: it moves within a transaction, so that what is read after a lock is later than the lock.
    pub fn now(self) -> &'static str {
        match self.0 {
            DbBackend::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            _ => "(extract(epoch from clock_timestamp()) * 1000)::bigint",
        }
    }

    /// A row source `alias(columns…)` over the JSON array of objects bound as `$parameter`: how a batch of any size travels in one
    /// statement on both back ends. Postgres expects a hundred rows of such a source and would rather read a whole table than look up a
    /// hundred of its rows; a limit that it cannot know makes it expect one or ten.
    pub fn rows(self, parameter: usize, alias: &str, columns: &[(&str, Column)]) -> String {
        let parameter = format!("${parameter}");
        match self.0 {
            DbBackend::Sqlite => self.records(&parameter, alias, columns),
            _ => format!(
                "(SELECT * FROM {} {UNKNOWN_LIMIT}) AS {alias}",
                self.records(&parameter, "r", columns)
            ),
        }
    }

    /// A row source `alias(columns…)` over the JSON array of objects that is the value of `array`.
    fn records(self, array: &str, alias: &str, columns: &[(&str, Column)]) -> String {
        let per_column = |text: &dyn Fn(&str, Column) -> String| {
            let all: Vec<String> = columns.iter().map(|(n, k)| text(n, *k)).collect();
            all.join(", ")
        };
        match self.0 {
            DbBackend::Sqlite => format!(
                "(SELECT {} FROM json_each({array})) AS {alias}",
                per_column(&|name, _| format!("value->>'{name}' AS \"{name}\""))
            ),
            _ => format!(
                "json_to_recordset({array}::json) AS {alias}({})",
                per_column(&|name, kind| format!("\"{name}\" {}", kind.postgres()))
            ),
        }
    }

    /// Whether `value` is one of the JSON array of strings bound as `$parameter`.
    pub fn is_one_of(self, value: &str, parameter: usize) -> String {
        match self.0 {
            DbBackend::Sqlite => {
                format!("{value} IN (SELECT value FROM json_each(${parameter}))")
            }
            _ => format!(
                "{value} = ANY (ARRAY(SELECT json_array_elements_text(${parameter}::json)))"
            ),
        }
    }

    /// Like [`Self::is_one_of`], for many strings and many rows: the strings are hashed once.
    pub fn is_one_of_many(self, value: &str, parameter: usize) -> String {
        match self.0 {
            DbBackend::Sqlite => self.is_one_of(value, parameter),
            _ => format!("{value} IN (SELECT json_array_elements_text(${parameter}::json))"),
        }
    }

    /// A row source `alias(value)` over the JSON array of strings bound as `$parameter`.
    pub fn strings(self, parameter: usize, alias: &str) -> String {
        match self.0 {
            DbBackend::Sqlite => format!("json_each(${parameter}) AS {alias}"),
            _ => format!(
                "(SELECT * FROM json_array_elements_text(${parameter}::json) AS r(value) {UNKNOWN_LIMIT}) AS {alias}"
            ),
        }
    }

    /// For each row of the source `each` the first `limit` workflows `s` of `from` (which names `s`) that fulfil `filter`, in `order`; locked, and
    /// passing over those that somebody else has locked. Each of them is a look into an index, however many workflows there are.
    pub fn first_of_each(
        self,
        each: &str,
        from: &str,
        filter: &str,
        order: &str,
        limit: u64,
    ) -> String {
        let rest = format!("FROM {from} WHERE {filter} ORDER BY {order} LIMIT {limit}");
        match self.0 {
            DbBackend::Sqlite => format!(
                "{each} CROSS JOIN \"dbos\".workflow_status s ON s.rowid IN (SELECT s.rowid {rest})"
            ),
            _ => format!(
                "{each} CROSS JOIN LATERAL (SELECT s.* {rest} {}) AS s",
                self.lock_free("s")
            ),
        }
    }

    /// A row source `alias(kind, topic, workflow, key, low, high)` over the JSON array in the column `column`. Twice limited, Postgres expects
    /// one row of it: with a hundred for each of two thousand waits it takes the statement for so dear that it compiles it first, which takes
    /// seconds where the statement takes milliseconds.
    pub fn conditions(self, column: &str, alias: &str) -> String {
        let columns = [
            ("kind", Column::Text),
            ("topic", Column::Text),
            ("workflow", Column::Text),
            ("key", Column::Text),
            ("low", Column::Int),
            ("high", Column::Int),
        ];
        match self.0 {
            DbBackend::Sqlite => self.records(column, alias, &columns),
            _ => format!(
                "(SELECT * FROM (SELECT * FROM {} {UNKNOWN_LIMIT}) AS r {UNKNOWN_LIMIT}) AS {alias}",
                self.records(column, "r", &columns)
            ),
        }
    }

    /// Locks the rows of `alias` that a SELECT returns until the transaction ends. Not `FOR UPDATE`: that would block an official
    /// client's `send`, whose foreign key takes a key lock. SQLite's writer holds the whole file.
    pub fn lock(self, alias: &str) -> String {
        match self.0 {
            DbBackend::Sqlite => String::new(),
            _ => format!("FOR NO KEY UPDATE OF {alias}"),
        }
    }

    /// Like [`Self::lock`], passing over rows that somebody else has locked.
    pub fn lock_free(self, alias: &str) -> String {
        match self.0 {
            DbBackend::Sqlite => String::new(),
            _ => format!("FOR NO KEY UPDATE OF {alias} SKIP LOCKED"),
        }
    }

    /// The condition of a partial index, beside another that implies it: SQLite takes such an index only when its very condition is asked for,
    /// and Postgres, which sees the implication, would count it twice and expect too few rows.
    pub fn index_condition(self, condition: &str) -> String {
        match self.0 {
            DbBackend::Sqlite => condition.to_owned(),
            _ => "true".to_owned(),
        }
    }

    /// Asks how a statement would be executed; the answer's lines are in the column [`Self::explained`].
    pub fn explain(self, statement: &str) -> String {
        match self.0 {
            DbBackend::Sqlite => format!("EXPLAIN QUERY PLAN {statement}"),
            _ => format!("EXPLAIN {statement}"),
        }
    }

    /// See [`Self::explain`].
    pub fn explained(self) -> &'static str {
        match self.0 {
            DbBackend::Sqlite => "detail",
            _ => "QUERY PLAN",
        }
    }

    /// The larger of two integers.
    pub fn greatest(self, a: &str, b: &str) -> String {
        match self.0 {
            DbBackend::Sqlite => format!("max({a}, {b})"),
            _ => format!("greatest({a}, {b})"),
        }
    }

    /// A source of whole rows of `"app".table` from the JSON array bound as `$1`, as alias `v`, and the expressions that select `columns`
    /// from it. Bytes travel as `\x` and hexadecimal digits.
    pub fn table_rows(self, table: &TableShape, columns: &[String]) -> (String, Vec<String>) {
        match self.0 {
            DbBackend::Sqlite => {
                let select = columns.iter().map(|c| {
                    if table.bytes.contains(&c.as_str()) {
                        format!("unhex(substr(v.value->>'{c}', 3))")
                    } else if table.json.contains(&c.as_str()) {
                        // `->` answers the text `null` for a null.
                        format!("CASE WHEN json_type(v.value, '$.{c}') = 'null' THEN NULL ELSE v.value->'{c}' END")
                    } else {
                        format!("v.value->>'{c}'")
                    }
                });
                ("json_each($1) AS v".to_owned(), select.collect())
            }
            _ => (
                format!(
                    "(SELECT * FROM json_populate_recordset(null::\"app\".{}, $1::json) {UNKNOWN_LIMIT}) AS v",
                    table.name
                ),
                columns.iter().map(|c| format!("v.\"{c}\"")).collect(),
            ),
        }
    }
}

impl Column {
    fn postgres(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "bigint",
            Self::Bool => "boolean",
        }
    }
}

/// What the store must know of a table to write rows that travel as JSON.
#[derive(Debug)]
pub struct TableShape {
    /// Its name in `app`.
    pub name: &'static str,
    /// The columns of its primary key.
    pub key: &'static [&'static str],
    /// Columns that hold bytes.
    pub bytes: &'static [&'static str],
    /// Columns that hold JSON documents.
    pub json: &'static [&'static str],
}
