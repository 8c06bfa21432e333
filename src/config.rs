//! Owns the environment: the only reader of it. A bad value is an error that names the variable and what it accepts.

mod access;
pub mod telemetry;
pub mod variables;

use std::{fmt::Display, io::IsTerminal, path::PathBuf, str::FromStr, time::Duration};

pub use access::{Access, Token};

use crate::{
    engine::{EngineOptions, points::Death},
    planner::PlannerMode,
    redact::shown_url,
    store::{DatabaseOptions, SqliteSync, queue_limits::QueueSettings},
};

/// Where everything local is kept.
pub const HOME: &str = ".stepwell";
/// The database when nothing else is said.
pub const DEFAULT_DATABASE_URL: &str = "sqlite://.stepwell/stepwell.db";

const A_DATABASE_URL: &str =
    "a URL that starts with sqlite: or postgres://, with its user and password percent-encoded";
const A_POSTGRES_URL: &str =
    "a URL that starts with postgres://, with its user and password percent-encoded";
/// The longest time that anything may be set to, a year, as the API has it: what is computed with it stays far from the ends of a number.
const LONGEST_SECONDS: i64 = 31_536_000;

/// A variable that does not say what it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value:?}, and accepts {accepts}")]
pub struct ConfigError {
    /// The variable.
    pub name: &'static str,
    /// What it says.
    pub value: String,
    /// What it may say.
    pub accepts: String,
}

/// Which sandbox runs the tasks of recipes that do not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// Pretends, by the command's first word.
    #[default]
    Mock,
    /// Runs commands on this machine.
    Local,
}

