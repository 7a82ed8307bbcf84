//! Jobs: programs that the host runs by a schedule, or because somebody asks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{JobCause, JobResult, JobRun, JobStatus, LogStream};
use insula_tests::process::{children, cpu, signal};
use insula_tests::wait::eventually;
use insula_tests::{Host, Output, Setup, repo, wasm};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// A schedule that does not come while a test runs, unless at New Year.
const RARELY: &str = "0 0 1 1 *";
const EVERY_SECOND: &str = "* * * * * *";

/// A preview 1 program that writes `tick`, then does this.
fn program(then: &str) -> Vec<u8> {
    wasm::binary(&format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 8) "\10\00\00\00\05\00\00\00tick\0a")
          (func $sleep (param $ns i64)
            (i32.store8 (i32.const 72) (i32.const 0))
            (i32.store (i32.const 80) (i32.const 1))
            (i64.store (i32.const 88) (local.get $ns))
            (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200))))
          (func (export "_start")
            (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
            {then}))"#
    ))
}

fn sleeping(ms: u64) -> Vec<u8> {
    program(&format!("(call $sleep (i64.const {}))", ms * 1_000_000))
}

/// Deploys a program by a manifest with this schedule and these further lines.
fn deploy(host: &Host, name: &str, wasm: &[u8], schedule: &str, more: &str) -> Output {
    host.must([
        "deploy".as_ref(),
        "-f".as_ref(),
        manifest(host, name, wasm, schedule, more).as_os_str(),
    ])
}

fn manifest(host: &Host, name: &str, wasm: &[u8], schedule: &str, more: &str) -> PathBuf {
    let component = host.file(&format!("{name}.wasm"), wasm);
    let text = format!(
        "name = '{name}'\ncomponent = '{}'\nschedule = '{schedule}'\n{more}",
        component.display()
    );
    host.file(&format!("{name}.toml"), text)
}

/// Standard output of a verb that succeeded holds these.
#[track_caller]
fn shows(output: &Output, words: &[&str]) {
    output.expect(0, &[]);
    for word in words {
        assert!(output.stdout.contains(word), "`{word}` is not shown: {output:#?}");
    }
}

fn status(host: &Host, name: &str) -> JobStatus {
    host.tenant(name).summary.job.expect("a job")
}

fn runs(host: &Host, name: &str) -> Vec<JobRun> {
    let (status, value) = host.api("GET", &format!("/v1/tenants/{name}/runs"), None);
    assert_eq!(status, 200, "{value}");
    serde_json::from_value(value).expect("runs")
}

fn trigger(host: &Host, name: &str) -> (u16, serde_json::Value) {
    host.api("POST", &format!("/v1/tenants/{name}/runs"), None)
}

#[track_caller]
fn triggered(host: &Host, name: &str) -> u64 {
    let (status, value) = trigger(host, name);
    assert_eq!(status, 202, "{value}");
    value["run"].as_u64().expect("run")
}

#[track_caller]
fn ended(host: &Host, name: &str, run: u64) -> JobRun {
    eventually(&format!("run {run} of {name} ends"), || {
        runs(host, name).into_iter().find(|one| one.run == run && one.result.is_some())
    })
}

fn exited(code: u8) -> Option<JobResult> {
    Some(JobResult::Exited { code })
}

