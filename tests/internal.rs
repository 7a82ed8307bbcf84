//! Calls from tenant to tenant: no socket, but everything that a client's request is held to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::wait::eventually;
use insula_tests::{Answer, Host, repo};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static HOST: LazyLock<Host> = LazyLock::new(|| {
    Host::with_guests(&["hello", "hello-p3", "echo", "sse", "hostile-endless", "hostile-trap"])
});

/// Deploys a guest as `name` with this more in its manifest.
#[track_caller]
fn deploy(guest: &str, name: &str, more: &str) {
    let component = repo::guest(guest);
    let manifest = format!("name = \"{name}\"\ncomponent = {component:?}\n{more}\n");
    let file = HOST.file(&format!("{name}.toml"), manifest);
    HOST.must(["deploy", "-f", file.to_str().unwrap()]);
}

/// Deploys `relay` as `name`, which may call these.
#[track_caller]
fn relay(name: &str, hosts: &[&str]) {
    deploy("relay", name, &format!("[outbound]\nhosts = {hosts:?}"));
}

#[track_caller]
fn call(name: &str, url: &str) -> Answer {
    HOST.get(name, &format!("/?url={url}"))
}

#[track_caller]
fn fails(name: &str, url: &str, error: &str, told: &str) {
    let answer = call(name, url);
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert!(answer.text().contains(error), "{url}: {}", answer.text());
    let record = HOST.eventually_told(name, answer.request_id(), "outbound: ");
    assert!(record.text.contains(told), "{told}: {record:?}");
}

#[test]
fn a_listed_tenant_answers_and_counts_the_request_as_its_own() {
    deploy("hello", "counted", "");
    deploy("hello-p3", "counted-p3", "");
    relay("calling", &["http://counted.internal", "http://counted-p3.internal"]);
    for name in ["counted", "counted-p3"] {
        for _ in 0..3 {
            let answer = call("calling", &format!("http://{name}.internal/"));
            assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n");
        }
        eventually("its counters say so", || (HOST.counters(name).responses == 3).then_some(()));
    }
    assert_eq!(HOST.counters("calling").responses, 6);
}

#[test]
fn what_is_not_listed_is_refused_and_what_is_not_there_is_not_found() {
    relay("narrow", &["http://hello.internal", "http://absent.internal", "https://*", "http://*"]);
    let mend = "add \"http://echo.internal\"";
    fails("narrow", "http://echo.internal/", "HttpRequestDenied", mend);
    fails("narrow", "https://hello.internal/", "HttpRequestDenied", "outbound.hosts");
    fails("narrow", "http://hello.internal:8080/", "HttpRequestDenied", "outbound.hosts");
    fails("narrow", "http://absent.internal/", "DnsError", "no tenant `absent`");
    // A route under another name leads to no tenant.
    fails("narrow", "http://narrow.internal/", "HttpRequestDenied", "outbound.hosts");
    // In any spelling of the name.
    call("narrow", "http://HELLO.internal./").expect_ok();
}

#[test]
fn clients_cannot_use_the_internal_names() {
    HOST.get("hello", "/").expect_ok();
    let answer = HOST.connect().get("hello.internal", "/");
    assert_eq!((answer.status(), answer.fault()), (404, Some("no-route")));
    let hello = repo::guest("hello");
    let output = HOST.cli(["deploy", "stolen", hello.to_str().unwrap(), "--route", "x.internal"]);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("tenant to tenant"), "{}", output.stderr);
}

#[test]
fn the_callee_knows_its_caller_and_cannot_be_lied_to() {
    relay("honest", &["http://echo.internal"]);
    let fields = [("forwarded", "for=10.0.0.1"), ("x-request-id", "mine"), ("x-other", "kept")];
    let target = "/?url=http://echo.internal/a?b";
    let seen = HOST.connect().ask("GET", "honest.localhost", target, &fields, None);
    let text = seen.expect_ok().text();
    assert!(text.starts_with("GET /a?b\n"), "{text}");
    for line in ["host: echo.internal\n", "forwarded: for=_honest;proto=http\n", "x-other: kept\n"]
    {
        assert!(text.contains(line), "{line:?}: {text}");
    }
    assert_eq!(text.matches("forwarded:").count(), 1, "{text}");
    // Each request has an id of its own.
    assert!(!text.contains("mine") && !text.contains(seen.request_id()), "{text}");
}

