//! `insula stop` and `insula start`: a tenant that is there, and does not run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::{finish, insula};
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Host, Setup, repo, wasm};
use rustix::process::Signal;
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

/// Deploys an example guest under a manifest that ends in `more`.
#[track_caller]
fn deploy(host: &Host, guest: &str, name: &str, more: &str) -> insula_tests::Output {
    let text = format!("name = {name:?}\ncomponent = {:?}\n{more}\n", repo::guest(guest));
    let file = host.file(&format!("{name}.toml"), text);
    host.must(["deploy", "-f", file.to_str().unwrap()])
}

#[track_caller]
fn is_stopped(host: &Host, name: &str) {
    // In every worker: connections go to both.
    for _ in 0..6 {
        host.get(name, "/").expect_fault("tenant-stopped");
    }
}

#[test]
fn a_stopped_tenant_is_refused_and_keeps_what_it_has() {
    let mut host = Host::start();
    deploy(
        &host,
        "counter",
        "kept",
        "keyvalue = {}\nroutes = [\"kept.localhost\", \"kept.example\"]",
    );
    deploy(&host, "hello", "beside", "");
    deploy(&host, "relay", "caller", "[outbound]\nhosts = [\"http://kept.internal\"]");
    let canned = Canned { environment: true, ..Canned::default() };
    let teller = host.file("teller.wasm", responder(&canned));
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(["secret", "set", "told", "KEY"]);
    finish(&mut command, b"value").expect(0, &[]);
    host.deploy("told", &teller, &["--secret", "KEY"]);
    host.deploy("told", &teller, &["--secret", "KEY", "--env", "MORE=1"]);
    let visit = |host: &Host| host.get("kept", "/").expect_ok().text();
    assert_eq!(visit(&host), "1\n");
    assert_eq!(host.must(["stop", "kept", "told"]).stdout, "stopped kept\nstopped told\n");
    is_stopped(&host, "kept");
    is_stopped(&host, "told");
    host.get("beside", "/").expect_ok();
    host.connect().get("kept.example", "/").expect_fault("tenant-stopped");
    // A caller among the tenants gets what a client does.
    let called = host.get("caller", "/?url=http://kept.internal/");
    assert_eq!(called.status(), 503, "{}", called.text());
    assert!(called.text().contains("stopped"), "{}", called.text());
    let id = host.get("kept", "/").request_id().to_owned();
    host.eventually_told("kept", &id, "tenant-stopped: refused");
    let counters = host.counters("kept");
    assert_eq!((counters.requests, counters.memory_bytes), (1, 0), "{counters:?}");
    assert_eq!(counters.shed, 9, "{counters:?}");
    // It is shown.
    let table = host.must(["ps"]).stdout;
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("kept ").contains("stopped") && !row("beside ").contains("stopped"), "{table}");
    let page = host.must(["inspect", "kept"]).stdout;
    assert!(page.contains("stopped") && page.contains("insula start kept"), "{page}");
    let since = host.must(["inspect", "kept", "--json"]).json()["stopped_at"].clone();
    assert!(since.is_string(), "{since}");
    assert_eq!(host.must(["inspect", "beside", "--json"]).json().get("stopped_at"), None);
    // Twice is once.
    assert!(host.must(["stop", "kept"]).stdout.contains("already"));
    assert_eq!(host.must(["inspect", "kept", "--json"]).json()["stopped_at"], since);
    // Neither a restart nor a kill starts it.
    host.stop(Signal::TERM);
    host.restart();
    is_stopped(&host, "kept");
    host.kill();
    host.restart();
    is_stopped(&host, "kept");
    assert_eq!(host.must(["start", "kept", "told"]).stdout, "started kept\nstarted told\n");
    assert_eq!(visit(&host), "2\n", "its store");
    assert_eq!(host.get("told", "/").expect_ok().text(), "MORE=1\nKEY=value\n");
    host.must(["rollback", "told"]);
    assert_eq!(host.get("told", "/").expect_ok().text(), "KEY=value\n", "its revisions");
    assert!(host.must(["start", "kept"]).stdout.contains("was not stopped"));
    // One that is not there does not keep the others.
    host.cli(["stop", "absent", "kept"]).expect(4, &["`absent`"]);
    is_stopped(&host, "kept");
    host.cli(["start", "absent", "kept"]).expect(4, &["`absent`"]);
    assert_eq!(visit(&host), "3\n");
}

