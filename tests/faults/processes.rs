//! Processes without descriptors, and workers that die while something is changed.

use super::{deploy, set_secret};
use insula_tests::process::{children, limit, signal};
use insula_tests::wait::{eventually, within};
use insula_tests::{Connection, Host, Setup, repo};
use rustix::process::{Resource, Signal};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// The limit of descriptors that leaves a process just so many more: numbers that are free are given
/// out again, the lowest first.
fn room(pid: u32, more: usize) -> u64 {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    (0..).filter(|number| !open.contains(number)).nth(more).unwrap()
}

#[test]
fn a_supervisor_without_descriptors_says_so_and_goes_on_when_there_are_some() {
    let host = Host::with_guests(&["hello"]);
    // What it does for itself after the start is done.
    eventually("the copy", || host.data().join("state.db.bak").exists().then_some(()));
    let before = limit(host.pid(), Resource::Nofile, Some(room(host.pid(), 1)));
    // One is enough to be asked, and too few to start a compiler.
    let file = host.file("new.wasm", {
        let mut bytes = fs::read(repo::guest("echo")).unwrap();
        bytes.extend([0, 2, 1, b'n']);
        bytes
    });
    let refused = host.cli(["deploy", "new", file.to_str().unwrap()]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.stderr.contains("Too many open files"), "{refused:?}");
    host.get("hello", "/").expect_ok();
    host.must(["ps"]);
    // None at all: whoever connects waits, and is answered as soon as there are some.
    limit(host.pid(), Resource::Nofile, Some(room(host.pid(), 0)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host.must(["ps"]));
        std::thread::sleep(Duration::from_millis(600));
        assert!(!waiting.is_finished());
        host.get("hello", "/").expect_ok();
        limit(host.pid(), Resource::Nofile, before);
        waiting.join().unwrap();
    });
    host.must(["deploy", "new", file.to_str().unwrap()]);
    host.get("new", "/").expect_ok();
}

#[test]
fn a_worker_without_descriptors_lets_connections_wait_and_takes_them_up_again() {
    let host = Setup::default().args(["--workers", "1"]).start();
    host.deploy_guests(&["hello"]);
    let mut held = host.connect();
    held.get("hello.localhost", "/").expect_ok();
    let worker = host.worker_pids()[0];
    let before = limit(worker, Resource::Nofile, Some(room(worker, 0)));
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..8).map(|_| scope.spawn(|| host.get("hello", "/").expect_ok().status())).collect();
        std::thread::sleep(Duration::from_millis(600));
        assert!(waiting.iter().all(|one| !one.is_finished()));
        // Whoever was there is served.
        held.get("hello.localhost", "/").expect_ok();
        limit(worker, Resource::Nofile, before);
        for one in waiting {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert_eq!(host.worker_pids(), [worker]);
}

#[test]
fn changes_are_in_force_although_workers_die_under_them() {
    let host = Host::start();
    set_secret(&host, "shop", "TOKEN", "first").expect(0, &[]);
    for stage in ["one", "two"] {
        let more = format!("secrets = {{ TOKEN = 'env' }}\nenv = {{ STAGE = '{stage}' }}");
        deploy(&host, "settings", "shop", &more).expect(0, &[]);
    }
    let stop = AtomicBool::new(false);
    let asked = |target: &str| {
        within(Duration::from_secs(20), "an answer", || {
            let mut connection = Connection::try_open(host.addr()).ok()?;
            let answer = connection.try_ask("GET", "shop.localhost", target, &[], None).ok()?;
            answer.whole.then(|| answer.expect_ok().text())
        })
    };
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills = 0;
            while !stop.load(Relaxed) {
                for worker in children(host.pid()).into_iter().skip(kills % 2).take(1) {
                    signal(worker, Signal::KILL);
                }
                kills += 1;
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        for turn in 0..12 {
            let token = format!("token-{turn}");
            set_secret(&host, "shop", "TOKEN", &token).expect(0, &[]);
            assert_eq!(asked("/env?key=TOKEN"), token);
            host.must(["rollback", "shop"]);
            let stage = if turn % 2 == 0 { "one" } else { "two" };
            assert_eq!(asked("/env?key=STAGE"), stage);
        }
        stop.store(true, Relaxed);
        killer.join().unwrap();
    });
    eventually("all serve", || {
        host.workers().iter().all(|worker| worker.pid.is_some()).then_some(())
    });
}
