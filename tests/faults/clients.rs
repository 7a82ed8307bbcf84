//! Clients of the control API that hang.

use insula_tests::{Connection, Host, repo};
use rustix::process::Resource;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Far below the bounds on what a client may hang for.
const PROMPT: Duration = Duration::from_secs(8);

fn open(host: &Host) -> UnixStream {
    UnixStream::connect(host.data().join("control.sock")).unwrap()
}

#[test]
fn control_clients_that_hang_keep_nobody_out() {
    // A thousand sockets here; the host has as many waiting for it.
    let (_, hard) = limits();
    raise(hard);
    let host = Host::with_guests(&["hello"]);
    let mut hung = Vec::new();
    for client in 0..1_000 {
        // The backlog is bounded as well: beyond it a connect would wait here.
        let stream = open(&host);
        let mut stream = stream;
        stream.set_nonblocking(true).unwrap();
        let said: &[u8] = match client % 4 {
            0 => b"",
            1 => b"GET /v1/ho",
            2 => b"PUT /v1/tenants/x HTTP/1.1\r\nhost: insula\r\ncontent-length: 100\r\n",
            // Asks, and never reads the answer.
            _ => b"GET /v1/openapi.json HTTP/1.1\r\nhost: insula\r\n\r\n",
        };
        let _ = stream.write_all(said);
        hung.push(stream);
        if client % 100 == 99 {
            let since = Instant::now();
            host.must(["ps"]);
            assert!(since.elapsed() < PROMPT, "{:?} after {client}", since.elapsed());
        }
    }
    let since = Instant::now();
    host.deploy("new", &repo::guest("hello"), &[]);
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
    host.get("new", "/").expect_ok();
    drop(hung);
    host.must(["ps"]);
}

#[test]
fn whoever_has_something_under_way_is_not_closed_for_others() {
    let host = Host::with_guests(&["hello"]);
    // A follower has nothing to read for long, and is not idle.
    let mut follower = open(&host);
    follower
        .write_all(b"GET /v1/tenants/hello/logs?follow=true HTTP/1.1\r\nhost: insula\r\n\r\n")
        .unwrap();
    let mut head = [0; 12];
    follower.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let idle: Vec<UnixStream> = (0..400).map(|_| open(&host)).collect();
    std::thread::sleep(Duration::from_millis(1_500));
    host.must(["ps"]);
    follower.set_nonblocking(true).unwrap();
    let mut rest = Vec::new();
    let ended = follower.read_to_end(&mut rest);
    assert!(
        ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "the follower was closed: {}",
        String::from_utf8_lossy(&rest)
    );
    drop(idle);
    // A connection that is used again soon stays.
    let mut client = Connection::over(open(&host));
    for _ in 0..3 {
        assert_eq!(client.get("insula", "/healthz").status(), 200);
    }
}

fn limits() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    (limit.current, limit.maximum)
}

fn raise(hard: Option<u64>) {
    let limit = rustix::process::Rlimit { current: hard, maximum: hard };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
}
