//! `stepwell serve`: everything in one process.

use std::net::SocketAddr;

use super::{
    CliError, say,
    service::{Servers, Signals, bind},
    session::{firing, launch, missing_file, one_shot},
};
use crate::{
    api::{self, Admin, ApiService, Ticks},
    config::{Config, SandboxMode},
    engine::{self, Client},
    intent::{self, Product},
    store::{Database, DatabaseOptions},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Look after the workflows of a DBOS application in this database, which must have its tables already. Nothing is executed here and nothing
    /// is created in its schema; the tables of our own go into the schema `app`. Default: serve and execute on `DATABASE_URL`.
    #[arg(long, value_name = "URL")]
    attach: Option<String>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let mut signals = Signals::catch()?;
    let attached = arguments.attach.as_ref();
    let config = &match attached {
        Some(url) => config.clone().on_database(url)?,
        None => config.clone(),
    };
    if let (Some(url), Some(_)) = (attached, missing_file(config)) {
        return Err(CliError::Failed(format!("there is no database at {url}")));
    }
    let reach = DatabaseOptions {
        for_callers: attached.is_none(),
        ..config.database()
    };
    let db = Database::connect(&reach).await?;
    if attached.is_some() {
        must_be_dbos(&db).await?;
    }
    engine::migrate(&db).await?;
    if attached.is_some() {
        return attach(config, db, signals).await;
    }
    let listener = bind(config, config.port, "the API").await?;
    let admin_listener = bind(config, config.admin_port, "health").await?;
    let (mut engine, sandboxes) = launch(config, &db, firing(config.engine())).await?;
    let sandbox = sandboxes.name;
    let callers = db.for_callers();
    let client = engine.client().on(callers.clone());
    let product = Product::new(client, config);
    let ticks = Ticks::new(
        one_shot(config, &db, config.engine(), sandboxes),
        &config.access,
    );
    let version = config.app_version.clone();
    let service =
        ApiService::new(product, callers.clone(), version.clone()).with_ticks(ticks.clone());
    let mut servers = Servers::new(config.shutdown_grace);
    let app = api::app(service, &config.access).map_err(CliError::Failed)?;
    let admin = Admin::new(db.clone(), version, engine.vitals().clone(), &config.access);
    let admin_address = servers.answer(admin_listener, admin, api::ADMIN_CONNECTIONS)?;
    // Whoever calls first finds the queues and the schedules.
    let stopped = tokio::select! {
        () = engine.entered() => false,
        _ = signals.next() => true,
    };
    let address = servers.answer(listener, app, api::API_CONNECTIONS)?;
    let projector = tokio::spawn(intent::project_drift(db.clone()));
    greet(&db, config, sandbox, address, admin_address);

    if !stopped {
        signals.next().await;
    }
    tracing::info!("stopping: what runs goes to its next boundary, the rest is handed back");
    projector.abort();
    signals
        .unless_again(async {
            tokio::join!(engine.shutdown(), ticks.finish());
            servers.stop().await;
        })
        .await
}

/// Serves the API beside somebody's application: nothing is executed, and not even a version is entered into its tables.
async fn attach(config: &Config, db: Database, mut signals: Signals) -> Result<(), CliError> {
    let listener = bind(config, config.port, "the API").await?;
    let client = Client::without_engine(db.clone(), config.app_version.clone());
    let service = ApiService::new(
        Product::new(client, config).attached(),
        db.clone(),
        config.app_version.clone(),
    );
    let app = api::app(service, &config.access).map_err(CliError::Failed)?;
    let mut servers = Servers::new(config.shutdown_grace);
    let address = servers.answer(listener, app, api::API_CONNECTIONS)?;
    say(&format!("Stepwell {}", env!("CARGO_PKG_VERSION")));
    say(&format!("  listening  http://{address}"));
    say(&format!("  database   {}", db.display_url()));
    say(&format!("  docs       http://{address}/docs"));
    say(
        "  attached   workflows are shown, cancelled, resumed and forked here; their application executes them",
    );
    signals.next().await;
    signals.unless_again(servers.stop()).await
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

fn greet(db: &Database, config: &Config, sandbox: &str, api: SocketAddr, admin: SocketAddr) {
    say(&format!(
        "Stepwell {} (application version {})",
        env!("CARGO_PKG_VERSION"),
        config.app_version
    ));
    say(&format!(
        "  listening  http://{api}  (health and metrics on http://{admin}/healthz and /metrics)"
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
