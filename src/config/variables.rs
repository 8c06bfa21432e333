//! Owns the list of every variable that is read: what the configuration reference is made of. Reading one that is not listed panics in debug
//! builds; a test compares the list with what is read, refused and assumed.

use Unset::{Is, Means};

use super::telemetry::NOT_HONOURED;

/// A variable of the environment.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it says, with its unit.
    pub meaning: &'static str,
    /// What it may say; anything else stops the start, with these words.
    pub accepts: &'static str,
    /// What holds while it is not set, or empty.
    pub default: Unset,
}

/// What holds while a variable is not set.
#[derive(Debug, Clone, Copy)]
pub enum Unset {
    /// The same as with this value.
    Is(&'static str),
    /// Something that no value says.
    Means(&'static str),
}

/// Variables about one thing.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they are about.
    pub title: &'static str,
    /// What is to be known of all of them, as Markdown; may be empty.
    pub about: &'static str,
    /// In the order of interest.
    pub variables: &'static [Variable],
}

/// Whether the configuration may read this variable.
pub(super) fn is_listed(name: &str) -> bool {
    let listed = GROUPS.iter().flat_map(|group| group.variables);
    listed.into_iter().any(|variable| variable.name == name) || NOT_HONOURED.contains(&name)
}

const fn variable(
    name: &'static str,
    default: Unset,
    accepts: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable {
        name,
        meaning,
        accepts,
        default,
    }
}

/// Variables of a person's session that commands look at, and what for.
pub const OF_A_SESSION: [(&str, &str); 2] = [
    ("NO_COLOR", "when it says anything, nothing is coloured"),
    ("USER", "who acts, where `--actor` does not say"),
];

const POSITIVE: &str = "a whole number from 1";
const PORT: &str = "a port from 0 to 65535";
const SWITCH: &str = "true or false or 1 or 0";
const TOKEN: &str = "at least 16 printable ASCII characters without spaces";
const OTLP_URL: &str = "an http or https URL, like http://127.0.0.1:4318";
const EXPORTER: &str = "otlp or none";
const PROTOCOL: &str = "http/protobuf or grpc";
const PAIRS: &str = "key=value,key=value";
const MILLISECONDS: &str = "milliseconds from 1";
const BATCH: &str = "a whole number from 1 to 1000000";
const OF_ALL: Unset = Means("that of all signals");

/// Every variable that is read, by what it is about.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Database",
        about: "",
        variables: &[
            variable(
                "DATABASE_URL",
                Is("sqlite://.stepwell/stepwell.db"),
                "a URL that starts with sqlite: or postgres://",
                "where everything durable is. A relative path of SQLite counts from the working directory",
            ),
            variable(
                "DATABASE_LISTEN_URL",
                Means("`DATABASE_URL`, and no pooler"),
                "a postgres:// URL, which is not checked",
                "the same Postgres without the pooler, for `LISTEN` and migrations; to be set where a pooler in transaction mode stands between ([deploying](deploying.md#behind-a-pooler))",
            ),
            variable(
                "DATABASE_POOL",
                Is("10"),
                POSITIVE,
                "most connections to Postgres",
            ),
            variable(
                "SQLITE_SYNC",
                Is("full"),
                "full or normal",
                "`full`: a commit survives a power cut; `normal`: it survives the process",
            ),
        ],
    },
    Group {
        title: "Service",
        about: "Who may ask, and what is refused: [security.md](security.md).",
        variables: &[
            variable(
                "HOST",
                Is("127.0.0.1"),
                "an IP address to listen on, such as 127.0.0.1 or 0.0.0.0",
                "the address to listen on; one that is not loopback needs `STEPWELL_TOKEN`",
            ),
            variable("PORT", Is("3001"), PORT, "the API; 0 takes a free port"),
            variable(
                "ADMIN_PORT",
                Is("3002"),
                PORT,
                "health, `/metrics` and drain of a process that executes; 0 takes a free port",
            ),
            variable(
                "STEPWELL_TOKEN",
                Means("none; `POST /tick` is refused then"),
                TOKEN,
                "bearer token that every request must bring; commands that talk to a server bring it",
            ),
            variable(
                "STEPWELL_READ_TOKEN",
                Means("none"),
                TOKEN,
                "bearer token that may only read; needs `STEPWELL_TOKEN` beside it",
            ),
            variable(
                "STEPWELL_ALLOWED_HOSTS",
                Means("none"),
                "host names separated by commas, without scheme, port or path",
                "host names that requests may name beside loopback's and the address they came to",
            ),
            variable(
                "STEPWELL_MAX_BACKLOG",
                Is("100000"),
                POSITIVE,
                "runs that may wait in `intentQ`; more are refused with 429",
            ),
        ],
    },
    Group {
        title: "Execution",
        about: "",
        variables: &[
            variable(
                "DBOS__APPVERSION",
                Is("v1"),
                "a version that is not blank",
                "only workflows of this version are claimed",
            ),
            variable(
                "STEPWELL_SLOTS",
                Is("1000"),
                POSITIVE,
                "workflows executed at the same time in one process",
            ),
            variable(
                "EXECUTOR_EXPIRY_MS",
                Is("15000"),
                "milliseconds, at least 1000",
                "milliseconds without a heartbeat after which a process is dead, and its work is taken over",
            ),
            variable(
                "MAX_RECOVERY_ATTEMPTS",
                Is("20"),
                POSITIVE,
                "claims without progress after which a workflow is given up",
            ),
            variable(
                "SHUTDOWN_GRACE_MS",
                Is("5000"),
                "milliseconds from 0 to 3600000",
                "milliseconds that what runs may take to reach its next boundary when the process stops",
            ),
        ],
    },
    Group {
        title: "Plans",
        about: "",
        variables: &[
            variable(
                "OC_MODE",
                Is("replay"),
                "`replay`",
                "where plans come from: a recording if there is one, else computed from the intent",
            ),
            variable(
                "OC_STRICT_MODE",
                Is("0"),
                SWITCH,
                "whether a plan that nobody has recorded is an error",
            ),
        ],
    },
    Group {
        title: "Sandbox",
        about: "What runs commands, and what it isolates: [sandbox.md](sandbox.md).",
        variables: &[
            variable(
                "SBX_MODE",
                Is("mock"),
                "mock or live",
                "`mock` pretends, `live` runs commands. `shell-default` always runs them, on this machine",
            ),
            variable(
                "SBX_PROVIDER",
                Is("local"),
                "local; other providers come later",
                "where `SBX_MODE=live` runs them; read only then",
            ),
            variable(
                "SBX_DEFAULT_TIMEOUT_MS",
                Is("300000"),
                "milliseconds from 1",
                "milliseconds that a task may take; an intent's `inputs.timeoutMs` counts first",
            ),
            variable(
                "SBX_DEFAULT_NET",
                Is("true"),
                SWITCH,
                "whether a task may use the network; an intent's `inputs.net` counts first",
            ),
            variable(
                "SBX_LOCAL_BWRAP",
                Is("auto"),
                "auto or off",
                "`auto`: `bwrap` is used where it is installed and works; `off`: never",
            ),
        ],
    },
    Group {
        title: "The queue of tasks",
        about: "The limits are written to `app.queue_limits` when that table has none for `sbxQ`; afterwards the table counts, and \
                `stepwell queue set` changes it: [queues.md](queues.md).",
        variables: &[
            variable(
                "SBX_QUEUE_CONCURRENCY",
                Is("50"),
                POSITIVE,
                "tasks in execution, over all processes",
            ),
            variable(
                "SBX_QUEUE_WORKER_CONCURRENCY",
                Is("10"),
                POSITIVE,
                "tasks in execution in one process",
            ),
            variable(
                "SBX_QUEUE_RATE_LIMIT_PER_PERIOD",
                Is("100"),
                POSITIVE,
                "tasks started per period",
            ),
            variable(
                "SBX_QUEUE_RATE_LIMIT_PERIOD_SEC",
                Is("60"),
                "seconds from 1",
                "that period, in seconds",
            ),
            variable(
                "SBX_QUEUE_PARTITION",
                Is("true"),
                SWITCH,
                "whether a run must name a `queuePartitionKey`",
            ),
        ],
    },
    Group {
        title: "Commands",
        about: "",
        variables: &[
            variable(
                "STEPWELL_SERVER",
                Means("none; commands work on the database itself"),
                "the URL of a server, checked by the command that uses it",
                "the server that commands such as `stepwell runs` talk to; the option `--server` counts first",
            ),
            variable(
                "TRACE_BASE_URL",
                Means("none"),
                "an http or https URL with {traceId}, and {spanId} if wanted",
                "the pattern of `traceUrl` in a run's header",
            ),
        ],
    },
    Group {
        title: "Logs",
        about: "",
        variables: &[
            variable(
                "STEPWELL_LOG",
                Is("human"),
                "human or json",
                "how log lines look on standard error; the option `--log` counts first",
            ),
            variable(
                "RUST_LOG",
                Means("`info` for a service, `warn` for a command"),
                "directives like info or info,sqlx=warn",
                "which log lines are written, and exported",
            ),
        ],
    },
    Group {
        title: "Telemetry over OTLP",
        about: "The standard's variables with the standard's meaning: [telemetry.md](telemetry.md). What is said of one signal counts before \
                what is said of all.",
        variables: TELEMETRY,
    },
    Group {
        title: "Crash tests",
        about: "",
        variables: &[
            variable(
                "CHAOS_SLEEP_EXECUTE",
                Is("0"),
                "milliseconds from 0",
                "milliseconds that every task takes longer",
            ),
            variable(
                "STEPWELL_DIE_AT",
                Means("never"),
                "one of before-claim, after-claim, before-step, after-step, before-fan-out, after-fan-out, before-suspend, after-suspend, \
                 before-wake, after-wake, before-completion, after-completion, after-look, before-fire, after-fire",
                "the write point at which the process aborts; `:` and a step's name may follow",
            ),
        ],
    },
];

