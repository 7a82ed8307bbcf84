//! The front end: framing, routing by host, header fields, HTTP/2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::h2::{self, Http2};
use insula_tests::wait::eventually;
use insula_tests::{Answer, Host, repo};
use std::collections::HashSet;
use std::sync::LazyLock;

static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::with_guests(&["hello", "echo", "hostile-trap", "sse"]));

/// What the echo guest says about the GET that it was given, one field a line.
#[track_caller]
fn seen(answer: &Answer) -> Vec<String> {
    answer.expect_ok().text().lines().map(str::to_owned).collect()
}

/// Sends one request as it is, on a connection of its own.
#[track_caller]
fn raw(request: &str) -> Answer {
    let mut connection = HOST.connect();
    connection.send(request);
    connection.answer()
}

#[test]
fn keep_alive_and_pipelining_keep_the_order() {
    let mut connection = HOST.connect();
    let batch: String =
        (0..50).map(|i| format!("GET /{i} HTTP/1.1\r\nhost: echo.localhost\r\n\r\n")).collect();
    connection.send(&batch);
    for i in 0..50 {
        assert_eq!(seen(&connection.answer())[0], format!("GET /{i}"));
    }
    // A slow answer does not let a quick one behind it overtake.
    connection.send(
        "GET /?n=2&ms=200 HTTP/1.1\r\nhost: sse.localhost\r\n\r\n\
         GET / HTTP/1.1\r\nhost: hello.localhost\r\n\r\n",
    );
    assert!(connection.answer().expect_ok().text().starts_with("id: 1\n"));
    assert_eq!(connection.answer().expect_ok().text(), "Hello from Insula!\n");
}

#[test]
fn everyone_who_asks_at_once_gets_an_answer_of_their_own() {
    // Answers of one turn leave together: of several tenants, of all sizes, some the last of their connection.
    const LENGTHS: [usize; 6] = [0, 1, 700, 3_900, 4_096, 9_000];
    for round in 0..20 {
        let mut asked = Vec::new();
        for client in 0..48 {
            let mut connection = HOST.connect();
            let last = if client % 5 == 0 { "connection: close\r\n" } else { "" };
            let text = format!("{round} {client} ");
            let body: String = text.chars().cycle().take(LENGTHS[client % LENGTHS.len()]).collect();
            let length = body.len();
            // Two in a row: the second answer comes behind the first in the same outbox, or not.
            connection.send(format!(
                "GET /{client} HTTP/1.1\r\nhost: hello.localhost\r\n\r\n\
                 POST /{client} HTTP/1.1\r\nhost: echo.localhost\r\n{last}content-length: {length}\r\n\r\n{body}"
            ));
            asked.push((connection, body, !last.is_empty()));
        }
        for (mut connection, body, is_last) in asked {
            assert_eq!(connection.answer().expect_ok().text(), "Hello from Insula!\n");
            let answer = connection.answer();
            assert_eq!(answer.expect_ok().text(), body);
            assert!(answer.whole);
            if is_last {
                assert!(connection.is_closed_by_host());
            } else {
                assert_eq!(seen(&connection.get("echo.localhost", "/more"))[0], "GET /more");
            }
        }
    }
}

#[test]
fn bodies_that_nobody_reads_do_not_confuse_the_next_request() {
    let mut connection = HOST.connect();
    // `hello` looks at no body; this one reads like a request.
    let body = "GET /smuggled HTTP/1.1\r\nhost: echo.localhost\r\n\r\n";
    let answer = connection.ask("POST", "hello.localhost", "/", &[], Some(body.as_bytes()));
    assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n");
    match connection.try_ask("GET", "echo.localhost", "/next", &[], None) {
        Ok(answer) => assert_eq!(seen(&answer)[0], "GET /next"),
        // Closing is a way not to be confused, too.
        Err(error) => assert!(!insula_tests::http::is_timeout(&error), "{error}"),
    }
}

#[test]
fn head_is_get_without_a_body() {
    let mut connection = HOST.connect();
    for _ in 0..3 {
        let head = connection.ask("HEAD", "hello.localhost", "/", &[], None);
        assert_eq!((head.status(), head.field("content-length")), (200, Some("19")));
        // Any byte of a body would be taken for the next status line.
        assert_eq!(
            connection.get("hello.localhost", "/").expect_ok().text(),
            "Hello from Insula!\n"
        );
    }
    let head = connection.ask("HEAD", "echo.localhost", "/", &[], None);
    assert_eq!(head.status(), 200);
    let head = connection.ask("HEAD", "nobody.localhost", "/", &[], None);
    assert_eq!(head.status(), 404);
    connection.get("hello.localhost", "/").expect_ok();
}

