//! One test's world: a fresh database, a directory for logs, and the servers started in it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sea_orm::sqlx::{self, AssertSqlSafe};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::backend::{Backend, postgres_server_url, with_database};
use super::cluster::Cluster;
use super::lab::Lab;
use super::oracle::Oracle;
use super::server::Server;

/// A test that takes longer hangs.
const TEST_DEADLINE: Duration = Duration::from_secs(600);
/// What the child processes may see of this process's environment. Everything else, `DATABASE_URL` and `OTEL_*` first, is removed.
const INHERITED: [&str; 8] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "USER",
    "LANG",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "LLVM_PROFILE_FILE",
];

static STAGES: AtomicUsize = AtomicUsize::new(0);

/// Cheap to clone; all clones are the same stage.
#[derive(Clone)]
pub(crate) struct Stage(Arc<Inner>);

struct Inner {
    backend: Backend,
    name: String,
    dir: PathBuf,
    database_url: String,
    /// The server of this stage alone, where it has one.
    cluster: Option<Cluster>,
    servers: Mutex<Vec<Server>>,
    oracle: OnceCell<Oracle>,
}

/// Runs one test on one database. Called by the macros.
pub(crate) fn run_on<Test, Body>(backend: Backend, name: &str, test: Test)
where
    Test: FnOnce(Stage) -> Body,
    Body: Future<Output = ()>,
{
    run_in(TEST_DEADLINE, backend, name, None, test);
}

/// As [`run_on`], for a test that may take so long.
pub(crate) fn run_within<Test, Body>(deadline: Duration, backend: Backend, name: &str, test: Test)
where
    Test: FnOnce(Stage) -> Body,
    Body: Future<Output = ()>,
{
    run_in(deadline, backend, name, None, test);
}

/// Runs one test on a Postgres of its own with these settings, which it may stop. Called by the macros.
pub(crate) fn run_on_own_postgres<Test, Body>(name: &str, settings: &[&str], test: Test)
where
    Test: FnOnce(Stage) -> Body,
    Body: Future<Output = ()>,
{
    run_in(TEST_DEADLINE, Backend::Postgres, name, Some(settings), test);
}

fn run_in<Test, Body>(
    deadline: Duration,
    backend: Backend,
    name: &str,
    own: Option<&[&str]>,
    test: Test,
) where
    Test: FnOnce(Stage) -> Body,
    Body: Future<Output = ()>,
{
    if !backend.is_selected() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let stage = runtime.block_on(Stage::create(backend, name, own));
    let body = Box::pin(test(stage.clone()));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::time::timeout(deadline, body)
                .await
                .unwrap_or_else(|_| panic!("the test did not end within {} s", deadline.as_secs()));
        });
    }));
    runtime.block_on(stage.finish(outcome.is_ok()));
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

impl Stage {
    async fn create(backend: Backend, name: &str, own: Option<&[&str]>) -> Self {
        let unique = format!(
            "{}_{}",
            std::process::id(),
            STAGES.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(format!("stepwell-{name}-{unique}"));
        std::fs::create_dir_all(&dir)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        let cluster = match own {
            Some(settings) => Some(Cluster::create(dir.join("cluster"), settings).await),
            None => None,
        };
        let database_url = match backend {
            _ if cluster.is_some() => cluster
                .as_ref()
                .map(|own| own.url().to_owned())
                .unwrap_or_default(),
            Backend::Sqlite => format!("sqlite://{}?mode=rwc", dir.join("stepwell.db").display()),
            Backend::Postgres => {
                let database: String = format!("t{unique}_{name}").chars().take(60).collect();
                postgres_admin(&format!("CREATE DATABASE \"{database}\"")).await;
                with_database(&postgres_server_url(), &database)
            }
        };
        Self(Arc::new(Inner {
            backend,
            name: name.to_owned(),
            dir,
            database_url,
            cluster,
            servers: Mutex::default(),
            oracle: OnceCell::new(),
        }))
    }

    pub(crate) fn backend(&self) -> Backend {
        self.0.backend
    }

    /// This stage as another database shows it: for looking at rows, not for starting servers.
    pub(crate) fn elsewhere(&self, database_url: &str) -> Self {
        Self(Arc::new(Inner {
            backend: self.0.backend,
            name: self.0.name.clone(),
            dir: self.0.dir.clone(),
            database_url: database_url.to_owned(),
            cluster: None,
            servers: Mutex::default(),
            oracle: OnceCell::new(),
        }))
    }

    /// The server of this stage alone.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.0
            .cluster
            .as_ref()
            .expect("the test asked for a Postgres of its own")
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.0.database_url
    }

