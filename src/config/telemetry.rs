//! Owns what the environment says of telemetry: `OTEL_*` with their standard meaning, and how logs are written. Where signals go is in
//! `target`.

mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use tracing_subscriber::EnvFilter;

pub use target::{Compression, Headers, OtlpProtocol, OtlpTarget};

use super::{ConfigError, Lookup};
use crate::telemetry::spans::Sampler;
use target::{LOGS, METRICS, TRACES};

/// Standard variables that change where or how telemetry goes, and that this program does not honour: setting one is said to be in vain.
pub const NOT_HONOURED: [&str; 36] = [
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_CONFIG_FILE",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_LOGS_INSECURE",
    "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_EXPORTER_OTLP_METRICS_INSECURE",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_PROPAGATORS",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];
/// Of these, what may be said because it is so anyway.
const SO_ANYWAY: [(&str, &[&str]); 4] = [
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        &["explicit_bucket_histogram"],
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        &["cumulative"],
    ),
    ("OTEL_METRICS_EXEMPLAR_FILTER", &["always_off"]),
    ("OTEL_PROPAGATORS", &["tracecontext", "baggage"]),
];

/// How logs are written to standard error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON document a line.
    Json,
}

/// What the environment says of telemetry.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `STEPWELL_LOG`: `human` or `json`; the option `--log` counts first. Default: `human`.
    pub log_format: LogFormat,
    /// `RUST_LOG`: which log lines are written, and exported. Default: what suits the command.
    pub log_filter: Option<String>,
    /// `OTLP_REQUIRED`: whether the process starts only when its receivers answer. Default: `0`.
    pub required: bool,
    /// `OTEL_EXPORTER_OTLP_[TRACES_]…`: where spans go. Default: nowhere.
    pub traces: Option<OtlpTarget>,
    /// `OTEL_EXPORTER_OTLP_[LOGS_]…`: where log records go. Default: nowhere.
    pub logs: Option<OtlpTarget>,
    /// `OTEL_EXPORTER_OTLP_[METRICS_]…`: where metrics go. Default: nowhere.
    pub metrics: Option<OtlpTarget>,
    /// `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`: which traces are exported. Default: `parentbased_always_on`.
    pub sampler: Sampler,
    /// `OTEL_BSP_…`: how spans are batched.
    pub span_batches: Batches,
    /// `OTEL_BLRP_…`: how log records are batched.
    pub log_batches: Batches,
    /// `OTEL_METRIC_EXPORT_INTERVAL`: time between two exports of metrics. Default: 60000 milliseconds.
    pub metric_interval: Duration,
    /// `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`: who this is. Default: `service.name=stepwell`.
    pub resource: BTreeMap<String, String>,
    /// Variables that are set in vain.
    pub not_honoured: Vec<&'static str>,
}

/// How a signal is gathered into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// `…_MAX_QUEUE_SIZE`: what may wait; what comes then is lost and counted. Default: 2048.
    pub queue: usize,
    /// `…_MAX_EXPORT_BATCH_SIZE`: most in one request. Default: 512.
    pub size: usize,
    /// `…_SCHEDULE_DELAY`: how long the first of a batch waits for others. Default: 5000 milliseconds for spans, 1000 for log records.
    pub delay: Duration,
}

