//! What tenants get: fresh instances, streams in both directions, one tenant beside another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::http::Framing;
use insula_tests::process::{owner, resident_bytes};
use insula_tests::wait::{PATIENCE, eventually};
use insula_tests::{Connection, Host, repo};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::with_guests(&["hello", "hello-p3", "echo", "sse", "residue"]));

#[test]
fn no_byte_of_a_request_is_seen_by_the_next() {
    // The guest looks through its memory, globals and tables, and then dirties all of them.
    let host = &*HOST;
    host.deploy("residue-two", &repo::guest("residue"), &[]);
    let mut connections = [host.connect(), host.connect()];
    for turn in 0..100 {
        for (name, connection) in ["residue", "residue-two"].iter().zip(&mut connections) {
            let answer = connection.get(&format!("{name}.localhost"), "/");
            assert_eq!(answer.expect_ok().text(), "clean\n", "{name}, request {turn}");
        }
    }
    std::thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                let mut connection = host.connect();
                for turn in 0..25 {
                    let name = ["residue", "residue-two"][(client + turn) % 2];
                    let answer = connection.get(&format!("{name}.localhost"), "/");
                    assert_eq!(answer.expect_ok().text(), "clean\n", "{name}, at once");
                }
            });
        }
    });
    let counters = host.counters("residue");
    assert!(counters.responses >= 200, "{counters:?}");
    assert!(counters.memory_peak_bytes > 1 << 20 && counters.fuel > 0, "{counters:?}");
}

#[test]
fn a_service_of_wasi_0_3_is_served_beside_the_others() {
    let mut connection = HOST.connect();
    for _ in 0..20 {
        for name in ["hello-p3", "hello"] {
            let answer = connection.get(&format!("{name}.localhost"), "/");
            assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n", "{name}");
        }
    }
}

#[test]
fn events_arrive_one_by_one() {
    let mut connection = HOST.connect();
    connection.send("GET /?n=5&ms=300 HTTP/1.1\r\nhost: sse.localhost\r\n\r\n");
    let head = connection.head().unwrap();
    assert_eq!((head.status, head.framing()), (200, Framing::Chunked));
    let (mut arrivals, mut text) = (Vec::new(), String::new());
    let mut framing = head.framing();
    while let Some(piece) = connection.piece(&mut framing).unwrap() {
        text.push_str(&String::from_utf8_lossy(&piece));
        let now = Instant::now();
        arrivals.resize(text.matches("\n\n").count(), now);
    }
    assert_eq!(arrivals.len(), 5, "{text}");
    // 1.2 s lie between first and last; a host that gathered them would send all at once.
    let spread = arrivals[4] - arrivals[0];
    assert!(spread > Duration::from_millis(600), "first and last event {spread:?} apart");
    assert!(arrivals.windows(2).filter(|pair| pair[0] < pair[1]).count() >= 3, "{arrivals:?}");
}

const UPLOAD_BYTES: u64 = 256 << 20;
static PIECE: [u8; 64 << 10] = {
    let mut piece = [0; 64 << 10];
    let mut at = 0;
    while at < piece.len() {
        // Not periodic in any power of two, so that nothing can be out of place unnoticed.
        piece[at] = (at % 251) as u8;
        at += 1;
    }
    piece
};

