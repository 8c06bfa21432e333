//! Owns what stands in a record in place of what may be a secret.

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
