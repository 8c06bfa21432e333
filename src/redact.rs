//! Owns what stands in a record or a message in place of what may be a secret.

use serde_json::{Map, Value};

/// What stands for such a value.
const NOT_KEPT: &str = "(not kept)";

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
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    // A password that nobody encoded may hold what separates the parts, so the last one counts.
    let (user, place) = match rest.rsplit_once('@') {
        Some((before, place)) => (Some(before.split(':').next().unwrap_or_default()), place),
        None => (None, rest),
    };
    let plain = |user: &str| {
        user.chars()
            .all(|c| c.is_alphanumeric() || "-_.".contains(c))
    };
    let user = match user {
        None => String::new(),
        Some(user) if scheme.starts_with("postgres") && plain(user) => format!("{user}@"),
        Some(_) => "…@".to_owned(),
    };
    let place = match place.split_once('?') {
        Some((place, _)) if !scheme.is_empty() => place,
        _ => place,
    };
    format!("{scheme}{user}{place}")
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
            (
                "postgres://localhost/x?password=s@cret",
                "postgres://…@cret",
            ),
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
