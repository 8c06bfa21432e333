//! Owns the text in which Prometheus reads metrics.

use std::fmt::Write;

use super::instruments::{Kind, Metric, Value};

/// The content type of that text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `metrics` as Prometheus reads them.
pub(super) fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "# HELP {} {}",
            metric.name,
            escaped(metric.help, false)
        );
        let _ = writeln!(text, "# TYPE {} {kind}", metric.name);
        for (labels, value) in &metric.points {
            point(&mut text, metric, labels, value);
        }
    }
    text
}

fn point(text: &mut String, metric: &Metric, labels: &[String], value: &Value) {
    let (name, pairs) = (metric.name, pairs(metric, labels));
    match value {
        Value::Number(n) => {
            let _ = writeln!(text, "{name}{} {n}", braced(&pairs, None));
        }
        Value::Buckets {
            bounds,
            counts,
            sum,
        } => {
            let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            let mut seen = 0;
            for (bound, count) in bounds.zip(counts) {
                seen += count;
                let _ = writeln!(text, "{name}_bucket{} {seen}", braced(&pairs, Some(&bound)));
            }
            let _ = writeln!(text, "{name}_sum{} {sum}", braced(&pairs, None));
            let _ = writeln!(text, "{name}_count{} {seen}", braced(&pairs, None));
        }
    }
}

fn pairs(metric: &Metric, labels: &[String]) -> Vec<String> {
    let pairs = metric.labels.iter().zip(labels);
    pairs
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true)))
        .collect()
}

fn braced(pairs: &[String], bound: Option<&str>) -> String {
    let bound = bound.map(|bound| format!("le=\"{bound}\""));
    let all: Vec<&str> = pairs
        .iter()
        .map(String::as_str)
        .chain(bound.as_deref())
        .collect();
    if all.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", all.join(","))
    }
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    if quotes {
        text.replace('"', r#"\""#)
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_buckets_are_written_as_prometheus_reads_them() {
        let metric = |name, kind, labels, points| Metric {
            name,
            help: "What\nit is.",
            unit: "1",
            kind,
            labels,
            points,
        };
        let buckets = Value::Buckets {
            bounds: &[0.5, 1.0],
            counts: vec![1, 0, 2],
            sum: 9.5,
        };
        let metrics = [
            metric(
                "a_total",
                Kind::Counter,
                &["q"],
                vec![(vec!["x\"y\\".into()], Value::Number(3.0))],
            ),
            metric("b", Kind::Histogram, &[], vec![(vec![], buckets)]),
        ];
        let expected = "# HELP a_total What\\nit is.\n# TYPE a_total counter\na_total{q=\"x\\\"y\\\\\"} 3\n# HELP b What\\nit is.\n\
                        # TYPE b histogram\nb_bucket{le=\"0.5\"} 1\nb_bucket{le=\"1\"} 1\nb_bucket{le=\"+Inf\"} 3\nb_sum 9.5\nb_count 3\n";
        assert_eq!(text(&metrics), expected);
    }
}
