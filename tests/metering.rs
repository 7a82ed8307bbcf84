//! Metering by time: nothing is counted, the clock bounds what a guest computes, and the same artifact may
//! be had both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::JobResult;
use insula_model::api::LogStream;
use insula_tests::process::mapped_bytes;
use insula_tests::wait::eventually;
use insula_tests::{Host, Setup, cli, repo, wasm};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const TIME: [&str; 2] = ["--metering", "time"];

/// A preview 1 program that says `counted`, then spins if that is wanted.
fn program(spins: bool) -> Vec<u8> {
    let then = if spins { "(loop (br 0))" } else { "" };
    wasm::binary(&format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 8) "\10\00\00\00\1e\00\00\00content-type: text/x\0a\0acounted\0a")
          (func (export "_start")
            {then}
            (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))))"#
    ))
}

/// A `wasi:cli` 0.3 program: `body` is what its `run` does.
fn command03(body: &str) -> Vec<u8> {
    wasm::binary(&format!(
        r#"(component
          (core module $m (func (export "run") (result i32) {body} (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run async (result (result)) (canon lift (core func $i "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.3.0" (instance $cli)))"#
    ))
}

/// Fuel and microseconds of CPU that a tenant has used.
fn used(host: &Host, name: &str) -> (u64, u64) {
    let counters = host.counters(name);
    (counters.fuel, counters.cpu_us)
}

/// It ended at its deadline, long before the test's patience, and its CPU time is on record.
#[track_caller]
fn ends_by_time(host: &Host, name: &str, target: &str) {
    let since = Instant::now();
    let answer = host.get(name, target);
    answer.expect_fault("deadline");
    let took = since.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(20)).contains(&took), "{took:?}");
    host.eventually_told(name, answer.request_id(), "deadline");
    let (fuel, cpu_us) = used(host, name);
    assert!(fuel == 0 && cpu_us > 10_000, "{name}: {fuel} fuel, {cpu_us} µs");
}

#[test]
fn every_kind_of_guest_runs_uncounted_and_ends_by_time() {
    let host = Host::with_guests(&["hello"]);
    let (p1, spin_p1) = (host.file("p1.wasm", program(false)), host.file("s1.wasm", program(true)));
    let spin03 = host.file("s3.wasm", command03("(loop (br 0))"));
    let start = r#"(func $spin (loop $again (br $again))) (start $spin)
        (func (export "handle") (param i32 i32))"#;
    let start = host.file("start.wasm", wasm::handler(start));
    let flags = ["--metering", "time", "--timeout", "300ms"];
    for (name, file) in [
        ("p1", &p1),
        ("p2", &repo::guest("hello")),
        ("p3", &repo::guest("hello-p3")),
        ("cgi", &repo::guest("cgi-component")),
        ("spin-p1", &spin_p1),
        ("spin-p2", &repo::guest("hostile-spin")),
        ("spin-p3", &repo::guest("gather-p3")),
        ("spin-command-p3", &spin03),
    ] {
        host.deploy(name, file, &flags);
    }
    // Ended by the probe already.
    let refused =
        host.cli(["deploy", "spin-start", start.to_str().unwrap()].into_iter().chain(flags));
    refused.expect(3, &["deadline", "cannot be instantiated"]);
    for name in ["p1", "p2", "p3", "cgi"] {
        host.get(name, "/").expect_ok();
        host.get(name, "/").expect_ok();
        let (fuel, cpu_us) = used(&host, name);
        assert!(fuel == 0 && cpu_us > 0, "{name}: {fuel} fuel, {cpu_us} µs");
    }
    assert_eq!(host.get("p1", "/").text(), "counted\n");
    for (name, target) in
        [("spin-p1", "/"), ("spin-p2", "/go"), ("spin-p3", "/spin"), ("spin-command-p3", "/")]
    {
        ends_by_time(&host, name, target);
    }
}

#[test]
fn those_who_spin_uncounted_stall_nobody() {
    let host = Host::with_guests(&["hello"]);
    let flags = ["--metering", "time", "--timeout", "10s", "--breaker-faults", "1000"];
    host.deploy("spin", &repo::guest("hostile-spin"), &flags);
    host.deploy("quiet", &repo::guest("hello"), &TIME);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = host.connect();
                connection.send("GET /go HTTP/1.1\r\nhost: spin.localhost\r\n\r\n");
                while !over.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        eventually("they spin", || (host.counters("spin").running == 4).then_some(()));
        for name in ["hello", "quiet"] {
            let mut took: Vec<Duration> = (0..20)
                .map(|_| {
                    let since = Instant::now();
                    host.get(name, "/").expect_ok();
                    since.elapsed()
                })
                .collect();
            took.sort();
            assert!(took[10] < Duration::from_millis(500), "{name}: {took:?}");
        }
        assert_eq!(host.counters("spin").running, 4, "one has ended: {:?}", host.counters("spin"));
        over.store(true, Relaxed);
    });
    // Nobody waits for them any more.
    eventually("they end", || (host.counters("spin").running == 0).then_some(()));
    assert_eq!(used(&host, "spin").0, 0);
}