const TELEMETRY: &[Variable] = &[
    variable(
        "OTLP_REQUIRED",
        Is("0"),
        SWITCH,
        "whether the process starts only when its receivers answer; exit code 78 otherwise",
    ),
    variable(
        "OTEL_SDK_DISABLED",
        Is("false"),
        SWITCH,
        "whether nothing is exported",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Means("nothing is exported"),
        OTLP_URL,
        "the receiver of all signals",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        OF_ALL,
        OTLP_URL,
        "the receiver of spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        OF_ALL,
        OTLP_URL,
        "the receiver of log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        OF_ALL,
        OTLP_URL,
        "the receiver of metrics",
    ),
    variable(
        "OTEL_TRACES_EXPORTER",
        Is("otlp"),
        EXPORTER,
        "whether spans are exported",
    ),
    variable(
        "OTEL_LOGS_EXPORTER",
        Is("otlp"),
        EXPORTER,
        "whether log records are exported",
    ),
    variable(
        "OTEL_METRICS_EXPORTER",
        Is("otlp"),
        EXPORTER,
        "whether metrics are exported",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        Is("http/protobuf"),
        PROTOCOL,
        "how OTLP is spoken",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        OF_ALL,
        PROTOCOL,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
        OF_ALL,
        PROTOCOL,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        OF_ALL,
        PROTOCOL,
        "the same for metrics",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_HEADERS",
        Means("none"),
        PAIRS,
        "headers of every request, percent-encoded; never shown",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        OF_ALL,
        PAIRS,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
        OF_ALL,
        PAIRS,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
        OF_ALL,
        PAIRS,
        "the same for metrics",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        Is("10000"),
        MILLISECONDS,
        "milliseconds that a request may take",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        OF_ALL,
        MILLISECONDS,
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
        OF_ALL,
        MILLISECONDS,
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
        OF_ALL,
        MILLISECONDS,
        "the same for metrics",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        Is("none"),
        "none",
        "how requests are compressed",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        OF_ALL,
        "none",
        "the same for spans",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
        OF_ALL,
        "none",
        "the same for log records",
    ),
    variable(
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
        OF_ALL,
        "none",
        "the same for metrics",
    ),
    variable(
        "OTEL_TRACES_SAMPLER",
        Is("parentbased_always_on"),
        "parentbased_always_on or parentbased_always_off or parentbased_traceidratio or always_on or always_off or traceidratio",
        "which traces are exported; the decision is stored with the run",
    ),
    variable(
        "OTEL_TRACES_SAMPLER_ARG",
        Is("1"),
        "a number from 0 to 1",
        "the share that the samplers with `ratio` in their name export",
    ),
    variable(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        Is("2048"),
        BATCH,
        "spans that may wait; what comes then is lost and counted",
    ),
    variable(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        Is("512"),
        BATCH,
        "most spans in one request",
    ),
    variable(
        "OTEL_BSP_SCHEDULE_DELAY",
        Is("5000"),
        MILLISECONDS,
        "milliseconds that the first span of a batch waits for others",
    ),
    variable(
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        Is("2048"),
        BATCH,
        "log records that may wait; what comes then is lost and counted",
    ),
    variable(
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
        Is("512"),
        BATCH,
        "most log records in one request",
    ),
    variable(
        "OTEL_BLRP_SCHEDULE_DELAY",
        Is("1000"),
        MILLISECONDS,
        "milliseconds that the first record of a batch waits for others",
    ),
    variable(
        "OTEL_METRIC_EXPORT_INTERVAL",
        Is("60000"),
        MILLISECONDS,
        "milliseconds between two exports of metrics",
    ),
    variable(
        "OTEL_SERVICE_NAME",
        Is("stepwell"),
        "any text",
        "who this is; counts before `service.name` of the next one",
    ),
    variable(
        "OTEL_RESOURCE_ATTRIBUTES",
        Means("`service.name=stepwell`"),
        PAIRS,
        "what else is to be said of this process, percent-encoded",
    ),
];

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        collections::{BTreeMap, BTreeSet},
    };

    use super::{super::Config, *};

    /// Accepted whatever they say.
    const UNCHECKED: [&str; 3] = [
        "DATABASE_LISTEN_URL",
        "OTEL_SERVICE_NAME",
        "STEPWELL_SERVER",
    ];
    /// Where what is read depends on something, that is so that it is read.
    const BASE: [(&str, &str); 3] = [
        ("SBX_MODE", "live"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1"),
        ("STEPWELL_TOKEN", "0123456789abcdef"),
    ];

    fn variables() -> impl Iterator<Item = &'static Variable> {
        GROUPS.iter().flat_map(|group| group.variables)
    }

    /// What an environment of [`BASE`] and one more variable is read as; without that variable if it has no value.
    fn read(name: &str, value: Option<&str>) -> Result<Config, super::super::ConfigError> {
        let mut environment: BTreeMap<&str, &str> = BASE.into();
        environment.remove(name);
        environment.extend(value.map(|value| (name, value)));
        Config::from_lookup(|name| environment.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn what_is_listed_is_what_is_read() {
        let asked = RefCell::new(BTreeSet::new());
        let base: BTreeMap<&str, &str> = BASE.into();
        Config::from_lookup(|name| {
            asked.borrow_mut().insert(name.to_owned());
            base.get(name).map(|value| (*value).to_owned())
        })
        .unwrap();
        let listed = variables().map(|variable| variable.name);
        let listed: BTreeSet<String> = listed.chain(NOT_HONOURED).map(str::to_owned).collect();
        assert_eq!(asked.into_inner(), listed);
        let names = variables().map(|variable| variable.name);
        assert_eq!(names.count(), listed.len() - NOT_HONOURED.len());
    }

    #[test]
    fn what_is_said_to_be_the_default_is() {
        for variable in variables() {
            let Is(value) = variable.default else {
                continue;
            };
            let unset = read(variable.name, None).unwrap();
            let set = read(variable.name, Some(value)).unwrap();
            assert_eq!(
                format!("{set:?}"),
                format!("{unset:?}"),
                "{}",
                variable.name
            );
        }
    }

    #[test]
    fn what_is_said_to_be_accepted_is_what_a_refusal_says() {
        // Nothing but free text is all of these.
        let garbage = ["a=%zz,", "https://x/y", " "];
        for variable in variables() {
            let refused = garbage
                .iter()
                .find_map(|value| read(variable.name, Some(value)).err());
            let unchecked = UNCHECKED.contains(&variable.name);
            match refused {
                Some(error) => assert_eq!(
                    (error.name, error.accepts.as_str()),
                    (variable.name, variable.accepts)
                ),
                None => assert!(unchecked, "{} takes anything", variable.name),
            }
        }
    }
}
