//! Owns what instruments are made of: a short list of series behind a lock, one per combination of labels.

use std::sync::{Mutex, PoisonError};

/// Series that one instrument keeps: labels come from configuration and code, and what does not fit counts as [`OTHER`].
const MOST_SERIES: usize = 200;
/// The label of what came after [`MOST_SERIES`].
const OTHER: &str = "other";

/// A metric with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// As Prometheus calls it.
    pub name: &'static str,
    /// For the reader.
    pub help: &'static str,
    /// As UCUM writes it.
    pub unit: &'static str,
    /// How the values are to be read.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The values of the labels, and what was measured.
    pub points: Vec<(Vec<String>, Value)>,
}

/// How values are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often which size was seen.
    Histogram,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One number.
    Number(f64),
    /// How often each size was seen.
    Buckets {
        /// Upper bounds; the last bucket has none.
        bounds: &'static [f64],
        /// How often, per bucket.
        counts: Vec<u64>,
        /// The sum of what was seen.
        sum: f64,
    },
}

pub(super) trait Instrument {
    fn read(&self) -> Metric;
}

/// The values of an instrument by label.
#[derive(Debug)]
struct Series<T>(Mutex<Vec<(Vec<String>, T)>>);

impl<T: Clone> Series<T> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn change(&self, labels: &[&str], fresh: impl FnOnce() -> T, change: impl FnOnce(&mut T)) {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |series: &[(Vec<String>, T)], labels: &[&str]| {
            series
                .iter()
                .position(|(known, _)| known.iter().eq(labels.iter()))
        };
        let others = vec![OTHER; labels.len()];
        let full = series.len() >= MOST_SERIES;
        let found =
            place(&series, labels).or_else(|| if full { place(&series, &others) } else { None });
        let at = found.unwrap_or_else(|| {
            let labels = if full { others.as_slice() } else { labels };
            series.push((labels.iter().map(|l| (*l).to_owned()).collect(), fresh()));
            series.len() - 1
        });
        if let Some((_, value)) = series.get_mut(at) {
            change(value);
        }
    }

    fn points(&self, show: impl Fn(&T) -> Value) -> Vec<(Vec<String>, Value)> {
        let series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        series
            .iter()
            .map(|(labels, value)| (labels.clone(), show(value)))
            .collect()
    }
}

/// What an instrument is.
#[derive(Debug)]
struct Shape {
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
}

impl Shape {
    fn metric(&self, kind: Kind, points: Vec<(Vec<String>, Value)>) -> Metric {
        Metric {
            name: self.name,
            help: self.help,
            unit: self.unit,
            kind,
            labels: self.labels,
            points,
        }
    }
}

/// Something that is counted.
#[derive(Debug)]
pub struct Counter {
    shape: Shape,
    series: Series<u64>,
}

impl Counter {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        let shape = Shape {
            name,
            help,
            unit: "1",
            labels,
        };
        Self {
            shape,
            series: Series::new(),
        }
    }

    /// Counts `n` more under `labels`, which are as many as the instrument has.
    pub fn add(&self, labels: &[&str], n: u64) {
        debug_assert_eq!(labels.len(), self.shape.labels.len());
        if n > 0 {
            self.series.change(labels, || 0, |count| *count += n);
        }
    }

    /// How much was counted under all labels.
    pub fn total(&self) -> u64 {
        let series = self.series.0.lock().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|(_, count)| count).sum()
    }
}

impl Instrument for Counter {
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    fn read(&self) -> Metric {
        let mut points = self.series.points(|count| Value::Number(*count as f64));
        if points.is_empty() && self.shape.labels.is_empty() {
            points.push((Vec::new(), Value::Number(0.0)));
        }
        self.shape.metric(Kind::Counter, points)
    }
}

/// Something that goes up and down.
#[derive(Debug)]
pub struct Gauge {
    shape: Shape,
    series: Series<i64>,
}

impl Gauge {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        let shape = Shape {
            name,
            help,
            unit,
            labels,
        };
        Self {
            shape,
            series: Series::new(),
        }
    }

    /// Moves it by `n`.
    pub fn add(&self, labels: &[&str], n: i64) {
        debug_assert_eq!(labels.len(), self.shape.labels.len());
        self.series.change(labels, || 0, |value| *value += n);
    }
}

impl Instrument for Gauge {
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    fn read(&self) -> Metric {
        let mut points = self.series.points(|value| Value::Number(*value as f64));
        if points.is_empty() && self.shape.labels.is_empty() {
            points.push((Vec::new(), Value::Number(0.0)));
        }
        self.shape.metric(Kind::Gauge, points)
    }
}

#[derive(Debug, Clone)]
struct Seen {
    counts: Vec<u64>,
    sum: f64,
}

/// Something whose sizes are counted.
#[derive(Debug)]
pub struct Histogram {
    shape: Shape,
    bounds: &'static [f64],
    series: Series<Seen>,
}

impl Histogram {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        let shape = Shape {
            name,
            help,
            unit,
            labels,
        };
        Self {
            shape,
            bounds,
            series: Series::new(),
        }
    }

    /// Counts one of this size.
    pub fn observe(&self, labels: &[&str], size: f64) {
        debug_assert_eq!(labels.len(), self.shape.labels.len());
        let bucket = self.bounds.partition_point(|bound| *bound < size);
        self.series.change(
            labels,
            || self.unseen(),
            |seen| {
                seen.sum += size;
                if let Some(count) = seen.counts.get_mut(bucket) {
                    *count += 1;
                }
            },
        );
    }

    fn unseen(&self) -> Seen {
        Seen {
            counts: vec![0; self.bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts one of so many milliseconds, for a histogram of seconds. What is below zero by the clocks' difference is zero.
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    pub fn observe_ms(&self, labels: &[&str], milliseconds: i64) {
        self.observe(labels, milliseconds.max(0) as f64 / 1_000.0);
    }
}

impl Instrument for Histogram {
    fn read(&self) -> Metric {
        let shown = |seen: &Seen| Value::Buckets {
            bounds: self.bounds,
            counts: seen.counts.clone(),
            sum: seen.sum,
        };
        let mut points = self.series.points(shown);
        if points.is_empty() && self.shape.labels.is_empty() {
            points.push((Vec::new(), shown(&self.unseen())));
        }
        self.shape.metric(Kind::Histogram, points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_bound_count_together() {
        static MANY: Counter = Counter::new("many", "", &["n"]);
        for n in 0..MOST_SERIES + 50 {
            MANY.add(&[&n.to_string()], 1);
        }
        let points = MANY.read().points;
        assert_eq!(points.len(), MOST_SERIES + 1);
        assert_eq!(
            points.last(),
            Some(&(vec![OTHER.to_owned()], Value::Number(50.0)))
        );
        MANY.add(&["3"], 1);
        assert_eq!(MANY.read().points[3].1, Value::Number(2.0));
    }

    #[test]
    fn a_size_falls_into_the_first_bucket_that_holds_it() {
        static SIZES: Histogram = Histogram::new("sizes", "", "1", &[], &[1.0, 2.0]);
        for size in [0.5, 1.0, 1.5, 9.0] {
            SIZES.observe(&[], size);
        }
        let expected = Value::Buckets {
            bounds: &[1.0, 2.0],
            counts: vec![2, 1, 1],
            sum: 12.0,
        };
        assert_eq!(SIZES.read().points, [(Vec::new(), expected)]);
    }
}