#[test]
fn hosts_are_compared_in_their_normal_form() {
    let port = HOST.addr().port();
    let mut connection = HOST.connect();
    for host in [
        "hello.localhost".to_owned(),
        "HeLLo.LocalHost".to_owned(),
        format!("hello.localhost:{port}"),
        format!("HELLO.localhost:{port}"),
        "hello.localhost:1".to_owned(),
        "hello.localhost:".to_owned(),
        "hello.localhost.".to_owned(),
        format!("hello.localhost.:{port}"),
    ] {
        let answer = connection.get(&host, "/");
        assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n", "{host}");
    }
}

#[test]
fn the_absolute_form_names_the_tenant_and_reaches_the_guest_as_origin_form() {
    let port = HOST.addr().port();
    let lines = seen(&raw(&format!(
        "GET http://ECHO.localhost:{port}/a/b?c HTTP/1.1\r\nhost: echo.localhost\r\n\r\n"
    )));
    assert_eq!(lines[0], "GET /a/b?c");
    // RFC 9112, section 3.2.2: the target's authority wins over a `Host` that says otherwise, and the
    // guest is told the one that won.
    let lines = seen(&raw("GET http://echo.localhost HTTP/1.1\r\nhost: hello.localhost\r\n\r\n"));
    assert_eq!(lines[0], "GET /");
    assert!(lines.contains(&"host: echo.localhost".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("hello.localhost")), "{lines:?}");
}

#[test]
fn no_match_is_404_with_a_hint_and_never_another_tenant() {
    let mut connection = HOST.connect();
    for host in ["localhost", "x.hello.localhost", "ello.localhost", "127.0.0.1", "[::1]", "hello"]
    {
        let answer = connection.get(host, "/");
        answer.expect_fault("no-route");
        let text = answer.text();
        assert!(text.contains(host.trim_matches(['[', ']'])), "{host}: {text}");
        assert!(text.contains("hint:") && text.contains("insula deploy"), "{text}");
    }
}

#[test]
fn the_longest_prefix_wins_by_whole_segments() {
    let host = &*HOST;
    host.deploy("root", &repo::guest("hello"), &["--route", "Site.Example"]);
    let flags = ["--route", "site.example/v1/", "--route", "other.example/a.b/c"];
    host.deploy("prefixed", &repo::guest("echo"), &flags);
    for (name, path, echoes) in [
        ("site.example", "/", false),
        ("site.example", "/v", false),
        ("site.example", "/v10", false),
        ("site.example", "/v1", true),
        ("site.example", "/v1/", true),
        ("site.example", "/v1?x", true),
        ("site.example", "/v1/users", true),
        ("SITE.example:80", "/v1/users", true),
        ("other.example", "/a.b/c", true),
    ] {
        let text = host.connect().get(name, path).expect_ok().text();
        assert_eq!(text.starts_with(&format!("GET {path}\n")), echoes, "{name}{path}: {text}");
    }
    for path in ["/", "/a", "/a.b", "/a.b/cc", "/A.b/c", "/axb/c"] {
        host.connect().get("other.example", path).expect_fault("no-route");
    }
}

#[test]
fn ambiguous_and_missing_hosts_are_refused() {
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: hello.localhost\r\nhost: echo.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: hello.localhost\r\nhost: hello.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@hello.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: hello.localhost/\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: hello.localhost, echo.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: hello.localhost:80:90\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: \r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "CONNECT hello.localhost:80 HTTP/1.1\r\nhost: hello.localhost\r\n\r\n",
    ] {
        let answer = raw(request);
        assert_eq!(answer.status(), 400, "{request:?}: {answer:?}");
        assert_eq!(answer.fault(), Some("bad-request"), "{request:?}");
    }
}

