//! The families that have a series for each tenant.

use super::book::Series;
use super::page::{Kind, Labels, Page, seconds};
use insula_model::api::Counters;

/// Stands for all tenants without a series of their own. No tenant's name begins like that.
const OTHER: &str = "_other";

/// A family of one number for each tenant.
struct Plain {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    of: fn(&Counters) -> u64,
    /// The number is in microseconds, the metric in seconds.
    micros: bool,
}

const fn plain(
    kind: Kind,
    name: &'static str,
    help: &'static str,
    of: fn(&Counters) -> u64,
) -> Plain {
    Plain { kind, name, help, of, micros: false }
}

const fn timed(name: &'static str, help: &'static str, of: fn(&Counters) -> u64) -> Plain {
    Plain { kind: Kind::Counter, name, help, of, micros: true }
}

const PLAIN: [Plain; 13] = [
    timed(
        "insula_tenant_cpu_seconds_total",
        "Time during which guests held a worker's thread.",
        |c| c.cpu_us,
    ),
    plain(
        Kind::Counter,
        "insula_tenant_fuel_total",
        "Fuel consumed; about one unit an executed instruction.",
        |c| c.fuel,
    ),
    plain(
        Kind::Gauge,
        "insula_tenant_memory_bytes",
        "Memory and tables that all instances hold now.",
        |c| c.memory_bytes,
    ),
    plain(
        Kind::Gauge,
        "insula_tenant_memory_peak_bytes",
        "Most memory and tables that one instance ever held.",
        |c| c.memory_peak_bytes,
    ),
    plain(Kind::Gauge, "insula_tenant_running_requests", "Requests that run now.", |c| c.running),
    plain(Kind::Gauge, "insula_tenant_queued_requests", "Requests in the queue now.", |c| c.queued),
    plain(
        Kind::Counter,
        "insula_tenant_queue_waits_total",
        "Requests that had to wait in the queue.",
        |c| c.waited,
    ),
    timed(
        "insula_tenant_queue_wait_seconds_total",
        "Time that requests waited in the queue, together.",
        |c| c.wait_us,
    ),
    plain(
        Kind::Counter,
        "insula_tenant_cold_loads_total",
        "Requests whose worker had to load the code first.",
        |c| c.cold_loads,
    ),
    timed(
        "insula_tenant_cold_load_seconds_total",
        "Time that requests waited for code to be loaded, together.",
        |c| c.cold_load_us,
    ),
    plain(
        Kind::Counter,
        "insula_tenant_received_bytes_total",
        "Request bodies that were passed to guests.",
        |c| c.bytes_in,
    ),
    plain(
        Kind::Counter,
        "insula_tenant_sent_bytes_total",
        "Response bodies that were passed to clients.",
        |c| c.bytes_out,
    ),
    plain(
        Kind::Counter,
        "insula_tenant_outbound_bytes_total",
        "What calls over the network sent, before TLS.",
        |c| c.bytes_outbound,
    ),
];

