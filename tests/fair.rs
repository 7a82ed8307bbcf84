//! CPU: shares, quotas, and what a neighbour notices of those who compute.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::breaker::BreakerState;
use insula_tests::h2::{self, Http2};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup, process, repo, wasm};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[path = "fair/neighbours.rs"]
mod neighbours;

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

/// A handler that fills its memory again and again.
fn filler(bytes: usize) -> Vec<u8> {
    wasm::handler(&format!(
        r#"(memory {})
        (func (export "handle") (param i32 i32)
          (loop $more
            (memory.fill (i32.const 0) (i32.const 7) (i32.const {bytes}))
            (br $more)))"#,
        bytes.div_ceil(65_536)
    ))
}

/// A handler that passes 480 MiB of text from one component to another, again and again: each time is one
/// operation of the engine's that nothing interrupts, and that takes longer than the host waits before it
/// takes its second thread for starved.
fn teller() -> Vec<u8> {
    wasm::component(
        "",
        "",
        r#"(component $listener
            (core module $m (memory (export "memory") 7680)
              (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
              (func (export "listen") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "listen") (param "text" string)
              (canon lift (core func $i "listen")
                (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))
          (instance $listener (instantiate $listener))
          (core module $memory (memory (export "memory") 7680))
          (core instance $memory (instantiate $memory))
          (core func $listen (canon lower (func $listener "listen")
            (memory (core memory $memory "memory"))))
          (core module $m
            (import "" "listen" (func $listen (param i32 i32)))
            (func (export "handle") (param i32 i32)
              (loop $more (call $listen (i32.const 0) (i32.const 503316480)) (br $more))))
          (core instance $i (instantiate $m
            (with "" (instance (export "listen" (func $listen))))))"#,
    )
}

fn burn(host: &Host, name: &str, file: &Path, flags: &[&str]) {
    // Longer than a test computes, and no longer than one cares to wait for its end.
    let flags =
        [flags, &["--fuel", "100G", "--timeout", "10s", "--breaker-faults", "1000"]].concat();
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

/// Connections that one worker holds.
fn on_one_worker(host: &Host, count: usize) -> Vec<Connection> {
    let pids = host.worker_pids();
    let mut by_worker: Vec<Vec<Connection>> = pids.iter().map(|_| Vec::new()).collect();
    while by_worker[0].len() < count {
        let mut connection = host.connect();
        connection.get("nobody.localhost", "/");
        let local = connection.stream.local_addr().unwrap();
        let owner = process::owner(local, host.addr(), &pids).unwrap();
        let at = pids.iter().position(|pid| *pid == owner).unwrap();
        by_worker[at].push(connection);
    }
    by_worker.swap_remove(0)
}

#[test]
fn connections_of_who_computes_move_to_a_core_that_is_idle() {
    let _alone = alone();
    let host = Host::start();
    let file = host.file("burner.wasm", burner());
    burn(&host, "burner", &file, &[]);
    let (over, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for mut connection in on_one_worker(&host, 3) {
            let (over, closed) = (&over, &closed);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    // No request is lost by it: the host says so with an answer.
                    let answer = connection.get("burner.localhost", "/go");
                    closed.fetch_or(answer.field("connection") == Some("close"), Relaxed);
                }
            });
        }
        eventually("requests run on both workers", || {
            host.workers().iter().all(|worker| worker.running > 0).then_some(())
        });
    });
    assert!(closed.load(Relaxed));
    // Whoever has a core to himself stays where he is.
    let mut alone = host.connect();
    for _ in 0..20 {
        assert_eq!(alone.get("burner.localhost", "/go").field("connection"), None);
    }
}

#[test]
fn over_http2_too_and_no_stream_is_lost() {
    let _alone = alone();
    let host = Host::start();
    let file = host.file("burner.wasm", burner());
    burn(&host, "burner", &file, &[]);
    let (pids, to) = (host.worker_pids(), host.addr());
    let over = AtomicBool::new(false);
    let client = async || {
        let mut elsewhere = Vec::new();
        let mut own = loop {
            let mut one = Http2::open(to).await;
            one.get_on(to, "nobody.localhost").await.unwrap();
            match process::owner(one.local(), to, &pids) == Some(pids[0]) {
                true => break one,
                false => elsewhere.push(one),
            }
        };
        let first = own.local();
        while !over.load(Relaxed) {
            own.get_on(to, "burner.localhost").await.unwrap();
        }
        own.local() != first
    };
    let moved = std::thread::scope(|scope| {
        let _over = Over(&over);
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| h2::run(client()))).collect();
        eventually("requests run on both workers", || {
            host.workers().iter().all(|worker| worker.running > 0).then_some(())
        });
        over.store(true, Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).filter(|moved| *moved).count()
    });
    assert!(moved > 0);
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

