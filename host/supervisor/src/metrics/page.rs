//! A page of metrics: families of samples, written as they come, in one of two forms. Whoever writes one does
//! not know which, so what is scraped and what is exported cannot differ.

use super::points::Points;
use super::text::Text;
use insula_model::Latency;

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A sample's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Int(u64),
    Float(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Int(value as u64)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// The labels of one sample, written once for all families that have them.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    pub(super) written: String,
    /// When counters with these labels began at 0, in nanoseconds since 1970; none for when the page's did.
    pub(super) since_unix_ns: Option<u64>,
}

impl Labels {
    /// Counters with these labels began then.
    pub(super) fn since(self, unix_ns: u64) -> Self {
        Self { since_unix_ns: Some(unix_ns), ..self }
    }
}

/// The page.
#[derive(Debug)]
pub(super) enum Page {
    /// For Prometheus.
    Text(Text),
    /// For an OpenTelemetry collector.
    Points(Points),
}

impl Page {
    /// In Prometheus' text format.
    pub(super) fn text() -> Self {
        Self::Text(Text::default())
    }

    /// What was written; of points, as a list of OTLP's metrics.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Text(text) => text.finish(),
            Self::Points(points) => points.finish(),
        }
    }

    /// Names and values; values may be any text.
    pub(super) fn labels(&self, pairs: &[(&str, &str)]) -> Labels {
        let written = match self {
            Self::Text(_) => Text::labels(pairs),
            Self::Points(_) => Points::labels(pairs),
        };
        Labels { written, since_unix_ns: None }
    }

    /// A family; its samples follow at once.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        match self {
            Self::Text(text) => text.family(kind, name, help),
            Self::Points(points) => points.family(kind, name, help),
        }
        Family { page: self, name }
    }

    /// A family of one sample without labels.
    pub(super) fn one(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &str,
        value: impl Into<Number>,
    ) {
        self.family(kind, name, help).sample(&Labels::default(), value);
    }
}

/// A family that is being written.
#[derive(Debug)]
pub(super) struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// One sample.
    pub(super) fn sample(&mut self, labels: &Labels, value: impl Into<Number>) {
        self.write(labels, None, value.into());
    }

    /// One sample with one label more, whose value needs no escaping.
    pub(super) fn labelled(
        &mut self,
        labels: &Labels,
        more: (&str, &str),
        value: impl Into<Number>,
    ) {
        self.write(labels, Some(more), value.into());
    }

    /// Durations, as a histogram in seconds.
    pub(super) fn durations(&mut self, labels: &Labels, latency: &Latency) {
        match self.page {
            Page::Text(text) => text.durations(self.name, labels, latency),
            Page::Points(points) => points.durations(labels, latency),
        }
    }

    fn write(&mut self, labels: &Labels, more: Option<(&str, &str)>, value: Number) {
        match self.page {
            Page::Text(text) => text.sample(self.name, labels, more, value),
            Page::Points(points) => points.sample(labels, more, value),
        }
    }
}

/// Microseconds as seconds. Prometheus' own numbers are no more exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1_000_000.0
}
