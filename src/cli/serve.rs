//! `stepwell serve`: everything in one process.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{CliError, say, session::launch};
use crate::{
    api::{self, ApiService},
    config::Config,
    engine::{self, Client},
    intent::{self, Product},
    store::{Database, backend::sqlite_path},
};

/// How long requests that are under way at the end may take, once what runs has been handed back.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Look after the workflows of a DBOS application in this database, which must have its tables already. Nothing is executed here and nothing
    /// is created in its schema; the tables of our own go into the schema `app`. Default: serve and execute on `DATABASE_URL`.
    #[arg(long, value_name = "URL")]
    attach: Option<String>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let attached = arguments.attach.as_ref();
    let config = &match attached {
        Some(url) => config.clone().on_database(url)?,
        None => config.clone(),
    };
    if let (Some(url), Some(file)) = (attached, sqlite_path(&config.database_url))
        && !file.exists()
    {
        return Err(CliError::Failed(format!("there is no database at {url}")));
    }
    let db = Database::connect(&config.database()).await?;
    if attached.is_some() {
        must_be_dbos(&db).await?;
    }
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
    // Beside somebody's application nothing is executed, and not even a version is entered into its tables.
    let engine = match attached {
        None => Some(launch(config, &db)?),
        Some(_) => None,
    };
    let client = match &engine {
        Some(engine) => engine.client().clone(),
        None => Client::without_engine(db.clone(), config.app_version.clone()),
    };
    let product = Product::new(client, config);
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
    let projector = engine
        .is_some()
        .then(|| tokio::spawn(intent::project_drift(db.clone())));
    greet(&db, config, &addresses, attached.is_some());
    wait_for_signal().await;
    tracing::info!("stopping: what runs may finish, the rest is handed back");
    let _ = stop.send(true);
    if let Some(projector) = projector {
        projector.abort();
    }
    if let Some(engine) = engine {
        engine.shutdown().await;
    }
    let answered = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ANSWERS, answered).await.is_err() {
        tracing::info!("some callers were too slow for their answers");
        servers.shutdown().await;
    }
    Ok(())
}

/// Whether there are DBOS tables in `db`. Looked at before anything is created: a wrong URL leaves no trace.
async fn must_be_dbos(db: &Database) -> Result<(), CliError> {
    let found = migration::status(db.migration_connection()).await?;
    if found.dbos.is_some() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} has no DBOS tables to attach to; start its application once, or create them with `npx dbos schema <database-url>`; \
         a database of our own is served by `stepwell serve` without --attach",
        db.display_url()
    )))
}

fn greet(db: &Database, config: &Config, addresses: &[std::net::SocketAddr], attached: bool) {
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
    say(&format!("  docs       http://{api}/docs"));
    if attached {
        say(
            "  attached   workflows are shown, cancelled, resumed and forked here; their application executes them",
        );
        return;
    }
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