#[test]
fn a_shared_instance_goes_on_uncounted() {
    let host = Setup::default().args(["--workers", "1"]).start();
    let flags = ["--reuse-concurrent", "4", "--timeout", "20s", "--metering", "time"];
    host.deploy("meet", &repo::guest("gather-p3"), &flags);
    let ask = |target: &'static str| {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| host.get("meet", target))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
        })
    };
    for _ in 0..3 {
        for answer in ask("/gather?n=4") {
            assert!(answer.expect_ok().text().contains("peak=4"), "{}", answer.text());
        }
    }
    let (fuel, cpu_us) = used(&host, "meet");
    assert!(fuel == 0 && cpu_us > 0, "{fuel} fuel, {cpu_us} µs");
    host.deploy(
        "meet",
        &repo::guest("gather-p3"),
        &[&flags[..2], &["--timeout", "300ms"], &TIME].concat(),
    );
    ends_by_time(&host, "meet", "/spin");
    host.get("meet", "/").expect_ok();
}

#[test]
fn engines_without_fuel_are_made_when_they_are_needed() {
    let host = Setup::default().args(["--workers", "1"]).start();
    let worker = host.worker_pids()[0];
    let mapped_after = |name: &str, guest: &str, flags: &[&str]| {
        host.deploy(name, &repo::guest(guest), flags);
        host.get(name, "/").expect_ok();
        mapped_bytes(worker) >> 40
    };
    let counted = mapped_after("p2", "hello", &[]);
    assert_eq!(mapped_after("other", "echo", &[]), counted);
    let timed = mapped_after("timed", "hello", &TIME);
    assert!(timed >= counted + 16, "{counted} TiB, then {timed}");
    assert_eq!(mapped_after("timed-too", "echo", &TIME), timed);
    assert_eq!(host.worker_pids(), [worker]);
}

#[test]
fn a_reused_instance_goes_on_uncounted() {
    let host = Host::start();
    host.deploy("again", &repo::guest("hello"), &["--reuse-requests", "100", "--metering", "time"]);
    let mut connection = host.connect();
    for _ in 0..10 {
        connection.get("again.localhost", "/").expect_ok();
    }
    assert_eq!(used(&host, "again").0, 0);
}

fn metering(host: &Host, name: &str) -> (u32, Value) {
    let json = host.must(["inspect", name, "--json"]).json();
    let revision = json["revision"].as_u64().unwrap();
    (revision.try_into().unwrap(), json["limits"]["metering"].clone())
}

/// Whether a request of this tenant is counted.
#[track_caller]
fn counts(host: &Host, name: &str) -> bool {
    let before = host.counters(name).fuel;
    host.get(name, "/").expect_ok();
    host.counters(name).fuel > before
}

#[test]
fn one_artifact_is_had_both_ways_and_goes_to_and_fro() {
    let host = Host::start();
    let hello = repo::guest("hello");
    host.deploy("counted", &hello, &[]);
    host.deploy("timed", &hello, &TIME);
    assert_eq!(repo::files(&host.data().join("code"), "code").len(), 2);
    for _ in 0..3 {
        assert!(counts(&host, "counted"));
        assert!(!counts(&host, "timed"));
    }
    // A deploy that changes nothing but this is a revision like any other.
    host.deploy("counted", &hello, &TIME);
    assert_eq!(metering(&host, "counted"), (2, "time".into()));
    assert!(!counts(&host, "counted"));
    host.must(["rollback", "counted"]);
    assert_eq!(metering(&host, "counted"), (1, "fuel".into()));
    assert!(counts(&host, "counted"));
    // What a rollback needs is made again if it is gone.
    for file in code(&host, "timed", "time") {
        fs::remove_file(file).unwrap();
    }
    host.must(["rollback", "counted", "2"]);
    assert!(code(&host, "timed", "time").iter().all(|file| file.exists()));
    assert!(!counts(&host, "counted"));
    assert!(!counts(&host, "timed"));
    let shown = host.must(["inspect", "timed"]).stdout;
    assert!(shown.contains("not counted"), "{shown}");
    // Both go with the artifact.
    host.must(["rm", "timed"]);
    assert!(!counts(&host, "counted"));
    host.must(["rm", "counted"]);
    eventually("its code is removed", || {
        repo::files(&host.data().join("code"), "code").is_empty().then_some(())
    });
}

/// The compiled code of a tenant and its seal, where it lies for this metering.
fn code(host: &Host, name: &str, metering: &str) -> [PathBuf; 2] {
    let hex = host.tenant(name).summary.artifact.hex();
    let code = host.data().join("code");
    let engine = fs::read_dir(code).unwrap().next().unwrap().unwrap().path();
    let middle = if metering == "time" { ".time" } else { "" };
    ["code", "seal"].map(|ending| engine.join(format!("{hex}{middle}.{ending}")))
}

