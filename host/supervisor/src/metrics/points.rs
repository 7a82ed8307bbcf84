//! OTLP's metrics (<https://opentelemetry.io/docs/specs/otel/metrics/data-model/>), as JSON, written as they come:
//! cumulative sums with the time when they began, gauges, and histograms with explicit bounds.
//!
//! Names are those of the Prometheus page, suffixes included, so that a dashboard need not know which way figures
//! came; translators to Prometheus leave a suffix alone that is there already. Units are UCUM's, by the name.

use super::page::{Kind, Labels, Number, seconds};
use insula_model::Latency;
use insula_model::latency::BOUNDS_US;
use std::fmt::Write;

/// OTLP's number for what was counted since the begin.
const CUMULATIVE: u8 = 2;

/// A list of metrics that is being written.
#[derive(Debug)]
pub(super) struct Points {
    json: String,
    at_unix_ns: u64,
    /// When counters began whose labels do not say.
    began_unix_ns: u64,
    /// The kind of the family that is open.
    open: Option<Kind>,
    is_first_point: bool,
}

impl Points {
    /// What was found at a time, in nanoseconds since 1970; counters began at `began_unix_ns` at the latest.
    pub(super) fn at(at_unix_ns: u64, began_unix_ns: u64) -> Self {
        Self { json: String::new(), at_unix_ns, began_unix_ns, open: None, is_first_point: true }
    }

    pub(super) fn finish(mut self) -> String {
        self.close();
        self.json
    }

    pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
        let all: Vec<String> = pairs.iter().map(|(key, value)| attribute(key, value)).collect();
        all.join(",")
    }

    pub(super) fn family(&mut self, kind: Kind, name: &str, help: &str) {
        self.close();
        let comma = if self.json.is_empty() { "" } else { "," };
        let (help, unit) = (quoted(help), unit(name));
        // Writing to a string does not fail.
        let _ = write!(
            self.json,
            "{comma}{{\"name\":\"{name}\",\"description\":{help},\"unit\":\"{unit}\","
        );
        let _ = match kind {
            Kind::Counter => write!(
                self.json,
                "\"sum\":{{\"aggregationTemporality\":{CUMULATIVE},\"isMonotonic\":true,\"dataPoints\":["
            ),
            Kind::Gauge => write!(self.json, "\"gauge\":{{\"dataPoints\":["),
            Kind::Histogram => write!(
                self.json,
                "\"histogram\":{{\"aggregationTemporality\":{CUMULATIVE},\"dataPoints\":["
            ),
        };
        self.open = Some(kind);
        self.is_first_point = true;
    }

    pub(super) fn sample(&mut self, labels: &Labels, more: Option<(&str, &str)>, value: Number) {
        self.begin_point(labels, more);
        let _ = match value {
            Number::Int(value) => write!(self.json, ",\"asInt\":\"{value}\"}}"),
            Number::Float(value) => write!(self.json, ",\"asDouble\":{}}}", finite(value)),
        };
    }

    pub(super) fn durations(&mut self, labels: &Labels, latency: &Latency) {
        self.begin_point(labels, None);
        let (count, sum) = (latency.count(), finite(seconds(latency.sum_us)));
        let counts: Vec<String> = latency.buckets.iter().map(|n| format!("\"{n}\"")).collect();
        let bounds: Vec<String> =
            BOUNDS_US.iter().map(|bound_us| seconds(*bound_us).to_string()).collect();
        let (counts, bounds) = (counts.join(","), bounds.join(","));
        let _ = write!(
            self.json,
            ",\"count\":\"{count}\",\"sum\":{sum},\"bucketCounts\":[{counts}],\"explicitBounds\":[{bounds}]}}"
        );
    }

    /// Up to the value, which must follow.
    fn begin_point(&mut self, labels: &Labels, more: Option<(&str, &str)>) {
        let comma = if std::mem::take(&mut self.is_first_point) { "" } else { "," };
        let more = more.map(|(key, value)| attribute(key, value)).unwrap_or_default();
        let between = if labels.written.is_empty() || more.is_empty() { "" } else { "," };
        let (json, at, labels_json) = (&mut self.json, self.at_unix_ns, &labels.written);
        let _ = write!(json, "{comma}{{\"attributes\":[{labels_json}{between}{more}],");
        if self.open != Some(Kind::Gauge) {
            let since = labels.since_unix_ns.unwrap_or(self.began_unix_ns).min(at);
            let _ = write!(json, "\"startTimeUnixNano\":\"{since}\",");
        }
        let _ = write!(json, "\"timeUnixNano\":\"{at}\"");
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.json.push_str("]}}");
        }
    }
}

