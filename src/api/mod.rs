//! HTTP: wire types in, domain calls, wire types out. No SQL and no logic: what a request means is decided below.

mod admin;
mod artifacts;
mod cursor;
mod docs;
mod errors;
mod front;
mod health;
mod intents;
mod json_check;
mod listener;
mod ops;
mod queues;
mod runs;
mod schedules;
mod service;
mod stream;
mod tick;
mod trace;
mod utility;

use std::sync::Arc;

use openapi::{Routes, document};
use poem::{Endpoint, EndpointExt, Response, Route};
use poem_openapi::OpenApiService;

pub use admin::Admin;
pub use listener::{ADMIN_CONNECTIONS, API_CONNECTIONS, serve};
pub use service::ApiService;
pub use tick::Ticks;

use crate::config::Access;

/// The whole API: operations, document and its pages, behind the front, which lets in whom `access` says.
///
/// # Errors
/// When the document that the binary carries is broken, which a test rules out.
pub fn app(
    service: ApiService,
    access: &Access,
) -> Result<impl Endpoint<Output = Response> + use<>, String> {
    let document = document().map_err(|e| e.to_string())?.to_string();
    let api = OpenApiService::new(
        Routes(Arc::new(service)),
        "Stepwell",
        env!("CARGO_PKG_VERSION"),
    );
    let page = docs::page(&api.swagger_ui_html(), &api.spec(), &document);
    let routes = Route::new()
        .at("/openapi.json", docs::document(document))
        .at("/docs", page)
        .nest("/", api);
    Ok(routes.with(front::Front::new(access)).with(trace::Traced))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::{
        config::Config,
        engine::{Engine, EngineOptions},
        intent::Product,
        store::{Database, DatabaseOptions},
    };

    /// Per method and path: operationId and parameters; per schema: its properties.
    fn shape(document: &Value) -> (BTreeMap<String, String>, BTreeMap<String, BTreeSet<String>>) {
        let mut operations = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let mut parameters: Vec<String> = operation["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|parameter| {
                        let reference = parameter["$ref"]
                            .as_str()
                            .map(|r| r.trim_start_matches('#'));
                        let parameter = reference
                            .map_or(parameter, |pointer| document.pointer(pointer).unwrap());
                        format!(
                            "{}:{}:{}",
                            parameter["in"],
                            parameter["name"],
                            parameter["required"].as_bool().unwrap_or(false)
                        )
                    })
                    .collect();
                parameters.sort();
                operations.insert(
                    format!("{method} {path}"),
                    format!("{} {}", operation["operationId"], parameters.join(" ")),
                );
            }
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let properties = |schema: &Value| {
            schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect()
        };
        (
            operations,
            schemas
                .iter()
                .map(|(name, schema)| (name.clone(), properties(schema)))
                .collect(),
        )
    }

    async fn service(directory: &std::path::Path) -> ApiService {
        let url = format!("sqlite://{}/test.db", directory.display());
        let db = Database::connect(&DatabaseOptions::new(url)).await.unwrap();
        let engine = Engine::builder(db.clone(), EngineOptions::default()).launch();
        let config = Config::from_lookup(|_| None).unwrap();
        ApiService::new(
            Product::new(engine.client().clone(), &config),
            db,
            "v1".into(),
        )
    }

    #[tokio::test]
    async fn the_document_served_says_what_the_routes_do() {
        let directory = tempfile::tempdir().unwrap();
        let routes = OpenApiService::new(
            Routes(Arc::new(service(directory.path()).await)),
            "Stepwell",
            "0",
        );
        let routes: Value = serde_json::from_str(&routes.spec()).unwrap();
        let (operations, schemas) = shape(&document().unwrap());
        let (served_operations, served_schemas) = shape(&routes);
        assert_eq!(operations, served_operations);
        assert_eq!(schemas, served_schemas);
    }
}