#[test]
fn code_of_the_wrong_metering_is_never_run() {
    let mut host = Host::start();
    for (name, flags) in [("counted", &[][..]), ("timed", &TIME)] {
        host.deploy(name, &repo::guest("hello"), flags);
    }
    let read = |files: &[PathBuf; 2]| files.clone().map(|file| fs::read(file).unwrap());
    let [counted, timed] = [("counted", "fuel"), ("timed", "time")]
        .map(|(name, metering)| code(&host, name, metering));
    let (with_fuel, without) = (read(&counted), read(&timed));
    assert_ne!(with_fuel[0], without[0]);
    let mut flipped = without.clone();
    let middle = without[0].len() / 2;
    flipped[0][middle] ^= 1;
    for (what, files, bytes) in [
        ("a bit", &timed, &flipped),
        ("what counts, in the other's place", &timed, &with_fuel),
        ("what does not count, in the other's place", &counted, &without),
    ] {
        assert!(host.stop(Signal::TERM).success());
        for (file, bytes) in files.iter().zip(bytes) {
            fs::remove_file(file).unwrap();
            fs::write(file, bytes).unwrap();
        }
        let told = host.log().matches("made again").count();
        host.restart();
        assert!(counts(&host, "counted"), "{what}");
        assert!(!counts(&host, "timed"), "{what}");
        assert_eq!(host.log().matches("made again").count(), told + 1, "{what}: {}", host.log());
        assert_eq!(read(&counted)[0], with_fuel[0], "{what}");
        assert_eq!(read(&timed)[0], without[0], "{what}");
    }
}

#[test]
fn jobs_run_uncounted_and_end_by_time() {
    let host = Host::start();
    for (name, spins, result) in [
        ("ticks", false, JobResult::Exited { code: 0 }),
        ("spins", true, JobResult::failed("deadline")),
    ] {
        let component = host.file(&format!("{name}.wasm"), program(spins));
        let text = format!(
            "name = '{name}'\ncomponent = {component:?}\nschedule = '0 0 1 1 *'\n\
             metering = 'time'\ntimeout = '300ms'\n"
        );
        let manifest = host.file(&format!("{name}.toml"), text);
        host.must(["deploy".as_ref(), "-f".as_ref(), manifest.as_os_str()]);
        let (status, value) = host.api("POST", &format!("/v1/tenants/{name}/runs"), None);
        assert_eq!(status, 202, "{value}");
        let last = eventually("the run ends", || host.tenant(name).summary.job?.last);
        assert_eq!(last.result, Some(result), "{name}");
        let (fuel, cpu_us) = used(&host, name);
        assert!(fuel == 0 && cpu_us > 0, "{name}: {fuel} fuel, {cpu_us} µs");
    }
    let said = host.records("ticks").into_iter().find(|record| record.stream == LogStream::Stdout);
    assert!(said.is_some(), "{:?}", host.records("ticks"));
}

#[test]
fn fuel_is_refused_where_nothing_counts_it() {
    let host = Host::start();
    let deploy = |flags: &[&str]| {
        let args =
            [Path::new("deploy"), Path::new("x"), &repo::guest("hello")].map(Path::to_path_buf);
        host.cli(args.into_iter().chain(flags.iter().map(PathBuf::from)))
    };
    deploy(&["--metering", "time", "--fuel", "1M"])
        .expect(3, &["`fuel`", "leave it out", "timeout"]);
    deploy(&["--metering", "none"]).expect(2, &["fuel, time"]);
    deploy(&["--metering", "fuel", "--fuel", "1M"]).expect(0, &[]);
    assert!(host.tenants().iter().all(|tenant| tenant.revision == 1));
}

#[test]
fn a_program_run_once_may_go_uncounted() {
    let home = tempfile::tempdir().unwrap();
    let [says, spins] = [false, true].map(|spins| {
        let file = home.path().join(format!("{spins}.wasm"));
        fs::write(&file, program(spins)).unwrap();
        file
    });
    let run = |file: &Path, flags: &[&str]| {
        let mut command = cli::insula(home.path());
        cli::finish(command.arg("run").arg(file).args(flags), b"")
    };
    for flags in [&[][..], &TIME, &[], &TIME] {
        let output = run(&says, flags);
        output.expect(0, &[]);
        assert!(output.stdout.ends_with("counted\n"), "{output:?}");
    }
    run(&spins, &["--fuel", "10M"]).expect(125, &["fuel"]);
    run(&spins, &["--metering", "time", "--timeout", "300ms"]).expect(125, &["deadline"]);
    run(&says, &["--metering", "time", "--fuel", "10M"]).expect(125, &["leave it out"]);
}
