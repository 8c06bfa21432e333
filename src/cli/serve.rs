//! `stepwell serve`: everything in one process.

use std::{net::Ipv4Addr, sync::Arc};

use poem::{EndpointExt, Route, Server, listener::TcpAcceptor};
use tokio::sync::watch;

use super::{CliError, say, session::launch};
use crate::{
    api::{self, ApiService},
    config::Config,
    engine,
    intent::{self, Product},
    store::Database,
    telemetry,
};

pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    let failed = |e: &dyn std::fmt::Display| CliError::Failed(e.to_string());
    let mut listeners = Vec::new();
    for (port, what) in [(config.port, "the API"), (config.admin_port, "health")] {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(|e| {
            CliError::Failed(format!("cannot listen on 127.0.0.1:{port} for {what}: {e}"))
        })?;
        listeners.push(listener);
    }
    let engine = launch(config, &db)?;
    let product = Product::new(engine.client().clone(), config);
    let (stop, _) = watch::channel(false);
    let stop = Arc::new(stop);
    let mut servers = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    for listener in listeners {
        addresses.push(listener.local_addr().map_err(|e| failed(&e))?);
        let service = ApiService::new(product.clone(), db.clone(), config.app_version.clone());
        let app = api::app(service).map_err(CliError::Failed)?;
        // The first port is the API's, the second the administrators'.
        let app = if addresses.len() > 1 {
            let metrics = telemetry::metrics_endpoint();
            Route::new().at("/metrics", metrics).nest("/", app).boxed()
        } else {
            app.boxed()
        };
        let mut stopped = stop.subscribe();
        let acceptor = TcpAcceptor::from_tokio(listener).map_err(|e| failed(&e))?;
        servers.spawn(async move {
            let signal = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            Server::new_with_acceptor(acceptor)
                .run_with_graceful_shutdown(app, signal, None)
                .await
        });
    }
    let projector = tokio::spawn(intent::project_drift(db.clone()));
    greet(&db, config, &addresses);
    wait_for_signal().await;
    tracing::info!("stopping: what runs may finish, the rest is handed back");
    let _ = stop.send(true);
    projector.abort();
    engine.shutdown().await;
    servers.shutdown().await;
    Ok(())
}

fn greet(db: &Database, config: &Config, addresses: &[std::net::SocketAddr]) {
    let [api, admin] = addresses else { return };
    say(&format!(
        "Stepwell {} (application version {})",
        env!("CARGO_PKG_VERSION"),
        config.app_version
    ));
    say(&format!(
        "  listening  http://{api}  (health and metrics on http://{admin}/healthz and /metrics)"
    ));
    say(&format!("  database   {}", db.display_url()));
    say(&format!("  docs       http://{api}/docs"));
    let body = r#"{"goal":"hello","inputs":{"command":"echo hello"},"constraints":{}}"#;
    say(&format!(
        "  try        curl -sS -X POST http://{api}/api/intents -H 'content-type: application/json' -d '{body}'"
    ));
}

/// Until somebody wants this process to end.
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGTERM");
            let _ = tokio::signal::ctrl_c().await;
            return;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
