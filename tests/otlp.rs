//! Metrics over OTLP: what a collector gets is what the page says, and one that is not well costs nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::collector::{Collector, Figures};
use insula_tests::wait::eventually;
use insula_tests::{Host, Setup, repo};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Of these no two looks say the same.
const RESTLESS: [&str; 9] = [
    "process_",
    "insula_worker_cpu_seconds_total",
    "insula_worker_memory_bytes",
    "insula_worker_connections",
    "insula_worker_idle_instances",
    "insula_host_memory_bytes",
    "insula_tenant_memory_bytes",
    "insula_metrics_scrapes_total",
    "insula_metrics_exports_total",
];

/// The page's samples, and the names of its families.
fn page(host: &Host) -> (BTreeMap<String, f64>, BTreeSet<String>) {
    let text = host.api_raw("GET", "/metrics", None).text();
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families = families.map(|family| family.split(' ').next().unwrap().to_owned());
    (samples.collect(), families.collect())
}

fn metrics_to(collector: &Collector, interval: &str) -> Setup {
    let url = collector.url();
    Setup::new().args(["--otlp", &url, "--otlp-signals", "metrics", "--otlp-interval", interval])
}

/// Samples that differ, where they must not.
fn differences(page: &BTreeMap<String, f64>, figures: &Figures) -> Vec<String> {
    let is_still = |series: &&String| !RESTLESS.iter().any(|name| series.starts_with(name));
    let all: BTreeSet<&String> = page.keys().chain(figures.samples.keys()).collect();
    let differs = |series: &&String| match (page.get(*series), figures.samples.get(*series)) {
        (Some(a), Some(b)) => (a - b).abs() > 1e-9 * a.abs().max(1.0),
        _ => true,
    };
    let told = |series: &String| {
        format!("{series}: {:?}, {:?}", page.get(series), figures.samples.get(series))
    };
    all.into_iter().filter(is_still).filter(differs).map(told).collect()
}

#[test]
fn what_a_collector_gets_is_what_the_page_says() {
    let collector = Collector::start();
    let host = metrics_to(&collector, "1s").args(["--metrics-tenants", "2"]).start();
    host.deploy_guests(&["hello", "echo", "hostile-trap"]);
    host.deploy("busy", &repo::guest("hello"), &["--rate", "1"]);
    host.cli(["deploy", "wrong", "--", "/dev/null"]);
    for _ in 0..20 {
        host.get("hello", "/").expect_ok();
    }
    for _ in 0..3 {
        assert_eq!(host.get("hostile-trap", "/go").status(), 500);
    }
    for _ in 0..5 {
        host.get("busy", "/");
    }
    // Without traces nobody records anything, so no guest is told of a trace.
    assert!(!host.get("echo", "/").expect_ok().text().contains("traceparent"));
    assert_eq!(host.get("nobody", "/").status(), 404);
    let figures = eventually("both ways say the same", || {
        let figures = collector.figures()?;
        let (samples, _) = page(&host);
        let all = figures.sum("insula_http_requests_total") == 29.0;
        (all && differences(&samples, &figures).is_empty()).then_some(figures)
    });
    let (_, families) = page(&host);
    assert_eq!(figures.units.keys().cloned().collect::<BTreeSet<_>>(), families);
    assert_eq!(figures.sum("insula_tenants"), 4.0);
    let shed = figures.samples.iter().filter(|(series, _)| series.contains("outcome=\"shed\""));
    let shed: f64 = shed.map(|(_, count)| count).sum();
    assert!(shed > 0.0);
    assert_eq!(figures.sum("insula_http_request_duration_seconds_count") + shed, 29.0);
    // Two have series of their own, and all others are one.
    let series = figures.samples.keys().filter(|s| s.starts_with("insula_tenant_fuel_total"));
    assert_eq!(series.count(), 3);
    assert!(figures.samples.keys().any(|series| series.contains("tenant=\"_other\"")));
    for (name, unit) in [
        ("insula_http_request_duration_seconds", "s"),
        ("insula_tenant_cpu_seconds_total", "s"),
        ("insula_tenant_memory_peak_bytes", "By"),
        ("insula_tenant_sent_bytes_total", "By"),
        ("insula_http_requests_total", "1"),
    ] {
        assert_eq!(figures.units[name], unit, "{name}");
    }
    let sent = collector.received("/v1/metrics").pop().unwrap().body;
    let resource = sent["resourceMetrics"][0]["resource"]["attributes"].as_array().unwrap().clone();
    let of = |key: &str| {
        let found = resource.iter().find(|one| one["key"] == key);
        found.unwrap_or_else(|| panic!("no {key}: {resource:?}"))["value"].clone()
    };
    assert_eq!(of("service.name")["stringValue"], "insula");
    assert_eq!(of("process.pid")["intValue"], host.pid().to_string());
    let port = format!(":{}", host.addr().port());
    assert!(of("service.instance.id")["stringValue"].as_str().unwrap().ends_with(&port));
    assert!(collector.received("/v1/traces").is_empty());
}

