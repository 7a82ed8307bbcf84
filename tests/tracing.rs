//! Traces: in with a request, through guests, out with calls, and to a collector.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::collector::Collector;
use insula_tests::upstream::Upstream;
use insula_tests::wait::eventually;
use insula_tests::{Answer, Connection, Host, Setup, repo};
use rustix::process::Signal;
use serde_json::Value;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// The span of one tenant's one request, and those below it.
#[track_caller]
fn spans_of(collector: &Collector, tenant: &str) -> (Value, Vec<Value>) {
    let name = format!("GET {tenant}");
    eventually(&format!("a span `{name}`"), || {
        let spans = collector.spans();
        let own = spans.iter().find(|span| span["name"] == name.as_str())?.clone();
        let below = |span: &&Value| span["parentSpanId"] == own["spanId"] && span["kind"] == 1;
        Some((own.clone(), spans.iter().filter(below).cloned().collect()))
    })
}

fn ask(host: &Host, tenant: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
    Connection::open(host.addr()).ask("GET", &format!("{tenant}.localhost"), target, fields, None)
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let all = span["attributes"].as_array().unwrap();
    &all.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("{key}: {span}"))["value"]
}

/// Deploys `prowler`, which calls without any fields of its own.
fn prowler(host: &Host, hosts: &[&str]) {
    let component = repo::guest("prowler");
    let manifest = format!(
        "name = \"prowler\"\ncomponent = {component:?}\n\
         [outbound]\nhosts = {hosts:?}\nprivate = [\"127.0.0.0/8\"]\n"
    );
    let file = host.file("prowler.toml", manifest);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
}

/// The `traceparent` that a guest or a server was given.
fn parent(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.to_lowercase().starts_with("traceparent: "))?;
    Some(line.split_once(": ").unwrap().1.trim().to_owned())
}

#[test]
fn without_a_collector_a_trace_passes_through() {
    let host = Host::with_guests(&["echo", "hostile-trap"]);
    let upstream = Upstream::plain();
    let authority = format!("127.0.0.1:{}", upstream.port());
    prowler(&host, &[&format!("http://{authority}")]);
    let given = format!("00-{TRACE}-{SPAN}-01");
    let fields = [("traceparent", given.as_str()), ("tracestate", "vendor=1")];
    let seen = ask(&host, "echo", "/", &fields).text();
    assert_eq!(parent(&seen), Some(given.clone()));
    assert!(seen.contains("tracestate: vendor=1"), "{seen}");
    // None is made up, and what is not one is not passed on.
    assert_eq!(parent(&ask(&host, "echo", "/", &[]).text()), None);
    for bad in ["00-0-0-0", &format!("00-{}-{SPAN}-01", "0".repeat(32)), "x"] {
        let seen = ask(&host, "echo", "/", &[("traceparent", bad), ("tracestate", "v=1")]).text();
        assert!(!seen.contains("trace"), "{bad}: {seen}");
    }
    // A call out carries it although the guest has not said so.
    ask(&host, "prowler", &format!("/?url={authority}"), &fields).expect_ok();
    let heads = upstream.heads();
    assert_eq!(
        heads.iter().filter_map(|head| parent(head)).collect::<Vec<_>>(),
        std::slice::from_ref(&given)
    );
    assert!(heads.iter().any(|head| head.to_lowercase().contains("tracestate: vendor=1")));
    ask(&host, "prowler", &format!("/?url={authority}"), &[]).expect_ok();
    assert_eq!(upstream.heads().iter().filter_map(|head| parent(head)).count(), 1);
    // The log names it.
    let failed = ask(&host, "hostile-trap", "/go", &fields);
    let record = host.eventually_told("hostile-trap", failed.request_id(), "trap");
    assert_eq!(record.trace.as_deref(), Some(TRACE));
    let failed = ask(&host, "hostile-trap", "/go", &[]);
    assert_eq!(host.eventually_told("hostile-trap", failed.request_id(), "trap").trace, None);
}

#[test]
fn spans_of_every_stage_reach_a_collector() {
    let collector = Collector::start();
    let host = Setup::new().args(["--otlp", &collector.url()]).start();
    host.deploy_guests(&["hello", "echo", "hostile-trap"]);
    prowler(&host, &["http://hello.internal"]);
    // A trace of another's: a span below the one that was named.
    let given = format!("00-{TRACE}-{SPAN}-01");
    let seen = parent(&ask(&host, "echo", "/", &[("traceparent", &given)]).text()).unwrap();
    assert!(seen.starts_with(&format!("00-{TRACE}-")) && seen != given, "{seen}");
    let (span, stages) = spans_of(&collector, "echo");
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!(format!("00-{TRACE}-{}-01", span["spanId"].as_str().unwrap()), seen);
    let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["admit", "load", "instantiate", "run", "respond"]);
    let time = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let mut at = time(&span["startTimeUnixNano"]);
    for stage in &stages {
        assert_eq!(time(&stage["startTimeUnixNano"]), at, "{stages:?}");
        at = time(&stage["endTimeUnixNano"]);
    }
    assert_eq!(at, time(&span["endTimeUnixNano"]));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    assert!((now - 600_000_000_000..=now).contains(&at), "{at} {now}");
    assert_eq!(attribute(&span, "http.response.status_code")["intValue"], "200");
    assert_eq!(attribute(&span, "insula.tenant")["stringValue"], "echo");
    // One that begins here, through two tenants.
    ask(&host, "prowler", "/?url=hello.internal", &[]).expect_ok();
    let ((caller, _), (callee, _)) =
        (spans_of(&collector, "prowler"), spans_of(&collector, "hello"));
    assert_eq!(callee["traceId"], caller["traceId"]);
    assert_eq!(callee["parentSpanId"], caller["spanId"]);
    assert!(caller.get("parentSpanId").is_none() && caller["traceId"] != TRACE, "{caller}");
    // A fault is one, and names itself; it never came to an answer of the guest's.
    let failed = ask(&host, "hostile-trap", "/go", &[]);
    let (span, stages) = spans_of(&collector, "hostile-trap");
    assert_eq!(attribute(&span, "error.type")["stringValue"], "trap");
    assert_eq!(attribute(&span, "insula.request")["stringValue"], failed.request_id());
    assert_eq!((&span["status"]["code"], stages.len()), (&2.into(), 4));
    let record = host.eventually_told("hostile-trap", failed.request_id(), "trap");
    assert_eq!(record.trace.as_deref(), span["traceId"].as_str());
    // A collector that is not well costs spans, and nothing else.
    collector.answers(Some(503));
    ask(&host, "hello", "/", &[]).expect_ok();
    host.eventually_logs("the collector does not take them");
    eventually("they are counted", || {
        let page = host.api_raw("GET", "/metrics", None).text();
        let count = |name: &str| {
            let line = page.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let lost = count("insula_trace_spans_dropped_total");
        (lost >= 5 && count("insula_trace_spans_exported_total") >= 15).then_some(())
    });
}

