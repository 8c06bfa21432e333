//! What the process says of itself: logs, traces and metrics. Never the truth: that is in rows.
//!
//! [`instruments`] and [`spans`] are what the rest of the program calls; they depend on nothing else here, and neither blocks nor fails. The
//! others read them, and the store, and speak to the outside.

mod endpoint;
pub mod instruments;
mod logs;
mod metrics;
mod otlp;
mod prometheus;
mod queue;
pub mod spans;

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

pub use endpoint::scraped;
pub use otlp::ReceiverError;

use crate::{
    config::{
        is_coloured,
        telemetry::{LogFormat, TelemetryConfig},
    },
    store::Database,
};

/// What a service logs when `RUST_LOG` does not say. Of each connection that breaks the driver would say so, and the store says it once.
pub const OF_A_SERVICE: &str = "info,sqlx=warn,sqlx_core::pool=error,sqlx::pool=error,sqlx::postgres::notice=error,sea_orm=warn,sea_orm_migration=warn";
/// What a command logs whose output somebody reads.
pub const OF_A_COMMAND: &str = "warn";

/// Telemetry that is gathered and not exported yet.
pub struct Telemetry {
    config: TelemetryConfig,
    sources: otlp::Sources,
}

/// Telemetry that is exported.
#[derive(Debug)]
pub struct Exporting(otlp::Exports);

impl Telemetry {
    /// Starts to write logs to standard error, as `RUST_LOG` filters them, or `otherwise`, and to gather what is to be exported.
    pub fn init(config: &TelemetryConfig, format: LogFormat, otherwise: &str) -> Self {
        spans::decide_by(config.sampler);
        let (mut spans, mut logs, mut export) = (None, None, None);
        if config.traces.is_some() {
            let (queue, gathered) =
                queue::Queue::new("spans", config.span_batches, otlp::encode_span);
            spans::send_to(queue);
            spans = Some(gathered);
        }
        if config.logs.is_some() {
            let (queue, gathered) =
                queue::Queue::new("logs", config.log_batches, otlp::encode_entry);
            export = Some(queue);
            logs = Some(gathered);
        }
        let filter = EnvFilter::new(config.log_filter.as_deref().unwrap_or(otherwise));
        let json = format == LogFormat::Json;
        let people = (!json).then(|| {
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(is_coloured(&std::io::stderr()))
                .with_target(false)
        });
        let lines = (json || export.is_some()).then_some(logs::Lines { json, export });
        // A second call, by an embedding program, keeps its own subscriber.
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(people)
            .with(lines.boxed())
            .try_init();
        for name in &config.not_honoured {
            tracing::warn!("{name} is set, and this program does not honour it");
        }
        Self {
            config: config.clone(),
            sources: otlp::Sources { spans, logs },
        }
    }

    /// Starts to export, within a runtime.
    ///
    /// # Errors
    /// [`ReceiverError`] when receivers are required and one does not answer.
    pub async fn export(self) -> Result<Exporting, ReceiverError> {
        Ok(Exporting(
            otlp::Exports::start(&self.config, self.sources).await?,
        ))
    }
}

impl Exporting {
    /// Sends what waits, for a moment, before the process ends.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

/// Shows the gauges of `db` with the other metrics from now on. `executor_expiry_ms` is the age of a heartbeat at which a process is dead.
pub fn watch(db: &Database, app_version: &str, executor_expiry_ms: i64) {
    metrics::watch(db, app_version, executor_expiry_ms);
}
