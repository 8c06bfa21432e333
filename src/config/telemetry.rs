//! Owns what the environment says of telemetry: `OTEL_*` with their standard meaning, and how logs are written.

use std::{collections::BTreeMap, fmt, time::Duration};

use tracing_subscriber::EnvFilter;

use super::{ConfigError, Lookup};
use crate::telemetry::spans::Sampler;

/// Where a receiver is when nothing says so, per protocol.
const DEFAULT_ENDPOINTS: [(OtlpProtocol, &str); 2] = [
    (OtlpProtocol::HttpProtobuf, "http://localhost:4318"),
    (OtlpProtocol::Grpc, "http://localhost:4317"),
];
/// Standard variables that change where or how telemetry goes, and that this program does not honour: setting one is said to be in vain.
pub const NOT_HONOURED: [&str; 10] = [
    "OTEL_CONFIG_FILE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_PROPAGATORS",
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

/// A receiver of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpTarget {
    /// Where: for HTTP the signal's own URL, for gRPC the base.
    pub endpoint: reqwest::Url,
    /// How.
    pub protocol: OtlpProtocol,
    /// What every request carries.
    pub headers: Headers,
    /// How long a request may take.
    pub timeout: Duration,
}

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf in HTTP requests.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// Headers that every request carries; their values are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
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

/// The base of every receiver.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// One of the three signals.
#[derive(Debug, Clone, Copy)]
struct Signal {
    path: &'static str,
    exporter: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
    headers: &'static str,
    timeout: &'static str,
    compression: &'static str,
}

const TRACES: Signal = Signal {
    path: "v1/traces",
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
};
const LOGS: Signal = Signal {
    path: "v1/logs",
    exporter: "OTEL_LOGS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
};
const METRICS: Signal = Signal {
    path: "v1/metrics",
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
};