#[test]
fn messages_that_could_be_read_in_two_ways_are_refused() {
    // RFC 9112, sections 5.1, 6.1 and 6.3: request smuggling begins with each of these.
    for request in [
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: 3, 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : echo.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: echo.localhost\r\n folded: x\r\n\r\n",
        "GET /\r\nhost: echo.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: echo.localhost\r\nx: a\0b\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: echo.localhost\r\n\r\n",
        "\0\0\0\0",
    ] {
        let mut connection = HOST.connect();
        connection.send(request);
        // The host may have closed already.
        let _ = connection.stream.shutdown(std::net::Shutdown::Write);
        match connection.try_answer(false) {
            Ok(answer) => {
                assert_eq!(answer.status(), 400, "{request:?}: {answer:?}");
                assert!(connection.is_closed_by_host(), "{request:?}: still open");
            }
            Err(error) => assert!(!insula_tests::http::is_timeout(&error), "{request:?}: {error}"),
        }
    }
    // With both, the length is dropped (or the request refused); never are the bytes behind taken for
    // a request.
    let mut connection = HOST.connect();
    connection.send(
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: 60\r\n\
         transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let answer = connection.answer();
    assert!(answer.status() == 400 || answer.text() == "abc", "{answer:?}");
}

#[test]
fn fields_of_one_hop_are_not_passed_on() {
    let lines = seen(&raw(
        "GET / HTTP/1.1\r\nhost: echo.localhost\r\nconnection: keep-alive, X-Secret , te\r\n\
         x-secret: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\nte: trailers\r\n\
         upgrade: websocket\r\nhttp2-settings: x\r\nx-kept: yes\r\ncookie: a=b\r\n\r\n",
    ));
    let has = |name: &str| lines.iter().any(|line| line.starts_with(&format!("{name}: ")));
    for name in [
        "connection",
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
    ] {
        assert!(!has(name), "{name} reached the guest: {lines:?}");
    }
    assert!(has("x-kept") && has("cookie") && has("host"), "{lines:?}");
    // Taking `Host` away by naming it in `Connection` is an attack.
    let lines = seen(&raw("GET / HTTP/1.1\r\nhost: echo.localhost\r\nconnection: host\r\n\r\n"));
    assert!(lines.contains(&"host: echo.localhost".to_owned()), "{lines:?}");
}

#[test]
fn what_clients_claim_about_themselves_is_replaced() {
    let answer = raw(
        "GET / HTTP/1.1\r\nhost: echo.localhost\r\nx-request-id: mine\r\nforwarded: for=1.2.3.4\r\n\
         x-forwarded-for: 1.2.3.4\r\nx-forwarded-host: evil\r\nx-forwarded-proto: https\r\n\
         x-real-ip: 1.2.3.4\r\n\r\n",
    );
    let lines = seen(&answer);
    let id = answer.request_id();
    assert!(lines.contains(&format!("x-request-id: {id}")), "{lines:?}");
    assert!(lines.contains(&"forwarded: for=127.0.0.1;proto=http".to_owned()), "{lines:?}");
    for claim in ["mine", "1.2.3.4", "evil", "https", "x-forwarded", "x-real-ip"] {
        assert!(!lines.iter().any(|line| line.contains(claim)), "{claim}: {lines:?}");
    }
}

#[test]
fn request_ids_are_unique() {
    let mut ids = HashSet::new();
    for _ in 0..4 {
        let mut connection = HOST.connect();
        for _ in 0..25 {
            let id = connection.get("hello.localhost", "/").request_id().to_owned();
            assert!(ids.insert(id.clone()), "{id} came twice");
        }
    }
    let id = HOST.get("nobody", "/").request_id().to_owned();
    assert!(ids.insert(id));
}

#[test]
fn expectations_are_met() {
    let mut connection = HOST.connect();
    connection.send(
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
    );
    // The body is sent only when the host asks for it, or has answered without.
    let head = connection.head().unwrap();
    assert!(head.status == 100 || head.status == 200, "{head:?}");
    connection.send("abc");
    let head = if head.status == 100 { connection.head().unwrap() } else { head };
    let (mut framing, mut body) = (head.framing(), Vec::new());
    while let Some(piece) = connection.piece(&mut framing).unwrap() {
        body.extend(piece);
    }
    assert_eq!((head.status, body.as_slice()), (200, &b"abc"[..]));
}

#[test]
fn http2_with_prior_knowledge_serves_many_streams_at_once() {
    h2::run(async {
        let http2 = Http2::open(HOST.addr()).await;
        let streams = (0..40).map(|i| {
            let http2 = http2.clone();
            tokio::spawn(async move {
                if i % 2 == 0 {
                    let stream = http2.ask("POST", "echo.localhost", "/", &[i; 5_000]).await;
                    assert_eq!(
                        (stream.head.status(), stream.body.unwrap().as_ref()),
                        (http_ok(), &[i; 5_000][..],)
                    );
                } else {
                    let stream = http2.ask("GET", "HELLO.localhost:81", "/", b"").await;
                    assert_eq!(stream.head.status(), 200);
                    assert_eq!(stream.body.unwrap(), "Hello from Insula!\n");
                }
            })
        });
        for stream in streams.collect::<Vec<_>>() {
            stream.await.unwrap();
        }
        let nobody = http2.ask("GET", "nobody.localhost", "/", b"").await;
        assert_eq!(
            (nobody.head.status().as_u16(), &nobody.head.headers()["insula-fault"]),
            (404, &"no-route".parse().unwrap(),)
        );
        // What guests see of it is no different.
        let seen = http2.ask("GET", "echo.localhost", "/p?q", b"").await.body.unwrap();
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(
            seen.starts_with("GET /p?q\n") && seen.contains("\nhost: echo.localhost\n"),
            "{seen}"
        );
    });
}

fn http_ok() -> hyper::StatusCode {
    hyper::StatusCode::OK
}

#[test]
fn http2_streams_fail_one_by_one() {
    h2::run(async {
        let http2 = Http2::open(HOST.addr()).await;
        let broken = http2.ask("GET", "hostile-trap.localhost", "/go?at=head", b"").await;
        assert_eq!(broken.head.status(), 200);
        assert!(broken.body.is_err(), "a part was passed off as the whole");
        let failed = http2.ask("GET", "hostile-trap.localhost", "/go", b"").await;
        assert_eq!(failed.head.status(), 500);
        // The connection and its other streams are none the worse for it.
        let hello = http2.ask("GET", "hello.localhost", "/", b"").await;
        assert_eq!(hello.body.unwrap(), "Hello from Insula!\n");
    });
}

#[test]
fn http2_bodies_larger_than_a_window_stream_through() {
    h2::run(async {
        let http2 = Http2::open(HOST.addr()).await;
        let body: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8).collect();
        let echoed = http2.ask("POST", "echo.localhost", "/", &body).await;
        assert!(echoed.body.unwrap() == body);
    });
}

