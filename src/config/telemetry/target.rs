//! Owns where a signal goes over OTLP, and how. What is said of one signal counts before what is said of all.

use std::{fmt, time::Duration};

use crate::config::{ConfigError, Lookup};

/// Where a receiver is when nothing says so, per protocol.
const DEFAULT_ENDPOINTS: [(OtlpProtocol, &str); 2] = [
    (OtlpProtocol::HttpProtobuf, "http://localhost:4318"),
    (OtlpProtocol::Grpc, "http://localhost:4317"),
];
/// The base of every receiver.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// What an exporter may be called, and whether it is this one.
const EXPORTERS: [(&str, bool); 2] = [("otlp", true), ("none", false)];
/// Whoever scrapes finds the metrics on `ADMIN_PORT`, whatever is said of them.
const EXPORTERS_OF_METRICS: [(&str, bool); 3] =
    [("otlp", true), ("none", false), ("prometheus", false)];

/// A receiver of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpTarget {
    /// Where: for HTTP the signal's own URL, for gRPC the base.
    pub endpoint: reqwest::Url,
    /// How.
    pub protocol: OtlpProtocol,
    /// What every request carries.
    pub headers: Headers,
    /// How long a request may take; none is no limit.
    pub timeout: Option<Duration>,
    /// How small requests are made.
    pub compression: Compression,
}

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf in HTTP requests.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As gzip does it.
    Gzip,
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

/// One of the three signals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signal {
    path: &'static str,
    exporters: &'static [(&'static str, bool)],
    exporter: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
    headers: &'static str,
    timeout: &'static str,
    compression: &'static str,
}

pub(super) const TRACES: Signal = Signal {
    path: "v1/traces",
    exporters: &EXPORTERS,
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
};
pub(super) const LOGS: Signal = Signal {
    path: "v1/logs",
    exporters: &EXPORTERS,
    exporter: "OTEL_LOGS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
};
pub(super) const METRICS: Signal = Signal {
    path: "v1/metrics",
    exporters: &EXPORTERS_OF_METRICS,
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    headers: "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    compression: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
};
const SIGNALS: [Signal; 3] = [TRACES, LOGS, METRICS];

impl Lookup<'_> {
    /// Whether a receiver of anything is named.
    pub(super) fn names_a_receiver(&self) -> bool {
        let names = SIGNALS.map(|signal| signal.endpoint);
        names
            .into_iter()
            .chain([ENDPOINT])
            .any(|name| self.text(name).is_some())
    }

    /// The receiver of a signal. Without an endpoint there is none, unless the standard's default is meant: `by_default`, or because somebody asked for
    /// the exporter by its name.
    pub(super) fn target(
        &self,
        signal: Signal,
        by_default: bool,
    ) -> Result<Option<OtlpTarget>, ConfigError> {
        let exported = self.choice(signal.exporter, signal.exporters)?;
        let by_default = by_default || self.text(signal.exporter).is_some();
        let protocols = [
            ("http/protobuf", OtlpProtocol::HttpProtobuf),
            ("grpc", OtlpProtocol::Grpc),
        ];
        let protocol = self.of_signal(signal.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL", |name| {
            self.choice(name, &protocols)
        })?;
        let compressions = [("none", Compression::None), ("gzip", Compression::Gzip)];
        let compression = self.of_signal(
            signal.compression,
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            |name| self.choice(name, &compressions),
        )?;
        let headers = self.of_signal(signal.headers, "OTEL_EXPORTER_OTLP_HEADERS", |name| {
            self.headers(name)
        })?;
        let timeout = self.of_signal(signal.timeout, "OTEL_EXPORTER_OTLP_TIMEOUT", |name| {
            let timeout = self.milliseconds(name, 10_000, 0)?;
            Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
        })?;
        let own = self.endpoint(signal.endpoint)?;
        let base = self.endpoint(ENDPOINT)?;
        let default = DEFAULT_ENDPOINTS
            .iter()
            .find(|(of, _)| *of == protocol && by_default)
            .and_then(|(_, url)| url.parse().ok());
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
            compression,
        }))
    }

    /// What is said of a signal, or else of all. The latter is read in any case: a bad value is an error wherever the telemetry goes.
    fn of_signal<T>(
        &self,
        own: &'static str,
        all: &'static str,
        read: impl Fn(&'static str) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let of_all = read(all)?;
        if self.text(own).is_some() {
            read(own)
        } else {
            Ok(of_all)
        }
    }

    fn endpoint(&self, name: &'static str) -> Result<Option<reqwest::Url>, ConfigError> {
        self.parsed(name, None, |text| {
            text.parse::<reqwest::Url>()
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .map(Some)
                .ok_or_else(|| "an http or https URL, like http://127.0.0.1:4318".to_owned())
        })
        .map_err(|error| ConfigError {
            // Some receivers take their key there.
            value: error.value.split('?').next().unwrap_or_default().to_owned(),
            ..error
        })
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
            Err(super::hidden(
                name,
                "name=value,name=value with names and values of HTTP headers",
            ))
        }
    }
}

/// `base` with the path of a signal behind its own. One that ends in the path of a signal, whichever, is that signal's URL, and its base is meant.
fn below(mut base: reqwest::Url, path: &str) -> reqwest::Url {
    let own = base.path().trim_end_matches('/');
    let own = SIGNALS
        .iter()
        .find_map(|signal| own.strip_suffix(signal.path)?.strip_suffix('/'))
        .unwrap_or(own)
        .to_owned();
    base.set_path(&format!("{own}/{path}"));
    base
}