#[test]
fn requests_that_are_refused_are_spans() {
    let collector = Collector::start();
    let host = Setup::new().args(["--otlp", &collector.url(), "--otlp-sample", "0"]).start();
    host.deploy("busy", &repo::guest("hello"), &["--rate", "1"]);
    host.deploy_guests(&["hello"]);
    // Those that nobody has marked are not recorded, whether they are refused or not.
    let given = format!("00-{TRACE}-{SPAN}-01");
    let refused = eventually("one is refused", || {
        ask(&host, "busy", "/", &[]);
        let marked = ask(&host, "busy", "/", &[("traceparent", &given)]);
        (marked.status() == 429).then_some(marked)
    });
    assert_eq!(refused.fault(), Some("rate-limit"));
    let (span, stages) = eventually("its spans", || {
        let spans = collector.spans();
        let is_own = |span: &&Value| {
            span["kind"] == 2
                && attribute(span, "insula.request")["stringValue"] == refused.request_id()
        };
        let own = spans.iter().find(is_own)?.clone();
        let below = |span: &&Value| span["parentSpanId"] == own["spanId"];
        Some((own.clone(), spans.iter().filter(below).cloned().collect::<Vec<_>>()))
    });
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!(attribute(&span, "http.response.status_code")["intValue"], "429");
    assert_eq!(attribute(&span, "error.type")["stringValue"], "rate-limit");
    // The client's doing, and nothing came after admission.
    assert!(span["status"].get("code").is_none(), "{span}");
    let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["admit"]);
    // What is refused by its head.
    let given = format!("00-{}-{SPAN}-01", TRACE.replace('4', "5"));
    let mut connection = Connection::open(host.addr());
    connection.send(format!(
        "POST / HTTP/1.1\r\nhost: hello.localhost\r\ntraceparent: {given}\r\n\
         content-length: 99999999999\r\n\r\n"
    ));
    assert_eq!(connection.answer().fault(), Some("request-body-too-large"));
    let span = eventually("its span", || {
        collector.spans().into_iter().find(|span| span["name"] == "POST hello")
    });
    assert_eq!(attribute(&span, "http.response.status_code")["intValue"], "413");
    assert_eq!(attribute(&span, "error.type")["stringValue"], "request-body-too-large");
    let marked = [TRACE.to_owned(), TRACE.replace('4', "5")];
    for span in collector.spans() {
        assert!(marked.iter().any(|trace| span["traceId"] == trace.as_str()), "{span}");
    }
}

#[test]
fn only_so_many_traces_are_recorded_as_was_asked_for() {
    let collector = Collector::start();
    let file = format!("[otlp]\nurl = {:?}\nsignals = [\"traces\"]\nsample = 0\n", collector.url());
    let mut host = Setup::new().config(&file).start();
    host.deploy_guests(&["hello", "echo"]);
    // It has a trace of its own all the same, marked as one that nobody records.
    let seen = parent(&ask(&host, "echo", "/", &[]).text()).unwrap();
    assert!(seen.ends_with("-00"), "{seen}");
    // What others record is recorded here, too.
    let given = format!("00-{TRACE}-{SPAN}-01");
    ask(&host, "hello", "/", &[("traceparent", &given)]).expect_ok();
    spans_of(&collector, "hello");
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span["traceId"] == TRACE), "{spans:?}");
    // Metrics are exported at the end at the latest, if they are at all.
    assert!(host.stop(Signal::TERM).success(), "{}", host.log());
    assert!(collector.received("/v1/metrics").is_empty());
}

#[test]
fn a_collector_that_cannot_be_one_is_refused_with_the_mend() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| insula_tests::cli::run(home.path(), ["serve"].iter().chain(args));
    run(&["--otlp", "https://collector:4318"]).expect(2, &["TLS", "http://127.0.0.1:4318"]);
    run(&["--otlp", "127.0.0.1:4318"]).expect(2, &["http://HOST:PORT"]);
    run(&["--otlp-sample", "2"]).expect(2, &["0.01"]);
}
