//! Writes the service trait, and the routes that call it.

use serde_json::Value;

use super::{
    document::{Document, Operation, Success},
    models::{rust_type, validator},
    names::{doc, pascal, snake},
};

pub(super) fn write(document: &Document) -> Result<String, String> {
    let operations = document.operations()?;
    let mut queries = String::new();
    let mut service = String::new();
    let mut responses = String::new();
    let mut routes = String::new();
    let mut tags: Vec<&str> = Vec::new();
    for operation in &operations {
        if !tags.contains(&operation.tag) {
            tags.push(operation.tag);
        }
        queries.push_str(&query(operation)?);
        service.push_str(&method(operation));
        responses.push_str(&response(operation));
        routes.push_str(&route(operation)?);
    }
    let tags: String = tags
        .iter()
        .map(|tag| format!("#[oai(rename = {tag:?})]\n{},\n", pascal(tag)))
        .collect();
    Ok(format!(
        "//! The operations: a trait to implement, and the routes that call it.\n\n\
         use std::{{future::Future, sync::Arc}};\n\n\
         use poem::Request;\n\
         use poem_openapi::{{ApiResponse, OpenApi, Tags, param::{{Path, Query}}, payload::Json}};\n\n\
         use super::models::*;\nuse crate::{{ApiError, Call, Content, Events, Page}};\n\n\
         {queries}\n/// What the service does.\npub trait Service: Send + Sync + 'static {{\n{service}}}\n\n\
         #[derive(Tags)]\nenum Tag {{\n{tags}}}\n\n{responses}\n\
         /// The routes of a service.\n#[derive(Debug)]\npub struct Routes<S>(pub Arc<S>);\n\n#[OpenApi]\nimpl<S: Service> Routes<S> {{\n{routes}}}\n"
    ))
}

fn location<'a>(parameter: &'a Value, key: &str) -> &'a str {
    parameter
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn in_query<'a>(operation: &'a Operation) -> impl Iterator<Item = &'a Value> {
    operation
        .parameters
        .iter()
        .copied()
        .filter(|parameter| location(parameter, "in") == "query")
}

fn in_path<'a>(operation: &'a Operation) -> impl Iterator<Item = &'a Value> {
    operation
        .parameters
        .iter()
        .copied()
        .filter(|parameter| location(parameter, "in") == "path")
}

/// The Rust type of a parameter of the query, which need not be there unless the document says so.
fn query_type(parameter: &Value) -> Result<String, String> {
    let kind = rust_type(&parameter["schema"])?;
    let required = parameter.get("required").and_then(Value::as_bool);
    Ok(if required.unwrap_or(false) {
        kind
    } else {
        format!("Option<{kind}>")
    })
}

fn query(operation: &Operation) -> Result<String, String> {
    if in_query(operation).next().is_none() {
        return Ok(String::new());
    }
    let mut fields = String::new();
    for parameter in in_query(operation) {
        let name = location(parameter, "name");
        let kind = query_type(parameter).map_err(|e| format!("{name}: {e}"))?;
        fields.push_str(&format!(
            "{}pub {}: {kind},\n",
            doc(location(parameter, "description")),
            snake(name)
        ));
    }
    let about = doc(&format!("The query of `{}`.", operation.id));
    Ok(format!(
        "{about}#[derive(Debug, Clone, Default, PartialEq)]\npub struct {}Query {{\n{fields}}}\n\n",
        pascal(operation.id)
    ))
}

fn answer(success: &Success) -> String {
    match success {
        Success::Model(model) => (*model).to_owned(),
        Success::List {
            model,
            paged: false,
        } => format!("Vec<{model}>"),
        Success::List { model, paged: true } => format!("Page<{model}>"),
        Success::Content => "Content".to_owned(),
        Success::Events => "Events".to_owned(),
    }
}

