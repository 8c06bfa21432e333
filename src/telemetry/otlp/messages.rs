//! Owns how spans, log records and metrics are written as messages of OTLP.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ScopeLogs, SeverityNumber},
    metrics::v1::{
        self as metrics, AggregationTemporality, HistogramDataPoint, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, metric, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{self as trace, ScopeSpans, span, status},
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

    /// A request with encoded items, of [`encode_span`] alone or of [`encode_entry`] alone.
    pub(super) fn request(&self, mut items: Vec<u8>) -> Vec<u8> {
        let scope = ScopeSpans {
            scope: Some(self.scope.clone()),
            ..ScopeSpans::default()
        };
        append(&scope, &mut items);
        Request {
            of_resource: Some(OfResource {
                resource: Some(self.resource.clone()),
                of_scope: items,
            }),
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

/// `ExportTraceServiceRequest` and `ExportLogsServiceRequest`, which differ in what is encoded here already.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "1")]
    of_resource: Option<OfResource>,
}

/// `ResourceSpans` and `ResourceLogs`.
#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    /// An encoded `ScopeSpans` or `ScopeLogs`.
    #[prost(bytes = "vec", tag = "2")]
    of_scope: Vec<u8>,
}

/// Appends `span`, as part of a `ScopeSpans`.
pub(in crate::telemetry) fn encode_span(span: Span, to: &mut Vec<u8>) {
    let part = ScopeSpans {
        spans: vec![span_message(span)],
        ..ScopeSpans::default()
    };
    append(&part, to);
}

/// Appends `entry`, as part of a `ScopeLogs`.
pub(in crate::telemetry) fn encode_entry(entry: Entry, to: &mut Vec<u8>) {
    let part = ScopeLogs {
        log_records: vec![log_message(entry)],
        ..ScopeLogs::default()
    };
    append(&part, to);
}

/// Appends a part of a message: encoded parts, one behind the other, are the encoded whole.
fn append(part: &impl Message, to: &mut Vec<u8>) {
    // An error says that there is no room; here there is.
    let _ = part.encode(to);
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
    use opentelemetry_proto::tonic::collector::{
        logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest,
    };

    use super::*;
    use crate::telemetry::spans::{SpanId, TraceContext, TraceId};

    fn context() -> TraceContext {
        TraceContext {
            trace_id: TraceId::random(),
            span_id: SpanId::random(),
            sampled: true,
        }
    }

    #[test]
    fn a_request_holds_what_was_encoded_in_order_with_who_exports_it() {
        let exporter = Exporter::new(&BTreeMap::new());
        let (resource, scope) = (
            Some(exporter.resource.clone()),
            Some(exporter.scope.clone()),
        );

        let spans = ["first", "second"].map(|name| {
            let mut span = Span::below(context(), SpanId::random(), name, SystemTime::now())
                .with("text", "ä".repeat(200))
                .with("number", -1_i64)
                .with("yes", true);
            span.links.push(context());
            span.error = Some("E_CODE".into());
            span
        });
        let mut bytes = Vec::new();
        for span in spans.clone() {
            encode_span(span, &mut bytes);
        }
        let sent = exporter.request(bytes);
        let request = ExportTraceServiceRequest::decode(sent.as_slice()).unwrap();
        let [of_resource] = request.resource_spans.try_into().unwrap();
        assert_eq!(of_resource.resource, resource);
        let [of_scope] = of_resource.scope_spans.try_into().unwrap();
        assert_eq!(of_scope.scope, scope);
        assert_eq!(of_scope.spans, spans.map(span_message));

        let entries = ["first", "second"].map(|message| Entry {
            time: SystemTime::now(),
            level: Level::WARN,
            target: "stepwell::engine",
            message: message.into(),
            fields: vec![("n", Attribute::Int(3))],
            context: Some(context()),
        });
        let mut bytes = Vec::new();
        for entry in entries.clone() {
            encode_entry(entry, &mut bytes);
        }
        let sent = exporter.request(bytes);
        let request = ExportLogsServiceRequest::decode(sent.as_slice()).unwrap();
        let [of_resource] = request.resource_logs.try_into().unwrap();
        assert_eq!(of_resource.resource, resource);
        let [of_scope] = of_resource.scope_logs.try_into().unwrap();
        assert_eq!(of_scope.scope, scope);
        assert_eq!(of_scope.log_records, entries.map(log_message));
    }

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
