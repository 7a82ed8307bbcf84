//! Hostile clients: floods of frames, of connections and of heads, beside an innocent tenant.

use crate::beside::{Attack, GROWTH_MAX, alone, beside, victim};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, INITIAL_WINDOW, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, repo};
use std::io::{Read, Write};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let host = victim();
    host.deploy_guests(&["echo"]);
    let flags = ["--timeout", "2s", "--concurrency", "64", "--response-body", "1Gi"];
    host.deploy(
        "endless",
        &repo::guest("hostile-endless"),
        &[&flags[..], &["--fuel", "1T"]].concat(),
    );
    host.deploy("slow", &repo::guest("sse"), &flags);
    host
});

/// Connections of one attack.
const AT_ONCE: usize = 4;

/// Repeats what `prepare` puts into each batch, on connections that are opened anew when they end.
#[track_caller]
fn flood(
    what: &str,
    settings: &[(u16, u32)],
    reads: bool,
    prepare: impl Fn(&mut Frames, u32) + Sync,
) {
    beside(what, &HOST, GROWTH_MAX, |attack| {
        attack.in_threads(AT_ONCE, |_| {
            let mut frames = Frames::open(HOST.addr(), settings).unwrap();
            let reader = reads.then(|| {
                let mut stream = frames.stream.try_clone().unwrap();
                thread::spawn(move || while matches!(stream.read(&mut [0; 65_536]), Ok(1..)) {})
            });
            for turn in 0.. {
                prepare(&mut frames, turn);
                if frames.send().is_err() || !attack.goes_on() {
                    break;
                }
                attack.struck();
            }
            let _ = frames.stream.shutdown(std::net::Shutdown::Both);
            if let Some(reader) = reader {
                reader.join().unwrap();
            }
        });
    });
    quiet();
}

/// Nobody's requests go on when their clients are gone.
#[track_caller]
fn quiet() {
    eventually("all requests have ended", || {
        let names = ["echo", "endless", "slow", "hello"];
        names.iter().all(|name| HOST.counters(name).running == 0).then_some(())
    });
}

#[test]
fn streams_reset_as_soon_as_they_are_opened() {
    let _alone = alone();
    for (what, host, path) in [
        ("rapid reset", "echo.localhost", "/"),
        ("rapid reset of what takes long", "slow.localhost", "/?n=100&ms=100"),
        ("rapid reset of what is not there", "nobody.localhost", "/"),
    ] {
        for reads in [true, false] {
            flood(what, &[], reads, |frames, _| {
                for _ in 0..100 {
                    let stream = frames.request(false, host, path, END_STREAM | END_HEADERS);
                    frames.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                }
            });
        }
    }
}

#[test]
fn frames_that_carry_nothing() {
    let _alone = alone();
    flood("empty data", &[], true, |frames, turn| {
        if turn == 0 {
            frames.request(true, "echo.localhost", "/", END_HEADERS);
        }
        (0..1000).for_each(|_| frames.frame(DATA, 0, 1, b""));
    });
    flood("pings", &[], false, |frames, _| {
        (0..1000).for_each(|_| frames.frame(PING, 0, 0, b"12345678"));
    });
    flood("settings", &[], false, |frames, _| {
        (0..1000).for_each(|_| frames.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]));
    });
    flood("priorities", &[], true, |frames, _| {
        (0..1000).for_each(|_| frames.frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]));
    });
    flood("unknown frames", &[], true, |frames, _| {
        (0..1000).for_each(|_| frames.frame(200, 0, 0, b"?"));
    });
}

#[test]
fn heads_that_never_end() {
    let _alone = alone();
    // A literal field, again and again, in a head that goes on.
    let field: Vec<u8> = [&b"\0\x04name\x7f\xa1\x7d"[..], &[b'x'; 16_160]].concat();
    flood("continuations", &[], true, |frames, turn| {
        if turn == 0 {
            frames.request(false, "hello.localhost", "/", END_STREAM);
        }
        frames.frame(CONTINUATION, 0, 1, &field);
    });
    flood("empty continuations", &[], true, |frames, turn| {
        if turn == 0 {
            frames.request(false, "hello.localhost", "/", END_STREAM);
        }
        (0..100).for_each(|_| frames.frame(CONTINUATION, 0, 1, b""));
    });
}

#[test]
fn windows_that_let_nothing_through() {
    let _alone = alone();
    for (what, window) in [("no window", 0), ("a window of one byte", 1)] {
        flood(what, &[(INITIAL_WINDOW, window)], false, |frames, turn| {
            if turn == 0 {
                for _ in 0..100 {
                    frames.request(false, "endless.localhost", "/go", END_STREAM | END_HEADERS);
                }
            } else if window == 1 {
                for stream in 0..100 {
                    frames.frame(WINDOW_UPDATE, 0, 2 * stream + 1, &1_u32.to_be_bytes());
                }
            }
            thread::sleep(Duration::from_millis(10));
        });
    }
    // Everything may come, and nobody reads it.
    flood(
        "a client that does not read",
        &[(INITIAL_WINDOW, i32::MAX as u32)],
        false,
        |frames, turn| {
            if turn == 0 {
                frames.frame(WINDOW_UPDATE, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes());
                for _ in 0..100 {
                    frames.request(false, "endless.localhost", "/go", END_STREAM | END_HEADERS);
                }
            }
            thread::sleep(Duration::from_millis(10));
        },
    );
}

