//! What a neighbour notices of those who compute, fill their memory, or are asked without end.

use super::{Over, alone, burn, busy, filler, teller};
use insula_tests::{Connection, Host, Setup, repo};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[test]
fn neighbours_that_compute_delay_nobody() {
    let _alone = alone();
    let host = Host::start();
    host.deploy("hello", &repo::guest("hello"), &["--cpu-request", "500m"]);
    let spin = repo::guest("hostile-spin");
    let tell = host.file("teller.wasm", teller());
    burn(&host, "spin", &spin, &[]);
    // Several, so that somebody waits while another is in the middle of an operation.
    let names = ["spin", "tell-1", "tell-2"];
    for name in &names[1..] {
        burn(&host, name, &tell, &["--memory", "1Gi", "--memory-limit", "4Gi"]);
    }
    let mut connection = host.connect();
    let mut took: Vec<Duration> = busy(&host, &names, 2, || {
        let ask = || {
            let since = Instant::now();
            connection.get("hello.localhost", "/").expect_ok();
            std::thread::sleep(Duration::from_millis(5));
            since.elapsed()
        };
        std::iter::repeat_with(ask).take(300).collect()
    });
    took.sort();
    // Each takes tens of milliseconds; taking turns with them would cost that every time.
    assert!(took[270] < Duration::from_millis(25), "p50 {:?}, p90 {:?}", took[150], took[270]);
    let counters = host.counters("hello");
    assert_eq!((counters.guest_faults, counters.host_faults, counters.shed), (0, 0, 0));
}

/// Each of their requests is short, and together they keep the worker busy.
#[test]
fn who_asks_for_more_does_not_wait_for_all_who_are_asked_without_end() {
    const NEIGHBOURS: usize = 24;
    const REQUESTS: usize = 200;
    let _alone = alone();
    let host = Setup::default().args(["--workers", "1"]).start();
    host.deploy("victim", &repo::guest("hello"), &["--cpu-request", "500m"]);
    let names: Vec<String> = (0..NEIGHBOURS).map(|number| format!("busy-{number}")).collect();
    for name in &names {
        host.deploy(name, &repo::guest("hello"), &[]);
    }
    let ask = |connection: &mut Connection, name: &str| {
        let since = Instant::now();
        connection.get(&format!("{name}.localhost"), "/").expect_ok();
        since.elapsed()
    };
    let median = |mut took: Vec<Duration>| {
        took.sort();
        took[took.len() / 2]
    };
    let once = || {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (over, ask, host) = (&over, &ask, &host);
            let asked = |name| {
                scope.spawn(move || {
                    let mut connection = host.connect();
                    let mut took = Vec::new();
                    while !over.load(Relaxed) {
                        took.push(ask(&mut connection, name));
                    }
                    took
                })
            };
            let asked: Vec<_> = names.iter().map(String::as_str).map(asked).collect();
            let _over = Over(over);
            let mut connection = host.connect();
            std::thread::sleep(Duration::from_millis(300));
            let victims = (0..REQUESTS).map(|_| ask(&mut connection, "victim")).collect();
            over.store(true, Relaxed);
            let theirs = asked.into_iter().flat_map(|asked| asked.join().unwrap()).collect();
            (median(victims), median(theirs))
        })
    };
    // In line with all of them, it would wait as long as they do. All clients share the cores with the host, so
    // part of what either waits for is their own turn on a core.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (victims, theirs) = once();
        if victims < theirs * 7 / 10 {
            return;
        }
        seen.push((victims, theirs));
    }
    panic!("the victim and its neighbours wait {seen:?}");
}

/// Nobody knows of a new tenant that it has long operations, so its first slice is on the event loop.
#[test]
fn new_tenants_that_fill_their_memory_at_once_stop_nobody() {
    const TENANTS: usize = 30;
    let _alone = alone();
    let host = Host::start();
    host.deploy("hello", &repo::guest("hello"), &[]);
    let file = host.file("filler.wasm", filler(64 << 20));
    let names: Vec<String> = (0..TENANTS).map(|number| format!("new-{number}")).collect();
    for name in &names {
        host.deploy(name, &file, &["--memory", "80Mi", "--fuel", "1T", "--timeout", "3s"]);
    }
    let mut asking: Vec<Connection> = (0..4).map(|_| host.connect()).collect();
    for connection in &mut asking {
        connection.get("hello.localhost", "/").expect_ok();
    }
    let over = AtomicBool::new(false);
    let answered: u32 = std::thread::scope(|scope| {
        let asked: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(|| assert_eq!(host.get(name, "/").fault(), Some("deadline"))))
            .collect();
        let innocent: Vec<_> = asking
            .into_iter()
            .map(|mut connection| {
                let over = &over;
                scope.spawn(move || {
                    let mut answered = 0;
                    while !over.load(Relaxed) {
                        connection.get("hello.localhost", "/").expect_ok();
                        answered += 1;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    answered
                })
            })
            .collect();
        let _over = Over(&over);
        for asked in asked {
            asked.join().unwrap();
        }
        over.store(true, Relaxed);
        innocent.into_iter().map(|innocent| innocent.join().unwrap()).sum()
    });
    // A fill on new pages takes a tenth of a second: one after the other, all are the whole time. Two
    // thousand could be answered; the machine may have others to serve as well.
    assert!(answered > 200, "{answered} innocent requests were answered");
}
