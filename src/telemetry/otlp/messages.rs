//! Owns how spans, log records and metrics are written as messages of OTLP.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        self as metrics, AggregationTemporality, HistogramDataPoint, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, metric, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{self as trace, ResourceSpans, ScopeSpans, span, status},
};
use prost::Message;
use tracing::Level;
use uuid::Uuid;

use crate::{
    config::hostname,
    telemetry::{
        instruments::{Kind, Metric, Value},
        logs::Entry,
        spans::{Attribute, Span, SpanKind},
    },
};

/// The flags of a span whose trace is exported.
const SAMPLED: u32 = 1;

/// Who exports: the same in every request.
#[derive(Debug, Clone)]
pub(super) struct Exporter {
    resource: Resource,
    scope: InstrumentationScope,
    started: SystemTime,
}

impl Exporter {
    pub(super) fn new(attributes: &BTreeMap<String, String>) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let text = |text: &str| any_value::Value::StringValue(text.to_owned());
        let mut all = BTreeMap::from([
            ("service.version", text(version)),
            // Cumulative metrics are of one process: two of one name are told apart by this alone.
            ("service.instance.id", text(&Uuid::new_v4().to_string())),
            ("host.name", text(&hostname())),
            (
                "process.pid",
                any_value::Value::IntValue(std::process::id().into()),
            ),
            ("telemetry.sdk.name", text("stepwell")),
            ("telemetry.sdk.language", text("rust")),
            ("telemetry.sdk.version", text(version)),
        ]);
        // What somebody says by hand counts first.
        all.extend(
            attributes
                .iter()
                .map(|(name, value)| (name.as_str(), text(value))),
        );
        Self {
            resource: Resource {
                attributes: all
                    .into_iter()
                    .map(|(name, value)| key_value(name, value))
                    .collect(),
                ..Resource::default()
            },
            scope: InstrumentationScope {
                name: "stepwell".into(),
                version: version.into(),
                ..InstrumentationScope::default()
            },
            started: SystemTime::now(),
        }
    }

    /// A request with `spans`.
    pub(super) fn spans(&self, spans: Vec<Span>) -> Vec<u8> {
        let scope_spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: spans.into_iter().map(span_message).collect(),
            ..ScopeSpans::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![resource_spans],
        }
        .encode_to_vec()
    }

    /// A request with log records.
    pub(super) fn logs(&self, entries: Vec<Entry>) -> Vec<u8> {
        let scope_logs = ScopeLogs {
            scope: Some(self.scope.clone()),
            log_records: entries.into_iter().map(log_message).collect(),
            ..ScopeLogs::default()
        };
        let resource_logs = ResourceLogs {
            resource: Some(self.resource.clone()),
            scope_logs: vec![scope_logs],
            ..ResourceLogs::default()
        };
        ExportLogsServiceRequest {
            resource_logs: vec![resource_logs],
        }
        .encode_to_vec()
    }

    /// A request with what `metrics` show now.
    pub(super) fn metrics(&self, metrics: &[Metric]) -> Vec<u8> {
        let (started, now) = (nanos(self.started), nanos(SystemTime::now()));
        let metrics = metrics
            .iter()
            .filter(|metric| !metric.points.is_empty())
            .map(|metric| metric_message(metric, started, now))
            .collect();
        let scope_metrics = ScopeMetrics {
            scope: Some(self.scope.clone()),
            metrics,
            ..ScopeMetrics::default()
        };
        let resource_metrics = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![resource_metrics],
        }
        .encode_to_vec()
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn key_value(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn attribute((key, value): (&'static str, Attribute)) -> KeyValue {
    let value = match value {
        Attribute::Text(text) => any_value::Value::StringValue(text),
        Attribute::Int(n) => any_value::Value::IntValue(n),
        Attribute::Bool(yes) => any_value::Value::BoolValue(yes),
    };
    key_value(key, value)
}

fn span_message(span: Span) -> trace::Span {
    let kind = match span.kind {
        SpanKind::Internal => span::SpanKind::Internal,
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Consumer => span::SpanKind::Consumer,
    };
    let links = span.links.iter().map(|link| span::Link {
        trace_id: link.trace_id.bytes().to_vec(),
        span_id: link.span_id.bytes().to_vec(),
        flags: u32::from(link.sampled),
        ..span::Link::default()
    });
    let status = span.error.map(|code| trace::Status {
        message: code,
        code: status::StatusCode::Error.into(),
    });
    let started = nanos(span.started);
    trace::Span {
        trace_id: span.context.trace_id.bytes().to_vec(),
        span_id: span.context.span_id.bytes().to_vec(),
        parent_span_id: span
            .parent
            .map(|id| id.bytes().to_vec())
            .unwrap_or_default(),
        flags: SAMPLED,
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: started,
        // Two clocks may disagree; a span does not end before it begins.
        end_time_unix_nano: nanos(span.ended).max(started),
        links: links.collect(),
        attributes: span.attributes.into_iter().map(attribute).collect(),
        status,
        ..trace::Span::default()
    }
}

fn log_message(entry: Entry) -> LogRecord {
    let severity = match entry.level {
        Level::ERROR => SeverityNumber::Error,
        Level::WARN => SeverityNumber::Warn,
        Level::INFO => SeverityNumber::Info,
        Level::DEBUG => SeverityNumber::Debug,
        Level::TRACE => SeverityNumber::Trace,
    };
    let context = entry.context;
    let target = ("code.namespace", Attribute::from(entry.target));
    LogRecord {
        time_unix_nano: nanos(entry.time),
        observed_time_unix_nano: nanos(entry.time),
        severity_number: severity.into(),
        severity_text: entry.level.as_str().to_owned(),
        body: Some(AnyValue {
            value: Some(any_value::Value::StringValue(entry.message)),
        }),
        attributes: std::iter::once(target)
            .chain(entry.fields)
            .map(attribute)
            .collect(),
        trace_id: context
            .map(|c| c.trace_id.bytes().to_vec())
            .unwrap_or_default(),
        span_id: context
            .map(|c| c.span_id.bytes().to_vec())
            .unwrap_or_default(),
        ..LogRecord::default()
    }
}

fn metric_message(metric: &Metric, started: u64, now: u64) -> metrics::Metric {
    let attributes = |labels: &[String]| {
        let pairs = metric.labels.iter().zip(labels);
        pairs
            .map(|(name, value)| key_value(name, any_value::Value::StringValue(value.clone())))
            .collect::<Vec<_>>()
    };
    let numbers = || {
        let numbers = metric
            .points
            .iter()
            .filter_map(|(labels, value)| match value {
                Value::Number(n) => Some(NumberDataPoint {
                    attributes: attributes(labels),
                    start_time_unix_nano: started,
                    time_unix_nano: now,
                    value: Some(number_data_point::Value::AsDouble(*n)),
                    ..NumberDataPoint::default()
                }),
                Value::Buckets { .. } => None,
            });
        numbers.collect::<Vec<_>>()
    };
    let histograms = || {
        let histograms = metric
            .points
            .iter()
            .filter_map(|(labels, value)| match value {
                Value::Number(_) => None,
                Value::Buckets {
                    bounds,
                    counts,
                    sum,
                } => Some(HistogramDataPoint {
                    attributes: attributes(labels),
                    start_time_unix_nano: started,
                    time_unix_nano: now,
                    count: counts.iter().sum(),
                    sum: Some(*sum),
                    bucket_counts: counts.clone(),
                    explicit_bounds: bounds.to_vec(),
                    ..HistogramDataPoint::default()
                }),
            });
        histograms.collect::<Vec<_>>()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match metric.kind {
        Kind::Counter => metric::Data::Sum(metrics::Sum {
            data_points: numbers(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Gauge => metric::Data::Gauge(metrics::Gauge {
            data_points: numbers(),
        }),
        Kind::Histogram => metric::Data::Histogram(metrics::Histogram {
            data_points: histograms(),
            aggregation_temporality: cumulative,
        }),
    };
    metrics::Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.to_owned(),
        data: Some(data),
        ..metrics::Metric::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_who_it_is_and_what_is_said_by_hand_counts_first() {
        let said = BTreeMap::from([("host.name".to_owned(), "by-hand".to_owned())]);
        let exporter = Exporter::new(&said);
        let value = |name: &str| {
            let mut attributes = exporter.resource.attributes.iter();
            let found = attributes.find(|pair| pair.key == name);
            found.and_then(|pair| pair.value.clone()?.value)
        };
        let text = |text: &str| Some(any_value::Value::StringValue(text.to_owned()));
        assert_eq!(value("host.name"), text("by-hand"));
        let pid = any_value::Value::IntValue(std::process::id().into());
        assert_eq!(value("process.pid"), Some(pid));
        assert_ne!(value("service.instance.id"), None);
    }
}