fn method(operation: &Operation) -> String {
    let mut arguments = String::from("&self, call: Call");
    for parameter in in_path(operation) {
        arguments.push_str(&format!(", {}: String", snake(location(parameter, "name"))));
    }
    if in_query(operation).next().is_some() {
        arguments.push_str(&format!(", query: {}Query", pascal(operation.id)));
    }
    if let Some(body) = &operation.body {
        arguments.push_str(&format!(", body: {}", body.model));
    }
    let answer = answer(&operation.success);
    format!(
        "{}fn {}({arguments}) -> impl Future<Output = Result<{answer}, ApiError>> + Send;\n",
        doc(operation.summary),
        snake(operation.id)
    )
}

fn response(operation: &Operation) -> String {
    let name = pascal(operation.id);
    let payload = match &operation.success {
        Success::Model(model) => format!("Json<{model}>"),
        Success::List {
            model,
            paged: false,
        } => format!("Json<Vec<{model}>>"),
        Success::List { model, paged: true } => {
            format!("Json<Vec<{model}>>, #[oai(header = \"x-next-cursor\")] Option<String>")
        }
        Success::Content | Success::Events => return String::new(),
    };
    let status = operation.status;
    format!(
        "#[derive(ApiResponse)]\nenum {name}Success {{\n/// {}.\n#[oai(status = {status})]\nOk({payload}),\n}}\n\n",
        operation.summary
    )
}

fn route(operation: &Operation) -> Result<String, String> {
    let mut parameters = String::from("request: &Request");
    let mut arguments = String::from("Call::of(request)");
    for parameter in in_path(operation) {
        let name = location(parameter, "name");
        let limits = validator(&parameter["schema"])
            .map(|limits| format!(", {limits}"))
            .unwrap_or_default();
        let about = doc(location(parameter, "description"));
        parameters.push_str(&format!(
            ", {about}#[oai(name = {name:?}{limits})] {}: Path<String>",
            snake(name)
        ));
        arguments.push_str(&format!(", {}.0", snake(name)));
    }
    let mut fields = Vec::new();
    for parameter in in_query(operation) {
        let name = location(parameter, "name");
        let limits = validator(&parameter["schema"])
            .map(|limits| format!(", {limits}"))
            .unwrap_or_default();
        let kind = query_type(parameter)?;
        let about = doc(location(parameter, "description"));
        parameters.push_str(&format!(
            ", {about}#[oai(name = {name:?}{limits})] {}: Query<{kind}>",
            snake(name)
        ));
        fields.push(format!("{0}: {0}.0", snake(name)));
    }
    if !fields.is_empty() {
        arguments.push_str(&format!(
            ", {}Query {{ {} }}",
            pascal(operation.id),
            fields.join(", ")
        ));
    }
    if let Some(body) = &operation.body {
        parameters.push_str(&format!(", body: Json<{}>", body.model));
        arguments.push_str(", body.0");
    }
    let (id, name, tag) = (operation.id, pascal(operation.id), pascal(operation.tag));
    let path = operation.path.replace('{', ":").replace('}', "");
    let (method, call) = (operation.method, snake(operation.id));
    let attribute = format!(
        "#[oai(path = {path:?}, method = {method:?}, operation_id = {id:?}, tag = \"Tag::{tag}\")]"
    );
    let (returns, result) = match &operation.success {
        Success::Content | Success::Events => (
            answer(&operation.success),
            format!("self.0.{call}({arguments}).await"),
        ),
        Success::List { paged: true, .. } => (
            format!("{name}Success"),
            format!(
                "self.0.{call}({arguments}).await.map(|page| {name}Success::Ok(Json(page.items), page.next_cursor))"
            ),
        ),
        _ => (
            format!("{name}Success"),
            format!(
                "self.0.{call}({arguments}).await.map(|answer| {name}Success::Ok(Json(answer)))"
            ),
        ),
    };
    Ok(format!(
        "{}{attribute}\nasync fn {call}(&self, {parameters}) -> Result<{returns}, ApiError> {{ {result} }}\n\n",
        doc(operation.summary)
    ))
}
