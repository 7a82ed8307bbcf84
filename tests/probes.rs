//! The probe: what a revision must show before anybody else gets to see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::process::signal;
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Host, Output, repo, wasm};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

static HOST: LazyLock<Host> = LazyLock::new(Host::start);

#[track_caller]
fn try_deploy(name: &str, file: &Path, flags: &[&str]) -> Output {
    let args = [OsStr::new("deploy"), OsStr::new(name), file.as_os_str()];
    HOST.cli(args.into_iter().chain(flags.iter().map(OsStr::new)))
}

/// `settings` answers this path with 200 where `READY` is set, and with 404 elsewhere.
const READY: [&str; 2] = ["--probe", "/env?key=READY"];

#[test]
fn a_revision_that_fails_its_probe_is_not_published() {
    let settings = repo::guest("settings");
    HOST.deploy("ready", &settings, &[&READY[..], &["--env", "READY=1"]].concat());
    let failed = try_deploy("ready", &settings, &READY);
    failed.expect(3, &["GET /env?key=READY", "it answered 404, not 200-399", "hint:"]);
    // Nothing has changed, and nothing of the probe is the tenant's.
    let tenant = HOST.tenant("ready").summary;
    assert_eq!((tenant.revision, tenant.counters.requests), (1, 0), "{tenant:?}");
    HOST.get("ready", "/env?key=READY").expect_ok();
    // What should come may be said.
    let expects = |expect: &str| {
        let flags = [&READY[..], &["--probe-expect", expect]].concat();
        try_deploy("expecting", &settings, &flags)
    };
    expects("2xx").expect(3, &["it answered 404, not 2xx"]);
    expects("200").expect(3, &["it answered 404, not 200"]);
    assert!(HOST.tenants().iter().all(|tenant| tenant.name.as_str() != "expecting"));
    expects("404").expect(0, &[]);
    expects("20").expect(2, &["200-399"]);
}

