//! Owns what a command works on: a server, or the database itself, with everything that a server has in this very process.

use std::{path::PathBuf, sync::Arc};

use tokio::task::JoinSet;

use super::{CliError, api::Api, note};
use crate::{
    api::{ApiService, app},
    config::{Access, Config, SandboxMode},
    engine::{self, Client, Engine, EngineOptions, Firing},
    intent::{self, OneShot, Product, Sandboxes},
    sandbox::{self, Local, Mock, Sandbox},
    store::{Database, backend::sqlite_path},
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

impl Target {
    /// Whether commands talk to a server, rather than to the database.
    pub(super) fn names_a_server(&self, config: &Config) -> bool {
        self.server.is_some() || config.server.is_some()
    }

    /// The product on the database of `DATABASE_URL`, for what has no route; `what` it is that is done there begins the refusal of a server.
    pub(super) async fn product(&self, config: &Config, what: &str) -> Result<Product, CliError> {
        if self.names_a_server(config) {
            return Err(CliError::Usage(format!(
                "{what} the database of DATABASE_URL; leave --server and STEPWELL_SERVER out"
            )));
        }
        let db = open_database(config, Execute::Elsewhere).await?;
        let client = Client::without_engine(db, config.app_version.clone());
        Ok(Product::new(client, config))
    }
}

/// The SQLite file of `DATABASE_URL`, if it is not there yet.
pub(super) fn missing_file(config: &Config) -> Option<PathBuf> {
    sqlite_path(&config.database_url).filter(|path| !path.exists())
}

/// The database of `DATABASE_URL`, with its schema. A command that executes nothing says when it is new: whoever is not where the runs are would
/// look for them in vain.
async fn open_database(config: &Config, execute: Execute) -> Result<Database, CliError> {
    if let Some(path) = missing_file(config).filter(|_| execute == Execute::Elsewhere) {
        note(&format!(
            "there is no database at {} yet; a new one is made",
            path.display()
        ));
    }
    let db = Database::connect(&config.database()).await?;
    engine::migrate(&db).await?;
    Ok(db)
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
    /// What repairs runs whose workflow went on without them, where this process executes.
    projector: JoinSet<()>,
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
                api: Api::of_server(base, config.access.token.clone())?,
                engine: None,
                projector: JoinSet::new(),
                remote: true,
            });
        }
        let db = open_database(config, execute).await?;
        let engine = match execute {
            Execute::Here => Some(launch(config, &db, config.engine()).await?.0),
            Execute::Elsewhere => None,
        };
        let mut projector = JoinSet::new();
        let client = match &engine {
            Some(engine) => {
                projector.spawn(intent::project_drift(db.clone()));
                engine.client().clone()
            }
            None => Client::without_engine(db.clone(), config.app_version.clone()),
        };
        let product = Product::new(client, config);
        let service = ApiService::new(product, db, config.app_version.clone());
        Ok(Self {
            api: Api::here(app(service, &Access::of_this_process()).map_err(CliError::Failed)?),
            engine,
            projector,
            remote: false,
        })
    }

    /// Stops what executes here: the rest is handed back.
    pub(super) async fn close(mut self) {
        self.projector.shutdown().await;
        if let Some(engine) = self.engine {
            engine.shutdown().await;
        }
    }
}

/// The same options for a process that fires schedules.
pub(super) fn firing(options: EngineOptions) -> EngineOptions {
    EngineOptions {
        schedules: Firing::On(intent::built_in_schedules()),
        ..options
    }
}

/// The sandboxes of this process.
#[derive(Clone)]
pub(super) struct Available {
    sandboxes: Sandboxes,
    /// What runs commands on this machine.
    pub(super) name: &'static str,
}

/// Starts to execute runs and tasks in this process, and removes what dead ones have left.
pub(super) async fn launch(
    config: &Config,
    db: &Database,
    options: EngineOptions,
) -> Result<(Engine, Available), CliError> {
    telemetry::watch(db, &config.app_version, config.executor_expiry_ms);
    let available = available(config).await;
    let builder = Engine::builder(db.clone(), options);
    let builder = intent::register(builder, db, config, available.sandboxes.clone())
        .map_err(|e| CliError::Failed(e.to_string()))?;
    Ok((builder.launch(), available))
}

/// Invocations that execute what is due and go, for `worker --once` and `POST /tick`.
pub(super) fn one_shot(
    config: &Config,
    db: &Database,
    options: EngineOptions,
    available: Available,
) -> OneShot {
    telemetry::watch(db, &config.app_version, config.executor_expiry_ms);
    let options = EngineOptions {
        // Those that are there; the tick of the program itself is for processes that stay.
        schedules: Firing::On(Vec::new()),
        ..options
    };
    OneShot::new(db.clone(), config.clone(), options, available.sandboxes)
}

/// The sandboxes of this process, once what tasks of dead ones have left on this machine is removed.
pub(super) async fn available(config: &Config) -> Available {
    let root = config.sandbox_root();
    match sandbox::reap(&root) {
        Ok(0) => {}
        Ok(reaped) => tracing::info!(reaped, "removed what tasks of dead processes had left"),
        Err(error) => {
            tracing::warn!(%error, ?root, "cannot look for what tasks of dead processes have left")
        }
    }
    let local = local_sandbox(config).await;
    Available {
        name: local.name(),
        sandboxes: sandboxes(config, local),
    }
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