fn at(body: &Value) -> &Value {
    &body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"][0]["timeUnixNano"]
}

#[test]
fn it_is_tried_again_when_the_collector_asks_for_it_and_only_then() {
    let collector = Collector::start();
    collector.answers_next(&[(503, None), (429, Some(2)), (200, None), (400, None)]);
    let host = metrics_to(&collector, "5s").start();
    let received = eventually("five attempts", || {
        let received = collector.received("/v1/metrics");
        (received.len() == 5).then_some(received)
    });
    let statuses: Vec<u16> = received.iter().map(|one| one.status).collect();
    assert_eq!(statuses, [503, 429, 200, 400, 200]);
    // The same figures until they are taken or refused, and then new ones.
    let times: Vec<&Value> = received.iter().map(|one| at(&one.body)).collect();
    assert!(times[0] == times[1] && times[1] == times[2], "{times:?}");
    assert!(times[2] != times[3] && times[3] != times[4], "{times:?}");
    let pause = |from: usize| received[from + 1].at - received[from].at;
    assert!(pause(0) >= Duration::from_millis(450), "{:?}", pause(0));
    assert!(pause(1) >= Duration::from_millis(1_900), "{:?}", pause(1));
    assert!(pause(3) >= Duration::from_secs(3), "{:?}", pause(3));
    host.eventually_logs("metrics are dropped: the collector does not take them");
    eventually("it is counted", || {
        let (samples, _) = page(&host);
        let count =
            |result: &str| samples[&format!("insula_metrics_exports_total{{result=\"{result}\"}}")];
        (count("succeeded") >= 2.0 && count("failed") == 1.0).then_some(())
    });
}

#[test]
fn a_host_that_stops_exports_once_more() {
    let collector = Collector::start();
    let mut host = metrics_to(&collector, "1h").start();
    host.deploy_guests(&["hello"]);
    for _ in 0..7 {
        host.get("hello", "/").expect_ok();
    }
    assert!(collector.received("/v1/metrics").is_empty());
    assert!(host.stop(Signal::TERM).success(), "{}", host.log());
    assert_eq!(collector.received("/v1/metrics").len(), 1);
    let figures = collector.figures().unwrap();
    assert_eq!(figures.sum("insula_http_requests_total"), 7.0);
    assert_eq!(figures.sum("insula_tenant_running_requests"), 0.0);
}

#[test]
fn a_collector_that_hangs_or_is_gone_costs_a_line_in_the_log() {
    let collector = Collector::start();
    collector.answers(None);
    let mut host = metrics_to(&collector, "1s").start();
    host.deploy_guests(&["hello"]);
    host.eventually_logs("metrics are dropped: the collector does not take them");
    host.get("hello", "/").expect_ok();
    let attempts = collector.received("/v1/metrics").len();
    eventually("it goes on trying", || {
        (collector.received("/v1/metrics").len() > attempts).then_some(())
    });
    assert_eq!(host.log().matches("metrics are dropped").count(), 1, "{}", host.log());
    // It is well again: so are the figures.
    collector.answers(Some(200));
    host.eventually_logs("the collector takes metrics again");
    assert_eq!(collector.figures().unwrap().sum("insula_http_requests_total"), 1.0);
    // The end does not wait for one that hangs.
    collector.answers(None);
    let since = Instant::now();
    assert!(host.stop(Signal::TERM).success(), "{}", host.log());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());

    // Nobody is there at all.
    let nobody = Setup::new().args(["--otlp", "http://127.0.0.1:9", "--otlp-interval", "1s"]);
    let mut host = nobody.start();
    host.deploy_guests(&["hello"]);
    host.get("hello", "/").expect_ok();
    host.eventually_logs("it cannot be reached");
    assert!(host.stop(Signal::TERM).success(), "{}", host.log());
}

#[test]
fn what_cannot_be_is_refused_with_the_mend() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| insula_tests::cli::run(home.path(), ["serve"].iter().chain(args));
    run(&["--otlp-interval", "10ms"]).expect(2, &["not within 1s to 1h"]);
    run(&["--otlp-signals", "logs"]).expect(2, &["traces, metrics"]);
    let file = home.path().join("host.toml");
    let config = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(&["--config", file.to_str().unwrap()])
    };
    config("[otlp]\nsignals = []\n").expect(2, &["otlp.signals", "name `traces`"]);
    config("[otlp]\ninterval = \"2h\"\n").expect(2, &["otlp.interval", "1h"]);
}