#[test]
fn a_job_runs_by_its_schedule_and_shows_in_log_ps_runs_and_inspect() {
    let host = Host::start();
    let deployed = deploy(&host, "ticker", &program(""), EVERY_SECOND, "");
    shows(&deployed, &["runs * * * * * *, next at 20"]);
    let ran = eventually("three runs have ended", || {
        let ran: Vec<JobRun> = runs(&host, "ticker");
        (ran.iter().filter(|run| run.result.is_some()).count() >= 3).then_some(ran)
    });
    let numbers: Vec<u64> = ran.iter().map(|run| run.run).collect();
    let falling: Vec<u64> = (1..=numbers[0]).rev().collect();
    assert_eq!(numbers, falling, "newest first, from 1, none left out");
    for run in ran.iter().filter(|run| run.result.is_some()) {
        assert_eq!((&run.result, run.cause, run.revision), (&exited(0), JobCause::Schedule, 1));
        // RFC 3339 in UTC sorts as text.
        assert!(Some(&run.started_at) <= run.ended_at.as_ref(), "{run:?}");
    }
    let records = host.records("ticker");
    let ids: BTreeSet<&str> = records
        .iter()
        .filter(|record| record.stream == LogStream::Stdout && record.text == "tick")
        .map(|record| record.request.as_str())
        .collect();
    assert!(ids.contains("run-00000000000000000001") && ids.len() >= 3, "{ids:?}");

    let job = status(&host, "ticker");
    assert_eq!(job.schedule.as_str(), EVERY_SECOND);
    assert_eq!(job.last.expect("it ran").result, exited(0));
    assert!(job.next_at.is_some());
    let counters = host.counters("ticker");
    assert!(counters.responses >= 3 && counters.fuel > 0, "{counters:?}");
    assert_eq!(counters.guest_faults, 0, "{counters:?}");
    shows(&host.must(["ps"]), &["NEXT", "LAST RUN", EVERY_SECOND, "exit 0, "]);
    shows(&host.must(["runs", "ticker"]), &["RESULT", "schedule", "exit 0"]);
    shows(&host.must(["inspect", "ticker"]), &["schedule", EVERY_SECOND, "exit 0"]);
    // It is no application: nothing answers under its name.
    assert_eq!(host.get("ticker", "/").status(), 404);
}

#[test]
fn tables_without_jobs_have_no_columns_of_jobs() {
    let host = Host::with_guests(&["hello"]);
    let page = host.must(["ps"]).stdout;
    assert!(!page.contains("NEXT") && !page.contains("LAST RUN"), "{page}");
}

#[test]
fn trigger_waits_and_exits_as_the_program_does() {
    let host = Host::start();
    deploy(&host, "three", &program("(call $exit (i32.const 3))"), RARELY, "");
    let output = host.cli(["trigger", "three", "--wait"]);
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output.stdout.contains("stdout tick") && output.stdout.contains("exit 3"),
        "{output:?}"
    );
    let run = &runs(&host, "three")[0];
    assert_eq!((run.run, run.cause, &run.result), (1, JobCause::Request, &exited(3)));
    assert_eq!(host.counters("three").guest_faults, 1);
    let json = host.cli(["trigger", "three", "--wait", "--json"]);
    let run: JobRun = serde_json::from_str(&json.stdout).expect("a run");
    assert_eq!((json.code, run.run, run.result), (Some(3), 2, exited(3)));
    shows(&host.must(["trigger", "three"]), &["run 3"]);
    assert_eq!(ended(&host, "three", 3).result, exited(3));
}

#[test]
fn limits_end_a_run_and_the_log_says_which() {
    let host = Host::start();
    let spin = program("(loop (br 0))");
    let grow = program(
        "(drop (memory.grow (i32.const 1000))) (memory.fill (i32.const 60000000) (i32.const 1) (i32.const 9))",
    );
    for (name, wasm, more, fault) in [
        ("waits", sleeping(600_000), "timeout = '300ms'", "deadline"),
        ("spins", spin.clone(), "timeout = '300ms'\nfuel = '1T'", "deadline"),
        ("burns", spin, "fuel = '10M'\ntimeout = '60s'", "out-of-fuel"),
        ("grows", grow, "memory = '1Mi'", "out-of-memory"),
        ("traps", program("unreachable"), "", "trap"),
    ] {
        deploy(&host, name, &wasm, RARELY, more);
        let waited = host.cli(["trigger", name, "--wait"]);
        assert_eq!(waited.code, Some(1), "{waited:?}");
        assert!(waited.stderr.contains(fault), "{waited:?}");
        let run = &runs(&host, name)[0];
        assert_eq!(run.result, Some(JobResult::failed(fault)), "{name}");
        let counters = host.counters(name);
        assert_eq!((counters.guest_faults, counters.running), (1, 0), "{name}: {counters:?}");
        host.eventually_told(name, "run-00000000000000000001", &format!("{fault}: "));
    }
    shows(&host.must(["ps"]), &["deadline, ", "out-of-fuel, "]);
}

#[test]
fn a_run_that_is_due_while_another_goes_on_is_skipped() {
    let host = Host::start();
    deploy(&host, "slow", &sleeping(2_500), EVERY_SECOND, "");
    let ran = eventually("two runs have ended", || {
        let ran = runs(&host, "slow");
        (ran.iter().filter(|run| run.result.is_some()).count() >= 2).then_some(ran)
    });
    let (first, second) = (&ran[ran.len() - 1], &ran[ran.len() - 2]);
    assert_eq!((first.run, second.run), (1, 2));
    assert!(first.ended_at.as_ref().unwrap() <= &second.started_at, "{first:?} {second:?}");
    let records = host.records("slow");
    let skipped = |text: &str| {
        text.starts_with("skipped the run of") && text.contains("run 1 has not ended yet")
    };
    assert!(records.iter().any(|r| r.stream == LogStream::Host && skipped(&r.text)), "{records:?}");
}

