//! `stepwell serve`: everything in one process.

use std::net::SocketAddr;

use super::{
    CliError, say,
    service::{Servers, Signals, bind},
    session::{firing, launch, one_shot},
};
use crate::{
    api::{self, Admin, ApiService, Ticks},
    config::{Config, SandboxMode},
    engine,
    intent::{self, Product},
    store::Database,
};

pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let mut signals = Signals::catch()?;
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    let listener = bind(config, config.port, "the API").await?;
    let admin_listener = bind(config, config.admin_port, "health").await?;
    let (engine, sandboxes) = launch(config, &db, firing(config.engine())).await?;
    let sandbox = sandboxes.name;
    let product = Product::new(engine.client().clone(), config);
    let ticks = Ticks::new(
        one_shot(config, &db, config.engine(), sandboxes),
        &config.access,
    );
    let version = config.app_version.clone();
    let service = ApiService::new(product, db.clone(), version.clone()).with_ticks(ticks.clone());
    let mut servers = Servers::new(config.shutdown_grace);
    let app = api::app(service, &config.access).map_err(CliError::Failed)?;
    let address = servers.answer(listener, app, api::API_CONNECTIONS)?;
    let admin = Admin::new(db.clone(), version, engine.vitals().clone(), &config.access);
    let admin_address = servers.answer(admin_listener, admin, api::ADMIN_CONNECTIONS)?;
    let projector = tokio::spawn(intent::project_drift(db.clone()));
    greet(&db, config, sandbox, address, admin_address);

    signals.next().await;
    tracing::info!("stopping: what runs goes to its next boundary, the rest is handed back");
    projector.abort();
    signals
        .unless_again(async {
            tokio::join!(engine.shutdown(), ticks.finish());
            servers.stop().await;
        })
        .await
}

fn greet(db: &Database, config: &Config, sandbox: &str, api: SocketAddr, admin: SocketAddr) {
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
