//! Prometheus' text format, version 0.0.4: written, never read.
//!
//! A crate for this would own every counter; here they are in the shared table, and the format is a few lines.

use insula_model::Latency;
use insula_model::latency::BOUNDS_US;
use std::fmt::{Display, Write};

/// What a family's samples are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The labels of one sample, written once for all families that have them.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// One label more; the value may be any text.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut labels = self.0.clone();
        if !labels.is_empty() {
            labels.push(',');
        }
        labels.push_str(name);
        labels.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => labels.push_str("\\\\"),
                '"' => labels.push_str("\\\""),
                '\n' => labels.push_str("\\n"),
                c => labels.push(c),
            }
        }
        labels.push('"');
        Self(labels)
    }
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// The text.
    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// A family; its samples follow at once.
    pub(super) fn family<'a>(&'a mut self, kind: Kind, name: &'a str, help: &str) -> Family<'a> {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        Family { page: &mut self.0, name }
    }

    /// A family of one sample without labels.
    pub(super) fn one(&mut self, kind: Kind, name: &str, help: &str, value: impl Display) {
        self.family(kind, name, help).sample(&Labels::default(), value);
    }
}

/// A family that is being written.
#[derive(Debug)]
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'a str,
}

impl Family<'_> {
    /// One sample.
    pub(super) fn sample(&mut self, labels: &Labels, value: impl Display) {
        self.line("", &labels.0, "", value);
    }

    /// One sample with one label more, whose value needs no escaping.
    pub(super) fn labelled(&mut self, labels: &Labels, more: &str, value: impl Display) {
        self.line("", &labels.0, more, value);
    }

    /// Durations, as a histogram in seconds.
    pub(super) fn durations(&mut self, labels: &Labels, latency: &Latency) {
        let mut cumulative = 0u64;
        for (held, bound_us) in latency.buckets.iter().zip(BOUNDS_US) {
            cumulative = cumulative.saturating_add(*held);
            let le = format!("le=\"{}\"", seconds(bound_us));
            self.line("_bucket", &labels.0, &le, cumulative);
        }
        self.line("_bucket", &labels.0, "le=\"+Inf\"", latency.count());
        self.line("_sum", &labels.0, "", seconds(latency.sum_us));
        self.line("_count", &labels.0, "", latency.count());
    }

    fn line(&mut self, suffix: &str, labels: &str, more: &str, value: impl Display) {
        let (page, name) = (&mut *self.page, self.name);
        let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
        let _ = if labels.is_empty() && more.is_empty() {
            writeln!(page, "{name}{suffix} {value}")
        } else {
            writeln!(page, "{name}{suffix}{{{labels}{comma}{more}}} {value}")
        };
    }
}

/// Microseconds as seconds. Prometheus' own numbers are no more exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A label's value, read as Prometheus reads it; none if the line does not end with it.
    fn read_back(line: &str) -> Option<String> {
        let mut chars = line.strip_prefix("x{l=\"")?.chars();
        let mut value = String::new();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    _ => return None,
                },
                c => value.push(c),
            }
        }
        (chars.as_str() == "} 1").then_some(value)
    }

    proptest! {
        #[test]
        fn any_label_is_on_one_line_and_reads_back(value in "\\PC*|[\\x00-\\x7f]*") {
            let mut page = Page::default();
            page.family(Kind::Gauge, "x", "help").sample(&Labels::default().with("l", &value), 1);
            let text = page.into_text();
            let line = text.strip_prefix("# HELP x help\n# TYPE x gauge\n").unwrap_or("");
            let line = line.strip_suffix('\n').unwrap_or("");
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(read_back(line), Some(value));
        }

        #[test]
        fn buckets_never_fall_and_end_in_the_count(buckets in prop::array::uniform18(0u64..1_000)) {
            let mut page = Page::default();
            let latency = Latency { buckets, sum_us: 5 };
            page.family(Kind::Histogram, "x", "help").durations(&Labels::default(), &latency);
            let text = page.into_text();
            let last = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
            let counts: Vec<u64> =
                text.lines().filter(|l| l.starts_with("x_bucket")).filter_map(last).collect();
            prop_assert_eq!(counts.len(), 18);
            prop_assert!(counts.is_sorted());
            prop_assert_eq!(counts.last().copied(), text.lines().last().and_then(last));
        }
    }

    #[test]
    fn a_histogram_is_in_seconds() {
        let mut latency = Latency::default();
        (latency.buckets[0], latency.buckets[17], latency.sum_us) = (2, 1, 12_000_080);
        let mut page = Page::default();
        page.family(Kind::Histogram, "x", "h")
            .durations(&Labels::default().with("a", "b"), &latency);
        let text = page.into_text();
        for line in [
            "x_bucket{a=\"b\",le=\"0.00005\"} 2",
            "x_bucket{a=\"b\",le=\"10\"} 2",
            "x_bucket{a=\"b\",le=\"+Inf\"} 3",
            "x_sum{a=\"b\"} 12.00008",
            "x_count{a=\"b\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
