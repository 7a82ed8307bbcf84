//! The host's processes in good health: starting, sharing, resting, ending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::finish;
use insula_tests::process::{children, cpu, is_alive};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup};
use rustix::process::Signal;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn a_second_host_on_the_same_data_is_refused_and_told_who_has_it() {
    let host = Host::start();
    let second = finish(&mut Setup::new().command(host.home()), b"");
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains(&host.pid().to_string()), "{}", second.stderr);
    assert_eq!(host.cli(["ps"]).code, Some(0), "the first one suffered");
}

#[test]
fn a_taken_port_is_named_with_a_way_out() {
    let host = Host::start();
    let home = tempfile::tempdir().unwrap();
    let address = host.addr().to_string();
    let second = finish(&mut Setup::new().listen(Some(&address)).command(home.path()), b"");
    assert_ne!(second.code, Some(0));
    assert!(
        second.stderr.contains(&address) && second.stderr.contains("--listen"),
        "{}",
        second.stderr
    );
}

#[test]
fn only_the_owner_reaches_the_control_socket_and_the_data() {
    let host = Host::start();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host.data()), 0o700);
    assert_eq!(mode(&host.data().join("control.sock")), 0o600);
    assert_eq!(mode(&host.data().join("host.key")), 0o600);
}

#[test]
fn sigterm_lets_running_requests_finish_and_takes_no_new_ones() {
    let mut host = Host::with_guests(&["sse"]);
    let workers = host.worker_pids();
    let mut events = host.connect();
    events.send("GET /?n=8&ms=150 HTTP/1.1\r\nhost: sse.localhost\r\n\r\n");
    eventually("the stream under way", || (host.counters("sse").running > 0).then_some(()));
    insula_tests::process::signal(host.pid(), Signal::TERM);
    eventually("new connections refused", || {
        let Ok(mut late) = Connection::try_open(host.addr()) else { return Some(()) };
        // A connection that was accepted at the last moment is not answered by a guest.
        let answer = late.try_ask("GET", "sse.localhost", "/?n=1&ms=1", &[], None);
        answer.map_or(Some(()), |answer| (answer.status() == 503).then_some(()))
    });
    let answer = events.answer();
    assert!(answer.whole && answer.text().contains("event 8 of 8"), "{}", answer.text());
    let status = host.ended();
    assert!(status.success(), "{status}");
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "a worker outlived its host");
    assert!(!host.data().join("control.sock").exists());
    host.restart();
    host.get("sse", "/?n=1&ms=1").expect_ok();
}

#[test]
fn a_host_takes_no_huge_pages() {
    let host = Host::with_guests(&["hello"]);
    host.get("hello", "/").expect_ok();
    for pid in host.worker_pids().into_iter().chain([host.pid()]) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
        // Older kernels do not say.
        assert!(line.is_none_or(|word| word.trim() == "0"), "process {pid}: {line:?}");
    }
}

#[test]
fn connections_spread_over_the_workers() {
    let host = Host::with_guests(&["hello"]);
    let mut held: Vec<Connection<TcpStream>> = Vec::new();
    for _ in 0..16 {
        let mut connection = host.connect();
        connection.get("hello.localhost", "/").expect_ok();
        held.push(connection);
    }
    let spread: Vec<u64> = host.workers().iter().map(|worker| worker.connections).collect();
    assert_eq!(spread.iter().sum::<u64>(), 16, "{spread:?}");
    assert!(spread.iter().all(|count| (6..=10).contains(count)), "{spread:?}");
}

#[test]
fn an_idle_host_with_many_tenants_uses_no_cpu() {
    let host = Host::with_guests(&["hello"]);
    let artifact = host.tenant("hello").summary.artifact.to_string();
    for i in 0..300 {
        let deployed = host.api_deploy(&format!("t{i}"), &artifact);
        assert_eq!(deployed.compile_ms, None, "the same bytes were compiled again");
    }
    host.get("t299", "/").expect_ok();
    let total = || {
        let family = children(host.pid()).into_iter().chain([host.pid()]);
        family.map(cpu).sum::<Duration>()
    };
    // Logs are flushed and timers of the last request run out first.
    std::thread::sleep(Duration::from_secs(1));
    let before = total();
    std::thread::sleep(Duration::from_secs(3));
    let used = total() - before;
    assert!(used <= Duration::from_millis(30), "{used:?} in 3 s");
}