/// Writes all of them.
pub(super) fn write(page: &mut Page, series: &[Series]) {
    let labelled: Vec<(Labels, &Series)> =
        series.iter().map(|one| (labels(page, one), one)).collect();
    let mut requests = page.family(
        Kind::Counter,
        "insula_http_requests_total",
        "Requests by how they ended; runs of jobs are among them.",
    );
    for (labels, one) in &labelled {
        let c = &one.figures.counters;
        for (outcome, count) in [
            (("outcome", "response"), c.responses),
            (("outcome", "client-fault"), c.client_faults),
            (("outcome", "guest-fault"), c.guest_faults),
            (("outcome", "host-fault"), c.host_faults),
            (("outcome", "shed"), c.shed),
        ] {
            requests.labelled(labels, outcome, count);
        }
    }
    let mut responses = page.family(
        Kind::Counter,
        "insula_http_responses_total",
        "Answers by class of status, whoever gave them.",
    );
    for (labels, one) in &labelled {
        let c = &one.figures.counters;
        for (class, count) in [
            (("code", "2xx"), c.status_2xx),
            (("code", "3xx"), c.status_3xx),
            (("code", "4xx"), c.status_4xx),
            (("code", "5xx"), c.status_5xx),
        ] {
            responses.labelled(labels, class, count);
        }
    }
    let mut durations = page.family(
        Kind::Histogram,
        "insula_http_request_duration_seconds",
        "From the arrival of the head to the end of the answer, of requests that were let in.",
    );
    for (labels, one) in &labelled {
        durations.durations(labels, &one.figures.latency);
    }
    for plain in PLAIN {
        let mut family = page.family(plain.kind, plain.name, plain.help);
        for (labels, one) in &labelled {
            let value = (plain.of)(&one.figures.counters);
            if plain.micros {
                family.sample(labels, seconds(value));
            } else {
                family.sample(labels, value);
            }
        }
    }
}

fn labels(page: &Page, series: &Series) -> Labels {
    let namespace = series.namespace.as_ref().map(ToString::to_string);
    let labels = match (&series.tenant, &namespace) {
        (Some(tenant), namespace) => page.labels(&[
            ("tenant", tenant.as_str()),
            ("namespace", namespace.as_deref().unwrap_or(OTHER)),
        ]),
        (None, Some(namespace)) => page.labels(&[("namespace", namespace.as_str())]),
        (None, None) => page.labels(&[("tenant", OTHER), ("namespace", OTHER)]),
    };
    labels.since(series.since_unix_ns)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metrics::book::Book;
    use crate::metrics::points::Points;
    use insula_ipc::table::Table;
    use insula_model::config::MetricsBy;
    use insula_model::{Outcome, StatusClass, Usage};
    use std::time::{Duration, Instant};

    const TENANTS: u32 = 10_000;
    const SERIES: usize = 1_000;
    /// In a build without optimisation, on a machine that does something else.
    const SCRAPE_MAX: Duration = Duration::from_secs(5);

    #[test]
    fn ten_thousand_active_tenants_are_a_page_of_bounded_size() {
        let table = Table::create(2).unwrap();
        for slot in 0..TENANTS {
            table.set_active(slot);
            let cell = table.cell(slot % 2, slot);
            for _ in 0..=slot % 7 {
                cell.record(Outcome::Response, &Usage { fuel: 5, ..Usage::default() });
                cell.answered(StatusClass::Success);
                cell.took(u64::from(slot));
            }
        }
        let named =
            |slot: u32| Some((format!("t{slot}").parse().unwrap(), "default".parse().unwrap()));
        let mut book = Book::new(MetricsBy::Tenant, SERIES, 1);
        let mut sizes = Vec::new();
        for _ in 0..2 {
            let since = Instant::now();
            let series = book.series(&table, 2, Some, named);
            assert_eq!(series.len(), SERIES + 1);
            let mut page = Page::text();
            write(&mut page, &series);
            let mut points = Page::Points(Points::at(2, 1));
            write(&mut points, &series);
            let metrics: Vec<serde_json::Value> =
                serde_json::from_str(&format!("[{}]", points.finish())).unwrap();
            assert_eq!(metrics[0]["sum"]["dataPoints"].as_array().unwrap().len(), 5 * (SERIES + 1));
            assert!(since.elapsed() < SCRAPE_MAX, "{:?}", since.elapsed());
            let sum: u64 = series.iter().map(|one| one.figures.counters.requests).sum();
            assert_eq!(sum, (0..u64::from(TENANTS)).map(|slot| slot % 7 + 1).sum::<u64>());
            sizes.push(page.finish().len());
        }
        // 44 samples of some 90 bytes for each series.
        assert!(sizes[0] < SERIES * 6_000 && sizes[0] == sizes[1], "{sizes:?}");
    }
}