impl Lookup<'_> {
    pub(super) fn telemetry(&self) -> Result<TelemetryConfig, ConfigError> {
        let required = self.switch("OTLP_REQUIRED", false)?;
        let disabled = self.switch("OTEL_SDK_DISABLED", false)?;
        // Who names a receiver of one signal has decided where telemetry goes: the standard's default is for those who name none.
        let named = [TRACES.endpoint, LOGS.endpoint, METRICS.endpoint, ENDPOINT]
            .into_iter()
            .any(|name| self.text(name).is_some());
        let target = |signal: Signal| {
            if disabled {
                Ok(None)
            } else {
                self.target(signal, required && !named)
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
            metric_interval: self.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
            resource: self.resource()?,
            not_honoured: NOT_HONOURED
                .into_iter()
                .filter(|name| self.text(name).is_some())
                .collect(),
        })
    }

    /// The receiver of a signal. Without an endpoint there is none, unless the standard's default is meant.
    fn target(&self, signal: Signal, by_default: bool) -> Result<Option<OtlpTarget>, ConfigError> {
        let exported = self.choice(signal.exporter, &[("otlp", true), ("none", false)])?;
        let protocols = [
            ("http/protobuf", OtlpProtocol::HttpProtobuf),
            ("grpc", OtlpProtocol::Grpc),
        ];
        let for_all = self.choice("OTEL_EXPORTER_OTLP_PROTOCOL", &protocols)?;
        let protocol = match self.text(signal.protocol) {
            None => for_all,
            Some(_) => self.choice(signal.protocol, &protocols)?,
        };
        for compression in [signal.compression, "OTEL_EXPORTER_OTLP_COMPRESSION"] {
            self.choice(compression, &[("none", ())])?;
        }
        let own = self.endpoint(signal.endpoint)?;
        let base = self.endpoint(ENDPOINT)?;
        let default = DEFAULT_ENDPOINTS
            .iter()
            .find(|(of, _)| *of == protocol && by_default)
            .and_then(|(_, url)| url.parse().ok());
        // The headers are read in any case: a bad value is an error wherever the telemetry goes.
        let mut headers = self.headers("OTEL_EXPORTER_OTLP_HEADERS")?;
        let headers_of_signal = self.headers(signal.headers)?;
        if !headers_of_signal.0.is_empty() {
            headers = headers_of_signal;
        }
        let timeout = self.milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000)?;
        let timeout = match self.text(signal.timeout) {
            None => timeout,
            Some(_) => self.milliseconds(signal.timeout, 10_000)?,
        };
        let endpoint = match protocol {
            OtlpProtocol::Grpc => own.or(base).or(default),
            // A signal's own URL is taken as it is; without a path it can only be meant as a base.
            OtlpProtocol::HttpProtobuf => own
                .map(|url| {
                    if matches!(url.path(), "" | "/") {
                        below(url, signal.path)
                    } else {
                        url
                    }
                })
                .or_else(|| base.or(default).map(|url| below(url, signal.path))),
        };
        Ok(endpoint.filter(|_| exported).map(|endpoint| OtlpTarget {
            endpoint,
            protocol,
            headers,
            timeout,
        }))
    }

    fn endpoint(&self, name: &'static str) -> Result<Option<reqwest::Url>, ConfigError> {
        self.parsed(name, None, |text| {
            text.parse::<reqwest::Url>()
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .map(Some)
                .ok_or_else(|| "an http or https URL, like http://127.0.0.1:4318".to_owned())
        })
    }

    fn milliseconds(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        let n = self.number(name, default, "milliseconds from 1", |n| *n > 0)?;
        Ok(Duration::from_millis(n))
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
            delay: self.milliseconds(delay, delay_ms)?,
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

    fn headers(&self, name: &'static str) -> Result<Headers, ConfigError> {
        let pairs = self.pairs(name)?;
        let good = |(key, value): &(String, String)| {
            key.parse::<reqwest::header::HeaderName>().is_ok()
                && value.parse::<reqwest::header::HeaderValue>().is_ok()
        };
        if pairs.iter().all(good) {
            Ok(Headers(pairs))
        } else {
            Err(hidden(
                name,
                "name=value,name=value with names and values of HTTP headers",
            ))
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

/// `base` with the path of a signal behind its own, unless it is there already.
fn below(mut base: reqwest::Url, path: &str) -> reqwest::Url {
    let own = base.path().trim_end_matches('/').to_owned();
    if !own.ends_with(path) {
        base.set_path(&format!("{own}/{path}"));
    }
    base
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<TelemetryConfig, ConfigError> {
        let lookup = |name: &str| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Lookup(&lookup).telemetry()
    }

    fn endpoint_of(target: Option<OtlpTarget>) -> String {
        target.map_or("none".into(), |target| target.endpoint.to_string())
    }

    #[test]
    fn without_an_endpoint_nothing_is_exported() {
        let config = read(&[]).unwrap();
        assert_eq!(
            (config.traces, config.logs, config.metrics),
            (None, None, None)
        );
        let required = read(&[("OTLP_REQUIRED", "1")]).unwrap();
        assert_eq!(
            endpoint_of(required.traces),
            "http://localhost:4318/v1/traces"
        );
        let traces_alone = [
            ("OTLP_REQUIRED", "1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:1"),
        ];
        assert_eq!(read(&traces_alone).unwrap().logs, None);
        let disabled = read(&[("OTLP_REQUIRED", "1"), ("OTEL_SDK_DISABLED", "true")]).unwrap();
        assert_eq!(disabled.traces, None);
    }

    #[test]
    fn an_endpoint_is_taken_with_and_without_the_path_of_its_signal() {
        for (signal, url, expected) in [
            ("TRACES_ENDPOINT", "http://h:1", "http://h:1/v1/traces"),
            (
                "TRACES_ENDPOINT",
                "http://h:1/v1/traces",
                "http://h:1/v1/traces",
            ),
            ("TRACES_ENDPOINT", "http://h:1/own", "http://h:1/own"),
            ("ENDPOINT", "http://h:1/base/", "http://h:1/base/v1/traces"),
            ("ENDPOINT", "http://h:1/v1/traces", "http://h:1/v1/traces"),
        ] {
            let config = read(&[(&format!("OTEL_EXPORTER_OTLP_{signal}"), url)]).unwrap();
            assert_eq!(endpoint_of(config.traces), expected, "{signal} {url}");
        }
        let logs = read(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://h:1")]).unwrap();
        assert_eq!(endpoint_of(logs.logs), "http://h:1/v1/logs");
        assert_eq!(logs.traces, None);
    }

    #[test]
    fn what_is_said_of_one_signal_counts_before_what_is_said_of_all() {
        let config = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                "authorization=Bearer%20t,x-a=b",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "5"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ])
        .unwrap();
        let (traces, logs) = (config.traces.unwrap(), config.logs.unwrap());
        assert_eq!(traces.protocol, OtlpProtocol::Grpc);
        assert_eq!(traces.endpoint.as_str(), "http://h:1/");
        assert_eq!(
            traces.headers.0[0],
            ("authorization".into(), "Bearer t".into())
        );
        assert!(!format!("{traces:?}").contains("Bearer"));
        assert_eq!(logs.endpoint.as_str(), "http://h:1/v1/logs");
        assert_eq!(logs.timeout, Duration::from_millis(5));
        assert_eq!(config.metrics, None);
    }

    #[test]
    fn bad_values_are_errors_and_secrets_are_not_repeated() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
            ("OTLP_REQUIRED", "yes"),
            ("STEPWELL_LOG", "xml"),
            ("RUST_LOG", "stepwell=loud"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().name, name);
        }
        let secret = read(&[("OTEL_EXPORTER_OTLP_HEADERS", "s3cret")]).unwrap_err();
        assert!(!secret.to_string().contains("s3cret"), "{secret}");
    }

    #[test]
    fn resource_and_samplers_are_read() {
        let config = read(&[
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=a,deployment.environment=lab%2C1",
            ),
            ("OTEL_SERVICE_NAME", "b"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_PROPAGATORS", "b3"),
        ])
        .unwrap();
        assert_eq!(config.resource["service.name"], "b");
        assert_eq!(config.resource["deployment.environment"], "lab,1");
        assert_eq!(
            config.sampler,
            Sampler {
                parent_based: false,
                ratio: 0.5
            }
        );
        assert_eq!(config.not_honoured, ["OTEL_PROPAGATORS"]);
    }
}