/// Everything the environment says.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DATABASE_URL`: a `sqlite:` or `postgres:` URL. Default: a file under `.stepwell/`.
    pub database_url: String,
    /// `DATABASE_LISTEN_URL`: the same Postgres without the pooler, for `LISTEN` and migrations; it says that there is one. Default:
    /// `DATABASE_URL`, and no pooler.
    pub database_listen_url: Option<String>,
    /// `DATABASE_POOL`: most connections to Postgres. Default: 10.
    pub database_pool: u32,
    /// `SQLITE_SYNC`: `full` or `normal`. Default: `full`.
    pub sqlite_sync: SqliteSync,
    /// `PORT`: where the API listens. 0 takes a free one. Default: 3001.
    pub port: u16,
    /// `ADMIN_PORT`: where health is told. 0 takes a free one. Default: 3002.
    pub admin_port: u16,
    /// Who may talk to the service: `HOST`, `STEPWELL_TOKEN`, `STEPWELL_READ_TOKEN`, `STEPWELL_ALLOWED_HOSTS`.
    pub access: Access,
    /// `STEPWELL_MAX_BACKLOG`: runs that may wait in their queue; more are refused. Default: 100000.
    pub max_backlog: u64,
    /// `DBOS__APPVERSION`: only workflows of this version are claimed. Default: `v1`.
    pub app_version: String,
    /// `EXECUTOR_EXPIRY_MS`: milliseconds without a heartbeat after which a process is dead. Default: 15000.
    pub executor_expiry_ms: i64,
    /// `MAX_RECOVERY_ATTEMPTS`: claims without progress after which a workflow is given up. Default: 20.
    pub max_recovery_attempts: i64,
    /// `OC_MODE`: `replay`. Default: `replay`.
    pub planner_mode: PlannerMode,
    /// `OC_STRICT_MODE`: `1` makes a missing recording an error. Default: `0`.
    pub planner_strict: bool,
    /// `SBX_MODE` and `SBX_PROVIDER`: `mock`, or `live` with the provider `local`. Default: `mock`.
    pub sandbox_mode: SandboxMode,
    /// `SBX_DEFAULT_TIMEOUT_MS`: milliseconds that a task may take. Default: 300000.
    pub sandbox_timeout_ms: u64,
    /// `SBX_DEFAULT_NET`: whether tasks may use the network. Default: `1`.
    pub sandbox_net: bool,
    /// `SBX_LOCAL_BWRAP`: `auto` uses `bwrap` where it is installed and works, `off` never. Default: `auto`.
    pub sandbox_bwrap: bool,
    /// `SBX_QUEUE_PARTITION`: whether runs must name a partition. Default: `true`.
    pub partition_required: bool,
    /// `SBX_QUEUE_CONCURRENCY`, `SBX_QUEUE_WORKER_CONCURRENCY`, `SBX_QUEUE_RATE_LIMIT_PER_PERIOD`, `SBX_QUEUE_RATE_LIMIT_PERIOD_SEC`: the limits
    /// that `sbxQ` gets when the database holds none. Defaults: 50, 10, 100, 60.
    pub sandbox_queue: QueueSettings,
    /// `CHAOS_SLEEP_EXECUTE`: milliseconds that every task takes longer, for crash tests. Default: 0.
    pub chaos_sleep: Duration,
    /// `STEPWELL_DIE_AT`: the write point at which this process aborts, for crash tests. Default: none.
    pub die_at: Option<Death>,
    /// `STEPWELL_SLOTS`: workflows executed at the same time. Default: 1000.
    pub slots: usize,
    /// `SHUTDOWN_GRACE_MS`: milliseconds that what runs may take to reach its next boundary when the process stops. Default: 5000.
    pub shutdown_grace: Duration,
    /// `STEPWELL_SERVER`: the server that commands talk to, instead of the database. Default: none.
    pub server: Option<String>,
    /// `TRACE_BASE_URL`: an http(s) URL with `{traceId}` and optionally `{spanId}`. Default: none.
    pub trace_base_url: Option<String>,
    /// `OTEL_*`, `OTLP_REQUIRED`, `STEPWELL_LOG`, `RUST_LOG`: logs, traces and metrics.
    pub telemetry: telemetry::TelemetryConfig,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// The first variable that does not say what it may.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads an environment given as a function.
    ///
    /// # Errors
    /// The first variable that does not say what it may.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = Lookup(&lookup);
        let positive = "a whole number from 1";
        Ok(Self {
            database_url: env.checked(
                "DATABASE_URL",
                DEFAULT_DATABASE_URL,
                A_DATABASE_URL,
                is_database_url,
            )?,
            database_listen_url: env.parsed("DATABASE_LISTEN_URL", None, |text| {
                is_postgres_url(text)
                    .then(|| Some(text.to_owned()))
                    .ok_or_else(|| A_POSTGRES_URL.to_owned())
            })?,
            database_pool: env.number("DATABASE_POOL", 10, positive, |n| *n > 0)?,
            sqlite_sync: env.choice(
                "SQLITE_SYNC",
                &[("full", SqliteSync::Full), ("normal", SqliteSync::Normal)],
            )?,
            port: env.number("PORT", 3001, "a port from 0 to 65535", |_| true)?,
            admin_port: env.number("ADMIN_PORT", 3002, "a port from 0 to 65535", |_| true)?,
            access: Access::read(&env)?,
            max_backlog: env.number("STEPWELL_MAX_BACKLOG", 100_000, positive, |n| *n > 0)?,
            app_version: env.checked(
                "DBOS__APPVERSION",
                "v1",
                "a version that is not blank",
                |text| !text.trim().is_empty(),
            )?,
            executor_expiry_ms: env.number(
                "EXECUTOR_EXPIRY_MS",
                15_000,
                "milliseconds from 1000 to 31536000000",
                |n| (1_000..=LONGEST_SECONDS * 1_000).contains(n),
            )?,
            max_recovery_attempts: env.number("MAX_RECOVERY_ATTEMPTS", 20, positive, |n| *n > 0)?,
            planner_mode: env.parsed("OC_MODE", PlannerMode::default(), |text| text.parse())?,
            planner_strict: env.switch("OC_STRICT_MODE", false)?,
            sandbox_mode: env.sandbox()?,
            sandbox_timeout_ms: env.number(
                "SBX_DEFAULT_TIMEOUT_MS",
                300_000,
                "milliseconds from 1",
                |n| *n > 0,
            )?,
            sandbox_net: env.switch("SBX_DEFAULT_NET", true)?,
            sandbox_bwrap: env.choice("SBX_LOCAL_BWRAP", &[("auto", true), ("off", false)])?,
            partition_required: env.switch("SBX_QUEUE_PARTITION", true)?,
            sandbox_queue: QueueSettings {
                name: "sbxQ".into(),
                concurrency: Some(env.number("SBX_QUEUE_CONCURRENCY", 50, positive, |n| *n > 0)?),
                worker_concurrency: Some(env.number(
                    "SBX_QUEUE_WORKER_CONCURRENCY",
                    10,
                    positive,
                    |n| *n > 0,
                )?),
                partition_concurrency: None,
                rate_limit_max: Some(env.number(
                    "SBX_QUEUE_RATE_LIMIT_PER_PERIOD",
                    100,
                    positive,
                    |n| *n > 0,
                )?),
                rate_limit_period_ms: Some(
                    env.number(
                        "SBX_QUEUE_RATE_LIMIT_PERIOD_SEC",
                        60_i64,
                        "seconds from 1 to 31536000",
                        |n| (1..=LONGEST_SECONDS).contains(n),
                    )? * 1_000,
                ),
                max_backlog: None,
                fair: true,
            },
            chaos_sleep: Duration::from_millis(env.number(
                "CHAOS_SLEEP_EXECUTE",
                0,
                "milliseconds from 0",
                |_| true,
            )?),
            die_at: env.parsed("STEPWELL_DIE_AT", None, |text| Death::parse(text).map(Some))?,
            slots: env.number("STEPWELL_SLOTS", 1_000, positive, |n| *n > 0)?,
            shutdown_grace: Duration::from_millis(env.number(
                "SHUTDOWN_GRACE_MS",
                5_000,
                "milliseconds from 0 to 3600000",
                |n| *n <= 3_600_000,
            )?),
            server: env.text("STEPWELL_SERVER"),
            trace_base_url: env.trace_base_url()?,
            telemetry: env.telemetry()?,
        })
    }

    /// The same on another database, whose URL somebody gave by hand.
    ///
    /// # Errors
    /// [`ConfigError`] when it is no URL of a database.
    pub fn on_database(self, url: &str) -> Result<Self, ConfigError> {
        if !is_database_url(url) {
            return Err(ConfigError {
                name: "--attach",
                value: shown_url(url),
                accepts: A_DATABASE_URL.into(),
            });
        }
        Ok(Self {
            database_url: url.to_owned(),
            database_listen_url: None,
            ..self
        })
    }

    /// How to reach the database.
    pub fn database(&self) -> DatabaseOptions {
        DatabaseOptions {
            url: self.database_url.clone(),
            max_connections: self.database_pool,
            sqlite_sync: self.sqlite_sync,
            direct_url: self.database_listen_url.clone(),
            ..DatabaseOptions::new("")
        }
    }

    /// How the engine behaves.
    pub fn engine(&self) -> EngineOptions {
        let open = ["intentQ", "compileQ", "controlQ"].map(QueueSettings::unlimited);
        EngineOptions {
            app_version: self.app_version.clone(),
            queues: open
                .into_iter()
                .chain([self.sandbox_queue.clone()])
                .collect(),
            slots: self.slots,
            executor_expiry_ms: self.executor_expiry_ms,
            max_recovery_attempts: self.max_recovery_attempts,
            listen_url: self.database_listen_url.clone(),
            grace: self.shutdown_grace,
            hostname: hostname(),
            ..EngineOptions::default()
        }
    }

    /// Where the local sandbox keeps the directories of its tasks.
    pub fn sandbox_root(&self) -> PathBuf {
        std::env::current_dir()
            .unwrap_or_default()
            .join(HOME)
            .join("sandbox")
    }
}

