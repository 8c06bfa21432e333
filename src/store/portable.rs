//! Owns the reading of values that other clients of DBOS wrote. Ours are portable JSON; others come as they come, and never as an error.

use serde_json::Value;

use super::workflows::SERIALIZATION;

/// How the JavaScript SDK writes by default: a document whose member `json` is the value.
const SUPERJSON: &str = "js_superjson";

/// A stored value as JSON text: portable JSON as it is, the JavaScript SDK's by its value, anything else (a Python pickle) as an opaque string.
pub(super) fn portable(text: String, serialization: Option<&str>) -> String {
    let opaque = |text: &str| Value::from(text).to_string();
    match serialization {
        Some(SUPERJSON) => match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(mut document)) => document
                .remove("json")
                .map_or(text, |value| value.to_string()),
            _ => opaque(&text),
        },
        Some(SERIALIZATION) | None if serde_json::from_str::<Value>(&text).is_ok() => text,
        _ => opaque(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writer_is_read() {
        for (text, serialization, read) in [
            ("{\"a\":1}", Some(SERIALIZATION), "{\"a\":1}"),
            ("[1]", None, "[1]"),
            ("not JSON", None, "\"not JSON\""),
            ("not JSON", Some(SERIALIZATION), "\"not JSON\""),
            (
                "{\"json\":{\"by\":\"po\"},\"meta\":{}}",
                Some(SUPERJSON),
                "{\"by\":\"po\"}",
            ),
            (
                "gASVBgAAAAAAAACMAmhplC4=",
                Some("py_pickle"),
                "\"gASVBgAAAAAAAACMAmhplC4=\"",
            ),
            ("1", Some("of_tomorrow"), "\"1\""),
        ] {
            assert_eq!(
                portable(text.into(), serialization),
                read,
                "{serialization:?}"
            );
        }
    }
}