impl Lookup<'_> {
    pub(super) fn telemetry(&self) -> Result<TelemetryConfig, ConfigError> {
        let required = self.switch("OTLP_REQUIRED", false)?;
        let disabled = self.disabled()?;
        // Who names a receiver of one signal has decided where telemetry goes: the standard's default is for those who name none.
        let by_default = required && !self.names_a_receiver();
        let target = |signal| {
            if disabled {
                Ok(None)
            } else {
                self.target(signal, by_default)
            }
        };
        let (spans, logs) = (
            [
                "OTEL_BSP_MAX_QUEUE_SIZE",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                "OTEL_BSP_SCHEDULE_DELAY",
            ],
            [
                "OTEL_BLRP_MAX_QUEUE_SIZE",
                "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
                "OTEL_BLRP_SCHEDULE_DELAY",
            ],
        );
        Ok(TelemetryConfig {
            log_format: self.choice(
                "STEPWELL_LOG",
                &[("human", LogFormat::Human), ("json", LogFormat::Json)],
            )?,
            log_filter: self.parsed("RUST_LOG", None, |text| {
                EnvFilter::try_new(text)
                    .map(|_| Some(text.to_owned()))
                    .map_err(|_| "directives like info or info,sqlx=warn".to_owned())
            })?,
            required,
            traces: target(TRACES)?,
            logs: target(LOGS)?,
            metrics: target(METRICS)?,
            sampler: self.sampler()?,
            span_batches: self.batches(spans, 5_000)?,
            log_batches: self.batches(logs, 1_000)?,
            metric_interval: self.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000, 1)?,
            resource: self.resource()?,
            not_honoured: NOT_HONOURED
                .into_iter()
                .filter(|name| self.text(name).is_some_and(|said| is_in_vain(name, &said)))
                .collect(),
        })
    }

    /// The standard's booleans have no digits; unlike it, what is neither is an error here, as everywhere.
    fn disabled(&self) -> Result<bool, ConfigError> {
        self.parsed("OTEL_SDK_DISABLED", false, |text| {
            text.to_ascii_lowercase()
                .parse()
                .map_err(|_| "true or false".to_owned())
        })
    }

    fn milliseconds(
        &self,
        name: &'static str,
        default: u64,
        least: u64,
    ) -> Result<Duration, ConfigError> {
        let accepts = format!("milliseconds from {least}");
        let ms = self.number(name, default, &accepts, |ms| *ms >= least)?;
        Ok(Duration::from_millis(ms))
    }

    fn batches(
        &self,
        [queue, size, delay]: [&'static str; 3],
        delay_ms: u64,
    ) -> Result<Batches, ConfigError> {
        let within = "a whole number from 1 to 1000000";
        let bounded = |n: &usize| (1..=1_000_000).contains(n);
        Ok(Batches {
            queue: self.number(queue, 2_048, within, bounded)?,
            size: self.number(size, 512, within, bounded)?,
            delay: self.milliseconds(delay, delay_ms, 0)?,
        })
    }

    /// `key=value` pairs with percent-encoded values. The value of a variable that is none is not repeated: it may be a secret.
    fn pairs(&self, name: &'static str) -> Result<Vec<(String, String)>, ConfigError> {
        let parse = |text: &str| {
            text.split(',')
                .filter(|pair| !pair.trim().is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=')?;
                    let value = decoded(value.trim())?;
                    (!key.trim().is_empty()).then(|| (key.trim().to_owned(), value))
                })
                .collect::<Option<Vec<_>>>()
        };
        match self.text(name) {
            None => Ok(Vec::new()),
            Some(text) => parse(&text).ok_or_else(|| hidden(name, "key=value,key=value")),
        }
    }

    fn resource(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let mut resource = BTreeMap::from([("service.name".to_owned(), "stepwell".to_owned())]);
        resource.extend(self.pairs("OTEL_RESOURCE_ATTRIBUTES")?);
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            resource.insert("service.name".into(), name);
        }
        Ok(resource)
    }

    fn sampler(&self) -> Result<Sampler, ConfigError> {
        let ratio: f64 = self.number(
            "OTEL_TRACES_SAMPLER_ARG",
            1.0,
            "a number from 0 to 1",
            |n| (0.0..=1.0).contains(n),
        )?;
        let sampler = |parent_based, ratio| Sampler {
            parent_based,
            ratio,
        };
        self.choice(
            "OTEL_TRACES_SAMPLER",
            &[
                ("parentbased_always_on", sampler(true, 1.0)),
                ("parentbased_always_off", sampler(true, 0.0)),
                ("parentbased_traceidratio", sampler(true, ratio)),
                ("always_on", sampler(false, 1.0)),
                ("always_off", sampler(false, 0.0)),
                ("traceidratio", sampler(false, ratio)),
            ],
        )
    }
}

/// Whether saying this is different from what is done without.
fn is_in_vain(name: &str, said: &str) -> bool {
    let so_anyway = SO_ANYWAY.iter().find(|(known, _)| *known == name);
    so_anyway.is_none_or(|(_, words)| {
        let mut entries = said
            .split(',')
            .map(|entry| entry.trim().to_ascii_lowercase());
        !entries.all(|entry| words.contains(&entry.as_str()))
    })
}

/// Undoes percent-encoding; none when the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn hidden(name: &'static str, accepts: &str) -> ConfigError {
    ConfigError {
        name,
        value: "(not shown)".into(),
        accepts: accepts.into(),
    }
}