#[test]
fn one_run_at_a_time_and_only_of_jobs() {
    let host = Host::with_guests(&["hello"]);
    deploy(&host, "slow", &sleeping(600_000), RARELY, "timeout = '5m'");
    let run = triggered(&host, "slow");
    let (code, body) = trigger(&host, "slow");
    assert_eq!((code, body["code"].as_str()), (409, Some("conflict")), "{body}");
    assert!(body["message"].as_str().unwrap().contains(&format!("run {run}")), "{body}");
    let again = host.cli(["trigger", "slow"]);
    again.expect(3, &[]);
    assert!(again.stderr.contains("has not ended"), "{again:?}");
    assert_eq!(status(&host, "slow").running.map(|run| run.run), Some(run));
    shows(&host.must(["ps"]), &["running, "]);
    let (code, body) = trigger(&host, "hello");
    assert_eq!((code, body["code"].as_str()), (409, Some("conflict")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("schedule"), "{body}");
    assert_eq!(trigger(&host, "nobody").0, 404);
    assert_eq!(host.api("GET", "/v1/tenants/nobody/runs", None).0, 404);
}

#[test]
fn a_worker_that_dies_takes_its_run_and_the_next_run_works() {
    let host = Host::start();
    deploy(&host, "slow", &sleeping(3_000), RARELY, "");
    let run = triggered(&host, "slow");
    eventually("it runs", || (host.counters("slow").running == 1).then_some(()));
    for pid in host.worker_pids() {
        signal(pid, Signal::KILL);
    }
    assert_eq!(ended(&host, "slow", run).result, Some(JobResult::failed("worker-died")));
    host.eventually_serves();
    let next = triggered(&host, "slow");
    assert_eq!(next, run + 1, "a run was repeated");
    assert_eq!(ended(&host, "slow", next).result, exited(0));
    assert_eq!(runs(&host, "slow").len(), 2);
}

#[test]
fn history_survives_restarts_and_kills_of_the_host() {
    let mut host = Host::start();
    deploy(&host, "slow", &sleeping(1_500), RARELY, "");
    deploy(&host, "ticker", &program(""), EVERY_SECOND, "");
    // A stop waits for what runs.
    let first = triggered(&host, "slow");
    eventually("it runs", || (host.counters("slow").running == 1).then_some(()));
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    assert_eq!(ended(&host, "slow", first).result, exited(0));
    assert_eq!(status(&host, "slow").last.map(|run| run.run), Some(first));
    // A kill takes what runs; its number is not given again.
    let second = triggered(&host, "slow");
    assert_eq!(second, first + 1);
    let newest = |host: &Host| runs(host, "ticker").first().map(|run| run.run);
    let ticks = eventually("it ticks", || newest(&host));
    host.kill();
    std::thread::sleep(Duration::from_millis(1_100));
    host.restart();
    assert_eq!(ended(&host, "slow", second).result, Some(JobResult::failed("host-died")));
    assert_eq!(triggered(&host, "slow"), second + 1);
    eventually("the schedule goes on", || newest(&host).filter(|run| *run > ticks + 1));
    let told = |text: &str| text.starts_with("no run from ") && text.contains("the host was down");
    eventually("missed times are told of", || {
        host.records("ticker").iter().any(|record| told(&record.text)).then_some(())
    });
}

#[test]
fn a_stop_ends_runs_that_outlast_the_drain() {
    let mut host = Setup::new().args(["--drain", "300ms"]).start();
    deploy(&host, "slow", &sleeping(60_000), RARELY, "timeout = '2m'");
    let run = triggered(&host, "slow");
    eventually("it runs", || (host.counters("slow").running == 1).then_some(()));
    host.stop(Signal::TERM);
    host.restart();
    assert_eq!(ended(&host, "slow", run).result, Some(JobResult::failed("draining")));
}

#[test]
fn a_deploy_changes_the_schedule_at_once_and_rm_ends_it() {
    let host = Host::start();
    deploy(&host, "job", &program(""), RARELY, "");
    assert!(status(&host, "job").next_at.unwrap().ends_with("-01-01T00:00:00Z"));
    assert_eq!(runs(&host, "job"), []);
    deploy(&host, "job", &program(""), EVERY_SECOND, "");
    eventually("it runs every second", || (runs(&host, "job").len() >= 2).then_some(()));
    shows(&host.must(["rollback", "job"]), &["runs 0 0 1 1 *, next at"]);
    let quiet = eventually("what ran has ended", || {
        let job = status(&host, "job");
        job.running.is_none().then(|| job.last.unwrap().run)
    });
    assert_eq!(status(&host, "job").schedule.as_str(), RARELY);
    std::thread::sleep(Duration::from_millis(2_100));
    assert_eq!(status(&host, "job").last.unwrap().run, quiet, "it ran by the old schedule");
    deploy(&host, "job", &program(""), EVERY_SECOND, "");
    eventually("it runs again", || (runs(&host, "job")[0].run > quiet).then_some(()));
    host.must(["rm", "job"]);
    assert_eq!(host.api("GET", "/v1/tenants/job/runs", None).0, 404);
    // Another tenant of the same name has a history of its own.
    deploy(&host, "job", &program(""), RARELY, "");
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(runs(&host, "job"), []);
}

#[test]
fn what_serves_http_is_no_job() {
    let host = Host::start();
    let hello = std::fs::read(repo::root().join("guests/hello/hello.wasm")).unwrap();
    let path = manifest(&host, "hello", &hello, RARELY, "");
    let refused = host.cli(["deploy".as_ref(), "-f".as_ref(), path.as_os_str()]);
    refused.expect(3, &[]);
    assert!(
        refused.stderr.contains("schedule") && refused.stderr.contains("http-0.2"),
        "{refused:?}"
    );
    assert!(host.tenants().is_empty());
}

#[test]
fn a_tenant_may_be_served_and_be_a_job() {
    let host = Host::start();
    let cgi = std::fs::read(repo::root().join("guests/tool/tool.wasm")).unwrap();
    deploy(&host, "both", &cgi, RARELY, "routes = ['both.localhost']\nargs = ['as', 'told']");
    let waited = host.cli(["trigger", "both", "--wait"]);
    shows(&waited, &["args: as told"]);
    assert_ne!(host.get("both", "/").status(), 404, "it has a route");
    shows(&host.must(["ps"]), &["0 0 1 1 *, both.localhost"]);
}

#[test]
fn many_jobs_that_are_not_due_use_no_cpu() {
    let host = Host::start();
    deploy(&host, "job", &program(""), RARELY, "");
    let artifact = host.tenant("job").summary.artifact.to_string();
    for i in 0..200 {
        let name = format!("j{i}");
        let manifest = serde_json::json!({"name": name, "schedule": RARELY});
        let body = serde_json::json!({"manifest": manifest, "artifact": artifact});
        let (status, value) = host.api("PUT", &format!("/v1/tenants/{name}"), Some(&body));
        assert_eq!(status, 200, "{value}");
    }
    let total = || {
        let family = children(host.pid()).into_iter().chain([host.pid()]);
        family.map(cpu).sum::<Duration>()
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = total();
    std::thread::sleep(Duration::from_secs(3));
    let used = total() - before;
    assert!(used <= Duration::from_millis(30), "{used:?} in 3 s");
}

#[test]
fn all_jobs_that_are_due_at_once_run() {
    let host = Host::start();
    deploy(&host, "job", &program(""), RARELY, "");
    let artifact = host.tenant("job").summary.artifact.to_string();
    let names: Vec<String> = (0..150).map(|i| format!("j{i}")).collect();
    for name in &names {
        let manifest = serde_json::json!({"name": name, "schedule": "*/3 * * * * *"});
        let body = serde_json::json!({"manifest": manifest, "artifact": artifact});
        let (status, value) = host.api("PUT", &format!("/v1/tenants/{name}"), Some(&body));
        assert_eq!(status, 200, "{value}");
    }
    eventually("each has run twice, none failed", || {
        let all = host.tenants();
        let jobs = all.iter().filter(|tenant| tenant.name.as_str() != "job");
        let last: Vec<JobRun> = jobs.filter_map(|tenant| tenant.job.clone()?.last).collect();
        assert!(last.iter().all(|run| run.result == exited(0)), "{last:?}");
        (last.len() == names.len() && last.iter().all(|run| run.run >= 2)).then_some(())
    });
}