#[test]
fn a_tenant_that_keeps_failing_is_not_run_until_it_is_mended() {
    let _alone = alone();
    let host = Host::with_guests(&["hello"]);
    let trap = repo::guest("hostile-trap");
    let breaker = ["--breaker-faults", "5", "--breaker-open", "3s"];
    host.deploy("flaky", &trap, &breaker);
    let fail = |connection: &mut Connection| connection.get("flaky.localhost", "/go");
    let mut one = host.connect();
    for _ in 0..5 {
        fail(&mut one).expect_fault("trap");
    }
    // Refused by every worker, before anything runs.
    let refused: Vec<_> = (0..6).map(|_| host.get("flaky", "/")).collect();
    for answer in &refused {
        answer.expect_fault("circuit-open");
        assert_eq!(answer.status(), 503);
        assert!(matches!(answer.field("retry-after"), Some("1" | "2" | "3")), "{answer:?}");
    }
    assert_eq!((host.counters("flaky").guest_faults, host.counters("flaky").shed), (5, 6));
    let told = host.eventually_told("flaky", refused[0].request_id(), "circuit-open");
    assert!(told.text.contains("deploy a revision that works"), "{told:?}");
    let shown = host.must(["ps"]).stdout;
    assert!(shown.contains("CIRCUIT") && shown.contains("open, "), "{shown}");
    host.get("hello", "/").expect_ok();
    // One at a time may try; while it fails, the next waits for twice as long.
    eventually("a probe", || (fail(&mut one).fault() == Some("trap")).then_some(()));
    let BreakerState::Open { retry_ms } = host.tenant("flaky").summary.breaker else {
        panic!("{:?}", host.tenant("flaky").summary.breaker)
    };
    assert!((3_001..=6_000).contains(&retry_ms), "{retry_ms}");
    // One that works ends it.
    eventually("an answer", || (host.get("flaky", "/").status() == 200).then_some(()));
    assert_eq!(host.tenant("flaky").summary.breaker, BreakerState::Closed);
    for _ in 0..4 {
        fail(&mut one).expect_fault("trap");
    }
    assert_eq!(host.tenant("flaky").summary.breaker, BreakerState::Closed, "it begins anew");
    // A new revision starts with a clean record.
    fail(&mut one).expect_fault("trap");
    host.get("flaky", "/").expect_fault("circuit-open");
    host.deploy("flaky", &trap, &["--breaker-faults", "6", "--breaker-open", "3s"]);
    host.get("flaky", "/").expect_ok();
    assert!(!host.must(["ps"]).stdout.contains("CIRCUIT"), "it is shown where there is one");
}

#[test]
fn who_mostly_answers_is_not_taken_out_of_service() {
    let _alone = alone();
    let host = Host::start();
    host.deploy("mixed", &repo::guest("hostile-trap"), &["--breaker-faults", "5"]);
    let mut one = host.connect();
    for _ in 0..10 {
        one.get("mixed.localhost", "/").expect_ok();
        one.get("mixed.localhost", "/go").expect_fault("trap");
        one.get("mixed.localhost", "/").expect_ok();
    }
}

/// A handler that fills 48 MiB, and then computes until its deadline.
fn hoarder() -> Vec<u8> {
    wasm::handler(
        r#"(memory 768)
        (func (export "handle") (param i32 i32)
          (memory.fill (i32.const 0) (i32.const 7) (i32.const 50331648))
          (loop $more (br $more)))"#,
    )
}

#[test]
fn when_memory_runs_low_best_effort_tenants_give_way_and_guaranteed_ones_go_on() {
    const BUDGET: u64 = 256 << 20;
    let _alone = alone();
    let host = Setup::new().args(["--memory", "256Mi"]).start();
    let file = host.file("hoarder.wasm", hoarder());
    host.deploy("hoarder", &file, &["--memory", "64Mi", "--fuel", "1T", "--timeout", "3s"]);
    let hello = repo::guest("hello");
    host.deploy("spare", &hello, &[]);
    let all = ["--cpu-request=500m", "--cpu-limit=500m", "--memory-limit=64Mi"];
    host.deploy("hello", &hello, &all);
    host.get("spare", "/").expect_ok();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let hoard = || {
            let mut ends = Vec::new();
            while !over.load(Relaxed) {
                ends.push(host.get("hoarder", "/").fault().unwrap_or("none").to_owned());
                std::thread::sleep(Duration::from_millis(20));
            }
            ends
        };
        let hoards: Vec<_> = (0..12).map(|_| scope.spawn(hoard)).collect();
        eventually("a refusal", || {
            (host.get("spare", "/").fault() == Some("host-memory")).then_some(())
        });
        let (mut most, mut asked, mut refused) = (0, 0, 0);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let answer = host.get("hello", "/");
            asked += 1;
            // For a moment the budget may be passed by a tenth, and then all are refused.
            match answer.fault() {
                Some("host-memory") => refused += 1,
                _ => drop(answer.expect_ok()),
            }
            std::thread::sleep(Duration::from_millis(5));
            most = most.max(host.info().memory.used_bytes);
        }
        assert!(most < BUDGET * 3 / 2, "{} MiB were held", most >> 20);
        assert!(refused * 20 < asked, "{refused} of {asked} of a guaranteed tenant's refused");
        // What is refused is also given back, so it is not low at each moment.
        eventually("`ps` says it", || {
            host.cli(["ps", "--workers"]).stderr.contains("memory runs low").then_some(())
        });
        over.store(true, Relaxed);
        let ends: Vec<String> = hoards.into_iter().flat_map(|h| h.join().unwrap()).collect();
        let known = ["host-memory", "evicted", "deadline"];
        let other = ends.iter().find(|end| !known.contains(&end.as_str()));
        assert_eq!(other, None);
    });
    eventually("all is well again", || (host.get("spare", "/").status() == 200).then_some(()));
}