fn attribute(key: &str, value: &str) -> String {
    format!("{{\"key\":\"{key}\",\"value\":{{\"stringValue\":{}}}}}", quoted(value))
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// JSON has no other numbers, and there are no others here.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// In UCUM (<https://ucum.org>), by the suffix that Prometheus' conventions give a name.
fn unit(name: &str) -> &'static str {
    match name.strip_suffix("_total").unwrap_or(name) {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "1",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::metrics::page::Page;
    use proptest::prelude::*;
    use serde_json::Value;

    fn read(page: Page) -> Vec<Value> {
        serde_json::from_str(&format!("[{}]", page.finish())).unwrap()
    }

    proptest! {
        #[test]
        fn any_label_reads_back(value in "\\PC*|[\\x00-\\x7f]*") {
            let mut page = Page::Points(Points::at(9, 1));
            let labels = page.labels(&[("l", value.as_str())]);
            page.family(Kind::Gauge, "x", "help").labelled(&labels, ("m", "n"), 1u64);
            let metrics = read(page);
            let attributes = &metrics[0]["gauge"]["dataPoints"][0]["attributes"];
            prop_assert_eq!(&attributes[0]["value"]["stringValue"], &Value::from(value));
            prop_assert_eq!(&attributes[1]["key"], "m");
        }
    }

    #[test]
    fn each_kind_is_written_as_otlp_has_it() {
        let mut latency = Latency::default();
        (latency.buckets[0], latency.buckets[17], latency.sum_us) = (2, 1, 12_000_080);
        let mut page = Page::Points(Points::at(9, 1));
        page.one(Kind::Gauge, "a_bytes", "It \"is\".", 7u64);
        page.one(Kind::Counter, "b_seconds_total", "h", 0.5);
        let labels = page.labels(&[("a", "b")]).since(4);
        page.family(Kind::Histogram, "c_seconds", "h").durations(&labels, &latency);
        let mut none = page.family(Kind::Counter, "d_total", "h");
        none.sample(&labels, 1u64);
        none.sample(&Labels::default().since(99), 2u64);
        let metrics = read(page);
        let [a, b, c, d] = metrics.as_slice() else { panic!("{metrics:?}") };
        assert_eq!((&a["unit"], &a["description"]), (&"By".into(), &"It \"is\".".into()));
        let point = &a["gauge"]["dataPoints"][0];
        assert_eq!((&point["asInt"], &point["timeUnixNano"]), (&"7".into(), &"9".into()));
        assert!(point.get("startTimeUnixNano").is_none());
        assert_eq!((&b["unit"], &b["sum"]["isMonotonic"]), (&"s".into(), &true.into()));
        let point = &b["sum"]["dataPoints"][0];
        assert_eq!((&point["asDouble"], &point["startTimeUnixNano"]), (&0.5.into(), &"1".into()));
        assert_eq!(c["histogram"]["aggregationTemporality"], 2);
        let point = &c["histogram"]["dataPoints"][0];
        assert_eq!((&point["count"], &point["sum"]), (&"3".into(), &12.00008.into()));
        assert_eq!(point["startTimeUnixNano"], "4");
        let (counts, bounds) = (&point["bucketCounts"], &point["explicitBounds"]);
        assert_eq!((counts.as_array().unwrap().len(), &counts[17]), (18, &"1".into()));
        assert_eq!((bounds.as_array().unwrap().len(), &bounds[16]), (17, &10.into()));
        let points = d["sum"]["dataPoints"].as_array().unwrap();
        assert_eq!(points.len(), 2);
        // Nothing began after it was found.
        assert_eq!(points[1]["startTimeUnixNano"], "9");
    }
}
