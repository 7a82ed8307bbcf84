//! What a page of many tenants costs, in the browser and on the host: `TENANTS=100000` for what README and
//! ARCHITECTURE say, which takes minutes to deploy.

use super::{Dashboard, crowd};
use insula_tests::Host;
use insula_tests::browser::{Browser, Page};
use insula_tests::process::{cpu, resident_bytes};
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Unless somebody says otherwise.
const TENANTS: usize = 1_000;
/// What was measured stays the same for so long.
const DURING: Duration = Duration::from_secs(4);
/// Time from the page's start to the first picture of all, in milliseconds.
const FIRST_GRID_MS_MAX: f64 = 10_000.0;
/// Bytes of JavaScript's memory.
const HEAP_BYTES_MAX: f64 = 200e6;
/// The supervisor's part of a core while one page is open and nothing happens.
const SUPERVISOR_CPU_MAX: f64 = 0.2;
/// The page's part of a core at the same time.
const PAGE_CPU_MAX: f64 = 0.5;

/// A figure of the page's.
fn metric(page: &Page, name: &str) -> f64 {
    let metrics = page.call("Performance.getMetrics", &json!({}));
    let metrics = metrics["metrics"].as_array().expect("metrics").clone();
    let found = metrics.iter().find(|metric| metric["name"] == name).expect("a metric");
    found["value"].as_f64().expect("a number")
}

/// The parts of a core that the supervisor and the page use.
fn used(host: &Host, page: &Page) -> (f64, f64) {
    let (since, supervisor) = (Instant::now(), cpu(host.pid()));
    let busy = metric(page, "TaskDuration");
    sleep(DURING);
    let took = since.elapsed().as_secs_f64();
    let supervisor = (cpu(host.pid()) - supervisor).as_secs_f64();
    (supervisor / took, (metric(page, "TaskDuration") - busy) / took)
}

#[test]
fn a_page_of_many_tenants_costs_little() {
    let Some(browser) = Browser::start("a page of many tenants") else { return };
    let tenants = std::env::var("TENANTS").map_or(TENANTS, |n| n.parse().expect("TENANTS"));
    let host = Host::start();
    let since = Instant::now();
    crowd::deploy(&host, tenants);
    eprintln!("deployed in {:.0?}", since.elapsed());
    let dashboard = Dashboard::of(&host);
    let page = browser.open(&dashboard.url);
    page.eventually("performance.getEntriesByName('first-grid').length === 1");
    let first = page.value("performance.getEntriesByName('first-grid')[0].startTime");
    let first = first.as_f64().expect("a time");
    page.call("Performance.enable", &json!({}));
    sleep(DURING / 2);
    let (supervisor, own) = used(&host, &page);
    page.call("HeapProfiler.collectGarbage", &json!({}));
    let heap = metric(&page, "JSHeapUsedSize");
    eprintln!(
        "first picture {first:.0} ms; {:.0} MB of JavaScript; {:.0} elements; a second at rest: {:.1} ms of the \
         supervisor, {:.1} ms of the page; supervisor {:.0} MB",
        heap / 1e6,
        metric(&page, "Nodes"),
        supervisor * 1e3,
        own * 1e3,
        resident_bytes(host.pid()) as f64 / 1e6,
    );
    let load = crowd::Load::on(host.addr(), tenants);
    sleep(DURING / 2);
    let (at_work, own_at_work) = used(&host, &page);
    drop(load);
    eprintln!(
        "a second at work: {:.1} ms of the supervisor, {:.1} ms of the page",
        at_work * 1e3,
        own_at_work * 1e3
    );
    assert!(first < FIRST_GRID_MS_MAX && heap < HEAP_BYTES_MAX, "{first} ms, {heap} bytes");
    assert!(supervisor < SUPERVISOR_CPU_MAX && own < PAGE_CPU_MAX, "{supervisor}, {own} cores");
}
