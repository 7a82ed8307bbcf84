//! What a host tells Prometheus, and whether it adds up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup, repo};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The samples of a page, by name with labels; and its families, by name.
struct Page {
    text: String,
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, String>,
}

impl Page {
    fn of(text: String) -> Self {
        let mut samples = BTreeMap::new();
        let mut families = BTreeMap::new();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                assert!(families.insert(name.into(), kind.into()).is_none(), "{name} twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let before = samples.insert(series.to_owned(), value.parse().unwrap());
                assert!(before.is_none(), "{series} twice");
            }
        }
        Self { text, samples, families }
    }

    /// One sample.
    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {}", self.text))
    }

    /// All samples of a name together whose labels hold `label`.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let of =
            |series: &&String| series.split('{').next() == Some(name) && series.contains(label);
        self.samples.keys().filter(of).map(|series| self.samples[series]).sum()
    }

    /// The values of one label.
    fn values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let of = |series: &String| {
            let labels = series.strip_prefix(name)?.strip_prefix('{')?;
            let value = labels.split(&format!("{label}=\"")).nth(1)?.split('"').next()?;
            Some(value.to_owned())
        };
        self.samples.keys().filter_map(of).collect()
    }
}

fn scrape(host: &Host) -> Page {
    let answer = host.api_raw("GET", "/metrics", None);
    assert_eq!(answer.status(), 200);
    let kind = answer.field("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    Page::of(answer.text())
}

/// The page, once so many requests have ended.
fn settled(host: &Host, requests: f64) -> Page {
    eventually("all are counted", || {
        let page = scrape(host);
        (page.sum("insula_http_requests_total", "") == requests).then_some(page)
    })
}

fn hello() -> PathBuf {
    repo::guest("hello")
}

#[test]
fn a_page_adds_up_and_passes_promtool() {
    let host = Setup::new().args(["--metrics", "127.0.0.1:0"]).start();
    host.deploy_guests(&["hello", "hostile-trap"]);
    host.deploy("busy", &hello(), &["--rate", "1"]);
    host.cli(["deploy", "wrong", "--", "/dev/null"]);
    for _ in 0..20 {
        host.get("hello", "/").expect_ok();
    }
    for _ in 0..3 {
        assert_eq!(host.get("hostile-trap", "/go").status(), 500);
    }
    let busy: Vec<u16> = (0..5).map(|_| host.get("busy", "/").status()).collect();
    let passed = busy.iter().filter(|status| **status == 200).count() as f64;
    assert!(busy.contains(&429), "{busy:?}");
    assert_eq!(host.get("nobody", "/").status(), 404);
    let page = settled(&host, 28.0);
    let of = |name: &str, tenant: &str, label: &str| {
        page.get(&format!("{name}{{tenant=\"{tenant}\",namespace=\"default\",{label}}}"))
    };
    let requests = |tenant, outcome: &str| {
        of("insula_http_requests_total", tenant, &format!("outcome=\"{outcome}\""))
    };
    assert_eq!(requests("hello", "response"), 20.0);
    assert_eq!(requests("hostile-trap", "guest-fault"), 3.0);
    assert_eq!((requests("busy", "response"), requests("busy", "shed")), (passed, 5.0 - passed));
    let answers = |tenant, class: &str| {
        of("insula_http_responses_total", tenant, &format!("code=\"{class}\""))
    };
    assert_eq!((answers("hello", "2xx"), answers("hostile-trap", "5xx")), (20.0, 3.0));
    assert_eq!(answers("busy", "4xx"), 5.0 - passed);
    assert_eq!(page.sum("insula_http_responses_total", ""), 28.0);
    // Every request that was let in is in the histogram, and took some time.
    assert_eq!(page.sum("insula_http_request_duration_seconds_count", ""), 23.0 + passed);
    assert_eq!(
        page.sum("insula_http_request_duration_seconds_bucket", "le=\"+Inf\""),
        23.0 + passed
    );
    assert!(page.sum("insula_http_request_duration_seconds_sum", "tenant=\"hello\"") > 0.0);
    assert!(page.sum("insula_tenant_cpu_seconds_total", "tenant=\"hello\"") > 0.0);
    assert!(page.sum("insula_tenant_fuel_total", "tenant=\"hello\"") > 1_000.0);
    assert!(page.sum("insula_tenant_cold_loads_total", "tenant=\"hello\"") >= 1.0);
    assert_eq!(page.sum("insula_worker_unrouted_requests_total", ""), 1.0);
    assert_eq!(page.get("insula_workers{state=\"serving\"}"), 2.0);
    assert_eq!(page.get("insula_tenants"), 3.0);
    assert_eq!(page.get("insula_deploys_total{result=\"changed\"}"), 3.0);
    assert_eq!(page.sum("insula_compilations_total", "succeeded"), 2.0);
    assert!(page.get("process_resident_memory_bytes") > 1e6);
    // The API and the command line tell the same.
    let tenant = host.tenant("hello").summary;
    assert_eq!((tenant.counters.status_2xx, tenant.counters.status_5xx), (20, 0));
    let p50_ms = tenant.latency.p50_ms.unwrap();
    assert!(p50_ms > 0.0 && Some(p50_ms) <= tenant.latency.p99_ms, "{:?}", tenant.latency);
    let shown = host.must(["inspect", "hello"]).stdout;
    assert!(shown.contains("latency") && shown.contains("p99"), "{shown}");

    // The same page is on the address of its own, and nothing else is.
    let at = host.info().metrics.unwrap().parse().unwrap();
    let answer = Connection::open(at).get("localhost", "/metrics");
    assert_eq!(answer.status(), 200);
    let theirs = Page::of(answer.text());
    assert_eq!(theirs.sum("insula_http_requests_total", ""), 28.0);
    for path in ["/", "/v1/tenants", "/v1/host", "/healthz"] {
        assert_eq!(Connection::open(at).get("localhost", path).status(), 404, "{path}");
    }
    let posted = Connection::open(at).ask("POST", "localhost", "/metrics", &[], Some(b"x"));
    assert_eq!(posted.status(), 405);
    promtool(&page.text);
}

/// Prometheus' own tool has nothing to say about a page.
fn promtool(page: &str) {
    let own = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let own = own.join(".cache/insula/prometheus/usr/bin/promtool");
    let tool = std::env::var_os("INSULA_PROMTOOL").map(PathBuf::from);
    let tool = tool.or(own.is_file().then_some(own)).unwrap_or("promtool".into());
    let checker = Command::new(tool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut checker) = checker else {
        return repo::skipped("promtool check metrics", ".ci/run, which gets promtool");
    };
    let text = page.to_owned();
    let mut stdin = checker.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let checked = checker.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}\n{page}");
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let host = Host::with_guests(&["hello"]);
    host.get("hello", "/").expect_ok();
    let found: BTreeSet<String> = scrape(&host).families.into_keys().collect();
    let readme = repo::text("README.md");
    let section = readme.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert!(found.len() > 30, "{found:?}");
    assert_eq!(found, documented);
}

