//! CPU: shares, quotas, and what a neighbour notices of those who compute.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::wait::eventually;
use insula_tests::{Host, repo, wasm};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long tenants compute against each other.
const SPAN: Duration = Duration::from_secs(4);
/// One in five: other tests compute on the same cores, and `benches/` measures closer.
const TOLERANCE: f64 = 0.2;

/// These tests divide the machine, so each has it to itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handler that computes for some 50 ms, and then returns without a response.
fn burner() -> Vec<u8> {
    wasm::handler(
        r#"(func (export "handle") (param i32 i32)
          (local $left i64)
          (local.set $left (i64.const 100000000))
          (loop $more
            (local.set $left (i64.sub (local.get $left) (i64.const 1)))
            (br_if $more (i64.ne (local.get $left) (i64.const 0)))))"#,
    )
}

/// A handler that fills 768 MiB again and again: each time is one operation that nothing interrupts, and
/// that takes longer than the host waits before it takes its second thread for starved.
fn filler() -> Vec<u8> {
    wasm::handler(
        r#"(memory 12300)
        (func (export "handle") (param i32 i32)
          (loop $more
            (memory.fill (i32.const 0) (i32.const 7) (i32.const 805306368))
            (br $more)))"#,
    )
}

fn burn(host: &Host, name: &str, file: &Path, flags: &[&str]) {
    // Longer than a test computes, and no longer than one cares to wait for its end.
    let flags = [flags, &["--fuel", "100G", "--timeout", "10s"]].concat();
    host.deploy(name, file, &flags);
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Keeps `connections` of each tenant busy while `meanwhile` runs.
fn busy<T>(host: &Host, tenants: &[&str], connections: usize, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // However it ends: a test that fails must not wait for its load for ever.
        let _over = Over(&over);
        // In turn, so that each worker gets connections of each tenant.
        for _ in 0..connections {
            for name in tenants {
                let over = &over;
                scope.spawn(move || {
                    let mut connection = host.connect();
                    while !over.load(Relaxed) {
                        let asked = connection.try_ask(
                            "GET",
                            &format!("{name}.localhost"),
                            "/go",
                            &[],
                            None,
                        );
                        if asked.is_err() {
                            connection = host.connect();
                        }
                    }
                });
            }
        }
        std::thread::sleep(Duration::from_millis(500));
        meanwhile()
    })
}

/// Cores that each tenant used while they were busy together.
fn cores_used(host: &Host, tenants: &[&str], connections: usize) -> Vec<f64> {
    let cpu = || -> Vec<u64> { tenants.iter().map(|name| host.counters(name).cpu_us).collect() };
    busy(host, tenants, connections, || {
        let (before, since) = (cpu(), Instant::now());
        std::thread::sleep(SPAN);
        let span = since.elapsed().as_micros() as f64;
        before.iter().zip(cpu()).map(|(before, after)| (after - before) as f64 / span).collect()
    })
}

#[test]
fn a_full_machine_is_divided_by_requests() {
    let _alone = alone();
    let host = Host::start();
    let file = host.file("burner.wasm", burner());
    burn(&host, "small", &file, &["--cpu-request", "100m"]);
    burn(&host, "large", &file, &["--cpu-request", "300m"]);
    let used = cores_used(&host, &["small", "large"], 6);
    let ratio = used[1] / used[0];
    assert!((ratio / 3.0 - 1.0).abs() < TOLERANCE, "{ratio} in place of 3: {used:?}");
}

#[test]
fn a_quota_holds_over_all_workers_and_parks_without_killing() {
    let _alone = alone();
    let host = Host::start();
    let file = host.file("burner.wasm", burner());
    burn(&host, "bounded", &file, &["--cpu-limit", "250m"]);
    let used = cores_used(&host, &["bounded"], 6)[0];
    assert!((0.1..0.25 * (1.0 + TOLERANCE)).contains(&used), "{used} cores");
    let counters = host.counters("bounded");
    assert_eq!((counters.shed, counters.host_faults), (0, 0), "{counters:?}");
    host.get("bounded", "/").expect_fault("no-response");
    // Without a quota the same tenant may have all of it, at once.
    burn(&host, "bounded", &file, &[]);
    let used = cores_used(&host, &["bounded"], 6)[0];
    assert!(used > 0.3, "{used} cores");
}

