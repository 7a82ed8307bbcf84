//! Calls over the network: nothing unless granted, and what is granted within its bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::upstream::{CA, Upstream};
use insula_tests::wait::eventually;
use insula_tests::{Answer, Host, Setup, repo};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static HOST: LazyLock<Host> = LazyLock::new(Host::start);

/// Deploys `relay` as `name` with this more in its manifest.
#[track_caller]
fn grant(host: &Host, guest: &str, name: &str, more: &str) {
    let component = repo::guest(guest);
    let manifest = format!("name = \"{name}\"\ncomponent = {component:?}\n{more}\n");
    let file = host.file(&format!("{name}.toml"), manifest);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
}

/// Deploys `relay` with these hosts, and loopback among what names may resolve to.
#[track_caller]
fn relay(name: &str, hosts: &[String], more: &str) {
    let private = r#"private = ["127.0.0.0/8", "::1/128"]"#;
    grant(&HOST, "relay", name, &format!("[outbound]\nhosts = {hosts:?}\n{private}\n{more}"));
}

fn local(upstream: &Upstream) -> String {
    format!("http://localhost:{}", upstream.port())
}

/// Has `name` call `url`.
#[track_caller]
fn call(name: &str, url: &str) -> Answer {
    HOST.get(name, &format!("/?url={url}"))
}

/// The call fails with `error`, and the tenant's log says why.
#[track_caller]
fn fails(name: &str, url: &str, error: &str, told: &[&str]) {
    let answer = call(name, url);
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert!(answer.text().contains(error), "{url}: {}", answer.text());
    let record = HOST.eventually_told(name, answer.request_id(), "outbound: ");
    for words in told {
        assert!(record.text.contains(words), "{words}: {record:?}");
    }
}

#[test]
fn nothing_is_granted_by_default() {
    for (guest, name) in [("relay", "bare"), ("relay-p3", "bare-p3")] {
        let upstream = Upstream::plain();
        grant(&HOST, guest, name, "");
        for url in [
            format!("{}/head", local(&upstream)),
            format!("http://127.0.0.1:{}/head", upstream.port()),
            "http://bare.internal/".into(),
            "https://example.com/".into(),
        ] {
            fails(name, &url, "HttpRequestDenied", &["outbound", "hosts = ["]);
        }
        assert_eq!(upstream.accepted(), 0);
    }
}

#[test]
fn a_granted_host_is_called_and_no_other() {
    let (upstream, other) = (Upstream::plain(), Upstream::plain());
    relay("granted", &[local(&upstream)], "");
    let head = call("granted", &format!("{}/head", local(&upstream))).expect_ok().text();
    assert!(head.starts_with("GET /head HTTP/1.1\r\n"), "{head}");
    // The port, the scheme and the name are part of the grant.
    let mend = ["outbound.hosts", "http"];
    fails("granted", &format!("{}/head", local(&other)), "HttpRequestDenied", &mend);
    let https = format!("https://localhost:{}/head", upstream.port());
    fails("granted", &https, "HttpRequestDenied", &["add \"https://localhost:"]);
    let address = format!("http://127.0.0.1:{}/head", upstream.port());
    fails("granted", &address, "HttpRequestDenied", &mend);
    // What looks like the name and is not.
    let disguised = format!("http://localhost:{}@127.0.0.1:{}/head", upstream.port(), other.port());
    let answer = call("granted", &disguised);
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert_eq!((upstream.accepted(), other.accepted()), (1, 0));
}

