//! Owns log lines: what an event says, with the run, step, executor and trace around it, written as JSON for machines and handed to the export.
//! The lines for people are tracing's own.

use std::{
    fmt::{self, Debug, Write as _},
    io::Write as _,
    time::SystemTime,
};

use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, Scope},
};

use super::{
    queue::Queue,
    spans::{Attribute, SpanId, TraceContext, TraceId},
};

/// Bytes of one value that a line holds at most.
const LONGEST_VALUE: usize = 8 * 1024;
/// What speaks of the export is not exported: a receiver that fails would get the news of its failing.
const NOT_EXPORTED: [&str; 6] = [
    concat!(env!("CARGO_PKG_NAME"), "::telemetry"),
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
];

/// What an event says.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) message: String,
    /// The event's own fields, then those of the spans around it, innermost first.
    pub(super) fields: Vec<(&'static str, Attribute)>,
    pub(super) context: Option<TraceContext>,
}

/// Writes events as JSON, or exports them, or both.
pub(super) struct Lines {
    pub(super) json: bool,
    pub(super) export: Option<Queue<Entry>>,
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let exported = self
            .export
            .as_ref()
            .filter(|queue| !is_of_the_export(event.metadata().target()) && queue.has_room());
        if !self.json && exported.is_none() {
            return;
        }
        let entry = entry(event, context.event_scope(event));
        if self.json {
            let mut line = document(&entry).to_string();
            line.push('\n');
            // Nobody can be told that standard error is closed.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
        if let Some(queue) = exported {
            queue.push(entry);
        }
    }
}

fn is_of_the_export(target: &str) -> bool {
    NOT_EXPORTED.iter().any(|prefix| {
        target
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

fn entry<'a, S: for<'l> LookupSpan<'l> + 'a>(
    event: &Event<'_>,
    scope: Option<Scope<'a, S>>,
) -> Entry {
    let mut own = Fields::default();
    event.record(&mut own);
    let mut fields = own.values;
    for span in scope.into_iter().flatten() {
        if let Some(around) = span.extensions().get::<Fields>() {
            for (name, value) in &around.values {
                if !fields.iter().any(|(known, _)| known == name) {
                    fields.push((name, value.clone()));
                }
            }
        }
    }
    let mut taken = |name: &str| {
        let at = fields.iter().position(|(known, _)| *known == name)?;
        match fields.remove(at).1 {
            Attribute::Text(text) => Some(text),
            Attribute::Int(_) | Attribute::Bool(_) => None,
        }
    };
    let message = taken("message").unwrap_or_default();
    let ids = taken("trace_id").zip(taken("span_id"));
    let context = ids.and_then(|(trace, span)| {
        Some(TraceContext {
            trace_id: TraceId::parse(&trace)?,
            span_id: SpanId::parse(&span)?,
            sampled: true,
        })
    });
    Entry {
        time: SystemTime::now(),
        level: *event.metadata().level(),
        target: event.metadata().target(),
        message,
        fields,
        context,
    }
}

/// A line for machines. Names are those of the wire; what a line does not know it leaves out.
fn document(entry: &Entry) -> Value {
    let mut line = Map::new();
    line.insert(
        "time".into(),
        humantime::format_rfc3339_micros(entry.time)
            .to_string()
            .into(),
    );
    line.insert("level".into(), entry.level.as_str().into());
    line.insert("target".into(), entry.target.into());
    line.insert("message".into(), entry.message.as_str().into());
    if let Some(context) = entry.context {
        line.insert("traceId".into(), context.trace_id.to_string().into());
        line.insert("spanId".into(), context.span_id.to_string().into());
    }
    for (name, value) in &entry.fields {
        let value = match value {
            Attribute::Text(text) => json!(text),
            Attribute::Int(n) => json!(n),
            Attribute::Bool(yes) => json!(yes),
        };
        line.entry(*name).or_insert(value);
    }
    Value::Object(line)
}

/// The fields of a span or an event.
#[derive(Debug, Default)]
struct Fields {
    values: Vec<(&'static str, Attribute)>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Attribute) {
        let name = field.name();
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.values.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, Attribute::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(
            field,
            Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX)),
        );
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, Attribute::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Bounded(String::new());
        let _ = text.write_str(value);
        self.set(field, Attribute::Text(text.0));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = Bounded(String::new());
        // An error only says that the value was cut.
        let _ = write!(text, "{value:?}");
        self.set(field, Attribute::Text(text.0));
    }
}

/// Text that ends at [`LONGEST_VALUE`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let left = LONGEST_VALUE - self.0.len();
        if text.len() <= left {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=left).rev().find(|at| text.is_char_boundary(*at));
        self.0.push_str(&text[..end.unwrap_or(0)]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::config::telemetry::Batches;

    #[tokio::test]
    async fn a_line_knows_what_is_around_it_and_the_innermost_counts() {
        let limits = Batches {
            queue: 8,
            size: 8,
            delay: Duration::ZERO,
        };
        let (queue, mut waiting) = Queue::new("test", limits, |entry, to| {
            serde_json::to_writer(to, &document(&entry)).unwrap();
        });
        let lines = Lines {
            json: false,
            export: Some(queue),
        };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            let around = tracing::info_span!(
                "workflow",
                run = "r",
                step = "outer",
                trace_id = tracing::field::Empty,
                span_id = tracing::field::Empty
            );
            around.record("trace_id", "0af7651916cd43dd8448eb211c80319c");
            around.record("span_id", "b7ad6b7169203331");
            around.in_scope(|| {
                tracing::info_span!("step", step = "inner").in_scope(|| {
                    tracing::warn!(target: "stepwell::engine", n = 3, "said {}", "so");
                    tracing::info!(target: "hyper::client", "not exported");
                    tracing::info!("nor is this: it speaks of telemetry");
                });
            });
        });
        let exported = waiting.next().await.unwrap();
        assert_eq!(exported.items, 1);
        let line: Value = serde_json::from_slice(&exported.bytes).unwrap();
        let expected = json!({
            "level": "WARN", "message": "said so", "n": 3, "run": "r", "step": "inner",
            "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331",
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&line[name], value, "{name} in {line}");
        }
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn a_long_value_is_cut_between_two_characters() {
        let mut text = Bounded(String::new());
        write!(text, "{}", "ä".repeat(LONGEST_VALUE)).unwrap_err();
        assert_eq!(text.0.len(), LONGEST_VALUE);
        text.write_str("b").unwrap_err();
    }
}