#[test]
fn a_large_body_streams_through_with_back_pressure_and_little_memory() {
    let mut connection = HOST.connect();
    let (worker, before) = worker_of(&mut connection);
    connection.send(format!(
        "POST / HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: {UPLOAD_BYTES}\r\n\r\n"
    ));
    let mut upload = connection.stream.try_clone().unwrap();
    let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (written, done) = (&written, &done);
        scope.spawn(move || {
            while written.load(Relaxed) < UPLOAD_BYTES {
                upload.write_all(&PIECE).expect("the upload goes on");
                written.fetch_add(PIECE.len() as u64, Relaxed);
            }
        });
        let peak = scope.spawn(move || {
            let mut peak = 0;
            while !done.load(Relaxed) {
                peak = peak.max(resident_bytes(worker));
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        // Nobody reads the echo yet: the upload must come to a halt.
        let mut still = (0, Instant::now());
        let halted = eventually("the upload halts while nobody reads", || {
            let now = written.load(Relaxed);
            if now != still.0 {
                still = (now, Instant::now());
            }
            (now > 0 && still.1.elapsed() > Duration::from_millis(500)).then_some(now)
        });
        assert!(halted < 64 << 20, "{halted} bytes were taken in while none went out");
        let received = read_echo(&mut connection);
        done.store(true, Relaxed);
        assert_eq!(received, UPLOAD_BYTES);
        let growth = peak.join().unwrap().saturating_sub(before);
        assert!(growth < 64 << 20, "the worker grew by {growth} bytes");
    });
    assert!(HOST.counters("echo").bytes_in >= UPLOAD_BYTES);
}

/// The worker behind a connection, warmed up, and the memory it holds.
fn worker_of(connection: &mut Connection) -> (u32, u64) {
    let small = connection.ask("POST", "echo.localhost", "/", &[], Some(&PIECE));
    assert!(small.expect_ok().body == PIECE);
    let (near, far) = (connection.stream.local_addr().unwrap(), HOST.addr());
    let worker = owner(near, far, &HOST.worker_pids()).expect("the connection's worker");
    (worker, resident_bytes(worker))
}

/// Reads an echo to its end and compares every byte; how many there were.
fn read_echo(connection: &mut Connection) -> u64 {
    let head = connection.head().unwrap();
    assert_eq!(head.status, 200);
    let (mut framing, mut received) = (head.framing(), 0_u64);
    while let Some(piece) = connection.piece(&mut framing).unwrap() {
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let at = (received % PIECE.len() as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PIECE.len() - at));
            assert!(now == &PIECE[at..at + now.len()], "a wrong byte after {received}");
            received += now.len() as u64;
            rest = later;
        }
    }
    received
}