#[test]
fn an_async_service_calls_as_well() {
    let upstream = Upstream::plain();
    let hosts =
        format!("[outbound]\nhosts = [{:?}]\nprivate = [\"127.0.0.0/8\"]", local(&upstream));
    grant(&HOST, "relay-p3", "granted-p3", &hosts);
    let head = call("granted-p3", &format!("{}/head", local(&upstream))).expect_ok().text();
    assert!(head.starts_with("GET /head HTTP/1.1\r\n"), "{head}");
    let url = format!("/?url={}/echo", local(&upstream));
    let body = b"to and fro".repeat(20_000);
    let echoed = HOST.connect().ask("POST", "granted-p3.localhost", &url, &[], Some(&body));
    assert!(echoed.expect_ok().body == body);
    fails("granted-p3", &format!("{}/large-head", local(&upstream)), "HeaderSectionSize", &[]);
}

#[test]
fn a_name_must_not_resolve_to_a_private_address() {
    let upstream = Upstream::plain();
    let listed = format!("http://127.0.0.1:{}", upstream.port());
    let rules = format!("[outbound]\nhosts = [\"http://*:*\", {listed:?}]");
    grant(&HOST, "relay", "public", &rules);
    let refused = "DestinationIpProhibited";
    let mend = ["127.0.0.1", "outbound.private"];
    fails("public", &format!("{}/head", local(&upstream)), refused, &mend);
    fails("public", "http://169.254.169.254/latest/meta-data", refused, &["169.254.169.254"]);
    fails("public", &format!("http://127.1:{}/head", upstream.port()), refused, &mend);
    fails("public", &format!("http://[::ffff:127.0.0.1]:{}/", upstream.port() + 1), refused, &[]);
    fails("public", "http://[::1]/", refused, &["::1"]);
    fails("public", "http://10.0.0.1/", refused, &["10.0.0.1"]);
    assert_eq!(upstream.accepted(), 0);
    // An address that the manifest names is meant.
    call("public", &format!("{listed}/head")).expect_ok();
}

#[test]
fn methods_fields_and_bodies_pass_and_the_host_field_cannot_be_chosen() {
    let upstream = Upstream::plain();
    relay("passing", &[local(&upstream)], "");
    let body = b"to and fro".repeat(30_000);
    let target = format!("/?url={}/echo", local(&upstream));
    let fields = [("x-mine", "kept"), ("te", "trailers"), ("connection", "x-hop"), ("x-hop", "1")];
    let echoed = HOST.connect().ask("PUT", "passing.localhost", &target, &fields, Some(&body));
    assert!(echoed.expect_ok().body == body);
    let head = upstream.heads().pop().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("put /echo http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nx-mine: kept\r\n"), "{head}");
    // The guest passed the `Host` that it got; what is sent is what was called.
    assert!(head.contains(&format!("\r\nhost: localhost:{}\r\n", upstream.port())), "{head}");
    for absent in ["passing.localhost", "\r\nte:", "x-hop", "\r\nconnection:"] {
        assert!(!head.contains(absent), "{absent}: {head}");
    }
    // Redirects are the guest's business.
    let redirect = call("passing", &format!("{}/redirect", local(&upstream)));
    assert_eq!((redirect.status(), redirect.field("location")), (302, Some("/head")));
}

#[test]
fn sizes_are_bounded_in_both_directions() {
    let upstream = Upstream::plain();
    relay("sized", &[local(&upstream)], "request = \"20k\"\nresponse = \"20k\"");
    let at = local(&upstream);
    call("sized", &format!("{at}/length/20000")).expect_ok();
    fails("sized", &format!("{at}/declare/20001"), "HttpResponseBodySize", &["outbound.response"]);
    // Without a declared length it shows only on the way, and the part must not pass for the whole.
    call("sized", &format!("{at}/chunked/20000")).expect_ok();
    let cut = call("sized", &format!("{at}/chunked/40000"));
    assert!(cut.status() == 200 && !cut.whole, "{} {}", cut.status(), cut.body.len());
    assert!(cut.body.len() <= 20_000, "{}", cut.body.len());
    fails("sized", &format!("{at}/large-head"), "HttpResponseHeaderSectionSize", &[]);

    let target = format!("/?url={at}/echo");
    let post = |length| {
        let body = vec![b'x'; length];
        HOST.connect().ask("POST", "sized.localhost", &target, &[], Some(&body))
    };
    assert_eq!(post(20_000).expect_ok().body.len(), 20_000);
    let refused = post(20_001);
    assert!(refused.text().contains("HttpRequestBodySize"), "{}", refused.text());
    HOST.eventually_told("sized", refused.request_id(), "outbound: POST");
    // The same without a declared length.
    let mut connection = HOST.connect();
    let piece = format!("3e8\r\n{}\r\n", "x".repeat(1_000)).repeat(30);
    connection.send(format!(
        "POST {target} HTTP/1.1\r\nhost: sized.localhost\r\ntransfer-encoding: chunked\r\n\r\n{piece}0\r\n\r\n"
    ));
    let refused = connection.answer();
    assert!(refused.text().contains("HttpRequestBodySize"), "{}", refused.text());
}

