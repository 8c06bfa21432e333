//! Owns the rows of the application that travel with a checkpoint: the engine writes them without knowing what they mean.

use std::collections::BTreeMap;

use sea_orm::ConnectionTrait;
use serde_json::{Map, Value as Json};

use super::{
    backend::{Transaction, json_rows, statement},
    dialect::{Dialect, TableShape, dialect},
    error::StoreError,
};

/// What a [`Row`] does to its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowChange {
    /// A new row; an existing one is an error.
    Insert,
    /// A new row whose last key column counts: it is one more than in the rows that share the rest of the key, and at least what is given. A step
    /// that a client of DBOS has rewound leaves rows beside those that it left before.
    Again,
    /// The columns given replace those of the row with the same key.
    Update,
    /// A new row, or one more in the named column of the existing row.
    Count(&'static str),
}

/// A row of the application, as data: the engine stays ignorant of what it means.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its table.
    pub table: &'static TableShape,
    /// What to do.
    pub change: RowChange,
    /// Column values, the key's included. Bytes as `\x` and hexadecimal digits.
    pub values: Map<String, Json>,
    /// Whether it belongs to a step's body, and is kept with its output.
    pub body: bool,
}

/// Rows that one statement can write: the same change of the same columns of one table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RowKind<'a> {
    table: &'a str,
    change: RowChange,
    columns: Vec<&'a String>,
}

/// Writes `rows`, those of one kind in one statement.
pub async fn write(tx: &Transaction, rows: &[&Row]) -> Result<(), StoreError> {
    let mut groups: BTreeMap<RowKind, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().copied() {
        let kind = RowKind {
            table: row.table.name,
            change: row.change,
            columns: row.values.keys().collect(),
        };
        groups.entry(kind).or_default().push(row);
    }
    for (kind, rows) in groups {
        let Some(table) = rows.first().map(|row| row.table) else {
            continue;
        };
        let columns: Vec<String> = kind.columns.into_iter().cloned().collect();
        let text = row_statement(dialect(tx), table, kind.change, &columns);
        let values: Vec<&Map<String, Json>> = rows.iter().map(|row| &row.values).collect();
        tx.execute_raw(statement(tx, text, [json_rows(&values)?]))
            .await?;
    }
    Ok(())
}

fn row_statement(
    sql: Dialect,
    table: &TableShape,
    change: RowChange,
    columns: &[String],
) -> String {
    let (source, mut select) = sql.table_rows(table, columns);
    if change == RowChange::Again {
        count_on(sql, table, columns, &mut select);
    }
    let quoted: Vec<String> = columns.iter().map(|c| format!("\"{c}\"")).collect();
    let insert = format!(
        "INSERT INTO \"app\".{} AS t ({}) SELECT {} FROM {source}",
        table.name,
        quoted.join(", "),
        select.join(", ")
    );
    match change {
        RowChange::Insert | RowChange::Again => insert,
        RowChange::Count(column) => {
            format!(
                "{insert} WHERE true ON CONFLICT ({}) DO UPDATE SET \"{column}\" = t.\"{column}\" + 1",
                table.key.join(", ")
            )
        }
        RowChange::Update => {
            let is_key = |column: &str| table.key.contains(&column);
            let pairs = || columns.iter().zip(&select);
            let set: Vec<String> = pairs()
                .filter(|(c, _)| !is_key(c))
                .map(|(c, v)| format!("\"{c}\" = {v}"))
                .collect();
            let keys: Vec<String> = pairs()
                .filter(|(c, _)| is_key(c))
                .map(|(c, v)| format!("t.\"{c}\" = {v}"))
                .collect();
            format!(
                "UPDATE \"app\".{} AS t SET {} FROM {source} WHERE {}",
                table.name,
                set.join(", "),
                keys.join(" AND ")
            )
        }
    }
}

/// Replaces the value selected for the last key column by the next number.
fn count_on(sql: Dialect, table: &TableShape, columns: &[String], select: &mut [String]) {
    let Some((counter, rest)) = table.key.split_last() else {
        return;
    };
    let place = |column: &str| columns.iter().position(|c| c == column);
    let same: Vec<String> = rest
        .iter()
        .filter_map(|column| Some(format!("o.\"{column}\" = {}", select[place(column)?])))
        .collect();
    if let Some(place) = place(counter) {
        let highest = format!(
            "(SELECT max(o.\"{counter}\") FROM \"app\".{} o WHERE {})",
            table.name,
            same.join(" AND ")
        );
        select[place] = sql.greatest(&select[place], &format!("COALESCE({highest}, 0) + 1"));
    }
}