#[test]
fn a_callee_that_fails_answers_its_caller_as_it_would_a_client() {
    relay("unlucky", &["http://hostile-trap.internal", "http://hostile-endless.internal"]);
    let before = HOST.counters("hostile-trap").guest_faults;
    let answer = call("unlucky", "http://hostile-trap.internal/go");
    assert_eq!(answer.status(), 500, "{}", answer.text());
    // It is the callee's fault, not the caller's.
    assert_eq!(answer.fault(), None);
    assert_eq!(HOST.counters("hostile-trap").guest_faults, before + 1);
    // Cut in its body, the caller's answer must not pass for whole either.
    let cut = call("unlucky", "http://hostile-endless.internal/go");
    assert!(cut.status() == 200 && !cut.whole, "{} {}", cut.status(), cut.body.len());
    HOST.get("hostile-trap", "/").expect_ok();
}

#[test]
fn a_tenant_may_call_itself_but_not_past_its_concurrency() {
    let more = "concurrency = 1\nqueue_wait = \"100ms\"\n[outbound]\nhosts = [\"self\"]";
    deploy("relay", "alone", more);
    let begun = Instant::now();
    let answer = call("alone", "http://alone.internal/");
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    deploy("relay", "again", "[outbound]\nhosts = [\"self\", \"http://hello.internal\"]");
    let nested = "http://again.internal/?url=http://hello.internal/";
    assert_eq!(call("again", nested).expect_ok().text(), "Hello from Insula!\n");
}

#[test]
fn what_runs_may_call_on_while_the_host_drains() {
    let mut host = Host::start();
    let manifest = format!(
        "name = \"alone\"\ncomponent = {:?}\nconcurrency = 1\nqueue_wait = \"2s\"\n\
         [outbound]\nhosts = [\"self\"]\n",
        repo::guest("relay")
    );
    let file = host.file("alone.toml", manifest);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
    let mut connection = host.connect();
    let target = "/?url=http://alone.internal/";
    connection.send(format!("GET {target} HTTP/1.1\r\nhost: alone.localhost\r\n\r\n"));
    eventually("it runs", || (host.counters("alone").running == 1).then_some(()));
    // Its own call waits in the queue by now; new requests find the host closed, this one a full tenant.
    host.stop(rustix::process::Signal::TERM);
    let answer = connection.answer();
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert!(answer.text().contains("the application is busy"), "{}", answer.text());
}

#[test]
fn a_loop_of_tenants_ends_at_the_hop_limit() {
    relay("ping", &["http://pong.internal"]);
    relay("pong", &["http://ping.internal"]);
    // Each passes the rest on to the other.
    let url = |hops: usize| {
        let names = ["pong", "ping"].iter().cycle().take(hops);
        names.map(|name| format!("/?url=http://{name}.internal")).collect::<String>()
    };
    // The ninth is one too many; the tenth URL is never called.
    let answer = HOST.get("ping", &format!("{}/", url(9)));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert!(answer.text().contains("LoopDetected"), "{}", answer.text());
    let told = |name: &str| {
        HOST.records(name).iter().any(|record| record.text.contains("8 tenants call each other"))
    };
    eventually("the log of the last one says so", || (told("ping") || told("pong")).then_some(()));
    let calls = || HOST.counters("ping").responses + HOST.counters("pong").responses;
    eventually("nine requests were served", || (calls() == 9).then_some(()));
}

#[test]
fn the_callees_limits_hold() {
    deploy("echo", "small", "request = { body = \"10k\" }\nresponse = { body = \"10k\" }");
    relay("large", &["http://small.internal"]);
    let post = |length: usize, chunked: bool| {
        let target = "/?url=http://small.internal/";
        let body = vec![b'x'; length];
        let mut connection = HOST.connect();
        if !chunked {
            return connection.ask("POST", "large.localhost", target, &[], Some(&body));
        }
        connection.send(format!(
            "POST {target} HTTP/1.1\r\nhost: large.localhost\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n"
        ));
        connection.send(&body);
        connection.send("\r\n0\r\n\r\n");
        connection.answer()
    };
    assert_eq!(post(10_000, false).expect_ok().body.len(), 10_000);
    assert_eq!(post(10_001, false).status(), 413);
    let late = post(20_000, true);
    assert!(late.status() == 413 || !late.whole, "{} {}", late.status(), late.body.len());
}

