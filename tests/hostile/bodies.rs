//! Bodies that are endless, stalled, trickled or not as long as was said, in both directions; guests
//! that trap and clients that go at every moment.

use crate::beside::{GROWTH_MAX, alone, beside, victim};
use crate::guests::{RESPOND, handler};
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, repo, wasm};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

const ATTACKERS: [&str; 8] =
    ["echo", "reader", "endless", "stall", "trap", "slow", "spin", "relay"];

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let host = victim();
    let reader = host.file("reader.wasm", wasm::reader());
    let flags = ["--timeout", "1s", "--concurrency", "200", "--fuel", "1T", "--memory", "32Mi"];
    let base = [&flags[..], &["--request-body", "1Mi"]].concat();
    let flags = [&base[..], &["--response-body", "1Gi"]].concat();
    for (name, file) in [
        ("echo", repo::guest("echo")),
        ("reader", reader),
        ("endless", repo::guest("hostile-endless")),
        ("stall", repo::guest("hostile-stall")),
        ("trap", repo::guest("hostile-trap")),
        ("slow", repo::guest("sse")),
        ("spin", repo::guest("hostile-spin")),
    ] {
        host.deploy(name, &file, &flags);
    }
    // As much as its clients can keep.
    let long = [&base[..], &["--response-body", "8Mi"]].concat();
    host.deploy("long", &repo::guest("hostile-endless"), &long);
    let calls = ["--allow-outbound", "http://slow.internal"];
    host.deploy("relay", &repo::guest("relay"), &[&flags[..], &calls].concat());
    host
});

const AT_ONCE: usize = 8;

/// Nobody's request goes on when its client is gone and its deadline over, and nobody is to blame for
/// it but client and guest.
#[track_caller]
fn quiet() {
    eventually("all requests have ended", || {
        ATTACKERS.iter().all(|name| HOST.counters(name).running == 0).then_some(())
    });
    for name in ATTACKERS {
        assert_eq!(HOST.counters(name).host_faults, 0, "{name}");
    }
}

fn start(name: &str, target: &str, more: &str) -> Connection {
    let mut connection = HOST.connect();
    connection.send(format!("GET {target} HTTP/1.1\r\nhost: {name}.localhost\r\n{more}\r\n"));
    connection
}

fn post(name: &str, more: &str) -> Connection {
    let mut connection = HOST.connect();
    connection.send(format!("POST / HTTP/1.1\r\nhost: {name}.localhost\r\n{more}\r\n\r\n"));
    connection
}

const CHUNKED: &str = "transfer-encoding: chunked";

#[test]
fn request_bodies_endless_stalled_and_trickled() {
    let _alone = alone();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for name in ["echo", "reader"] {
        beside(&format!("endless to {name}"), &HOST, GROWTH_MAX, |attack| {
            attack.in_threads(AT_ONCE, |_| {
                let mut connection = post(name, CHUNKED);
                connection.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
                while attack.goes_on() && connection.stream.write_all(chunk.as_bytes()).is_ok() {}
                let whole = connection.try_answer(false).is_ok_and(|answer| answer.whole);
                // Beyond its limit it gets an error; a whole answer would be the echo of all of it.
                assert!(!whole || name == "reader", "an endless body was echoed");
            });
        });
        beside(&format!("stalled and trickled to {name}"), &HOST, GROWTH_MAX, |attack| {
            let mut held: Vec<Connection> = (0..100).map(|_| post(name, CHUNKED)).collect();
            while attack.goes_on() {
                for connection in held.iter_mut().step_by(2) {
                    let _ = connection.stream.write_all(b"1\r\nx\r\n");
                }
                attack.struck();
                thread::sleep(Duration::from_millis(20));
            }
        });
        quiet();
    }
}

#[test]
fn response_bodies_endless_stalled_and_unread() {
    let _alone = alone();
    beside("endless and read", &HOST, GROWTH_MAX, |attack| {
        attack.ask("long", "/go", 4, |answer| {
            // None at all is no answer that is wrong.
            let Ok(answer) = answer else { return };
            assert!(!answer.whole, "{} bytes passed for all: {:?}", answer.body.len(), answer.head);
        });
    });
    beside("endless and read byte by byte", &HOST, GROWTH_MAX, |attack| {
        let mut held: Vec<Connection> = (0..50).map(|_| start("endless", "/go", "")).collect();
        while attack.goes_on() {
            for connection in &mut held {
                let _ = connection.stream.read(&mut [0]);
            }
            attack.struck();
            thread::sleep(Duration::from_millis(10));
        }
    });
    for target in ["/go", "/go?at=head", "/go?at=body"] {
        beside(&format!("stalled {target}"), &HOST, GROWTH_MAX, |attack| {
            attack.ask("stall", target, 60, |answer| {
                let answer = answer.as_ref().unwrap();
                assert!(!answer.whole || answer.fault() == Some("deadline"), "{answer:?}");
            });
        });
    }
    quiet();
}