#[test]
fn what_runs_may_finish_and_what_waits_does_not_begin() {
    let host = Setup::default().args(["--workers", "1"]).start();
    let reuse = "reuse = { requests = 1000, idle = \"1h\" }\nconcurrency = 1\nqueue_wait = \"20s\"";
    deploy(&host, "gather-p3", "slow", reuse);
    host.get("slow", "/").expect_ok();
    assert!(host.counters("slow").memory_bytes > 0, "an instance is kept");
    thread::scope(|scope| {
        let running = scope.spawn(|| host.get("slow", "/wait?ms=2000"));
        eventually("it runs", || (host.counters("slow").running == 1).then_some(()));
        let waiting = scope.spawn(|| host.get("slow", "/"));
        thread::sleep(Duration::from_millis(200));
        let output = host.must(["stop", "slow"]);
        assert!(output.stderr.is_empty(), "{output:?}");
        assert_eq!(host.counters("slow").running, 0, "it waits for what runs");
        running.join().unwrap().expect_ok();
        waiting.join().unwrap().expect_fault("tenant-stopped");
    });
    eventually("its memory is free", || {
        let counters = host.counters("slow");
        (counters.memory_bytes == 0 && host.workers()[0].loaded == 0).then_some(())
    });
    host.must(["start", "slow"]);
    // The wait has a bound, and says what it left.
    thread::scope(|scope| {
        let running = scope.spawn(|| host.get("slow", "/wait?ms=3000"));
        eventually("it runs", || (host.counters("slow").running == 1).then_some(()));
        let since = Instant::now();
        let output = host.must(["stop", "slow", "--drain", "100ms"]);
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        assert!(output.stderr.contains("1 request of slow still running"), "{output:?}");
        running.join().unwrap().expect_ok();
    });
    host.cli(["stop", "slow", "--drain", "11m"]).expect(3, &["drain_ms"]);
}

#[test]
fn the_schedule_of_a_stopped_job_does_not_run() {
    let host = Host::start();
    let program = wasm::binary(r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
    let component = host.file("job.wasm", program);
    let text = format!("name = 'job'\ncomponent = {component:?}\nschedule = '* * * * * *'\n");
    let manifest = host.file("job.toml", text);
    host.must(["deploy", "-f", manifest.to_str().unwrap()]);
    let runs = || host.must(["runs", "job", "--json"]).json().as_array().unwrap().len();
    eventually("it runs", || (runs() >= 2).then_some(()));
    host.must(["stop", "job"]);
    let before = runs();
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(runs(), before);
    host.cli(["trigger", "job"]).expect(3, &["`job` is stopped", "insula start job"]);
    host.must(["start", "job"]);
    eventually("it runs again", || (runs() > before).then_some(()));
}

#[test]
fn a_deploy_or_rollback_leaves_it_stopped() {
    let host = Host::start();
    deploy(&host, "hello", "held", "");
    host.must(["stop", "held"]);
    let told = deploy(&host, "echo", "held", "").stdout;
    assert!(told.contains("revision 2") && told.contains("insula start held"), "{told}");
    is_stopped(&host, "held");
    let told = host.must(["rollback", "held"]).stdout;
    assert!(told.contains("insula start held"), "{told}");
    is_stopped(&host, "held");
    // The same for programs.
    let artifact = host.tenant("held").summary.artifact.to_string();
    let body = json!({"manifest": {"name": "held", "timeout": "3s"}, "artifact": artifact});
    let (status, value) = host.api("PUT", "/v1/tenants/held", Some(&body));
    assert_eq!((status, &value["stopped"]), (200, &json!(true)), "{value}");
    host.must(["start", "held"]);
    assert_eq!(host.get("held", "/").expect_ok().text(), "Hello from Insula!\n");
    // Removed and deployed again, it is another tenant.
    host.must(["stop", "held"]);
    host.must(["rm", "held"]);
    deploy(&host, "hello", "held", "");
    host.get("held", "/").expect_ok();
}
