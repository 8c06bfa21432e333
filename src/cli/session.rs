//! Owns what a command works on: a server, or the database itself, with everything that a server has in this very process.

use std::sync::Arc;

use super::{CliError, api::Api};
use crate::{
    api::{ApiService, app},
    config::{Config, SandboxMode},
    engine::{self, Client, Engine},
    intent::{self, Product, Sandboxes},
    sandbox::{self, Local, Mock, Sandbox},
    store::Database,
    telemetry,
};

/// Where to work, for every command that talks to runs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Target {
    /// The server to talk to. Default: none; the command works on the database of `DATABASE_URL` itself, which is a SQLite file under `.stepwell/`
    /// unless it says otherwise. `STEPWELL_SERVER` sets it, too.
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
    /// Print JSON, one document a line.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Whether this process executes what is due, as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Execute {
    /// It does, unless a server was named.
    Here,
    /// It only reads and writes rows.
    Elsewhere,
}

/// A conversation with the API of a server or of this process.
pub(super) struct Session {
    pub(super) api: Api,
    engine: Option<Engine>,
    /// Whether a server executes what is started here.
    pub(super) remote: bool,
}

impl Session {
    pub(super) async fn open(
        config: &Config,
        target: &Target,
        execute: Execute,
    ) -> Result<Self, CliError> {
        if let Some(base) = target.server.as_ref().or(config.server.as_ref()) {
            return Ok(Self {
                api: Api::of_server(base, None)?,
                engine: None,
                remote: true,
            });
        }
        let db = Database::connect(&config.database()).await?;
        engine::migrate(&db).await?;
        let engine = match execute {
            Execute::Here => Some(launch(config, &db)?),
            Execute::Elsewhere => None,
        };
        let client = match &engine {
            Some(engine) => engine.client().clone(),
            None => Client::without_engine(db.clone(), config.app_version.clone()),
        };
        let product = Product::new(client, config);
        let service = ApiService::new(product, db, config.app_version.clone());
        Ok(Self {
            api: Api::here(app(service).map_err(CliError::Failed)?),
            engine,
            remote: false,
        })
    }

    /// Stops what executes here: the rest is handed back.
    pub(super) async fn close(self) {
        if let Some(engine) = self.engine {
            engine.shutdown().await;
        }
    }
}

/// Starts to execute runs and tasks in this process, and removes what dead ones have left.
pub(super) fn launch(config: &Config, db: &Database) -> Result<Engine, CliError> {
    telemetry::watch(db, &config.app_version);
    let root = config.sandbox_root();
    match sandbox::reap(&root) {
        Ok(0) => {}
        Ok(reaped) => tracing::info!(reaped, "removed what tasks of dead processes had left"),
        Err(error) => {
            tracing::warn!(%error, ?root, "cannot look for what tasks of dead processes have left")
        }
    }
    let builder = Engine::builder(db.clone(), config.engine());
    let builder = intent::register(builder, db, config, sandboxes(config))
        .map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(builder.launch())
}

fn sandboxes(config: &Config) -> Sandboxes {
    let local = Arc::new(Sandbox::Local(Local {
        root: config.sandbox_root(),
        chaos_sleep: config.chaos_sleep,
    }));
    let configured = match config.sandbox_mode {
        SandboxMode::Mock => Arc::new(Sandbox::Mock(Mock {
            chaos_sleep: config.chaos_sleep,
        })),
        SandboxMode::Local => Arc::clone(&local),
    };
    Sandboxes { configured, local }
}
