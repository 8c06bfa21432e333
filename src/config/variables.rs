//! Owns the list of every variable that is read: what the configuration reference is made of. Reading one that is not listed panics in debug
//! builds; a test compares the list with what is read, refused and assumed.

mod otlp;
#[cfg(test)]
mod tests;

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

/// Every variable that is read, by what it is about.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Database",
        about: "Behind a pooler: [deploying.md](deploying.md#behind-a-pooler).",
        variables: &[
            variable(
                "DATABASE_URL",
                Is("sqlite://.stepwell/stepwell.db"),
                "a URL that starts with sqlite: or postgres://, with its user and password percent-encoded",
                "where everything durable is. A relative path of SQLite counts from the working directory",
            ),
            variable(
                "DATABASE_LISTEN_URL",
                Means("`DATABASE_URL`, and no pooler"),
                "a URL that starts with postgres://, with its user and password percent-encoded",
                "the same Postgres without the pooler, for `LISTEN` and migrations; to be set where a pooler in transaction mode stands between",
            ),
            variable(
                "DATABASE_POOL",
                Is("10"),
                POSITIVE,
                "most connections to Postgres; `serve` keeps a third of them, three at most, for callers who read",
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
                "milliseconds from 1000 to 31536000000",
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
                "seconds from 1 to 31536000",
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
                "an http or https URL with {traceId}, and {spanId} if wanted; no other braces",
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
        variables: otlp::OTLP,
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
                 before-wake, after-wake, before-completion, after-completion, after-look, before-fire, after-fire, \
                 before-write, after-write",
                "the write point at which the process aborts; `:` and a step's name may follow, for the last two the number of the write has to",
            ),
        ],
    },
];
