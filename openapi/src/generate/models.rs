//! Writes the models: one struct per object, one enum per list of words.

use serde_json::Value;

use super::{
    document::{Document, referenced},
    names::{doc, pascal, snake},
};

pub(super) fn write(document: &Document) -> Result<String, String> {
    let mut text = String::from(
        "//! Requests and answers.\n\nuse poem_openapi::{Enum, Object, types::MaybeUndefined};\n\nuse crate::{Given, JsonObject, Text};\n",
    );
    let requested = document.requested()?;
    for (name, schema) in document.schemas()? {
        let written = match schema.get("enum") {
            Some(words) => enumeration(name, schema, words),
            None => object(name, schema, requested.contains(name)),
        };
        text.push_str(&written.map_err(|e| format!("schema {name}: {e}"))?);
    }
    Ok(text)
}

fn description(schema: &Value) -> Result<&str, String> {
    schema
        .get("description")
        .and_then(Value::as_str)
        .ok_or_else(|| "no description".into())
}

fn enumeration(name: &str, schema: &Value, words: &Value) -> Result<String, String> {
    let mut text = format!(
        "\n{}#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]\npub enum {name} {{\n",
        doc(description(schema)?)
    );
    for word in words
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        text.push_str(&format!(
            "/// `{word}`\n#[oai(rename = {word:?})]\n{},\n",
            pascal(word)
        ));
    }
    text.push_str("}\n");
    Ok(text)
}

fn object(name: &str, schema: &Value, strict: bool) -> Result<String, String> {
    let derive = "#[derive(Debug, Clone, PartialEq, Object)]\n#[oai(deny_unknown_fields)]\n";
    let mut text = format!(
        "\n{}{derive}pub struct {name} {{\n",
        doc(description(schema)?)
    );
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    if strict && !closed {
        return Err(
            "a request takes no field that it does not know; say additionalProperties: false"
                .into(),
        );
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .ok_or("neither properties nor words")?;
    for (property, schema) in properties {
        let nullable = schema
            .get("nullable")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let optional = !required.contains(&property.as_str());
        let kind = rust_type(schema).map_err(|e| format!("{property}: {e}"))?;
        // The framework's own strings take numbers, too.
        let kind = if strict {
            kind.replace("String", "Text")
        } else {
            kind
        };
        let kind = match (optional, nullable) {
            (false, false) => kind,
            // And they take null for a value that was left out.
            (true, false) if strict => format!("Given<{kind}>"),
            // In a request, `null` says something else than nothing.
            (true, true) if strict => format!("MaybeUndefined<{kind}>"),
            _ => format!("Option<{kind}>"),
        };
        let mut attributes = vec![format!("rename = {property:?}")];
        if optional {
            attributes.push("skip_serializing_if_is_none".into());
        }
        attributes.extend(validator(schema));
        let about = schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or(property);
        text.push_str(&format!(
            "{}#[oai({})]\npub {}: {kind},\n",
            doc(about),
            attributes.join(", "),
            snake(property)
        ));
    }
    text.push_str("}\n");
    Ok(text)
}

/// The Rust type of a value that is there.
pub(super) fn rust_type(schema: &Value) -> Result<String, String> {
    if let Some(model) = referenced(schema) {
        return Ok(model.to_owned());
    }
    let word = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    match (word("type"), word("format")) {
        ("string", _) => Ok("String".into()),
        ("boolean", _) => Ok("bool".into()),
        ("integer", "int32") => Ok("i32".into()),
        ("integer", "int64") => Ok("i64".into()),
        ("object", _) => Ok("JsonObject".into()),
        ("array", _) => Ok(format!(
            "Vec<{}>",
            rust_type(schema.get("items").ok_or("an array of nothing")?)?
        )),
        (kind, format) => Err(format!(
            "type {kind:?} with format {format:?} is not understood"
        )),
    }
}

/// The limits that poem-openapi checks.
pub(super) fn validator(schema: &Value) -> Option<String> {
    let mut limits = Vec::new();
    for (key, name) in [("minLength", "min_length"), ("maxLength", "max_length")] {
        if let Some(length) = schema.get(key).and_then(Value::as_u64) {
            limits.push(format!("{name} = {length}"));
        }
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        limits.push(format!("pattern = {pattern:?}"));
    }
    for key in ["minimum", "maximum"] {
        if let Some(bound) = schema.get(key).and_then(Value::as_i64) {
            limits.push(format!("{key}(value = \"{bound}\")"));
        }
    }
    (!limits.is_empty()).then(|| format!("validator({})", limits.join(", ")))
}
