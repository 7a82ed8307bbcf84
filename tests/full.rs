//! A worker that is out of descriptors, mappings or slots: it says so at once, and recovers by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::process::{limit, mapped_bytes};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup, repo};
use rustix::process::Resource;
use std::time::{Duration, Instant};

/// An answer at once, on a machine that is doing something else: what this must be far from is the
/// wait for code that is being compiled.
const AT_ONCE: Duration = Duration::from_secs(3);

/// One worker, so that its limits are the host's.
#[track_caller]
fn alone() -> (Host, u32) {
    let host = Setup::default().args(["--workers", "1"]).start();
    let pid = host.worker_pids()[0];
    (host, pid)
}

/// A connection that the worker has accepted.
#[track_caller]
fn accepted(host: &Host) -> Connection {
    let mut connection = host.connect();
    connection.get("nobody.localhost", "/");
    connection
}

#[test]
fn without_descriptors_code_is_not_taken_for_missing() {
    let (host, worker) = alone();
    host.deploy_guests(&["hello"]);
    let mut connection = accepted(&host);
    let before = limit(worker, Resource::Nofile, Some(3));
    let since = Instant::now();
    let answer = connection.get("hello.localhost", "/");
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    answer.expect_fault("worker-full");
    limit(worker, Resource::Nofile, before);
    let told = host.eventually_told("hello", answer.request_id(), "worker-full");
    assert!(told.text.contains("open files"), "{told:?}");
    let counters = host.counters("hello");
    assert_eq!((counters.shed, counters.host_faults), (1, 0), "{counters:?}");
    connection.get("hello.localhost", "/").expect_ok();
}

#[test]
fn without_address_space_what_idles_makes_room() {
    let (host, worker) = alone();
    // The larger first, so that its place is enough for the other.
    host.deploy("idle", &repo::guest("echo"), &["--reuse-requests", "1k", "--reuse-idle", "1h"]);
    host.deploy_guests(&["hello"]);
    host.get("idle", "/").expect_ok();
    let mut connection = accepted(&host);
    assert_eq!(host.workers()[0].loaded, 1);
    let before = limit(worker, Resource::As, Some(mapped_bytes(worker)));
    let answer = connection.get("hello.localhost", "/");
    limit(worker, Resource::As, before);
    answer.expect_ok();
    assert_eq!(host.workers()[0].loaded, 1, "nothing was given up for it");
    // What was given up comes back when it is asked for.
    connection.get("idle.localhost", "/").expect_ok();
    assert_eq!(host.worker_pids(), [worker]);
}

#[test]
fn without_slots_the_next_request_is_refused_and_the_one_after_them_served() {
    /// Instances of WASI 0.3 that one worker has room for.
    const SLOTS: usize = 1_024;
    let (host, worker) = alone();
    host.deploy_guests(&["hello", "hello-p3"]);
    let flags = ["--concurrency", "1000", "--timeout", "60s"];
    for name in ["some", "others"] {
        host.deploy(name, &repo::guest("gather-p3"), &flags);
    }
    // Idle instances hold slots too, until somebody needs them.
    host.deploy("idle", &repo::guest("hello-p3"), &["--reuse-requests", "1k"]);
    host.get("idle", "/").expect_ok();
    let mut waiting: Vec<Connection> = (0..SLOTS).map(|_| host.connect()).collect();
    for (turn, connection) in waiting.iter_mut().enumerate() {
        let name = ["some", "others"][turn % 2];
        connection.send(format!("GET /stall HTTP/1.1\r\nhost: {name}.localhost\r\n\r\n"));
    }
    eventually("all slots taken", || (host.workers()[0].running >= SLOTS as u64).then_some(()));
    let answer = eventually("a refusal", || {
        let since = Instant::now();
        let answer = host.get("hello-p3", "/");
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        answer.fault().is_some().then_some(answer)
    });
    answer.expect_fault("worker-full");
    host.eventually_told("hello-p3", answer.request_id(), "worker-full");
    for name in ["some", "others"] {
        assert_eq!(host.counters(name).shed, 0, "the idle instance kept its slot");
    }
    // The other engine has slots of its own.
    host.get("hello", "/").expect_ok();
    drop(waiting);
    eventually("slots given back", || host.get("hello-p3", "/").fault().is_none().then_some(()));
    assert_eq!(host.worker_pids(), [worker]);
}

#[test]
fn a_worker_has_room_for_as_many_as_it_is_told() {
    let host = Setup::default().args(["--workers", "1", "--instances", "64"]).start();
    host.deploy_guests(&["hello-p3"]);
    host.deploy("some", &repo::guest("gather-p3"), &["--concurrency", "1000", "--timeout", "60s"]);
    let page = host.api_raw("GET", "/metrics", None).text();
    assert!(page.contains("\ninsula_worker_instance_slots 64\n"), "{page}");
    let mut waiting: Vec<Connection> = (0..63).map(|_| host.connect()).collect();
    for connection in &mut waiting {
        connection.send("GET /stall HTTP/1.1\r\nhost: some.localhost\r\n\r\n");
    }
    // Not the worker's own figure, in which the request between may still be.
    let stalled = |count| (host.counters("some").running == count).then_some(());
    eventually("all but one slot taken", || stalled(63));
    host.get("hello-p3", "/").expect_ok();
    // A request that runs has its slot a moment later, and until then others may have it.
    let refused = eventually("a refusal", || {
        waiting.push(host.connect());
        waiting.last_mut()?.send("GET /stall HTTP/1.1\r\nhost: some.localhost\r\n\r\n");
        let answer = host.get("hello-p3", "/");
        answer.fault().is_some().then_some(answer)
    });
    refused.expect_fault("worker-full");
    eventually("all slots taken", || stalled(64));
    drop(waiting);
    eventually("slots given back", || host.get("hello-p3", "/").fault().is_none().then_some(()));
}
