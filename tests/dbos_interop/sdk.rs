//! The two official SDKs as the suite uses them: their clients, their command lines, and small applications written with them.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};

use super::super::harness::*;

const DEADLINE: Duration = Duration::from_secs(60);
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");

/// An official SDK, installed.
pub(crate) struct Sdk {
    kind: Kind,
    packages: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TypeScript,
    Python,
}

/// An application of an SDK; dropping it ends it.
pub(crate) struct App {
    _child: Child,
    log: PathBuf,
}

impl Sdk {
    /// Both, as far as this machine can have them.
    pub(crate) async fn both() -> Vec<Self> {
        Self::typescript()
            .await
            .into_iter()
            .chain(Self::python().await)
            .collect()
    }

    /// npm `@dbos-inc/dbos-sdk`.
    pub(crate) async fn typescript() -> Option<Self> {
        if missing_tools(&["node", "npm"]) {
            return None;
        }
        let wanted = include_str!("../dbos_client/package.json");
        let packages = npm_packages("dbos", wanted).await?;
        let kind = Kind::TypeScript;
        Some(Self { kind, packages })
    }

    /// Python's `dbos`, which reads SQLite, too.
    pub(crate) async fn python() -> Option<Self> {
        if missing_tools(&["python3"]) {
            return None;
        }
        let wanted = include_str!("../dbos_python/requirements.txt");
        let packages = pip_packages("dbos", wanted).await?;
        let kind = Kind::Python;
        Some(Self { kind, packages })
    }

    /// Those that can be had of the ones that read this stage's database.
    pub(crate) async fn of(stage: &Stage) -> Vec<Self> {
        match stage.backend() {
            Backend::Postgres => Self::both().await,
            Backend::Sqlite => Self::python().await.into_iter().collect(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::TypeScript => "ts",
            Kind::Python => "py",
        }
    }

    /// The first function id that the SDK gives.
    pub(crate) fn first_function_id(&self) -> i64 {
        match self.kind {
            Kind::TypeScript => 0,
            Kind::Python => 1,
        }
    }

    /// What the official client answers to `calls`: `[[verb, argument…], …]`.
    pub(crate) async fn client(&self, stage: &Stage, calls: Value) -> Vec<Value> {
        let output = self
            .program(stage, "client")
            .arg(self.url_of(stage))
            .arg(calls.to_string())
            .output()
            .await
            .expect("the client runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {calls}: {complaint}",
            self.name()
        );
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {complaint}"))
    }

    /// The answer to one call.
    pub(crate) async fn call(&self, stage: &Stage, call: Value) -> Value {
        self.client(stage, Value::Array(vec![call])).await.remove(0)
    }

    /// `dbos workflow …`, the official command line; its standard output.
    pub(crate) async fn command_line(&self, stage: &Stage, arguments: &[&str]) -> String {
        let program = match self.kind {
            Kind::TypeScript => self.packages.join("node_modules/.bin/dbos"),
            Kind::Python => self.packages.join("venv/bin/dbos"),
        };
        let output: Output = stage
            .tool(program.to_str().expect("a path of text"))
            .arg("workflow")
            .args(arguments)
            .args(["--sys-db-url", stage.database_url()])
            .current_dir(stage.dir())
            .output()
            .await
            .expect("the command line runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {arguments:?}: {complaint}",
            self.name()
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Starts the application, which starts `orders`, and waits until it is ready.
    pub(crate) async fn app(
        &self,
        stage: &Stage,
        name: &str,
        version: &str,
        orders: &[&str],
    ) -> App {
        let log = stage
            .dir()
            .join(format!("app-{}-{version}.log", self.name()));
        let file = std::fs::File::create(&log).expect("a log");
        let child = self
            .program(stage, "app")
            .args([stage.database_url(), name, version])
            .args(orders)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the application starts");
        let app = App { _child: child, log };
        eventually(DEADLINE, "the application is ready", || async {
            let log = app.log();
            if log.lines().any(|line| line == "ready") {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
        app
    }

    /// A program of `tests/dbos_client` or `tests/dbos_python`.
    fn program(&self, stage: &Stage, program: &str) -> Command {
        match self.kind {
            Kind::TypeScript => {
                let mut node = stage.tool("node");
                node.arg("--no-deprecation")
                    .arg(
                        Path::new(TESTS)
                            .join("dbos_client")
                            .join(format!("{program}.mjs")),
                    )
                    .env("STEPWELL_NPM", &self.packages);
                node
            }
            Kind::Python => {
                let python = self.packages.join("venv/bin/python");
                let mut python = stage.tool(python.to_str().expect("a path of text"));
                python.arg(
                    Path::new(TESTS)
                        .join("dbos_python")
                        .join(format!("{program}.py")),
                );
                python
            }
        }
    }

    /// Their URLs count slashes in their own way, and knows no options of ours.
    fn url_of(&self, stage: &Stage) -> String {
        match stage.database_url().strip_prefix("sqlite://") {
            Some(path) => format!("sqlite:///{}", path.split('?').next().unwrap_or(path)),
            None => stage.database_url().to_owned(),
        }
    }
}

impl App {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