#[test]
fn series_are_bounded_sums_are_exact_and_no_counter_falls() {
    let host = Setup::new().args(["--metrics-tenants", "2"]).start();
    for name in ["a", "b", "c", "d"] {
        host.deploy(name, &hello(), &[]);
    }
    let ask = |name: &str, times: usize| {
        for _ in 0..times {
            host.get(name, "/").expect_ok();
        }
    };
    ask("a", 1);
    let page = settled(&host, 1.0);
    let tenants = |page: &Page| page.values("insula_http_requests_total", "tenant");
    assert_eq!(tenants(&page), ["_other", "a"].map(str::to_owned).into());
    ask("b", 1);
    ask("c", 3);
    ask("d", 2);
    // One place is left, and `c` has had most.
    let page = settled(&host, 7.0);
    assert_eq!(tenants(&page), ["_other", "a", "c"].map(str::to_owned).into());
    let other = |page: &Page| page.sum("insula_http_requests_total", "tenant=\"_other\"");
    assert_eq!(other(&page), 3.0);
    // A removed tenant takes its series along; what others did, stays.
    host.must(["rm", "d"]);
    eventually("its row is cleared", || {
        (scrape(&host).get("insula_tenants_active") == 3.0).then_some(())
    });
    assert_eq!(other(&scrape(&host)), 3.0);
    host.must(["rm", "a"]);
    ask("b", 4);
    let page = eventually("b has the place", || {
        let page = scrape(&host);
        tenants(&page).contains("b").then_some(page)
    });
    // What it did before, stays where it was shown.
    eventually("b's are counted", || {
        let page = scrape(&host);
        let b = page.sum("insula_http_requests_total", "tenant=\"b\"");
        (other(&page) + b == 7.0).then_some(())
    });
    assert!(other(&page) >= 3.0);
    assert_eq!(page.get("insula_metrics_series"), 3.0);
}

#[test]
fn series_may_be_by_namespace() {
    let host = Setup::new().config("[metrics]\nby = \"namespace\"\n").start();
    host.must(["namespace", "set", "team"]);
    host.deploy("one", &hello(), &[]);
    host.deploy("two", &hello(), &["--namespace", "team"]);
    host.deploy("three", &hello(), &["--namespace", "team"]);
    for name in ["one", "two", "two", "three"] {
        host.get(name, "/").expect_ok();
    }
    settled(&host, 4.0);
    host.must(["rm", "three"]);
    eventually("its row is cleared", || {
        (scrape(&host).get("insula_tenants_active") == 2.0).then_some(())
    });
    let page = scrape(&host);
    assert_eq!(page.values("insula_http_requests_total", "tenant"), ["_other".to_owned()].into());
    assert_eq!(page.sum("insula_http_requests_total", "namespace=\"team\""), 3.0);
    assert_eq!(page.sum("insula_http_requests_total", "namespace=\"default\""), 1.0);
}

#[test]
fn an_address_that_cannot_be_had_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--metrics", &at];
    insula_tests::cli::run(home.path(), args).expect(1, &["--metrics", &at]);
    let args = ["serve", "--metrics", "9100"];
    insula_tests::cli::run(home.path(), args).expect(2, &["--metrics", "127.0.0.1:9100"]);
}
