//! Ends and new beginnings: drains, restarts, and what a host does short of memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::http::is_timeout;
use insula_tests::process::{children, is_alive, owner, signal};
use insula_tests::wait::{eventually, within};
use insula_tests::{Connection, Host, Setup, repo};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Asks for a stream of events that takes `n` times 100 ms, and reads its head.
#[track_caller]
fn events(host: &Host, n: u32) -> Connection {
    let mut connection = host.connect();
    connection.send(format!("GET /?n={n}&ms=100 HTTP/1.1\r\nhost: sse.localhost\r\n\r\n"));
    assert_eq!(connection.head().unwrap().status, 200);
    connection
}

/// Reads a chunked body to its end; whether it ended as it should.
#[track_caller]
fn ends_whole(connection: &mut Connection) -> bool {
    let mut framing = insula_tests::http::Framing::Chunked;
    loop {
        match connection.piece(&mut framing) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(error) => {
                assert!(!is_timeout(&error), "neither an end nor a break");
                return false;
            }
        }
    }
}

#[test]
fn a_drain_is_bounded_and_cuts_what_does_not_end() {
    for stop in [Signal::TERM, Signal::INT] {
        let mut host = Setup::new().args(["--drain", "400ms"]).start();
        host.deploy_guests(&["sse"]);
        let (mut short, mut long) = (events(&host, 2), events(&host, 500));
        let since = Instant::now();
        let status = host.stop(stop);
        assert!(status.success(), "{status}: {}", host.log());
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        assert!(ends_whole(&mut short), "a request that had time was cut");
        assert!(!ends_whole(&mut long), "a part was passed off as the whole");
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let mut host = Setup::new().args(["--drain", "1m"]).start();
    host.deploy_guests(&["sse"]);
    let mut long = events(&host, 500);
    let workers = children(host.pid());
    signal(host.pid(), Signal::TERM);
    host.eventually_logs("stopping");
    host.stop(Signal::INT);
    assert!(!ends_whole(&mut long));
    assert!(workers.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn while_it_drains_a_host_takes_no_deploys_and_keeps_alive_nobody() {
    let mut host = Setup::new().args(["--drain", "20s"]).start();
    host.deploy_guests(&["hello", "sse"]);
    let mut idle: Vec<Connection> = (0..4).map(|_| host.connect()).collect();
    for connection in &mut idle {
        connection.get("hello.localhost", "/").expect_ok();
    }
    let mut running = events(&host, 15);
    signal(host.pid(), Signal::TERM);
    host.eventually_logs("stopping");
    let output = host.cli(["deploy", "late", repo::guest("hello").to_str().unwrap()]);
    assert!(output.code != Some(0), "{output:?}");
    assert!(output.stderr.contains("shutting down") || output.code == Some(5), "{output:?}");
    for connection in &mut idle {
        assert!(connection.is_closed_by_host(), "an idle connection holds the drain up");
    }
    assert!(ends_whole(&mut running));
    assert!(host.ended().success());
}

#[test]
fn a_new_host_takes_the_port_over_while_orphans_still_finish() {
    let mut host = Host::with_guests(&["hello", "sse"]);
    let port = host.addr().port();
    let mut running = events(&host, 15);
    host.kill();
    // Where a service manager would start it again: at the same address, at once.
    host.relisten(&format!("127.0.0.1:{port}"));
    host.restart();
    assert_eq!(host.addr().port(), port);
    host.get("hello", "/").expect_ok();
    assert!(ends_whole(&mut running), "the orphan's request was cut");
}

#[test]
fn kills_at_any_instant_leave_every_tenant_whole() {
    let mut host = Host::with_guests(&["hello", "echo"]);
    let artifacts = ["hello", "echo"].map(|name| host.tenant(name).summary.artifact.to_string());
    // What was acknowledged last of each: the revision, or none once it was removed.
    let mut known: BTreeMap<String, Option<u32>> = BTreeMap::new();
    for round in 0..10_usize {
        let changes = std::thread::scope(|scope| {
            let changing = scope.spawn(|| change_until_it_ends(&host, &artifacts, &known));
            std::thread::sleep(Duration::from_millis(40 + 23 * round as u64));
            signal(host.pid(), Signal::KILL);
            changing.join().unwrap()
        });
        known = changes.0;
        let under_way = changes.1;
        host.kill();
        host.restart();
        for (name, revision) in &known {
            let there = host.tenants().into_iter().find(|tenant| tenant.name.as_str() == name);
            let there = there.map(|tenant| (tenant.revision, tenant.artifact.to_string()));
            let found = there.as_ref().map(|(revision, _)| *revision);
            // The change that was under way may have been made, or not; nothing else may.
            let next = Some(revision.unwrap_or(0) + 1);
            let allowed = found == *revision
                || (under_way.as_deref() == Some(name) && (found.is_none() || found == next));
            assert!(allowed, "round {round}: {name} is at {found:?}, known was {revision:?}");
            let answer = host.get(name, "/");
            match there {
                None => assert_eq!(answer.fault(), Some("no-route")),
                Some((_, artifact)) => {
                    let is_echo = answer.expect_ok().text().starts_with("GET ");
                    assert_eq!(is_echo, artifact == artifacts[1], "{name}: half a revision");
                }
            }
        }
        known = host
            .tenants()
            .into_iter()
            .filter(|tenant| tenant.name.as_str().starts_with("t-"))
            .map(|tenant| (tenant.name.to_string(), Some(tenant.revision)))
            .collect();
    }
    assert!(known.values().flatten().any(|revision| *revision > 2), "too little: {known:?}");
}

/// Deploys and removes a few tenants, over and over, until the host is gone: what was acknowledged, and
/// whose change was not.
fn change_until_it_ends(
    host: &Host,
    artifacts: &[String; 2],
    known: &BTreeMap<String, Option<u32>>,
) -> (BTreeMap<String, Option<u32>>, Option<String>) {
    let mut known = known.clone();
    for turn in 0_usize.. {
        let name = format!("t-{}", turn % 4);
        let path = format!("/v1/tenants/{name}");
        let removes = turn % 7 == 6 && known.get(&name).is_some_and(Option::is_some);
        // A limit that changes with every turn: no deploy says what was said before.
        let manifest = json!({"name": name, "fuel": 1_000_000_000 + turn});
        let body = json!({"manifest": manifest, "artifact": artifacts[turn % 2]});
        // The harness fails where there is no answer, which is how this ends.
        let answer = std::panic::catch_unwind(|| match removes {
            true => host.api("DELETE", &path, None),
            false => host.api("PUT", &path, Some(&body)),
        });
        match answer {
            Ok((204, _)) => known.insert(name, None),
            Ok((200, value)) => known
                .insert(name, Some(u32::try_from(value["revision"].as_u64().unwrap()).unwrap())),
            Ok((status, value)) => panic!("{status} {value}"),
            Err(_) => return (known, Some(name)),
        };
    }
    (known, None)
}

#[test]
fn a_worker_short_of_memory_is_its_own_trouble_and_recovers() {
    let host = Host::with_guests(&["hello", "hostile-grow"]);
    let workers = host.worker_pids();
    let mut held: Vec<(u32, Connection)> = Vec::new();
    eventually("connections to both workers, and all loaded there", || {
        let mut connection = host.connect();
        connection.get("hello.localhost", "/").expect_ok();
        connection.get("hostile-grow.localhost", "/").expect_ok();
        let near = connection.stream.local_addr().unwrap();
        held.push((owner(near, host.addr(), &workers).unwrap(), connection));
        workers.iter().all(|pid| held.iter().any(|(owner, _)| owner == pid)).then_some(())
    });
    let squeezed = i32::try_from(workers[0]).ok().and_then(Pid::from_raw);
    let limit = |bytes| Rlimit { current: bytes, maximum: None };
    prlimit(squeezed, Resource::Data, limit(Some(1))).unwrap();
    for turn in 0..20 {
        for (worker, connection) in &mut held {
            let (name, target) = [("hello", "/"), ("hostile-grow", "/go?then=tell")][turn % 2];
            let answer = connection.try_ask("GET", &format!("{name}.localhost"), target, &[], None);
            if *worker != workers[0] {
                answer.unwrap().expect_ok();
            } else if let Ok(answer) = answer
                && let Some(word) = answer.fault()
            {
                // Refused in words that are documented; a break would be allowed as well.
                answer.expect_fault(word);
            }
        }
    }
    let _ = prlimit(squeezed, Resource::Data, limit(None));
    eventually("both workers answer again", || {
        let answers = (0..6).map(|_| host.get("hostile-grow", "/go?then=tell"));
        answers.into_iter().all(|answer| answer.status() == 200).then_some(())
    });
}

#[test]
fn a_host_with_one_worker_gets_another_when_it_dies() {
    let host = Setup::default().args(["--workers", "1"]).start();
    host.deploy_guests(&["hello"]);
    for _ in 0..5 {
        for pid in children(host.pid()) {
            signal(pid, Signal::KILL);
        }
        // A connection waits in the listener's backlog meanwhile.
        within(Duration::from_secs(10), "an answer", || {
            let answer = host.connect().try_ask("GET", "hello.localhost", "/", &[], None);
            answer.is_ok_and(|answer| answer.status() == 200).then_some(())
        });
    }
    assert_eq!(host.eventually_serves()[0].restarts, 5);
    // What it did before it died is not forgotten.
    let counters = host.counters("hello");
    assert!(counters.requests >= 5 && counters.running == 0, "{counters:?}");
}

#[test]
fn a_deploy_reaches_workers_that_are_being_replaced() {
    let host = Host::with_guests(&["hello", "echo"]);
    let files = [repo::guest("hello"), repo::guest("echo")];
    for turn in 0..20 {
        let workers = children(host.pid());
        signal(workers[turn % workers.len()], Signal::KILL);
        host.deploy("turns", &files[turn % 2], &[]);
        for _ in 0..6 {
            // A connection may break with the worker that held it; an older revision may not answer.
            let answer = eventually("an answer", || {
                let mut connection = Connection::try_open(host.addr()).ok()?;
                connection.try_ask("GET", "turns.localhost", "/", &[], None).ok()
            });
            let is_echo = answer.expect_ok().text().starts_with("GET ");
            assert_eq!(is_echo, turn % 2 == 1, "turn {turn}: an older revision answered");
        }
    }
}