#[test]
fn a_manifest_says_what_is_probed_and_the_api_says_why_it_failed() {
    let toml = |path: &str| {
        format!(
            "name = 'written'\ncomponent = '{}'\n[probe]\npath = '{path}'\nexpect = 200\n",
            repo::guest("settings").display()
        )
    };
    let file = HOST.file("written.toml", toml("/env"));
    HOST.must([OsStr::new("deploy"), OsStr::new("-f"), file.as_os_str()]);
    let artifact = HOST.tenant("written").summary.artifact;
    let probe = serde_json::json!({"path": "/env?key=NONE", "expect": 200, "timeout": "2s"});
    let manifest = serde_json::json!({"name": "written", "probe": probe});
    let body = serde_json::json!({"manifest": manifest, "artifact": artifact});
    let (status, error) = HOST.api("PUT", "/v1/tenants/written", Some(&body));
    assert_eq!((status, error["code"].as_str()), (422, Some("probe")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("answered 404, not 200"), "{error}");
    assert_eq!(HOST.tenant("written").summary.revision, 1);
    // The same again changes nothing, so nothing is asked.
    let again = HOST.must([OsStr::new("deploy"), OsStr::new("-f"), file.as_os_str()]);
    assert!(again.stdout.contains("unchanged"), "{again:?}");
    let file = HOST.file("wrong.toml", toml("env"));
    let wrong = HOST.cli([OsStr::new("deploy"), OsStr::new("-f"), file.as_os_str()]);
    wrong.expect(3, &["probe.path", "such as `/healthz`"]);
}

#[test]
fn traps_and_deadlines_are_told_from_answers() {
    let trap = repo::guest("hostile-trap");
    try_deploy("trapped", &trap, &["--probe", "/go"])
        .expect(3, &["GET /go: trap:", "unreachable", "hint:"]);
    // A body that breaks off is no answer, whatever its status was.
    try_deploy("trapped", &trap, &["--probe", "/go?at=body"]).expect(3, &["trap"]);
    let stall = repo::guest("hostile-stall");
    for path in ["/go", "/go?at=head", "/go?at=body"] {
        let flags = ["--probe", path, "--probe-timeout", "300ms"];
        let failed = try_deploy("stalled", &stall, &flags);
        failed.expect(3, &["deadline", "--probe-timeout"]);
        assert!(failed.took < Duration::from_secs(20), "{failed:?}");
    }
    let spin = repo::guest("hostile-spin");
    let flags = ["--probe", "/go", "--fuel", "1T", "--probe-timeout", "300ms"];
    try_deploy("spinning", &spin, &flags).expect(3, &["deadline"]);
    let names = ["trapped", "stalled", "spinning"];
    assert!(HOST.tenants().iter().all(|tenant| !names.contains(&tenant.name.as_str())));
}

#[test]
fn what_the_guest_wrote_meanwhile_is_shown() {
    let lines: String = (1..=30).map(|line| format!("line {line}\n")).collect();
    let file = HOST.file("printer.wasm", wasm::printer(lines.as_bytes()));
    let failed = try_deploy("printing", &file, &["--probe", "/"]);
    failed.expect(3, &["no-response", "what it wrote meanwhile:", "stdout: line 30"]);
    // The last of it, not all of it.
    assert!(!failed.stderr.contains("line 1\n"), "{}", failed.stderr);
    assert!(failed.stderr.lines().count() < 30, "{}", failed.stderr);
}

#[test]
fn without_a_probe_a_handler_is_instantiated_and_asked_nothing() {
    let starting = |body: &str| {
        wasm::handler(&format!(
            r#"(func $s {body}) (start $s) (func (export "handle") (param i32 i32))"#
        ))
    };
    let traps = HOST.file("traps.wasm", starting("unreachable"));
    try_deploy("starting", &traps, &[]).expect(3, &["cannot be instantiated", "trap", "hint:"]);
    let spins = HOST.file("spins.wasm", starting("(loop $l (br $l))"));
    try_deploy("starting", &spins, &["--fuel", "1M"]).expect(3, &["out-of-fuel"]);
    let large = wasm::handler(r#"(memory 64) (func (export "handle") (param i32 i32))"#);
    let large = HOST.file("large.wasm", large);
    try_deploy("starting", &large, &["--memory", "1Mi"]).expect(3, &["cannot be instantiated"]);
    assert!(HOST.tenants().iter().all(|tenant| tenant.name.as_str() != "starting"));
    // Its answers are its own affair, and so is how a program ends.
    let broken = responder(&Canned { status: 500, ..Canned::default() });
    let broken = HOST.file("broken.wasm", broken);
    HOST.deploy("broken", &broken, &[]);
    assert_eq!(HOST.get("broken", "/").status(), 500);
    let aborts = HOST.file(
        "aborts.wasm",
        wasm::binary(
            r#"(module (memory (export "memory") 1)
        (func (export "_start") unreachable))"#,
        ),
    );
    HOST.deploy("aborting", &aborts, &[]);
    try_deploy("aborting", &aborts, &["--probe", "/"]).expect(3, &["trap"]);
    let job = ["--schedule", "* * * * *", "--probe", "/"];
    try_deploy("aborting-job", &aborts, &job).expect(3, &["a job answers no requests"]);
}

#[test]
fn a_probe_has_the_secrets_and_a_rollback_is_probed_too() {
    let settings = repo::guest("settings");
    let deploy = |key: &str| {
        let probe = format!("/env?key={key}");
        HOST.deploy("backward", &settings, &["--probe", &probe, "--secret", "READY"])
    };
    let mut command = insula_tests::cli::insula(HOST.home());
    command.env("INSULA_DATA", HOST.data()).args(["secret", "set", "backward", "READY"]);
    insula_tests::cli::finish(&mut command, b"yes").expect(0, &[]);
    deploy("READY");
    let other = HOST.deploy("backward", &settings, &["--env", "A=1"]);
    assert!(other.stdout.contains("revision 2"), "{other:?}");
    HOST.must(["rollback", "backward"]);
    assert_eq!(HOST.tenant("backward").summary.revision, 1);
}

#[test]
fn a_worker_that_dies_of_a_probe_fails_it() {
    let host = Host::start();
    let spin = repo::guest("hostile-spin");
    let data = host.data();
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| {
            let mut command = insula_tests::cli::insula(host.home());
            command.env("INSULA_DATA", &data).args(["deploy", "deadly"]).arg(&spin);
            command.args(["--probe", "/go", "--fuel", "1T", "--timeout", "1m"]);
            command.args(["--probe-timeout", "1m"]);
            insula_tests::cli::finish(&mut command, b"")
        });
        let busy = eventually("a worker runs the probe", || {
            let workers = host.workers();
            workers.iter().find(|worker| worker.running > 0).and_then(|worker| worker.pid)
        });
        // Long enough for the guest to be what it runs.
        std::thread::sleep(Duration::from_millis(100));
        signal(busy, Signal::KILL);
        let output = deploying.join().unwrap();
        output.expect(3, &["the worker that tried it died", "killed by signal 9"]);
        assert!(output.took < Duration::from_secs(50), "{output:?}");
    });
    host.eventually_serves();
    assert!(host.tenants().is_empty());
    host.deploy("deadly", &repo::guest("hello"), &[]);
    host.get("deadly", "/").expect_ok();
}
