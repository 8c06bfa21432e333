//! Owns the admin port of a process that executes: its health, its metrics, and the wish that it claims nothing more. Not a part of the API, and not in its
//! document: it speaks of one process.

use poem::{
    Endpoint, IntoResponse, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
    web::Json,
};
use serde_json::json;

use openapi::ApiError;

use super::{
    errors,
    front::{hosts::Hosts, tokens::Tokens},
};
use crate::{config::Access, engine::Vitals, store::Database, telemetry};

/// The admin port's routes.
#[derive(Debug)]
pub struct Admin {
    db: Database,
    app_version: String,
    vitals: Vitals,
    tokens: Tokens,
    hosts: Hosts,
}

impl Admin {
    /// The admin port of a process with these vitals.
    pub fn new(db: Database, app_version: String, vitals: Vitals, access: &Access) -> Self {
        Self {
            db,
            app_version,
            vitals,
            tokens: Tokens::new(access),
            hosts: Hosts(access.allowed_hosts.clone()),
        }
    }

    /// 200 while the database answers this process, and its loop.
    async fn health(&self) -> Response {
        if let Err(error) = self.db.ping().await {
            return errors::of_store(&error).into_response();
        }
        let ok = self.vitals.is_reachable();
        let database = if self.db.is_sqlite() {
            "sqlite"
        } else {
            "postgres"
        };
        let body = Json(json!({
            "ok": ok, "database": database, "version": self.app_version,
            "draining": self.vitals.is_draining(), "running": self.vitals.running(),
        }));
        let status = if ok {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        body.with_status(status).into_response()
    }

    /// Claims nothing more from now on. Whoever asked looks at the health until nothing runs, and ends the process.
    fn drain(&self) -> Response {
        self.vitals.drain();
        let body = Json(json!({"draining": true, "running": self.vitals.running()}));
        body.with_status(StatusCode::ACCEPTED).into_response()
    }
}

impl Endpoint for Admin {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let path = request.uri().path();
        if let Err(refusal) = self.hosts.check(&request) {
            return Ok(refusal.into_response());
        }
        if let Err(refusal) = self.tokens.check(&request, path) {
            return Ok(refusal);
        }
        let answer = match (request.method(), path) {
            (&Method::GET, "/healthz") => self.health().await,
            (&Method::GET | &Method::HEAD, "/metrics") => telemetry::scraped().await,
            (&Method::POST, "/drain") => self.drain(),
            (_, "/healthz" | "/metrics") => only("GET"),
            (_, "/drain") => only("POST"),
            (_, path) => ApiError::new(
                StatusCode::NOT_FOUND,
                "route_not_found",
                format!("the admin port has no route {path}; it has GET /healthz, GET /metrics and POST /drain"),
            )
            .into_response(),
        };
        Ok(answer)
    }
}

fn only(method: &'static str) -> Response {
    let refusal = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this path takes {method}"),
    );
    let mut response = refusal.into_response();
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(method));
    response
}
