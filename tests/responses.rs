//! Guests' answers on their way out: what goes through as it is, and what is not HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::h2::{self, Http2};
use insula_tests::http::{Framing, is_timeout};
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Answer, Host, repo};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello"]));

/// Deploys a guest that answers so.
#[track_caller]
fn deploy(name: &str, canned: &Canned<'_>) {
    let file = HOST.file(&format!("{name}.wasm"), responder(canned));
    HOST.deploy(name, &file, &[]);
}

#[test]
fn a_guests_answer_goes_through_as_it_is() {
    let fields: [(&str, &[u8]); 7] = [
        ("content-type", b"text/x-test; charset=\"a\""),
        ("set-cookie", b"a=1"),
        ("set-cookie", b"b=2"),
        ("X-Mixed-Case", b"kept"),
        ("x-high", b"caf\xe9"),
        ("x-empty", b""),
        ("etag", b"\"x\""),
    ];
    deploy(
        "plain",
        &Canned { status: 418, fields: &fields, body: &["tea", "pot"], ..Canned::default() },
    );
    let mut connection = HOST.connect();
    for _ in 0..3 {
        let answer = connection.get("plain.localhost", "/");
        assert_eq!((answer.status(), answer.text().as_str()), (418, "teapot"));
        assert!(answer.whole);
        assert_eq!(answer.field("content-type"), Some("text/x-test; charset=\"a\""));
        let cookies: Vec<&str> = answer
            .head
            .fields
            .iter()
            .filter(|(name, _)| name == "set-cookie")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(answer.field("x-mixed-case"), Some("kept"));
        assert_eq!(answer.field("x-empty"), Some(""));
        assert!(answer.field("x-high").is_some_and(|value| value.starts_with("caf")));
    }
}

#[test]
fn what_is_the_hosts_to_say_a_guest_cannot_say() {
    let fields: [(&str, &[u8]); 9] = [
        ("connection", b"close"),
        ("keep-alive", b"timeout=1"),
        ("proxy-connection", b"close"),
        ("transfer-encoding", b"gzip, chunked"),
        ("upgrade", b"websocket"),
        ("x-request-id", b"forged"),
        ("insula-fault", b"draining"),
        ("date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        ("x-own", b"yes"),
    ];
    deploy("claims", &Canned { fields: &fields, body: &["x"], ..Canned::default() });
    let mut connection = HOST.connect();
    for _ in 0..2 {
        let answer = connection.get("claims.localhost", "/");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "x"));
        assert_eq!(answer.field("x-own"), Some("yes"));
        for name in ["connection", "keep-alive", "proxy-connection", "upgrade"] {
            assert_eq!(answer.field(name), None, "{name}");
        }
        assert!(answer.field("transfer-encoding").is_none_or(|value| value == "chunked"));
        assert_ne!(answer.field("x-request-id"), Some("forged"));
        // Who reads this word must be able to believe it.
        assert_eq!(answer.fault(), None, "a guest passed its answer off as the host's");
        let dates = answer.head.fields.iter().filter(|(name, _)| name == "date").count();
        assert_eq!(dates, 1);
    }
}

/// The answer to a request, if there is one that is whole; and the next on the same connection must be
/// what was asked for, or the connection must be closed.
#[track_caller]
fn exchange(name: &str) -> Option<Answer> {
    let mut connection = HOST.connect();
    let answer = connection.try_ask("GET", &format!("{name}.localhost"), "/", &[], None);
    match connection.try_ask("GET", "hello.localhost", "/", &[], None) {
        Ok(next) => assert_eq!(next.expect_ok().text(), "Hello from Insula!\n", "after {name}"),
        Err(error) => assert!(!is_timeout(&error), "{name}: the next request is never answered"),
    }
    HOST.get("hello", "/").expect_ok();
    answer.ok().filter(|answer| answer.whole)
}

#[test]
fn a_body_that_is_not_as_long_as_declared_is_not_passed_off_as_whole() {
    for (name, length, body) in [
        ("short", "10", &["abc"][..]),
        ("short-pieces", "10", &["abc", "def"]),
        ("missing", "10", &[]),
        ("long", "2", &["abc"]),
        ("long-pieces", "4", &["abc", "def"]),
        ("none-declared", "0", &["abc"]),
    ] {
        let fields = [("content-length", length.as_bytes())];
        deploy(name, &Canned { fields: &fields, body, ..Canned::default() });
        match exchange(name) {
            None => {}
            Some(answer) => {
                answer.expect_fault("bad-response");
                HOST.eventually_told(name, answer.request_id(), "bad-response");
            }
        }
        let counters = HOST.counters(name);
        assert_eq!((counters.guest_faults, counters.responses), (1, 0), "{name}: {counters:?}");
    }
    // As declared, it is right; HTTP leaves nothing to guess.
    let fields: [(&str, &[u8]); 1] = [("content-length", b"6")];
    deploy("exact", &Canned { fields: &fields, body: &["abc", "def"], ..Canned::default() });
    let answer = exchange("exact").expect("whole");
    assert_eq!(answer.expect_ok().text(), "abcdef");
    assert_eq!(answer.head.framing(), Framing::Length(6));
}

