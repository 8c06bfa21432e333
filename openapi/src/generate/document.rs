//! Owns the reading of the document: references are followed here, and what the generator does not understand is refused.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The parsed document.
pub(super) struct Document(Value);

/// One operation.
pub(super) struct Operation<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) id: &'a str,
    pub(super) summary: &'a str,
    pub(super) tag: &'a str,
    pub(super) parameters: Vec<&'a Value>,
    pub(super) body: Option<Body<'a>>,
    pub(super) status: &'a str,
    pub(super) success: Success<'a>,
}

/// The body of a request.
pub(super) struct Body<'a> {
    pub(super) model: &'a str,
    pub(super) required: bool,
}

/// What an operation answers.
pub(super) enum Success<'a> {
    /// A document.
    Model(&'a str),
    /// An array of documents, whose next page is named in a header or not.
    List { model: &'a str, paged: bool },
    /// Bytes with a content type of their own.
    Content,
    /// Server-sent events.
    Events,
}

/// The name at the end of a reference.
pub(super) fn referenced(schema: &Value) -> Option<&str> {
    let direct = schema
        .get("$ref")
        .or_else(|| schema.pointer("/allOf/0/$ref"))?;
    direct.as_str()?.rsplit('/').next()
}

impl Document {
    pub(super) fn parse(yaml: &str) -> Result<Self, String> {
        serde_norway::from_str(yaml)
            .map(Self)
            .map_err(|e| format!("openapi.yaml: {e}"))
    }

    /// The document itself, for what is told and not built.
    pub(super) fn value(&self) -> &Value {
        &self.0
    }

    pub(super) fn schemas(&self) -> Result<&Map<String, Value>, String> {
        self.0
            .pointer("/components/schemas")
            .and_then(Value::as_object)
            .ok_or_else(|| "no schemas".into())
    }

    /// The names of the models that requests are made of.
    pub(super) fn requested(&self) -> Result<BTreeSet<String>, String> {
        let schemas = self.schemas()?;
        let bodies = self
            .operations()?
            .into_iter()
            .filter_map(|operation| operation.body);
        let mut open: Vec<String> = bodies.map(|body| body.model.to_owned()).collect();
        let mut found = BTreeSet::new();
        while let Some(name) = open.pop() {
            let properties = schemas
                .get(&name)
                .and_then(|schema| schema.get("properties"))
                .and_then(Value::as_object);
            let inner = properties
                .into_iter()
                .flatten()
                .filter_map(|(_, schema)| referenced(schema));
            open.extend(
                inner
                    .filter(|inner| !found.contains(*inner))
                    .map(str::to_owned),
            );
            found.insert(name);
        }
        Ok(found)
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, String> {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
            return Ok(value);
        };
        self.0
            .pointer(reference.trim_start_matches('#'))
            .ok_or_else(|| format!("{reference} leads nowhere"))
    }

    /// The operations, by path and method as the document orders them.
    pub(super) fn operations(&self) -> Result<Vec<Operation<'_>>, String> {
        let paths = self
            .0
            .get("paths")
            .and_then(Value::as_object)
            .ok_or("no paths")?;
        let mut operations = Vec::new();
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().ok_or("a path has no methods")? {
                operations.push(
                    self.operation(path, method, operation)
                        .map_err(|e| format!("{method} {path}: {e}"))?,
                );
            }
        }
        Ok(operations)
    }

    fn operation<'a>(
        &'a self,
        path: &'a str,
        method: &'a str,
        operation: &'a Value,
    ) -> Result<Operation<'a>, String> {
        let text = |key: &str| {
            operation
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| format!("no {key}"))
        };
        let parameters = operation
            .get("parameters")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let responses = operation
            .get("responses")
            .and_then(Value::as_object)
            .ok_or("no responses")?;
        let (status, success) = responses
            .iter()
            .find(|(status, _)| status.starts_with('2'))
            .ok_or("no success")?;
        let body = operation.get("requestBody").map(|body| {
            let schema = body
                .pointer("/content/application~1json/schema")
                .and_then(referenced);
            let required = body
                .get("required")
                .and_then(Value::as_bool)
                .unwrap_or(false);
            schema
                .map(|model| Body { model, required })
                .ok_or_else(|| "the body is no model".to_owned())
        });
        Ok(Operation {
            method,
            path,
            id: text("operationId")?,
            summary: text("summary")?,
            tag: operation
                .pointer("/tags/0")
                .and_then(Value::as_str)
                .ok_or("no tag")?,
            parameters: parameters
                .map(|parameter| self.resolve(parameter))
                .collect::<Result<_, _>>()?,
            body: body.transpose()?,
            status,
            success: success_of(success)?,
        })
    }
}

fn success_of(response: &Value) -> Result<Success<'_>, String> {
    if response.pointer("/content/*~1*").is_some() {
        return Ok(Success::Content);
    }
    if response.pointer("/content/text~1event-stream").is_some() {
        return Ok(Success::Events);
    }
    let schema = response
        .pointer("/content/application~1json/schema")
        .ok_or("the success has no document")?;
    let paged = response.pointer("/headers/x-next-cursor").is_some();
    match (referenced(schema), schema.get("items").and_then(referenced)) {
        (Some(model), _) => Ok(Success::Model(model)),
        (None, Some(model)) => Ok(Success::List { model, paged }),
        (None, None) => Err("the success is neither a model nor a list of one".into()),
    }
}