#[test]
fn answers_stream_through() {
    relay("streaming", &["http://sse.internal"]);
    let mut connection = HOST.connect();
    let target = "/?url=http://sse.internal/?n=3&ms=400";
    connection.send(format!("GET {target} HTTP/1.1\r\nhost: streaming.localhost\r\n\r\n"));
    let begun = Instant::now();
    let head = connection.head().unwrap();
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    let mut framing = head.framing();
    let first = connection.piece(&mut framing).unwrap().unwrap();
    assert!(first.starts_with(b"id: 1\n"), "{}", String::from_utf8_lossy(&first));
    // The first event is here before the last can have been written.
    let early = begun.elapsed();
    let mut rest = Vec::new();
    while let Some(piece) = connection.piece(&mut framing).unwrap() {
        rest.extend(piece);
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("id: 2\n"), "{rest}");
    // Events that were gathered would come all at once.
    assert!(begun.elapsed() - early >= Duration::from_millis(300), "{early:?}");
}

#[test]
fn a_client_that_goes_away_ends_caller_and_callee() {
    deploy("sse", "endless", "timeout = \"60s\"\nfuel = \"1T\"");
    let more = "timeout = \"60s\"\n[outbound]\nhosts = [\"http://endless.internal\"]";
    deploy("relay", "leaving", more);
    let mut connection = HOST.connect();
    let target = "/?url=http://endless.internal/?n=100000";
    connection.send(format!("GET {target} HTTP/1.1\r\nhost: leaving.localhost\r\n\r\n"));
    assert_eq!(connection.head().unwrap().status, 200);
    assert_eq!(HOST.counters("endless").running, 1);
    drop(connection);
    for name in ["leaving", "endless"] {
        eventually("it has ended", || {
            let counters = HOST.counters(name);
            (counters.running == 0 && counters.client_faults == 1).then_some(())
        });
    }
}

#[test]
fn large_bodies_pass_without_piling_up() {
    deploy(
        "echo",
        "wide",
        "request = { body = \"1Gi\" }\nresponse = { body = \"1Gi\" }\ntimeout = \"60s\"",
    );
    let more = "request = { body = \"1Gi\" }\nresponse = { body = \"1Gi\" }\ntimeout = \"60s\"\n\
                [outbound]\nhosts = [\"http://wide.internal\"]\nrequest = \"1Gi\"\nresponse = \"1Gi\"";
    deploy("relay", "pipe", more);
    let body: Vec<u8> = (0..16_u32 << 20).map(|at| (at % 251) as u8).collect();
    let target = "/?url=http://wide.internal/";
    let echoed = std::thread::scope(|scope| {
        let mut connection = HOST.connect();
        let mut writer = insula_tests::Connection::over(connection.stream.try_clone().unwrap());
        let body = &body;
        scope.spawn(move || {
            writer.send(format!(
                "POST {target} HTTP/1.1\r\nhost: pipe.localhost\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ));
            writer.send(body);
        });
        connection.answer()
    });
    assert!(echoed.expect_ok().body == body);

    // A client that reads nothing holds back everyone in the chain.
    let mut connection = HOST.connect();
    connection.send(format!(
        "POST {target} HTTP/1.1\r\nhost: pipe.localhost\r\ncontent-length: {}\r\n\r\n",
        1 << 30
    ));
    let timeout = Some(Duration::from_millis(500));
    connection.stream.set_write_timeout(timeout).unwrap();
    let piece = vec![0; 1 << 20];
    let mut taken: usize = 0;
    while std::io::Write::write(&mut connection.stream, &piece).is_ok_and(|sent| {
        taken += sent;
        taken < 256 << 20
    }) {}
    assert!(taken < 64 << 20, "{taken} bytes were taken and held somewhere");
}
