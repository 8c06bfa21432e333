//! `stepwell serve`: everything in one process.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use poem::{Server, listener::TcpAcceptor};
use tokio::sync::watch;

use super::{CliError, say};
use crate::{
    api::{self, ApiService},
    config::{Config, SandboxMode},
    engine::{self, Engine},
    intent::{self, Product, Sandboxes},
    sandbox::{self, Local, Mock, Sandbox},
    store::Database,
};

pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    let failed = |e: &dyn std::fmt::Display| CliError::Failed(e.to_string());
    let root = config.sandbox_root();
    match sandbox::reap(&root) {
        Ok(0) => {}
        Ok(reaped) => tracing::info!(reaped, "removed what tasks of dead processes had left"),
        Err(error) => {
            tracing::warn!(%error, ?root, "cannot look for what tasks of dead processes have left")
        }
    }
    let local = local_sandbox(config).await;
    let in_use = local.name();
    let builder = Engine::builder(db.clone(), config.engine());
    let builder =
        intent::register(builder, &db, config, sandboxes(config, local)).map_err(|e| failed(&e))?;
    let mut listeners = Vec::new();
    for (port, what) in [(config.port, "the API"), (config.admin_port, "health")] {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(|e| {
            CliError::Failed(format!("cannot listen on 127.0.0.1:{port} for {what}: {e}"))
        })?;
        listeners.push(listener);
    }
    let engine = builder.launch();
    let product = Product::new(engine.client().clone(), config);
    let (stop, _) = watch::channel(false);
    let stop = Arc::new(stop);
    let mut servers = tokio::task::JoinSet::new();
    let mut addresses = Vec::new();
    for listener in listeners {
        addresses.push(listener.local_addr().map_err(|e| failed(&e))?);
        let service = ApiService::new(product.clone(), db.clone(), config.app_version.clone());
        let app = api::app(service).map_err(CliError::Failed)?;
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
    greet(&db, config, in_use, &addresses);
    wait_for_signal().await;
    tracing::info!("stopping: what runs may finish, the rest is handed back");
    let _ = stop.send(true);
    projector.abort();
    engine.shutdown().await;
    servers.shutdown().await;
    Ok(())
}

async fn local_sandbox(config: &Config) -> Local {
    let (root, chaos_sleep) = (config.sandbox_root(), config.chaos_sleep);
    // This program, also when an upgrade has replaced its file.
    let shim = PathBuf::from("/proc/self/exe");
    if config.sandbox_bwrap {
        return Local::detect(root, shim, chaos_sleep).await;
    }
    Local {
        root,
        shim,
        chaos_sleep,
        bwrap: None,
    }
}

fn sandboxes(config: &Config, local: Local) -> Sandboxes {
    let local = Arc::new(Sandbox::Local(local));
    let configured = match config.sandbox_mode {
        SandboxMode::Mock => Arc::new(Sandbox::Mock(Mock {
            chaos_sleep: config.chaos_sleep,
        })),
        SandboxMode::Local => Arc::clone(&local),
    };
    Sandboxes { configured, local }
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
