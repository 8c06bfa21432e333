//! Owns the strict reading of JSON: what a lenient parser lets pass is refused before it is parsed for its meaning.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How deep documents may nest.
const DEEPEST: usize = 64;

/// Checks that `bytes` are exactly one JSON document without duplicate keys, NUL or excessive depth.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let depth = Depth(0);
    depth
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|e| e.to_string())
}

#[derive(Clone, Copy)]
struct Depth(usize);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.0 > DEEPEST {
            return Err(D::Error::custom(format!("nested more than {DEEPEST} deep")));
        }
        deserializer.deserialize_any(self)
    }
}

fn text<E: Error>(text: &str) -> Result<(), E> {
    if text.contains('\0') {
        Err(E::custom("a string contains NUL"))
    } else {
        Ok(())
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        text(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Depth(self.0 + 1))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            text(&key)?;
            entries.next_value_seed(Depth(self.0 + 1))?;
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_document_is_accepted() {
        for good in [
            "{}",
            " {\"a\": [1, -2, 2.5, null, true, \"x\"]} ",
            "[]",
            "\"\u{e9}\"",
        ] {
            check(good.as_bytes()).unwrap();
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        for (bad, word) in [
            ("{bad", "key"),
            ("{} {}", "trailing"),
            ("{\"a\":1,\"a\":2}", "duplicate key \"a\""),
            ("[{\"b\":{\"c\":1,\"c\":1}}]", "duplicate key \"c\""),
            ("\"a\\u0000b\"", "NUL"),
            ("{\"a\\u0000\":1}", "NUL"),
            (deep.as_str(), "deep"),
            ("", "EOF"),
            ("NaN", "expected"),
        ] {
            let error = check(bad.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
        assert!(check(b"\"\xff\"").is_err());
    }
}