#[test]
fn a_body_of_unknown_length_is_echoed_as_it_comes() {
    let mut connection = HOST.connect();
    connection
        .send("POST / HTTP/1.1\r\nhost: echo.localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    let head = connection.head().unwrap();
    let mut framing = head.framing();
    assert_eq!((head.status, framing), (200, Framing::Chunked));
    for word in ["one", "three", "fifteen"] {
        // Each chunk must come back before the next is sent.
        connection.send(format!("{:x}\r\n{word}\r\n", word.len()));
        let mut back = Vec::new();
        while back.len() < word.len() {
            back.extend(connection.piece(&mut framing).unwrap().expect("more"));
        }
        assert_eq!(back, word.as_bytes());
    }
    connection.send("0\r\n\r\n");
    assert_eq!(connection.piece(&mut framing).unwrap(), None);
    assert_eq!(connection.get("hello.localhost", "/").status(), 200);
}

#[test]
fn a_client_that_goes_away_costs_nothing_but_its_own_request() {
    let host = &*HOST;
    host.deploy("left", &repo::guest("echo"), &["--timeout", "60s"]);
    host.deploy("left-sse", &repo::guest("sse"), &["--timeout", "60s"]);
    // In the middle of an upload …
    let mut upload = host.connect();
    upload.send("POST / HTTP/1.1\r\nhost: left.localhost\r\ncontent-length: 1000000\r\n\r\nabc");
    assert_eq!(upload.head().unwrap().status, 200);
    rustix::net::sockopt::set_socket_linger(&upload.stream, Some(Duration::ZERO)).unwrap();
    drop(upload);
    // … and in the middle of a download.
    let mut download = host.connect();
    download.send("GET /?n=1000&ms=50 HTTP/1.1\r\nhost: left-sse.localhost\r\n\r\n");
    assert_eq!(download.head().unwrap().status, 200);
    drop(download);
    for name in ["left", "left-sse"] {
        let counters = eventually(&format!("{name}: the request has ended"), || {
            let counters = host.counters(name);
            (counters.running == 0 && counters.requests == 1).then_some(counters)
        });
        assert_eq!((counters.client_faults, counters.responses), (1, 0), "{name} {counters:?}");
        host.get(name, "/?n=1").expect_ok();
    }
}

#[test]
fn a_client_that_stops_sending_half_way_is_told() {
    let mut connection = HOST.connect();
    connection.send("POST / HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: 10\r\n\r\nabc");
    connection.stream.shutdown(Shutdown::Write).unwrap();
    // A whole 200 would pass three bytes off as all that was sent.
    match connection.try_answer(false) {
        Ok(answer) => assert!(answer.status() == 400 || !answer.whole, "{answer:?}"),
        Err(error) => assert!(!insula_tests::http::is_timeout(&error), "{error}"),
    }
}

#[test]
fn a_half_sent_head_holds_nobody_up() {
    let mut half = HOST.connect();
    half.send("GET / HTTP/1.1\r\nhost: hel");
    HOST.get("hello", "/").expect_ok();
    half.send("lo.localhost\r\n\r\n");
    half.answer().expect_ok();
}

#[test]
fn an_instance_is_reused_only_where_the_manifest_says_so() {
    let host = &*HOST;
    let flags = ["--reuse-requests", "3", "--reuse-idle", "1m"];
    host.deploy("reused", &repo::guest("residue"), &flags);
    let mut one = host.connect();
    let answers: Vec<bool> =
        (0..6).map(|_| one.get("reused.localhost", "/").expect_ok().text() == "clean\n").collect();
    assert_eq!(answers, [true, false, false, true, false, false]);
    // Not across revisions: the same guest under another limit starts clean.
    host.deploy("reused", &repo::guest("residue"), &["--reuse-requests", "3", "--memory", "32Mi"]);
    assert_eq!(one.get("reused.localhost", "/").expect_ok().text(), "clean\n");
    // Idle instances go.
    host.deploy("briefly", &repo::guest("residue"), &["--reuse-idle", "1ms"]);
    eventually("an idle instance is retired", || {
        assert!(one.get("briefly.localhost", "/").status() == 200);
        std::thread::sleep(Duration::from_millis(700));
        (one.get("briefly.localhost", "/").text() == "clean\n").then_some(())
    });
}

#[test]
fn outbound_requests_are_refused_not_made() {
    // Nothing is granted, so a guest has nothing to reach: `tool` sees no file and no variable.
    let output = insula_tests::cli::run(
        HOST.home(),
        ["run", repo::guest("tool").to_str().unwrap(), "--", "--ls", "/"],
    );
    assert_ne!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("environment: 0 variables"), "{output:?}");
}

#[test]
fn one_connection_carries_requests_to_several_tenants() {
    let mut connection = HOST.connect();
    connection.send(
        "GET / HTTP/1.1\r\nhost: hello.localhost\r\n\r\n\
         POST /?1 HTTP/1.1\r\nhost: echo.localhost\r\ncontent-length: 3\r\n\r\nabc\
         GET /nowhere HTTP/1.1\r\nhost: nobody.localhost\r\n\r\n\
         GET / HTTP/1.1\r\nhost: residue.localhost\r\n\r\n",
    );
    let texts: Vec<(u16, String)> =
        (0..4).map(|_| connection.answer()).map(|a| (a.status(), a.text())).collect();
    assert_eq!(texts[0], (200, "Hello from Insula!\n".into()));
    assert_eq!(texts[1], (200, "abc".into()));
    assert_eq!(texts[2].0, 404);
    assert_eq!(texts[3], (200, "clean\n".into()));
    connection.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.send("GET / HTTP/1.1\r\nhost: hello.localhost\r\nconnection: close\r\n\r\n");
    connection.answer().expect_ok();
    let mut rest = Vec::new();
    assert_eq!(connection.stream.read_to_end(&mut rest).unwrap(), 0, "{rest:?}");
}
