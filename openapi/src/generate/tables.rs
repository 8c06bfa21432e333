//! Writes the table by which the front refuses what no operation takes.

use serde_json::Value;

use super::document::Document;

pub(super) fn write(document: &Document) -> Result<String, String> {
    let mut rows = String::new();
    for operation in document.operations()? {
        let of_query = operation
            .parameters
            .iter()
            .filter(|parameter| parameter["in"] == "query");
        let query: Vec<&str> = of_query
            .filter_map(|parameter| parameter.get("name").and_then(Value::as_str))
            .collect();
        let body = match &operation.body {
            None => "Body::None",
            Some(body) if body.required => "Body::Required",
            Some(_) => "Body::EmptyAsObject",
        };
        let (method, path) = (operation.method.to_ascii_uppercase(), operation.path);
        rows.push_str(&format!(
            "Operation {{ method: {method:?}, path: {path:?}, query: &{query:?}, body: {body} }},\n"
        ));
    }
    Ok(format!(
        "//! The operations as the front sees them.\n\nuse crate::{{Body, Operation}};\n\n\
         /// Every operation.\npub const OPERATIONS: &[Operation] = &[\n{rows}];\n"
    ))
}
