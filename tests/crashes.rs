//! Any process may die at any instant: what was acknowledged stays, and only what was in it is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::WorkerState;
use insula_tests::process::{children, is_alive, owner, signal};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, repo};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long anything may take a client while workers die: far below a second, were it not for a
/// machine that compiles something else.
const ANSWER_MAX: Duration = Duration::from_secs(2);

#[test]
fn a_killed_worker_takes_nothing_with_it_but_its_own_connections() {
    let host = Host::with_guests(&["hello"]);
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let slowest = Mutex::new(Duration::ZERO);
    let killed = Mutex::new(BTreeSet::new());
    // Who held each connection that broke.
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let Ok(stream) = TcpStream::connect(host.addr()) else { continue };
                    let near = stream.local_addr().unwrap();
                    let mut connection = Connection::over(stream);
                    let mut held_by = None;
                    while !stop.load(Relaxed) {
                        let start = Instant::now();
                        let answer = connection.try_ask("GET", "hello.localhost", "/", &[], None);
                        let mut slowest = slowest.lock().unwrap();
                        *slowest = start.elapsed().max(*slowest);
                        drop(slowest);
                        match answer {
                            Ok(answer) if answer.whole => {
                                answer.expect_ok();
                                answered.fetch_add(1, Relaxed);
                                // Another worker has more time for it.
                                if answer.field("connection") == Some("close") {
                                    break;
                                }
                            }
                            _ => {
                                broken.lock().unwrap().push(held_by);
                                break;
                            }
                        }
                        if held_by.is_none() {
                            held_by = owner(near, host.addr(), &host.worker_pids());
                        }
                    }
                }
            });
        }
        for round in 0..20 {
            std::thread::sleep(Duration::from_millis(200));
            let workers = children(host.pid());
            let Some(pid) = workers.get(round % workers.len().max(1)) else { continue };
            killed.lock().unwrap().insert(*pid);
            signal(*pid, Signal::KILL);
        }
        stop.store(true, Relaxed);
    });
    let killed = killed.into_inner().unwrap();
    let broken = broken.into_inner().unwrap();
    assert!(answered.load(Relaxed) > 1_000, "{answered:?} answers");
    assert!(killed.len() > 10 && !broken.is_empty(), "nothing was tried: {} kills", killed.len());
    for pid in broken.iter().flatten() {
        assert!(killed.contains(pid), "a connection of worker {pid} broke, which was not killed");
    }
    assert!(*slowest.lock().unwrap() < ANSWER_MAX, "{slowest:?}");
    let workers = host.eventually_serves();
    assert!(workers.iter().map(|worker| worker.restarts).sum::<u64>() > 10);
    let deaths: Vec<_> = workers.iter().filter_map(|worker| worker.last_death.as_ref()).collect();
    assert!(deaths.iter().all(|death| death.cause.contains("signal 9")), "{deaths:?}");
    host.get("hello", "/").expect_ok();
    assert_eq!(host.counters("hello").running, 0, "a dead worker's column stayed");
}

#[test]
fn a_worker_that_aborts_is_replaced_and_the_tenant_in_it_named() {
    let host = Host::with_guests(&["hello", "hostile-spin"]);
    let mut spinning = host.connect();
    spinning.send("GET /go HTTP/1.1\r\nhost: hostile-spin.localhost\r\n\r\n");
    let busy = eventually("a worker that runs the guest", || {
        host.workers().into_iter().find(|worker| worker.running > 0)
    });
    // It has begun to compute, not only to run.
    std::thread::sleep(Duration::from_millis(100));
    signal(busy.pid.unwrap(), Signal::ABORT);
    assert!(spinning.is_closed_by_host());
    let death = eventually("the death on record", || {
        host.workers().into_iter().find_map(|worker| worker.last_death)
    });
    assert!(death.cause.contains("signal 6"), "{death:?}");
    assert_eq!(death.tenant.as_deref(), Some("hostile-spin"));
    host.eventually_logs("hostile-spin");
    host.eventually_serves();
    host.get("hello", "/").expect_ok();
}

#[test]
fn a_worker_that_dies_again_and_again_is_given_time_and_the_host_says_so() {
    let host = Host::with_guests(&["hello"]);
    let until = Instant::now() + Duration::from_secs(20);
    let backed_off = loop {
        assert!(Instant::now() < until, "no worker ever backed off");
        for pid in children(host.pid()) {
            signal(pid, Signal::ABORT);
        }
        if host.workers().iter().any(|worker| worker.state == WorkerState::BackingOff) {
            break host.cli(["ps"]);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = format!("{}{}", backed_off.stdout, backed_off.stderr);
    // The pause may have ended before `ps` looked; the deaths are on record either way.
    let on_record = host.workers().iter().map(|worker| worker.restarts).sum::<u64>();
    assert!(said.contains("back") || on_record > 5, "{said}");
    host.eventually_serves();
    host.get("hello", "/").expect_ok();
}

#[test]
fn without_its_supervisor_a_worker_finishes_what_runs_and_goes() {
    let mut host = Host::with_guests(&["hello", "sse"]);
    let workers = host.worker_pids();
    let mut events = host.connect();
    events.send("GET /?n=10&ms=100 HTTP/1.1\r\nhost: sse.localhost\r\n\r\n");
    eventually("the stream under way", || (host.counters("sse").running > 0).then_some(()));
    host.kill();
    let answer = events.answer();
    assert!(answer.whole && answer.text().contains("event 10 of 10"), "{}", answer.text());
    eventually("no worker left", || workers.iter().all(|pid| !is_alive(*pid)).then_some(()));
    host.restart();
    host.get("hello", "/").expect_ok();
    assert_eq!(host.tenants().len(), 2);
}

#[test]
fn a_kill_during_deploys_leaves_the_old_or_the_new_and_keeps_what_was_acknowledged() {
    let mut host = Host::with_guests(&["hello"]);
    let artifact = host.tenant("hello").summary.artifact.to_string();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for round in 0..8 {
        let done = std::thread::scope(|scope| {
            let deploying = scope.spawn(|| {
                let mut done = Vec::new();
                for i in 0.. {
                    let name = format!("t-{round}-{i}");
                    let path = format!("/v1/tenants/{name}");
                    let body =
                        serde_json::json!({ "manifest": { "name": name }, "artifact": artifact });
                    // The harness panics where there is no answer: that is how this ends.
                    match std::panic::catch_unwind(|| host.api("PUT", &path, Some(&body)).0) {
                        Ok(200 | 201) => done.push(name),
                        _ => break,
                    }
                }
                done
            });
            std::thread::sleep(Duration::from_millis(60 + 35 * round));
            signal(host.pid(), Signal::KILL);
            deploying.join().unwrap()
        });
        host.kill();
        host.restart();
        let last = done.last().cloned();
        acknowledged.extend(done);
        let there: BTreeSet<String> =
            host.tenants().into_iter().map(|tenant| tenant.name.to_string()).collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        // One deploy of each round may have become durable without its answer getting through; hello
        // was there before.
        let most = acknowledged.len() + round as usize + 2;
        assert!(there.len() <= most, "{} of {most}", there.len());
        host.get("hello", "/").expect_ok();
        if let Some(last) = last {
            host.get(&last, "/").expect_ok();
        }
    }
    assert!(acknowledged.len() > 8, "too few deploys to mean anything: {acknowledged:?}");
    eventually("no leftovers", || repo::files(&host.data(), "tmp").is_empty().then_some(()));
}
