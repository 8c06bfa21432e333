//! Owns what stands in a record or a message in place of what may be a secret.

use serde_json::{Map, Value};

/// What stands for such a value.
const NOT_KEPT: &str = "(not kept)";
/// What stands for what is only told.
const NOT_SHOWN: &str = "(not shown)";

/// Hides the values of the object at `pointer`, as RFC 6901 writes it; its names stay.
pub(crate) fn hide_values(document: &mut Value, pointer: &str) {
    let object = document
        .pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .into_iter();
    for value in object.flat_map(Map::values_mut) {
        *value = NOT_KEPT.into();
    }
}

/// A URL, or what was given for one, as it may be shown: without password and query. Of what is no proper URL less is left, because nobody
/// knows what part of it the password is; only the user of a database is shown.
pub(crate) fn shown_url(text: &str) -> String {
    if text.starts_with("sqlite:") {
        return text.split('?').next().unwrap_or_default().to_owned();
    }
    let Some(at) = text.find("://") else {
        return match text.rsplit_once('@') {
            // As libpq takes it, too.
            _ if text.contains("password") => NOT_SHOWN.to_owned(),
            Some((_, place)) => format!("…@{place}"),
            None => text.to_owned(),
        };
    };
    let (scheme, rest) = text.split_at(at + 3);
    let before_query = rest.split('?').next().unwrap_or_default();
    // A password that nobody encoded may hold what separates the parts: then the last `@` counts.
    let place = if is_proper(text, before_query) {
        before_query
    } else {
        rest
    };
    let (user, place) = match place.rsplit_once('@') {
        Some((before, place)) => (before.split(':').next().unwrap_or_default(), place),
        None => return format!("{scheme}{before_query}"),
    };
    let place = place.split('?').next().unwrap_or_default();
    let plain = user
        .chars()
        .all(|c| c.is_alphanumeric() || "-_.".contains(c));
    let user = if scheme.starts_with("postgres") && plain {
        user
    } else {
        "…"
    };
    format!("{scheme}{user}@{place}")
}

/// Whether what stands before a query holds all of user and password, as far as one can see.
fn is_proper(text: &str, before_query: &str) -> bool {
    let path = before_query.find('/').map_or("", |at| &before_query[at..]);
    let query = text.split_once('?').map_or("", |(_, query)| query);
    let named = query
        .split('@')
        .next()
        .is_some_and(|before| before.contains('='));
    text.parse::<reqwest::Url>().is_ok()
        && !text.contains('#')
        && !path.contains('@')
        && (named || !query.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn passwords_are_not_shown_wherever_they_stand() {
        for (url, shown) in [
            (
                "postgres://me:secret@localhost:5432/x",
                "postgres://me@localhost:5432/x",
            ),
            ("postgres://me:s3#cr/e?t@db/x", "postgres://me@db/x"),
            (
                "postgres://localhost/x?password=secret",
                "postgres://localhost/x",
            ),
            ("postgres://db/x?user=me&password=s@cret", "postgres://db/x"),
            ("postgres://me:12#34@db/x", "postgres://me@db/x"),
            ("postgres://me:12/34@db/x", "postgres://me@db/x"),
            ("postgres://me:12?34@db/x", "postgres://me@db/x"),
            ("host=db password=secret", NOT_SHOWN),
            (
                "https://trace.example/{traceId}?key=secret",
                "https://trace.example/{traceId}",
            ),
            ("sqlite://a@b.db", "sqlite://a@b.db"),
            (
                "postgre://me:secret@db/x?password=secret",
                "postgre://…@db/x",
            ),
            ("mysql://me:secret@host/x", "mysql://…@host/x"),
            ("me:secret@host/db", "…@host/db"),
            (
                "http://token@host:4318/v1/traces?key=secret",
                "http://…@host:4318/v1/traces",
            ),
            ("sqlite://a/b.db?mode=rwc", "sqlite://a/b.db"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("sometimes?", "sometimes?"),
        ] {
            assert_eq!(shown_url(url), shown, "{url}");
        }
    }

    #[test]
    fn names_stay_and_values_go() {
        let mut document = json!({"inputs": {"env": {"TOKEN": "secret", "N": 7}, "cmd": "true"}});
        hide_values(&mut document, "/inputs/env");
        hide_values(&mut document, "/inputs/cmd");
        hide_values(&mut document, "/nothing");
        let hidden = json!({"inputs": {"env": {"TOKEN": NOT_KEPT, "N": NOT_KEPT}, "cmd": "true"}});
        assert_eq!(document, hidden);
    }
}
