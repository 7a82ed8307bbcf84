//! Records of requests as OTLP's JSON (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).

use crate::otlp::{number, text};
use insula_model::Outcome;
use insula_model::trace::{Stage, TraceRecord};
use serde_json::{Value, json};

const SERVER: u8 = 2;
const INTERNAL: u8 = 1;
const STATUS_ERROR: u8 = 2;

/// Spans that one record becomes.
pub(super) fn spans_in(record: &TraceRecord) -> u64 {
    1 + stages(record).count() as u64
}

/// The body of one export.
pub(super) fn body(resource: &Value, records: &[TraceRecord]) -> Value {
    let spans: Vec<Value> = records.iter().flat_map(spans).collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({"resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{"scope": {"name": "insula", "version": version}, "spans": spans}],
    }]})
}

/// The request's own span, then one for each stage that it reached.
fn spans(record: &TraceRecord) -> impl Iterator<Item = Value> {
    let own = own(record);
    let below = stages(record).zip(1u64..).map(|((stage, from_ns, to_ns), n)| {
        json!({
            "traceId": format!("{:032x}", record.context.trace),
            // The span's own id is random, so these are as unlikely to meet another.
            "spanId": format!("{:016x}", record.context.span.wrapping_add(n).max(1)),
            "parentSpanId": format!("{:016x}", record.context.span),
            "name": stage.as_str(),
            "kind": INTERNAL,
            "startTimeUnixNano": (record.start_unix_ns + from_ns).to_string(),
            "endTimeUnixNano": (record.start_unix_ns + to_ns).to_string(),
        })
    });
    std::iter::once(own).chain(below.collect::<Vec<_>>())
}

/// Which stages it reached, from when to when; the last one until its end.
fn stages(record: &TraceRecord) -> impl Iterator<Item = (Stage, u64, u64)> + '_ {
    let mut from_ns = 0;
    let mut over = false;
    Stage::ALL.into_iter().zip(record.stages_ns).filter_map(move |(stage, to_ns)| {
        if over {
            return None;
        }
        // One that has no end is the one that it ended in.
        over = to_ns == 0;
        let to_ns = if over { record.end_ns } else { to_ns };
        let span = (stage, from_ns, to_ns.max(from_ns));
        from_ns = span.2;
        Some(span)
    })
}

fn own(record: &TraceRecord) -> Value {
    let fault = match record.outcome {
        Outcome::Response => None,
        Outcome::ClientFault(fault)
        | Outcome::GuestFault(fault)
        | Outcome::HostFault(fault)
        | Outcome::Shed(fault) => Some(fault.code()),
    };
    let mut attributes = vec![
        text("http.request.method", &record.method),
        text("insula.tenant", record.tenant.as_str()),
        number("insula.revision", u64::from(record.revision)),
        text("insula.request", &record.request),
    ];
    attributes.extend(record.status.map(|s| number("http.response.status_code", u64::from(s))));
    attributes.extend(fault.map(|fault| text("error.type", fault)));
    // What the client did is not the server's error, by OpenTelemetry's conventions for HTTP.
    let failed = record.status.is_some_and(|status| status >= 500)
        || matches!(record.outcome, Outcome::GuestFault(_) | Outcome::HostFault(_));
    let mut span = json!({
        "traceId": format!("{:032x}", record.context.trace),
        "spanId": format!("{:016x}", record.context.span),
        "name": format!("{} {}", record.method, record.tenant),
        "kind": SERVER,
        "flags": record.context.flags,
        "startTimeUnixNano": record.start_unix_ns.to_string(),
        "endTimeUnixNano": (record.start_unix_ns + record.end_ns).to_string(),
        "attributes": attributes,
        "status": if failed { json!({"code": STATUS_ERROR}) } else { json!({}) },
    });
    if let Some(parent) = record.parent {
        span["parentSpanId"] = format!("{parent:016x}").into();
    }
    span
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use insula_model::Fault;
    use insula_model::trace::TraceContext;

    fn record(stages_ns: [u64; 5], outcome: Outcome) -> TraceRecord {
        TraceRecord {
            context: TraceContext { trace: 0xabc, span: u64::MAX, flags: 1 },
            parent: Some(5),
            tenant: "hello".parse().unwrap(),
            revision: 3,
            request: "r".into(),
            method: "GET".into(),
            status: Some(200),
            outcome,
            start_unix_ns: 1_000,
            stages_ns,
            end_ns: 90,
        }
    }

    #[test]
    fn stages_follow_each_other_to_the_end() {
        let whole = record([10, 20, 25, 30, 90], Outcome::Response);
        let told: Vec<_> =
            stages(&whole).map(|(stage, from, to)| (stage.as_str(), from, to)).collect();
        assert_eq!(
            told,
            [
                ("admit", 0, 10),
                ("load", 10, 20),
                ("instantiate", 20, 25),
                ("run", 25, 30),
                ("respond", 30, 90)
            ]
        );
        // It ended while the code was loaded.
        let failed = record([10, 0, 0, 0, 0], Outcome::HostFault(Fault::CodeUnavailable));
        let told: Vec<_> =
            stages(&failed).map(|(stage, from, to)| (stage.as_str(), from, to)).collect();
        assert_eq!(told, [("admit", 0, 10), ("load", 10, 90)]);
        assert_eq!(spans_in(&failed), 3);
        let body = body(&json!({}), &[failed]);
        let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans.as_array().unwrap().len(), 3);
        assert_eq!(spans[0]["parentSpanId"], "0000000000000005");
        assert_eq!(spans[0]["status"]["code"], 2);
        assert_eq!(spans[0]["startTimeUnixNano"], "1000");
        assert_eq!(spans[2]["endTimeUnixNano"], "1090");
        assert_eq!(spans[1]["traceId"], format!("{:032x}", 0xabc));
        assert_ne!(spans[1]["spanId"], "0000000000000000");
        // It was refused before anything ran.
        let refused = record([0; 5], Outcome::Shed(Fault::RateLimit));
        let told: Vec<_> =
            stages(&refused).map(|(stage, from, to)| (stage.as_str(), from, to)).collect();
        assert_eq!(told, [("admit", 0, 90)]);
    }
}