/// Opens many connections, a pause apart, has `each` do something with all of them by turns, and keeps
/// them.
fn hold(
    attack: &Attack<'_>,
    connections: usize,
    pause: Duration,
    each: impl Fn(&mut Connection, usize),
) {
    let open = |_| {
        thread::sleep(pause);
        attack.host.connect()
    };
    let mut held: Vec<Connection> = (0..connections).map(open).collect();
    let mut turn = 0;
    while attack.goes_on() {
        for connection in &mut held {
            each(connection, turn);
        }
        attack.struck();
        turn += 1;
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_that_only_stay() {
    let _alone = alone();
    let pause = Duration::from_millis(2);
    beside("idle connections", &HOST, GROWTH_MAX, |attack| hold(attack, 500, pause, |_, _| {}));
    let head = b"GET / HTTP/1.1\r\nhost: hello.localhost\r\nx-slow: yes\r\n";
    beside("heads byte by byte", &HOST, GROWTH_MAX, |attack| {
        hold(attack, 500, pause, |connection, turn| {
            let _ = connection.stream.write_all(&[head[turn % head.len()]]);
        });
    });
}

/// Who comes next must not wait behind all of them: a worker has to take connections as fast as they
/// come.
#[test]
fn connections_that_come_at_once() {
    let _alone = alone();
    beside("many at once", &HOST, GROWTH_MAX, |attack| {
        hold(attack, 1_500, Duration::ZERO, |_, _| {});
    });
}

/// The same with connections that end at once.
#[test]
fn connections_that_come_and_go() {
    let _alone = alone();
    // Those that say something are taken up like any other. Without a pause, clients with as much of the
    // machine as the host has fill the backlog with them, and who comes next waits behind all of it.
    let pause = Duration::from_millis(2);
    for (what, start, pause) in [
        ("come and go", "", Duration::ZERO),
        ("go inside the head", "GET / HTTP/1.1\r\nhost: h", pause),
    ] {
        beside(what, &HOST, GROWTH_MAX, |attack| {
            attack.in_threads(AT_ONCE, |_| {
                HOST.connect().send(start);
                thread::sleep(pause);
            });
        });
    }
}

/// Sends `start`, and then `more` until the host has enough; what it answers must not be an answer of
/// the tenant's.
fn pour(attack: &Attack<'_>, start: &str, more: &[u8]) {
    let mut connection = HOST.connect();
    connection.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    connection.stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let mut sent = connection.stream.write_all(start.as_bytes());
    for _ in 0..2_000 {
        if sent.is_err() || !attack.goes_on() {
            break;
        }
        sent = connection.stream.write_all(more);
    }
    if let Ok(answer) = connection.try_answer(false) {
        assert!(answer.status() >= 400 || !answer.whole, "{start:?}: {answer:?}");
    }
}

#[test]
fn requests_without_an_end() {
    let _alone = alone();
    let line = "x".repeat(8_000);
    let fields = "a: b\r\n".repeat(1_000);
    let extension = format!("1;{line}\r\nx\r\n");
    let chunks = "1\r\nx\r\n".repeat(1_000);
    let chunked = "POST / HTTP/1.1\r\nhost: echo.localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let trailers = format!("{chunked}0\r\n");
    for (what, start, more) in [
        ("an endless target", "GET /", line.as_str()),
        ("an endless name", "GET / HTTP/1.1\r\nhost: hello.localhost\r\n", &line),
        ("an endless value", "GET / HTTP/1.1\r\nhost: hello.localhost\r\nx: ", &line),
        ("endless fields", "GET / HTTP/1.1\r\nhost: hello.localhost\r\n", &fields),
        ("endless chunk extensions", chunked, &extension),
        ("endless tiny chunks", chunked, &chunks),
        ("endless trailers", &trailers, &fields),
        ("noise", "\x00\x7f\u{fffd}", "\x01\x02 \r\n\r\n\u{fffd}"),
    ] {
        beside(what, &HOST, GROWTH_MAX, |attack| {
            attack.in_threads(AT_ONCE, |_| pour(attack, start, more.as_bytes()));
        });
    }
}

#[test]
fn requests_whose_answers_nobody_reads() {
    let _alone = alone();
    let many = "GET / HTTP/1.1\r\nhost: echo.localhost\r\n\r\n".repeat(500);
    beside("pipelined and unread", &HOST, GROWTH_MAX, |attack| {
        attack.in_threads(AT_ONCE, |_| {
            let mut connection = HOST.connect();
            connection.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            while attack.goes_on() && connection.stream.write_all(many.as_bytes()).is_ok() {
                attack.struck();
            }
        });
    });
    quiet();
}