#[test]
fn lengths_that_are_none_never_reach_the_wire() {
    let nonsense: [&[(&str, &[u8])]; 5] = [
        &[("content-length", b"abc")],
        &[("content-length", b"-1")],
        &[("content-length", b"3"), ("content-length", b"5")],
        &[("content-length", b"3, 5")],
        &[("content-length", b"99999999999999999999999")],
    ];
    for (turn, fields) in nonsense.into_iter().enumerate() {
        let name = format!("nonsense-{turn}");
        deploy(&name, &Canned { fields, body: &["abc"], ..Canned::default() });
        if let Some(answer) = exchange(&name) {
            if answer.fault().is_some() {
                answer.expect_fault("bad-response");
            } else {
                assert_eq!((answer.status(), answer.text().as_str()), (200, "abc"), "{name}");
            }
            let lengths = answer.head.fields.iter().filter(|(name, _)| name == "content-length");
            assert!(lengths.count() <= 1, "{answer:?}");
        }
    }
}

#[test]
fn a_body_that_is_dropped_is_not_passed_off_as_whole() {
    for (name, body) in [("dropped", &["abc", "def"][..]), ("dropped-empty", &[])] {
        deploy(name, &Canned { body, finished: false, ..Canned::default() });
        if let Some(answer) = exchange(name) {
            assert!(answer.status() >= 500, "{name}: {answer:?}");
            answer.expect_fault(answer.fault().unwrap());
        }
        let counters = HOST.counters(name);
        assert_eq!((counters.guest_faults, counters.responses), (1, 0), "{name}: {counters:?}");
    }
}

#[test]
fn statuses_that_have_no_body_get_none() {
    for status in [204, 304] {
        let name = format!("status-{status}");
        deploy(&name, &Canned { status, body: &["not for you"], ..Canned::default() });
        let mut connection = HOST.connect();
        for _ in 0..3 {
            let answer = connection.get(&format!("{name}.localhost"), "/");
            assert_eq!(answer.status(), status);
            assert!(answer.field("transfer-encoding").is_none(), "{answer:?}");
        }
        connection.get("hello.localhost", "/").expect_ok();
    }
    // Interim ones are the connection's, not an answer.
    for status in [100, 101, 103, 199] {
        let name = format!("status-{status}");
        deploy(&name, &Canned { status, body: &["x"], ..Canned::default() });
        let answer = exchange(&name).expect("an answer");
        if answer.status() != 200 {
            answer.expect_fault("bad-response");
        }
    }
    for status in [0, 99, 600, 999, 1000] {
        let name = format!("status-{status}");
        deploy(&name, &Canned { status, body: &["x"], ..Canned::default() });
        if let Some(answer) = exchange(&name) {
            assert!((200..1000).contains(&answer.status()), "{answer:?}");
        }
    }
}

#[test]
fn head_gets_what_get_would_but_the_body() {
    let fields: [(&str, &[u8]); 1] = [("content-length", b"6")];
    deploy("declared", &Canned { fields: &fields, body: &["abc", "def"], ..Canned::default() });
    deploy("undeclared", &Canned { body: &["abc", "def"], ..Canned::default() });
    let mut connection = HOST.connect();
    for _ in 0..3 {
        for name in ["declared", "undeclared"] {
            let host = format!("{name}.localhost");
            let answer = connection.ask("HEAD", &host, "/", &[], None);
            assert_eq!(answer.status(), 200);
            let length = answer.field("content-length");
            assert!(
                length == Some("6") || (length.is_none() && name == "undeclared"),
                "{answer:?}"
            );
            assert_eq!(connection.get(&host, "/").expect_ok().text(), "abcdef");
        }
    }
    for name in ["declared", "undeclared"] {
        eventually("six responses", || (HOST.counters(name).responses == 6).then_some(()));
        assert_eq!(HOST.counters(name).bytes_out, 18, "{name}: three bodies went out");
    }
}

#[test]
fn an_answer_without_a_body_ends_as_its_guest_does() {
    HOST.deploy_guests(&["sse", "hostile-endless"]);
    let mut connection = HOST.connect();
    // The head does not wait for a body that nobody gets.
    let answer = connection.ask("HEAD", "sse.localhost", "/?n=3&ms=100", &[], None);
    assert_eq!((answer.status(), HOST.counters("sse").responses), (200, 0));
    connection.get("hello.localhost", "/").expect_ok();
    let ended = || Some(HOST.counters("sse")).filter(|counters| counters.requests == 1);
    let counters = eventually("the guest's end", ended);
    assert_eq!((counters.responses, counters.bytes_out), (1, 0), "{counters:?}");
    // And its faults are its own, limits included.
    let answer = connection.ask("HEAD", "hostile-endless.localhost", "/go", &[], None);
    assert_eq!(answer.status(), 200);
    HOST.eventually_told("hostile-endless", answer.request_id(), "response-body-too-large");
    let counters = HOST.counters("hostile-endless");
    assert_eq!((counters.guest_faults, counters.client_faults), (1, 0), "{counters:?}");
    connection.get("hello.localhost", "/").expect_ok();
}

#[test]
fn over_http2_an_answer_to_head_has_no_body_either() {
    deploy("framed", &Canned { body: &["abc", "def"], ..Canned::default() });
    HOST.deploy("framed-sse", &repo::guest("sse"), &[]);
    h2::run(async {
        let connection = Http2::open(HOST.addr()).await;
        for (host, target) in [("framed.localhost", "/"), ("framed-sse.localhost", "/?n=2&ms=20")] {
            let answer = connection.ask("HEAD", host, target, b"").await;
            assert_eq!(answer.head.status(), 200);
            assert_eq!(answer.body.expect("whole"), b"".as_slice(), "{host}");
        }
    });
}