#[test]
fn calls_end_in_time_and_the_guest_may_shorten_it() {
    let upstream = Upstream::plain();
    relay("timed", &[local(&upstream)], "timeout = \"400ms\"");
    let at = local(&upstream);
    let begun = Instant::now();
    fails("timed", &format!("{at}/hold"), "HttpResponseTimeout", &["in time"]);
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let cut = call("timed", &format!("{at}/drip"));
    assert!(cut.status() == 200 && !cut.whole, "{}", cut.text());
    eventually("the calls that timed out are closed", || (upstream.held() == 0).then_some(()));

    relay("patient", &[local(&upstream)], "");
    let begun = Instant::now();
    fails("patient", &format!("{at}/hold&first=200"), "HttpResponseTimeout", &[]);
    let cut = call("patient", &format!("{at}/drip&between=200"));
    assert!(cut.status() == 200 && !cut.whole, "{}", cut.text());
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());

    // However long a call may take, it ends with the request that it is made for.
    let hosts = format!(
        "timeout = \"500ms\"\n[outbound]\nhosts = [{at:?}]\nprivate = [\"127.0.0.0/8\"]\ntimeout = \"60s\""
    );
    grant(&HOST, "relay", "hasty", &hosts);
    let begun = Instant::now();
    // Both end at the same instant; which the client hears of first is chance.
    let status = call("hasty", &format!("{at}/hold")).status();
    assert!(matches!(status, 502 | 504), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    eventually("its call is closed as well", || (upstream.held() == 0).then_some(()));
}

#[test]
fn a_client_that_goes_away_ends_the_call() {
    let upstream = Upstream::plain();
    relay("left", &[local(&upstream)], "");
    for path in ["hold", "drip"] {
        let mut connection = HOST.connect();
        let target = format!("/?url={}/{path}", local(&upstream));
        connection.send(format!("GET {target} HTTP/1.1\r\nhost: left.localhost\r\n\r\n"));
        eventually("the call is under way", || (upstream.held() == 1).then_some(()));
        drop(connection);
        eventually("the call has ended", || (upstream.held() == 0).then_some(()));
    }
}

#[test]
fn only_so_many_calls_are_under_way() {
    let upstream = Upstream::plain();
    // One worker, so that all are counted together.
    let host = Setup::default().args(["--workers", "1"]).start();
    let hosts = format!(
        "[outbound]\nhosts = [{:?}]\nprivate = [\"127.0.0.0/8\"]\nconcurrency = 2",
        local(&upstream)
    );
    grant(&host, "relay", "few", &hosts);
    let target = |path: &str| format!("/?url={}/{path}", local(&upstream));
    let holding = || {
        let mut connection = host.connect();
        connection.send(format!("GET {} HTTP/1.1\r\nhost: few.localhost\r\n\r\n", target("hold")));
        connection
    };
    let held = [holding(), holding()];
    eventually("both are under way", || (upstream.held() == 2).then_some(()));
    let refused = host.get("few", &target("head"));
    assert!(refused.text().contains("ConnectionLimitReached"), "{}", refused.text());
    let told = host.eventually_told("few", refused.request_id(), "outbound: ");
    assert!(told.text.contains("outbound.concurrency"), "{told:?}");
    drop(held);
    eventually("there is room again", || {
        (host.get("few", &target("head")).status() == 200).then_some(())
    });
}

