//! Clocks, chance and sockets: real and closed by default, and as a manifest asks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::{Host, repo};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["machine"]));

#[track_caller]
fn grant(host: &Host, name: &str, lines: &str) {
    let component = repo::guest("machine");
    let manifest = format!("name = \"{name}\"\ncomponent = {component:?}\n{lines}\n");
    let file = host.file(&format!("{name}.toml"), manifest);
    host.must(["deploy".as_ref(), "-f".as_ref(), file.as_os_str()]);
}

/// What the guest answers, on a new connection each time, so that both workers take part.
#[track_caller]
fn ask(name: &str, target: &str) -> String {
    HOST.get(name, target).expect_ok().text()
}

/// The number before `unit` after `word`.
#[track_caller]
fn number(text: &str, words: &str) -> u128 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("{words}: {text}"));
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("{words}: {text}"))
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

#[test]
fn clocks_tell_the_time_in_milliseconds() {
    for _ in 0..5 {
        let before = now_ns();
        let time = ask("machine", "/time");
        let wall = number(&time, "wall ");
        assert!(wall + 1_000_000 >= before && wall <= now_ns(), "{time}");
        assert_eq!(wall % 1_000_000, 0, "{time}");
        assert_eq!(number(&time, "monotonic ") % 1_000_000, 0, "{time}");
        assert_eq!(time.matches("in steps of 1000000\n").count(), 2, "{time}");
    }
}

#[test]
fn clocks_are_as_fine_as_was_granted() {
    grant(&HOST, "coarse", "clock = { precision = \"2s\" }");
    let time = ask("coarse", "/time");
    assert_eq!(number(&time, "wall ") % 2_000_000_000, 0, "{time}");
    grant(&HOST, "exact", "clock = { precision = \"exact\" }");
    let fine = (0..20).any(|_| !number(&ask("exact", "/time"), "wall ").is_multiple_of(1_000_000));
    assert!(fine, "{}", ask("exact", "/time"));
}

#[test]
fn a_sleep_takes_its_time_with_any_clock() {
    grant(&HOST, "slow", "clock = { precision = \"1s\" }");
    grant(&HOST, "still", "clock = { fixed = \"2026-01-01T00:00:00Z\" }");
    for name in ["machine", "slow", "still"] {
        let started = Instant::now();
        ask(name, "/sleep?ms=60");
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(110), "{name} woke after {took:?}");
        assert!(took < Duration::from_secs(8), "{name} overslept: {took:?}");
    }
}

#[test]
fn a_fixed_clock_stands_still() {
    grant(&HOST, "fixed", "clock = { fixed = \"2026-01-01T00:00:00Z\" }");
    for _ in 0..6 {
        let time = ask("fixed", "/time");
        assert_eq!(number(&time, "wall "), 1_767_225_600_000_000_000, "{time}");
        assert_eq!(number(&time, "monotonic "), 0, "{time}");
    }
}

#[test]
fn chance_is_real_unless_a_seed_was_asked_for() {
    let real: HashSet<String> = (0..4).map(|_| ask("machine", "/random")).collect();
    assert_eq!(real.len(), 4, "{real:?}");
    grant(&HOST, "seeded", "seed = 42");
    let seeded: HashSet<String> = (0..12).map(|_| ask("seeded", "/random")).collect();
    assert_eq!(seeded.len(), 1, "{seeded:?}");
    grant(&HOST, "otherwise", "seed = 43");
    let other = ask("otherwise", "/random");
    for (one, two) in seeded.iter().next().unwrap().lines().zip(other.lines()) {
        assert_ne!(one, two, "the seed changes nothing");
    }
}

#[test]
fn a_run_is_the_same_after_a_restart() {
    let mut host = Host::with_guests(&["machine"]);
    let lines = "seed = 7\nclock = { fixed = \"2026-01-01T00:00:00Z\" }";
    grant(&host, "same", lines);
    let run = |host: &Host| {
        ["/random", "/time"].map(|target| host.get("same", target).expect_ok().text())
    };
    let before = run(&host);
    host.stop(rustix::process::Signal::TERM);
    host.restart();
    assert_eq!(run(&host), before);
}

/// Answers every connection with what it sent, upper-cased.
fn tcp_peer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 64];
            let length = stream.read(&mut bytes).unwrap_or(0);
            let _ = stream.write_all(&bytes[..length].to_ascii_uppercase());
        }
    });
    at
}

fn udp_peer() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length].to_ascii_uppercase(), from);
        }
    });
    at
}

#[track_caller]
fn denied(name: &str, target: &str) {
    let answer = ask(name, target);
    assert!(answer.starts_with("error: PermissionDenied"), "{name}{target}: {answer}");
}

#[test]
fn without_a_grant_there_is_no_network() {
    denied("machine", &format!("/tcp?to={}", tcp_peer()));
    denied("machine", &format!("/udp?to={}", udp_peer()));
    denied("machine", "/listen?to=127.0.0.1:0");
    assert!(ask("machine", "/resolve?name=localhost").starts_with("error: "));
}

#[test]
fn sockets_reach_listed_peers_and_no_others() {
    let (tcp, udp) = (tcp_peer(), udp_peer());
    grant(&HOST, "wired", &format!("sockets = [\"tcp://{tcp}\", \"udp://{udp}\"]"));
    assert_eq!(ask("wired", &format!("/tcp?to={tcp}")), "PING\n");
    assert_eq!(ask("wired", &format!("/udp?to={udp}")), "PING\n");
    // The right peer by the other transport, and other peers.
    denied("wired", &format!("/tcp?to={udp}"));
    denied("wired", &format!("/udp?to={tcp}"));
    denied("wired", &format!("/tcp?to={}", tcp_peer()));
    denied("wired", &format!("/udp?to={}", udp_peer()));
    // Nothing listens, and no name is looked up.
    for at in ["127.0.0.1:0", "127.0.0.1:8080", "0.0.0.0:8080", "0.0.0.0:0"] {
        let answer = ask("wired", &format!("/listen?to={at}"));
        assert!(answer.starts_with("error: "), "{at}: {answer}");
    }
    assert!(ask("wired", "/resolve?name=localhost").starts_with("error: "));
}
