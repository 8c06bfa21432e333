//! Owns what is shown: the instruments of this process, and the gauges that the database answers, asked once a second at most.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::instruments::{self, Kind, Metric, Value};
use crate::store::{
    Database,
    gauges::{self, Gauge},
};

/// How old an answer of the database may be.
const AGE: Duration = Duration::from_secs(1);
/// How long it may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The gauges of the database: what the store calls them, their names, what they mean and their labels.
const GAUGES: [(Gauge, &str, &str, &str, &[&str]); 4] = [
    (
        Gauge::Depth,
        "stepwell_queue_depth",
        "Workflows in a queue by status; PENDING are claimed or suspended. Counting stops at 50000.",
        "{workflow}",
        &["queue", "status"],
    ),
    (
        Gauge::OldestAge,
        "stepwell_queue_oldest_age_seconds",
        "Age of the oldest workflow that depth has counted; 0 without any.",
        "s",
        &["queue", "status"],
    ),
    (
        Gauge::Suspended,
        "stepwell_suspended",
        "Suspended workflows by what they wait for. Counting stops at 50000.",
        "{workflow}",
        &["kind"],
    ),
    (
        Gauge::Executors,
        "stepwell_executors",
        "Processes that execute: registered, and with a heartbeat younger than EXECUTOR_EXPIRY_MS.",
        "{process}",
        &[],
    ),
];

/// What is watched; unset in a process that has no database.
static WATCHED: OnceLock<Watched> = OnceLock::new();

struct Watched {
    db: Database,
    app_version: String,
    executor_expiry_ms: i64,
    last: Mutex<Option<(Instant, Vec<Metric>)>>,
}

/// Shows the gauges of `db` from now on.
pub(super) fn watch(db: &Database, app_version: &str, executor_expiry_ms: i64) {
    // A second call, by an embedding program, keeps the first one's.
    let _ = WATCHED.set(Watched {
        db: db.clone(),
        app_version: app_version.to_owned(),
        executor_expiry_ms,
        last: Mutex::new(None),
    });
}

/// Everything that is shown now.
pub(super) async fn gather() -> Vec<Metric> {
    let mut all = instruments::read();
    all.push(tasks());
    if let Some(watched) = WATCHED.get() {
        all.push(build_info(&watched.app_version));
        all.push(pool(&watched.db));
        all.extend(watched.gauges().await);
    }
    all
}

impl Watched {
    async fn gauges(&self) -> Vec<Metric> {
        let mut last = self.last.lock().await;
        if let Some((at, metrics)) = &*last
            && at.elapsed() < AGE
        {
            return metrics.clone();
        }
        let asked = gauges::read(&self.db, self.executor_expiry_ms);
        let answer = tokio::time::timeout(DEADLINE, asked).await;
        let up = matches!(answer, Ok(Ok(_)));
        let mut metrics = vec![single(
            "stepwell_database_up",
            "Whether the database answered when its gauges were last asked for.",
            if up { 1.0 } else { 0.0 },
        )];
        match answer {
            Ok(Ok(rows)) => metrics.extend(GAUGES.iter().map(|gauge| of_rows(gauge, &rows))),
            Ok(Err(error)) => error.warn("the database does not answer for its gauges"),
            Err(_) => tracing::warn!("the database does not answer for its gauges in time"),
        }
        *last = Some((Instant::now(), metrics.clone()));
        metrics
    }
}

#[allow(clippy::cast_precision_loss)] // counts and milliseconds are far below 2^53
fn of_rows(
    (gauge, name, help, unit, labels): &(
        Gauge,
        &'static str,
        &'static str,
        &'static str,
        &'static [&'static str],
    ),
    rows: &[gauges::Row],
) -> Metric {
    let points = rows.iter().filter(|row| row.gauge == *gauge).map(|row| {
        let value = if *gauge == Gauge::OldestAge {
            row.value as f64 / 1_000.0
        } else {
            row.value as f64
        };
        (row.labels.clone(), Value::Number(value))
    });
    Metric {
        name,
        help,
        unit,
        kind: Kind::Gauge,
        labels,
        points: points.collect(),
    }
}

fn single(name: &'static str, help: &'static str, value: f64) -> Metric {
    Metric {
        name,
        help,
        unit: "1",
        kind: Kind::Gauge,
        labels: &[],
        points: vec![(Vec::new(), Value::Number(value))],
    }
}

fn build_info(app_version: &str) -> Metric {
    let labels = vec![
        env!("CARGO_PKG_VERSION").to_owned(),
        env!("STEPWELL_COMMIT").to_owned(),
        migration::newest(),
        migration::DBOS_VERSION.to_string(),
        app_version.to_owned(),
    ];
    Metric {
        labels: &[
            "version",
            "commit",
            "schema_app",
            "schema_dbos",
            "app_version",
        ],
        points: vec![(labels, Value::Number(1.0))],
        ..single(
            "stepwell_build_info",
            "Always 1; the labels say what runs: what `--version` says, and DBOS__APPVERSION.",
            1.0,
        )
    }
}

/// What a leak of tasks shows in: it goes up and down with the work, and back.
#[allow(clippy::cast_precision_loss)] // far below 2^53
fn tasks() -> Metric {
    let alive = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    Metric {
        unit: "{task}",
        ..single(
            "stepwell_tasks",
            "Asynchronous tasks that live in this process.",
            alive as f64,
        )
    }
}

fn pool(db: &Database) -> Metric {
    let uses = db.pool_use().into_iter().flat_map(|pool| {
        let states = [
            ("used", pool.open.saturating_sub(pool.idle)),
            ("idle", pool.idle),
            ("most", pool.most),
        ];
        states.map(|(state, n)| {
            let labels = vec![pool.name.to_owned(), state.to_owned()];
            (labels, Value::Number(f64::from(n)))
        })
    });
    Metric {
        labels: &["pool", "state"],
        unit: "{connection}",
        points: uses.collect(),
        ..single(
            "stepwell_pool_connections",
            "Connections to the database: in use, idle, and how many there may be at most.",
            0.0,
        )
    }
}
