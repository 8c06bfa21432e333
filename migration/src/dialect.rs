//! Owns the words that the two back ends spell differently, so that every table, index and view is written once.

use sea_orm_migration::sea_orm::DbBackend;

/// Fills in a definition's placeholders: `{bytes}` and `{json}` are types, `{dbos}` the qualifier of a `dbos` table, `{now}` the time in epoch
/// milliseconds, `{default_…}` a column's default, which DBOS clients rely on when they insert.
pub(crate) fn translate(backend: DbBackend, definition: &str) -> String {
    let words = match backend {
        DbBackend::Sqlite => [
            ("{bytes}", "blob"),
            ("{json}", "text"),
            ("{dbos}", ""),
            (
                "{now}",
                "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            ),
            (
                "{default_now}",
                "DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))",
            ),
            ("{default_uuid}", "DEFAULT (lower(hex(randomblob(16))))"),
            (
                "{default_uuid_text}",
                "DEFAULT (lower(hex(randomblob(16))))",
            ),
        ],
        _ => [
            ("{bytes}", "bytea"),
            ("{json}", "jsonb"),
            ("{dbos}", "dbos."),
            (
                "{now}",
                "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            ),
            (
                "{default_now}",
                "DEFAULT (extract(epoch FROM now()) * 1000.0)::bigint",
            ),
            ("{default_uuid}", "DEFAULT gen_random_uuid()"),
            ("{default_uuid_text}", "DEFAULT gen_random_uuid()::text"),
        ],
    };
    words
        .iter()
        .fold(definition.to_owned(), |text, (placeholder, word)| {
            text.replace(placeholder, word)
        })
}