#[test]
fn neighbours_that_compute_delay_nobody() {
    let _alone = alone();
    let host = Host::start();
    host.deploy("hello", &repo::guest("hello"), &["--cpu-request", "500m"]);
    let spin = repo::guest("hostile-spin");
    let fill = host.file("filler.wasm", filler());
    burn(&host, "spin", &spin, &[]);
    // Several, so that somebody waits while another is in the middle of a fill.
    let names = ["spin", "fill-1", "fill-2"];
    for name in &names[1..] {
        burn(&host, name, &fill, &["--memory", "800Mi", "--memory-limit", "2Gi"]);
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
    // A fill takes tens of milliseconds; taking turns with them would cost that for each.
    assert!(took[270] < Duration::from_millis(25), "p50 {:?}, p90 {:?}", took[150], took[270]);
    let counters = host.counters("hello");
    assert_eq!((counters.guest_faults, counters.host_faults, counters.shed), (0, 0, 0));
}

#[test]
fn a_rate_lets_a_burst_through_and_then_one_at_a_time_over_all_workers() {
    let _alone = alone();
    let host = Host::start();
    host.deploy("hello", &repo::guest("hello"), &["--rate", "2", "--rate-burst", "6"]);
    let answers: Vec<_> = (0..12).map(|_| host.get("hello", "/")).collect();
    let passed = answers.iter().filter(|answer| answer.status() == 200).count();
    // As many as the burst, and what became due while they were asked.
    assert!((6..12).contains(&passed), "{passed} passed");
    let refused = answers.iter().find(|answer| answer.status() != 200).unwrap();
    refused.expect_fault("rate-limit");
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(host.counters("hello").shed, 12 - passed as u64);
    std::thread::sleep(Duration::from_secs(1));
    host.get("hello", "/").expect_ok();
}

#[test]
fn all_instances_of_a_tenant_share_its_memory() {
    let _alone = alone();
    let host = Host::start();
    // Each waits with 16 MiB until its deadline.
    let waiter = wasm::handler(
        r#"(memory 256)
        (func (export "handle") (param i32 i32) (loop $more (br $more)))"#,
    );
    let file = host.file("waiter.wasm", waiter);
    let flags = ["--memory", "32Mi", "--memory-limit", "40Mi", "--queue-wait", "100ms"];
    let flags = [&flags[..], &["--timeout", "4s", "--fuel", "1T"]].concat();
    host.deploy("waiter", &file, &flags);
    let ends: Vec<String> = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| host.get("waiter", "/").fault().unwrap_or_default().to_owned());
        let asked: Vec<_> = (0..4).map(|_| ask()).collect();
        let held = host.counters("waiter").memory_bytes;
        assert!(held <= 40 << 20, "{held} bytes are held");
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let count = |word: &str| ends.iter().filter(|end| *end == word).count();
    assert_eq!(count("deadline"), 2, "{ends:?}");
    assert_eq!(count("deadline") + count("out-of-memory") + count("tenant-memory"), 4, "{ends:?}");
    eventually("ended instances hold nothing", || {
        (host.counters("waiter").memory_bytes == 0).then_some(())
    });
}

#[test]
fn who_computed_alone_for_long_is_not_kept_waiting_by_a_newcomer() {
    let _alone = alone();
    let host = Host::start();
    let spin = repo::guest("hostile-spin");
    // Each worker has one long request of the old tenant before anybody else comes.
    burn(&host, "old", &spin, &[]);
    burn(&host, "new", &spin, &[]);
    let cpu = |name: &str| host.counters(name).cpu_us as f64;
    busy(&host, &["old"], 2, || {
        std::thread::sleep(Duration::from_secs(3));
        busy(&host, &["new"], 2, || {
            let before = (cpu("old"), cpu("new"));
            std::thread::sleep(Duration::from_secs(2));
            let used = (cpu("old") - before.0, cpu("new") - before.1);
            assert!(used.0 > used.1 * 0.5, "the old one got {} of {}", used.0, used.1);
            assert!(used.1 > used.0 * 0.5, "the new one got {} of {}", used.1, used.0);
        });
    });
}

#[test]
fn a_long_request_gets_on_although_other_processes_keep_the_machine_busy() {
    let _alone = alone();
    let host = Host::start();
    let spin = repo::guest("hostile-spin");
    // Some tenths of a second of computing, and a hundred times that to do it in.
    host.deploy("spin", &spin, &["--fuel", "1500M", "--timeout", "30s"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..2 * cores {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for _ in 0..3 {
            host.get("spin", "/go").expect_fault("out-of-fuel");
        }
    });
}
