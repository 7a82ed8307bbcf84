//! Prometheus' text format, version 0.0.4: written, never read.
//!
//! A crate for this would own every counter; here they are in the shared table, and the format is a few lines.

use super::page::{Kind, Labels, Number, seconds};
use insula_model::Latency;
use insula_model::latency::BOUNDS_US;
use std::fmt::{Display, Write};

/// A page as text.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}

impl Text {
    pub(super) fn finish(self) -> String {
        self.0
    }

    pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
        let mut labels = String::new();
        for (name, value) in pairs {
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
        }
        labels
    }

    pub(super) fn family(&mut self, kind: Kind, name: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
    }

    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: &Labels,
        more: Option<(&str, &str)>,
        value: Number,
    ) {
        self.line(name, "", labels, more, value);
    }

    pub(super) fn durations(&mut self, name: &str, labels: &Labels, latency: &Latency) {
        let mut cumulative = 0u64;
        for (held, bound_us) in latency.buckets.iter().zip(BOUNDS_US) {
            cumulative = cumulative.saturating_add(*held);
            let le = seconds(bound_us).to_string();
            self.line(name, "_bucket", labels, Some(("le", le.as_str())), cumulative);
        }
        self.line(name, "_bucket", labels, Some(("le", "+Inf")), latency.count());
        self.line(name, "_sum", labels, None, seconds(latency.sum_us));
        self.line(name, "_count", labels, None, latency.count());
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &Labels,
        more: Option<(&str, &str)>,
        value: impl Display,
    ) {
        let (page, labels) = (&mut self.0, &labels.written);
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = match more {
            Some((key, word)) => {
                writeln!(page, "{name}{suffix}{{{labels}{comma}{key}=\"{word}\"}} {value}")
            }
            None if labels.is_empty() => writeln!(page, "{name}{suffix} {value}"),
            None => writeln!(page, "{name}{suffix}{{{labels}}} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::page::Page;
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
            let mut page = Page::text();
            let labels = page.labels(&[("l", value.as_str())]);
            page.family(Kind::Gauge, "x", "help").sample(&labels, 1u64);
            let text = page.finish();
            let line = text.strip_prefix("# HELP x help\n# TYPE x gauge\n").unwrap_or("");
            let line = line.strip_suffix('\n').unwrap_or("");
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(read_back(line), Some(value));
        }

        #[test]
        fn buckets_never_fall_and_end_in_the_count(buckets in prop::array::uniform18(0u64..1_000)) {
            let mut page = Page::text();
            let latency = Latency { buckets, sum_us: 5 };
            page.family(Kind::Histogram, "x", "help").durations(&Labels::default(), &latency);
            let text = page.finish();
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
        let mut page = Page::text();
        let labels = page.labels(&[("a", "b")]);
        page.family(Kind::Histogram, "x", "h").durations(&labels, &latency);
        let text = page.finish();
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
