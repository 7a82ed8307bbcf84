//! What goes to an OpenTelemetry collector: OTLP over HTTP, as JSON
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! ```text
//! traces::export ──┐
//!                  ├─▶ Sender: one batch, again while the collector asks for it ─▶ Collector: one POST
//! metrics::export ─┘
//! ```
//! By serde and by hyper, which are here: the protobuf form would need a code generator and its runtime for two
//! messages. Each signal has a sender of its own, so one that the collector refuses does not hold up the other.

mod collector;
mod sender;

pub use collector::{Collector, CollectorError};
pub(crate) use sender::Sender;
use serde_json::{Value, json};
use std::fmt;
use std::net::SocketAddr;

/// What a host is told about its collector.
#[derive(Debug, Clone)]
pub struct OtlpOptions {
    /// Where everything is sent.
    pub collector: Collector,
    /// Of a million traces that begin here, so many are recorded; none if traces are not exported.
    pub sampled_ppm: Option<u32>,
    /// Milliseconds between two exports of metrics; none if they are not exported.
    pub metrics_ms: Option<u64>,
}

/// One of the kinds of what is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Spans.
    Traces,
    /// Figures.
    Metrics,
}

impl Signal {
    /// What is appended to the collector's URL.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        })
    }
}

/// Who exports: the same in everything that this host sends, and across its upgrades, since its counters go on.
pub(crate) fn resource(listen: SocketAddr) -> Value {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = machine.trim();
    // Machine and port, as Prometheus names an instance: what tells two hosts of one collector apart.
    let instance = format!("{machine}:{}", listen.port());
    json!({"attributes": [
        text("service.name", "insula"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", &instance),
        text("host.name", machine),
        number("process.pid", u64::from(std::process::id())),
    ]})
}

/// An attribute.
pub(crate) fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// An attribute; 64-bit numbers are strings in this form.
pub(crate) fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}