    /// A directory of this stage alone: logs, the SQLite file, whatever a test puts there.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The real binary with these arguments on this stage's database, in a clean environment. Not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.tool(env!("CARGO_BIN_EXE_stepwell"));
        command.args(arguments).current_dir(self.dir()).envs([
            ("OC_MODE", "replay"),
            ("SBX_MODE", "mock"),
            // Commands of tests are held and observed by files outside their directory; what bwrap adds has suites of its own.
            ("SBX_LOCAL_BWRAP", "off"),
        ]);
        command
    }

    /// Any program with `DATABASE_URL` set and an otherwise clean environment.
    pub(crate) fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .kill_on_drop(true)
            .env("DATABASE_URL", self.database_url());
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Creates the tables without a server.
    pub(crate) async fn migrate(&self) {
        let output = self
            .command(&["migrate"])
            .output()
            .await
            .expect("the binary runs");
        assert!(
            output.status.success(),
            "migrate: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A server with the default environment, ready to answer.
    pub(crate) async fn serve(&self) -> Server {
        self.serve_with(&[]).await
    }

    /// A server with these variables on top, ready to answer. May be called several times: they share the database.
    pub(crate) async fn serve_with(&self, env: &[(&str, &str)]) -> Server {
        let server = self.spawn("serve", env).await;
        server.wait_ready().await;
        server
    }

    /// A process of another command than `serve`, with these variables on top, ready to answer: `api`, or `worker` and its options.
    pub(crate) async fn start(&self, command: &str, env: &[(&str, &str)]) -> Server {
        let server = self.spawn(command, env).await;
        server.wait_ready().await;
        server
    }

    /// A server beside somebody's application: it shows and acts, and executes nothing.
    pub(crate) async fn serve_attached(&self, url: &str) -> Server {
        let server = self.spawn(&format!("serve --attach {url}"), &[]).await;
        server.wait_ready().await;
        server
    }

    /// A started process that may never become ready, for tests of refused starts.
    pub(crate) async fn spawn(&self, subcommand: &str, env: &[(&str, &str)]) -> Server {
        let number = self.0.servers.lock().expect("no panic holds it").len();
        let server = Server::spawn(self, subcommand, number, env).await;
        self.0
            .servers
            .lock()
            .expect("no panic holds it")
            .push(server.clone());
        server
    }

    /// A shell with the manual's kit, for its blocks. One at a time per machine: the manual writes to fixed files in /tmp.
    pub(crate) async fn lab(&self, server: &Server) -> Lab {
        Lab::open(self, server.base()).await
    }

    pub(super) async fn oracle(&self) -> &Oracle {
        self.0
            .oracle
            .get_or_init(|| Oracle::connect(self.backend(), self.database_url()))
            .await
    }

    async fn finish(&self, passed: bool) {
        let servers = std::mem::take(&mut *self.0.servers.lock().expect("no panic holds it"));
        for server in &servers {
            server.kill_9().await;
        }
        if let Some(oracle) = self.0.oracle.get() {
            oracle.close().await;
        }
        if let Some(cluster) = &self.0.cluster {
            cluster.stop().await;
        }
        if !passed {
            for server in &servers {
                eprintln!(
                    "---- {} ----\n{}",
                    server.log_path().display(),
                    server.log_tail()
                );
            }
            eprintln!(
                "kept for you: {} and {}",
                self.dir().display(),
                self.database_url()
            );
            return;
        }
        if std::env::var("MISE_NO_RESET").as_deref() == Ok("1") {
            return;
        }
        if self.backend() == Backend::Postgres && self.0.cluster.is_none() {
            let database = self
                .database_url()
                .split('?')
                .next()
                .and_then(|url| url.rsplit('/').next())
                .expect("a path");
            // WITH (FORCE) fails when an autovacuum worker is there that the role may not end; a plain DROP sends such workers away.
            postgres_admin(&format!(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                 WHERE datname = '{database}' AND backend_type = 'client backend'"
            ))
            .await;
            postgres_admin(&format!("DROP DATABASE \"{database}\"")).await;
        }
        std::fs::remove_dir_all(self.dir())
            .unwrap_or_else(|error| panic!("{}: {error}", self.dir().display()));
    }
}

async fn postgres_admin(sql: &str) {
    use sqlx::Connection;
    let url = postgres_server_url();
    let mut connection = sqlx::PgConnection::connect(&url)
        .await
        .unwrap_or_else(|error| panic!("cannot connect to STEPWELL_TEST_POSTGRES_URL: {error}"));
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("the connection closes");
}
