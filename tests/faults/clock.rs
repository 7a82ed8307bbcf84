//! A wall clock that jumps. What is measured by it: the times of jobs, times that are shown, and the age
//! of uploads. Durations (deadlines, drains, pauses, quotas) go by the monotonic clock.
//!
//! The supervisor gets a clock of its own from libfaketime; workers have the machine's.

use insula_tests::wait::within;
use insula_tests::{Host, Setup, repo};
use std::path::Path;
use std::time::Duration;

/// Sets the supervisor's clock so far from the machine's.
fn set(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[track_caller]
fn runs(host: &Host) -> u64 {
    let runs = host.must(["runs", "ticker", "--json"]).json();
    runs[0]["run"].as_u64().unwrap_or(0)
}

#[test]
fn a_clock_that_jumps_stops_neither_requests_nor_jobs_nor_deploys() {
    let Some(library) = repo::faketime("clock jumps") else { return };
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    set(&clock, "+0");
    let host = Setup::new()
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    host.deploy_guests(&["hello"]);
    let nothing = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let program = host.file("ticker.wasm", insula_tests::wasm::binary(nothing));
    let manifest =
        format!("name = 'ticker'\ncomponent = '{}'\nschedule = '* * * * * *'\n", program.display());
    let manifest = host.file("ticker.toml", manifest);
    host.must(["deploy", "-f", manifest.to_str().unwrap()]);
    within(Duration::from_secs(20), "a run", || (runs(&host) > 0).then_some(()));
    for offset in ["+1d", "-1d", "+400d", "-2h", "+0"] {
        set(&clock, offset);
        let before = runs(&host);
        // A jump is noticed within ten seconds; no run of the time in between is made up for.
        within(Duration::from_secs(40), &format!("runs go on at {offset}"), || {
            (runs(&host) > before + 1).then_some(())
        });
        assert!(runs(&host) < before + 40, "{offset}: missed runs were made up for");
        host.deploy("new", &repo::guest("echo"), &["--env", &format!("AT={offset}")]);
        host.get("new", "/").expect_ok();
        host.get("hello", "/").expect_ok();
    }
    assert!(host.workers().iter().all(|worker| worker.restarts == 0));
}