/// A variable that means something to a person's session and nothing to a service.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether what is written there may have colours: to a terminal, unless somebody has asked for none.
pub(crate) fn is_coloured(out: &impl IsTerminal) -> bool {
    out.is_terminal() && variable("NO_COLOR").is_none()
}

/// The name of this machine.
pub(crate) fn hostname() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = read
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .collect();
    if name.is_empty() {
        "local".into()
    } else {
        name
    }
}

fn is_database_url(url: &str) -> bool {
    url.starts_with("sqlite:") || is_postgres_url(url)
}

/// Whether the driver will read it as a URL of Postgres: what it cannot read it would repeat, password and all.
fn is_postgres_url(url: &str) -> bool {
    ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
        && url.parse::<reqwest::Url>().is_ok()
}

struct Lookup<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Lookup<'_> {
    /// A variable that is set and not empty.
    fn text(&self, name: &str) -> Option<String> {
        debug_assert!(
            variables::is_listed(name),
            "{name} is read and not listed in config/variables.rs"
        );
        (self.0)(name).filter(|text| !text.is_empty())
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        match self.text(name) {
            None => Ok(default),
            Some(value) => parse(&value).map_err(|accepts| ConfigError {
                name,
                value: shown_url(&value),
                accepts,
            }),
        }
    }

    fn checked(
        &self,
        name: &'static str,
        default: &str,
        accepts: &str,
        good: impl Fn(&str) -> bool,
    ) -> Result<String, ConfigError> {
        self.parsed(name, default.to_owned(), |text| {
            if good(text) {
                Ok(text.to_owned())
            } else {
                Err(accepts.to_owned())
            }
        })
    }

    fn number<T: FromStr + Display>(
        &self,
        name: &'static str,
        default: T,
        accepts: &str,
        good: impl Fn(&T) -> bool,
    ) -> Result<T, ConfigError> {
        self.parsed(name, default, |text| {
            text.parse()
                .ok()
                .filter(&good)
                .ok_or_else(|| accepts.to_owned())
        })
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let named = |text: &str| {
            choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
        };
        let accepts = || {
            choices
                .iter()
                .map(|(word, _)| *word)
                .collect::<Vec<_>>()
                .join(" or ")
        };
        self.parsed(name, choices[0].1, |text| named(text).ok_or_else(accepts))
    }

    fn switch(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        let words = [("true", true), ("false", false), ("1", true), ("0", false)];
        match self.text(name) {
            None => Ok(default),
            Some(_) => self.choice(name, &words),
        }
    }

    fn sandbox(&self) -> Result<SandboxMode, ConfigError> {
        let mode = self.choice(
            "SBX_MODE",
            &[("mock", SandboxMode::Mock), ("live", SandboxMode::Local)],
        )?;
        let known = |text: &str| {
            if text == "local" {
                Ok(())
            } else {
                Err("local; other providers come later".to_owned())
            }
        };
        if mode == SandboxMode::Local {
            self.parsed("SBX_PROVIDER", (), known)?
        }
        Ok(mode)
    }

    fn trace_base_url(&self) -> Result<Option<String>, ConfigError> {
        let good = |url: &str| {
            // A brace that stays is a placeholder that nobody fills, misspelt mostly; a URL itself has none.
            let filled = url.replace("{traceId}", "").replace("{spanId}", "");
            (url.starts_with("http://") || url.starts_with("https://"))
                && url.contains("{traceId}")
                && !filled.contains(['{', '}'])
                && url.parse::<reqwest::Url>().is_ok()
        };
        self.parsed("TRACE_BASE_URL", None, |url| {
            if good(url) {
                Ok(Some(url.to_owned()))
            } else {
                Err(
                    "an http or https URL with {traceId}, and {spanId} if wanted; no other braces"
                        .into(),
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn an_empty_environment_is_complete() {
        let config = read(&[]).unwrap();
        assert_eq!(
            (
                config.port,
                config.app_version.as_str(),
                config.sandbox_queue.rate_limit_period_ms
            ),
            (3001, "v1", Some(60_000))
        );
    }

    #[test]
    fn a_time_is_a_year_at_most_and_no_number_wraps() {
        let period = |seconds: &str| read(&[("SBX_QUEUE_RATE_LIMIT_PERIOD_SEC", seconds)]);
        let config = period("31536000").unwrap();
        assert_eq!(
            config.sandbox_queue.rate_limit_period_ms,
            Some(31_536_000_000)
        );
        for seconds in ["31536001", "9223372036854775807", "0", "-1"] {
            let error = period(seconds).unwrap_err();
            assert_eq!(error.accepts, "seconds from 1 to 31536000", "{seconds}");
        }
        let expiry = |ms: &str| read(&[("EXECUTOR_EXPIRY_MS", ms)]);
        assert_eq!(
            expiry("31536000000").unwrap().executor_expiry_ms,
            31_536_000_000
        );
        for ms in ["31536000001", "9223372036854775807", "999"] {
            let error = expiry(ms).unwrap_err();
            assert_eq!(
                error.accepts, "milliseconds from 1000 to 31536000000",
                "{ms}"
            );
        }
    }

    #[test]
    fn the_trace_template_of_this_environment_is_one() {
        // The manual's guard: `TRACE_BASE_URL=… mise run test:unit` says whether a server would start with it.
        let template = std::env::var("TRACE_BASE_URL").ok();
        let lookup = |name: &str| template.clone().filter(|_| name == "TRACE_BASE_URL");
        if let Err(error) = Config::from_lookup(lookup) {
            panic!("{error}");
        }
    }

    #[test]
    fn a_bad_value_names_the_variable_and_what_it_accepts() {
        for (name, value, accepts) in [
            ("DATABASE_URL", "mysql://x", "sqlite:"),
            ("PORT", "99999", "65535"),
            ("EXECUTOR_EXPIRY_MS", "10", "1000"),
            ("OC_MODE", "live", "opencode"),
            ("SBX_MODE", "real", "mock or live"),
            ("SBX_LOCAL_BWRAP", "on", "auto or off"),
            ("SBX_QUEUE_PARTITION", "maybe", "true or false"),
            ("TRACE_BASE_URL", "ftp://x/{traceId}", "http"),
            ("TRACE_BASE_URL", "https://x/{spanId}", "{traceId}"),
            (
                "TRACE_BASE_URL",
                "https://x/{traceId}/{spanID}",
                "no other braces",
            ),
            ("TRACE_BASE_URL", "https://x/{traceId}}", "no other braces"),
            ("STEPWELL_DIE_AT", "nowhere", "before-claim"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!((error.name, error.value.as_str()), (name, value));
            assert!(error.accepts.contains(accepts), "{error}");
        }
        let both = "https://x/{traceId}/span/{spanId}";
        let config = read(&[("TRACE_BASE_URL", both)]).unwrap();
        assert_eq!(config.trace_base_url.as_deref(), Some(both));
        let error = read(&[("DATABASE_URL", "mysql://me:secret@h/d")]).unwrap_err();
        assert_eq!(error.value, "mysql://…@h/d");
        let error = read(&[("SBX_MODE", "live"), ("SBX_PROVIDER", "e2b")]).unwrap_err();
        assert_eq!(error.name, "SBX_PROVIDER");
    }
}