#[test]
fn bodies_not_as_long_as_declared() {
    let _alone = alone();
    for (name, length, body) in
        [("short", "1000000", &["abc"][..]), ("long", "2", &["abc"; 40]), ("absent", "7", &[])]
    {
        let fields = [("content-length", length.as_bytes())];
        let file = HOST.file(
            &format!("{name}.wasm"),
            responder(&Canned { fields: &fields, body, ..Canned::default() }),
        );
        HOST.deploy(name, &file, &[]);
        beside(&format!("a response that is {name}"), &HOST, GROWTH_MAX, |attack| {
            attack.ask(name, "/", AT_ONCE, |answer| {
                // Without a head, or broken off, or said to be wrong.
                let Ok(answer) = answer else { return };
                assert!(!answer.whole || answer.fault() == Some("bad-response"), "{answer:?}");
            });
        });
    }
    beside("requests longer and shorter than declared", &HOST, GROWTH_MAX, |attack| {
        attack.in_threads(AT_ONCE, |number| {
            let mut connection = post("echo", "content-length: 5");
            let body: &[u8] = if number % 2 == 0 { b"abc" } else { b"abcdefgh\r\n\r\nnonsense" };
            let _ = connection.stream.write_all(body);
            let _ = connection.stream.shutdown(std::net::Shutdown::Write);
            let answer = connection.try_answer(false);
            let Ok(answer) = answer else { return };
            // The five bytes that were declared are an echo; fewer are not.
            if number % 2 == 0 {
                assert!(!answer.whole || answer.status() >= 400, "{answer:?}");
            } else if answer.status() == 200 {
                assert_eq!(answer.text(), "abcde");
            }
        });
    });
    quiet();
}

/// Fields that only the host may say, or nobody behind a body; and one that anybody may.
const TRAILERS: [&str; 6] =
    ["transfer-encoding", "content-length", "connection", "x-request-id", "insula-fault", "x-fine"];

#[test]
fn trailers_that_are_not_the_guests_to_send() {
    let _alone = alone();
    let (mut data, mut appends) = (String::new(), String::new());
    for name in TRAILERS {
        let (at, length) = (4096 + data.len(), name.len());
        data.push_str(name);
        // Its value is its own name's first two letters.
        write!(
            appends,
            "(call $append (local.get $c) (i32.const {at}) (i32.const {length}) (i32.const {at})
            (i32.const 2) (i32.const 64))"
        )
        .unwrap();
    }
    let code = format!(
        "{RESPOND} (call $write (local.get $a) (i32.const 4096) (i32.const 5) (i32.const 64))
        (call $drop-stream (local.get $a)) (local.set $c (call $fields)) {appends}
        (call $finish (i32.load (i32.const 4)) (i32.const 1) (local.get $c) (i32.const 64))"
    );
    let file = HOST.file("trailers.wasm", handler(1, &data, &code));
    HOST.deploy("trailers", &file, &[]);
    beside("trailers", &HOST, GROWTH_MAX, |attack| {
        attack.in_threads(AT_ONCE, |_| {
            let mut connection = start("trailers", "/", "te: trailers\r\n");
            let mut read = Vec::new();
            while !String::from_utf8_lossy(&read).contains("\r\n0\r\n")
                || !read.ends_with(b"\r\n\r\n")
            {
                let mut piece = [0; 4096];
                let length = connection.stream.read(&mut piece).unwrap();
                assert!(length > 0, "{}", String::from_utf8_lossy(&read));
                read.extend(&piece[..length]);
            }
            let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
            let (_, behind) = text.split_once("\r\n0\r\n").unwrap();
            let said = TRAILERS[..5].iter().find(|name| behind.contains(*name));
            assert_eq!(said, None, "{text}");
            // The connection is where it was.
            connection.get("hello.localhost", "/").expect_ok();
        });
    });
}

#[test]
fn traps_before_during_and_after_the_head() {
    let _alone = alone();
    for at in ["start", "set", "head", "body", "end"] {
        beside(&format!("trap at {at}"), &HOST, GROWTH_MAX, |attack| {
            attack.ask("trap", &format!("/go?at={at}"), AT_ONCE, |answer| {
                let Ok(answer) = answer else { return };
                assert!(!answer.whole || answer.fault() == Some("trap"), "{answer:?}");
            });
        });
    }
    quiet();
}

#[test]
fn clients_that_go_at_every_moment_behind_the_head() {
    let _alone = alone();
    let since = Instant::now();
    // Not always at the same point of whatever the host does.
    let moment =
        |most: u32| Duration::from_micros(u64::from(since.elapsed().subsec_nanos() % most));
    let moments: [(&str, &(dyn Fn() + Sync)); 8] = [
        ("behind the head", &|| drop(start("spin", "/go", ""))),
        ("while a guest computes", &|| {
            let _connection = start("spin", "/go", "");
            thread::sleep(moment(20_000));
        }),
        ("while a guest waits", &|| {
            let _connection = start("stall", "/go", "");
            thread::sleep(moment(20_000));
        }),
        ("inside the request's body", &|| {
            post("echo", "content-length: 100000").send([b'x'; 5_000]);
        }),
        ("behind the response's head", &|| {
            let mut connection = start("slow", "/?n=100&ms=20", "");
            let _ = connection.head();
        }),
        ("inside the response's body", &|| {
            let mut connection = start("endless", "/go", "");
            let _ = connection.stream.read(&mut [0; 30_000]);
            thread::sleep(moment(3_000));
        }),
        ("while a guest calls another", &|| {
            let _connection = start("relay", "/?url=http://slow.internal/?n=100", "");
            thread::sleep(moment(20_000));
        }),
        ("at any moment of a short request", &|| {
            let _connection = start("echo", "/", "");
            thread::sleep(moment(1_000));
        }),
    ];
    for (what, go) in moments {
        beside(&format!("gone {what}"), &HOST, GROWTH_MAX, |attack| {
            attack.in_threads(AT_ONCE, |_| {
                go();
                // How fast connections are taken is another test's question.
                thread::sleep(Duration::from_millis(10));
            });
        });
        quiet();
    }
}
