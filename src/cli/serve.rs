//! `stepwell serve`: everything in one process.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{CliError, say, session::launch};
use crate::{
    api::{self, ApiService},
    config::{Config, SandboxMode},
    engine,
    intent::{self, Product},
    store::Database,
};

/// How long requests that are under way at the end may take, once what runs has been handed back.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    let failed = |e: &dyn std::fmt::Display| CliError::Failed(e.to_string());
    let mut listeners = Vec::new();
    for (port, what, connections) in [
        (config.port, "the API", api::API_CONNECTIONS),
        (config.admin_port, "health", api::ADMIN_CONNECTIONS),
    ] {
        let address = std::net::SocketAddr::new(config.access.host, port);
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener
            .map_err(|e| CliError::Failed(format!("cannot listen on {address} for {what}: {e}")))?;
        listeners.push((listener, connections));
    }
    let (engine, sandbox) = launch(config, &db).await?;
    let product = Product::new(engine.client().clone(), config);
    let (stop, _) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    let service = ApiService::new(product, db.clone(), config.app_version.clone());
    // One app for both: what there is room for is a matter of the process, not of the port.
    let app = Arc::new(api::app(service, &config.access).map_err(CliError::Failed)?);
    for (listener, connections) in listeners {
        addresses.push(listener.local_addr().map_err(|e| failed(&e))?);
        servers.spawn(api::serve(
            listener,
            Arc::clone(&app),
            connections,
            stop.subscribe(),
        ));
    }
    let projector = tokio::spawn(intent::project_drift(db.clone()));
    greet(&db, config, sandbox, &addresses);
    wait_for_signal().await;
    tracing::info!("stopping: what runs may finish, the rest is handed back");
    let _ = stop.send(true);
    projector.abort();
    engine.shutdown().await;
    let answered = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, answered).await.is_err() {
        tracing::info!("some callers were too slow for their answers");
        servers.shutdown().await;
    }
    Ok(())
}

fn greet(db: &Database, config: &Config, sandbox: &str, addresses: &[std::net::SocketAddr]) {
    let [api, admin] = addresses else { return };
    say(&format!(
        "Stepwell {} (application version {})",
        env!("CARGO_PKG_VERSION"),
        config.app_version
    ));
    say(&format!(
        "  listening  http://{api}  (health also on http://{admin}/healthz)"
    ));
    say(&format!("  database   {}", db.display_url()));
    say(&match config.sandbox_mode {
        SandboxMode::Local => format!("  sandbox    {sandbox}"),
        SandboxMode::Mock => format!("  sandbox    mock; {sandbox} for shell-default"),
    });
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