#[test]
fn connections_are_kept_for_one_tenant_and_shared_with_none() {
    let upstream = Upstream::plain();
    let host = Setup::default().args(["--workers", "1"]).start();
    let hosts =
        format!("[outbound]\nhosts = [{:?}]\nprivate = [\"127.0.0.0/8\"]", local(&upstream));
    let target = format!("/?url={}/head", local(&upstream));
    for (name, accepted) in [("first", 1), ("second", 2)] {
        grant(&host, "relay", name, &hosts);
        for _ in 0..5 {
            host.get(name, &target).expect_ok();
        }
        assert_eq!(upstream.accepted(), accepted, "{name}");
    }
    assert_eq!(upstream.heads().len(), 10);
    host.must(["rm", "first"]);
    eventually("its idle connection is closed", || (upstream.open() == 1).then_some(()));
}

#[test]
fn what_does_not_answer_is_told_by_its_name() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hosts = [format!("http://localhost:{port}"), "http://no-such-name.invalid".into()];
    relay("unanswered", &hosts, "");
    let refused = ["cannot connect to", "127.0.0.1"];
    fails("unanswered", &format!("http://localhost:{port}/"), "ConnectionRefused", &refused);
    // Without a network nobody knows whether there is such a name.
    let answer = call("unanswered", "http://no-such-name.invalid/").text();
    assert!(answer.contains("DnsError") || answer.contains("DnsTimeout"), "{answer}");
}

#[test]
fn tls_trusts_what_the_configuration_adds_and_nothing_unknown() {
    let upstream = Upstream::tls();
    let at = format!("https://localhost:{}", upstream.port());
    relay("untrusting", std::slice::from_ref(&at), "");
    let told = ["certificate is not trusted", "[outbound] ca"];
    fails("untrusting", &format!("{at}/head"), "TlsCertificateError", &told);
    assert!(upstream.heads().is_empty());

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, CA).unwrap();
    let config = format!("[outbound]\nca = {ca:?}\n");
    let host = Setup::new().config(&config).start();
    let hosts = format!("[outbound]\nhosts = [{at:?}]\nprivate = [\"127.0.0.0/8\", \"::1/128\"]");
    grant(&host, "relay", "trusting", &hosts);
    let head = host.get("trusting", &format!("/?url={at}/head")).expect_ok().text();
    assert!(head.starts_with("GET /head HTTP/1.1\r\n"), "{head}");
}

#[test]
fn http_2_is_spoken_where_the_server_speaks_it() {
    let upstream = Upstream::h2();
    let at = format!("https://localhost:{}", upstream.port());
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, CA).unwrap();
    let config = format!("[outbound]\nca = {ca:?}\n");
    let host = Setup::default().args(["--workers", "1"]).config(&config).start();
    let hosts = format!("[outbound]\nhosts = [{at:?}]\nprivate = [\"127.0.0.0/8\"]");
    grant(&host, "relay", "modern", &hosts);
    for path in ["/a", "/b?c", "/d"] {
        let answer = host.get("modern", &format!("/?url={at}{path}"));
        // The URL is in the request's own fields; a `Host` would say it twice.
        assert_eq!(answer.expect_ok().text(), format!("HTTP/2.0 GET {at}{path}"));
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_file_without_certificates_does_not_start_a_host() {
    let dir = tempfile::tempdir().unwrap();
    for (text, says) in [
        ("nothing here\n", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    ] {
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, text).unwrap();
        let config = format!("[outbound]\nca = {ca:?}\n");
        let output = Setup::new().config(&config).command(dir.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(says) && told.contains("outbound.ca"), "{told}");
    }
}