#[test]
fn heads_that_never_end_are_given_up() {
    let mut half = HOST.connect();
    half.send("GET / HTTP/1.1\r\nhost: hello.localhost\r\n");
    // It is told that it took too long, or only cut off; what counts is that it does not stay.
    match half.try_answer(false) {
        Ok(answer) => assert_eq!(answer.status(), 408),
        Err(error) => assert!(!insula_tests::http::is_timeout(&error), "it stays open"),
    }
}

#[test]
fn clients_that_do_not_read_lose_their_connection_at_the_deadline() {
    let flags = ["--timeout", "1s", "--response-body", "1Gi", "--fuel", "1T", "--memory", "32Mi"];
    HOST.deploy("unread", &repo::guest("hostile-endless"), &flags);
    let mut connection = HOST.connect();
    connection.send("GET /go HTTP/1.1\r\nhost: unread.localhost\r\n\r\n");
    let counters = eventually("the request has ended", || {
        let counters = HOST.counters("unread");
        (counters.requests == 1 && counters.running == 0).then_some(counters)
    });
    assert_eq!(counters.guest_faults, 1, "{counters:?}");
    assert!(counters.bytes_out < 64 << 20, "{counters:?}");
    assert!(!connection.answer().whole);
}

#[test]
fn http2_streams_that_are_given_up_end_their_guests() {
    HOST.deploy("given-up", &repo::guest("sse"), &["--timeout", "1m"]);
    h2::run(async {
        let http2 = Http2::open(HOST.addr()).await;
        http2.begin("GET", "given-up.localhost", "/?n=1000&ms=100").await;
        // Its body is dropped, unread; the connection goes on.
        let hello = http2.ask("GET", "hello.localhost", "/", b"").await;
        assert_eq!(hello.body.unwrap(), "Hello from Insula!\n");
        tokio::task::spawn_blocking(|| {
            let counters = eventually("the guest has ended", || {
                let counters = HOST.counters("given-up");
                (counters.requests == 1 && counters.running == 0).then_some(counters)
            });
            assert_eq!((counters.client_faults, counters.guest_faults), (1, 0), "{counters:?}");
        })
        .await
        .unwrap();
    });
}
