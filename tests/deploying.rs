//! Deploying, and what is kept: revisions, roll-backs, routes, compiled code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{DeployResponse, RevisionInfo};
use insula_tests::wait::eventually;
use insula_tests::{Answer, Connection, Host, repo, wasm};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello", "echo", "sse"]));

/// Which of the two guests of these tests has answered.
#[track_caller]
fn is_echo(answer: &Answer) -> bool {
    let text = answer.expect_ok().text();
    assert!(text.starts_with("GET ") || text == "Hello from Insula!\n", "{text}");
    text.starts_with("GET ")
}

/// Connections to every worker, kept alive.
fn connections(host: &Host) -> Vec<Connection> {
    let mut all: Vec<Connection> = (0..8).map(|_| host.connect()).collect();
    for connection in &mut all {
        connection.get("hello.localhost", "/").expect_ok();
    }
    all
}

fn revisions(host: &Host, name: &str) -> Vec<RevisionInfo> {
    let (status, value) = host.api("GET", &format!("/v1/tenants/{name}/revisions"), None);
    assert_eq!(status, 200, "{value}");
    serde_json::from_value(value).unwrap()
}

#[test]
fn when_deploy_returns_every_connection_sees_the_new_revision() {
    let host = &*HOST;
    let mut open = connections(host);
    let files = [repo::guest("hello"), repo::guest("echo")];
    for turn in 0..12 {
        host.deploy("turns", &files[turn % 2], &[]);
        for connection in &mut open {
            let answer = connection.get("turns.localhost", "/");
            assert_eq!(is_echo(&answer), turn % 2 == 1, "turn {turn}");
        }
    }
    assert_eq!(host.tenant("turns").summary.revision, 12);
}

#[test]
fn no_request_fails_while_revisions_change_and_none_sees_two() {
    let host = &*HOST;
    host.deploy("busy", &repo::guest("hello"), &[]);
    host.deploy("long", &repo::guest("sse"), &[]);
    let mut long = host.connect();
    long.send("GET /?n=4&ms=300 HTTP/1.1\r\nhost: long.localhost\r\n\r\n");
    assert_eq!(long.head().unwrap().status, 200);
    host.deploy("long", &repo::guest("hello"), &[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut connection = host.connect();
                let mut seen = [0, 0];
                while !stop.load(Relaxed) {
                    seen[usize::from(is_echo(&connection.get("busy.localhost", "/")))] += 1;
                }
                assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
            });
        }
        for turn in 0..20 {
            host.deploy("busy", &repo::guest(["echo", "hello"][turn % 2]), &[]);
        }
        stop.store(true, Relaxed);
    });
    // What began on the revision before ends on it.
    let mut framing = insula_tests::http::Framing::Chunked;
    let mut text = String::new();
    while let Some(piece) = long.piece(&mut framing).unwrap() {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(text.ends_with("event 4 of 4\n\n"), "{text}");
    assert_eq!(long.get("long.localhost", "/").expect_ok().text(), "Hello from Insula!\n");
}

#[test]
fn the_same_bytes_are_compiled_once() {
    let host = Host::start();
    let deploy = |name: &str| -> DeployResponse {
        let file = repo::guest("hello");
        let output = host.must(["deploy", "--json", name, file.to_str().unwrap()]);
        serde_json::from_str(&output.stdout).unwrap()
    };
    assert!(deploy("first").compile_ms.is_some());
    let artifact = host.tenant("first").summary.artifact.to_string();
    for i in 0..50 {
        assert_eq!(host.api_deploy(&format!("t{i}"), &artifact).compile_ms, None);
    }
    assert_eq!(deploy("last").compile_ms, None);
    assert_eq!(repo::files(&host.data().join("code"), "code").len(), 1);
    let mut connection = host.connect();
    for i in 0..50 {
        connection.get(&format!("t{i}.localhost"), "/").expect_ok();
    }
    assert!(host.workers().iter().all(|worker| worker.loaded <= 1), "{:?}", host.workers());
}

#[test]
fn the_same_again_is_no_new_revision() {
    let hello = repo::guest("hello");
    HOST.deploy("same", &hello, &["--memory", "32Mi"]);
    let again = HOST.deploy("same", &hello, &["--memory", "32768Ki"]);
    assert!(again.stdout.contains("unchanged"), "{again:?}");
    assert_eq!(HOST.tenant("same").summary.revision, 1);
    // A deploy says everything: what it leaves out gets its default.
    HOST.deploy("same", &hello, &[]);
    let tenant = HOST.tenant("same");
    assert_eq!((tenant.summary.revision, tenant.limits.memory_bytes), (2, 64 << 20));
}

#[test]
fn flags_reach_the_limits() {
    HOST.deploy(
        "limited",
        &repo::guest("hello"),
        &[
            "--memory=32Mi",
            "--fuel=50M",
            "--timeout=2s",
            "--concurrency=7",
            "--queue=8",
            "--queue-wait=9ms",
            "--request-body=10Ki",
            "--request-header=11Ki",
            "--response-body=12Ki",
            "--cpu-request=100m",
            "--cpu-limit=0.5",
            "--memory-request=64Mi",
            "--memory-limit=128Mi",
            "--rate=15",
            "--rate-burst=16",
            "--breaker-open=19s",
            "--reuse-requests=13",
            "--reuse-idle=14s",
            "--route=a.example/v1",
            "--route=B.example",
        ],
    );
    let tenant = HOST.tenant("limited");
    let limits = serde_json::to_value(&tenant.limits).unwrap();
    let expected = json!({
        "memory_bytes": 32 << 20, "fuel": 50_000_000, "metering": "fuel", "timeout_ms": 2_000,
        "concurrency": 7, "queue": 8, "queue_wait_ms": 9, "request_body_bytes": 10 << 10,
        "request_header_bytes": 11 << 10, "response_body_bytes": 12 << 10,
        "resources": {
            "cpu_request_m": 100, "cpu_limit_m": 500, "qos": "burstable",
            "memory_request_bytes": 64 << 20, "memory_limit_bytes": 128 << 20,
            "rate": {"requests": 15, "burst": 16},
            "breaker": {"faults": 100, "window_ms": 10_000, "open_ms": 19_000},
        },
        "reuse": {"requests": 13, "idle_ms": 14_000, "concurrent": 1}, "max_age_ms": null,
    });
    assert_eq!(limits, expected);
    let port = HOST.addr().port();
    let urls = [format!("http://a.example:{port}/v1"), format!("http://b.example:{port}/")];
    assert_eq!(tenant.urls, urls);
}

#[test]
fn manifests_flags_and_directories_deploy() {
    let dir = tempfile::tempdir_in(HOST.home()).unwrap();
    for name in ["one", "two"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::copy(repo::guest("hello"), dir.path().join(name).join("it.wasm")).unwrap();
        let text = format!("name = '{name}'\ncomponent = 'it.wasm'\ntimeout = '3s'\n");
        fs::write(dir.path().join(name).join("insula.toml"), text).unwrap();
    }
    HOST.must([Path::new("deploy"), Path::new("-f"), dir.path()]);
    assert_eq!(HOST.tenant("one").limits.timeout_ms, 3_000);
    let one = dir.path().join("one/insula.toml");
    let flags = ["--timeout", "4s"].map(Path::new);
    HOST.must([Path::new("deploy"), Path::new("-f"), &one].into_iter().chain(flags));
    assert_eq!(HOST.tenant("one").limits.timeout_ms, 4_000);
    assert_eq!(HOST.tenant("two").limits.timeout_ms, 3_000);
    // One that fails does not keep the others from being deployed.
    fs::write(dir.path().join("one/it.wasm"), "broken").unwrap();
    let flags = ["--timeout", "5s"].map(Path::new);
    let output =
        HOST.cli([Path::new("deploy"), Path::new("-f"), dir.path()].into_iter().chain(flags));
    output.expect(3, &["`one`"]);
    assert_eq!(HOST.tenant("one").limits.timeout_ms, 4_000);
    assert_eq!(HOST.tenant("two").limits.timeout_ms, 5_000);
}

#[test]
fn revisions_can_be_gone_back_to() {
    let host = &*HOST;
    let mut open = connections(host);
    let (hello, echo) = (repo::guest("hello"), repo::guest("echo"));
    host.deploy("back", &hello, &["--route", "old.example"]);
    host.deploy("back", &echo, &["--route", "new.example"]);
    host.deploy("back", &echo, &["--route", "new.example", "--timeout", "3s"]);
    let listed = revisions(host, "back");
    let shown: Vec<(u32, bool)> = listed.iter().map(|r| (r.revision, r.active)).collect();
    assert_eq!(shown, [(3, true), (2, false), (1, false)]);
    let table = host.must(["revisions", "back"]).stdout;
    assert!(table.contains("REV") && table.contains("3s") || table.lines().count() >= 4, "{table}");

    let answer = host.must(["rollback", "back", "1"]).stdout;
    assert!(answer.contains("revision 1") || answer.contains("old.example"), "{answer}");
    for connection in &mut open {
        assert!(!is_echo(&connection.get("old.example", "/")));
        connection.get("new.example", "/").expect_fault("no-route");
    }
    // Back and forth: the one that was active before.
    host.must(["rollback", "back"]);
    for connection in &mut open {
        assert!(is_echo(&connection.get("new.example", "/")));
        connection.get("old.example", "/").expect_fault("no-route");
    }
    assert_eq!(host.tenant("back").limits.timeout_ms, 3_000);
    // A route that somebody has taken since is not taken back.
    host.deploy("heir", &hello, &["--route", "old.example"]);
    host.cli(["rollback", "back", "1"]).expect(3, &["old.example", "`heir`"]);
    assert!(is_echo(&host.connect().get("new.example", "/")));
    host.cli(["rollback", "back", "77"]).expect(4, &["77", "hint:"]);
}

#[test]
fn a_history_is_bounded() {
    let artifact = HOST.tenant("hello").summary.artifact.to_string();
    for i in 1..=55 {
        let manifest = json!({"name": "history", "concurrency": i});
        let body = json!({"manifest": manifest, "artifact": artifact});
        let (status, value) = HOST.api("PUT", "/v1/tenants/history", Some(&body));
        assert_eq!((status, &value["revision"]), (200, &json!(i)), "{value}");
    }
    let kept = revisions(&HOST, "history");
    assert_eq!((kept.len(), kept[0].revision, kept[49].revision), (50, 55, 6));
    HOST.cli(["rollback", "history", "5"]).expect(4, &["5"]);
    HOST.must(["rollback", "history", "6"]);
    assert_eq!(HOST.tenant("history").limits.concurrency, 6);
}

#[test]
fn what_is_removed_is_gone() {
    let host = &*HOST;
    let mut open = connections(host);
    host.deploy("gone", &repo::guest("sse"), &["--route", "gone.example"]);
    let mut running = host.connect();
    running.send("GET /?n=3&ms=300 HTTP/1.1\r\nhost: gone.example\r\n\r\n");
    assert_eq!(running.head().unwrap().status, 200);
    host.must(["rm", "gone"]);
    for connection in &mut open {
        connection.get("gone.example", "/").expect_fault("no-route");
    }
    host.cli(["inspect", "gone"]).expect(4, &["gone"]);
    assert!(repo::files(&host.data().join("logs"), "log").iter().all(|f| !f.ends_with("gone.log")));
    // What ran may finish.
    let mut framing = insula_tests::http::Framing::Chunked;
    while running.piece(&mut framing).unwrap().is_some() {}
    // The name and the route are free; the new owner has a new history and clean figures.
    host.deploy("gone", &repo::guest("hello"), &["--route", "gone.example"]);
    let tenant = host.tenant("gone").summary;
    assert_eq!((tenant.revision, tenant.counters.requests), (1, 0));
    for connection in &mut open {
        assert!(!is_echo(&connection.get("gone.example", "/")));
    }
    let both = host.cli(["rm", "gone", "never-there"]);
    both.expect(4, &["never-there"]);
    assert!(host.tenants().iter().all(|tenant| tenant.name.as_str() != "gone"));
}

#[test]
fn a_deploy_does_not_wait_for_those_that_compute() {
    let host = Host::with_guests(&["hello"]);
    // By far longer than a disk that has much to write may stall a deploy.
    let flags = ["--timeout", "10m", "--fuel", "1T"];
    host.deploy("spin", &repo::guest("hostile-spin"), &flags);
    let spinning: Vec<Connection> = (0..6)
        .map(|_| {
            let mut connection = host.connect();
            connection.send("GET /go HTTP/1.1\r\nhost: spin.localhost\r\n\r\n");
            connection
        })
        .collect();
    eventually("all spin", || (host.counters("spin").running == 6).then_some(()));
    for turn in 0..4 {
        host.deploy("quick", &repo::guest(["hello", "echo"][turn % 2]), &[]);
        assert_eq!(is_echo(&host.get("quick", "/")), turn % 2 == 1);
    }
    assert_eq!(host.counters("spin").running, 6, "they were over before");
    // Who gives up waiting ends what computes for it.
    drop(spinning);
    eventually("nobody spins", || (host.counters("spin").running == 0).then_some(()));
}

#[test]
fn what_a_removed_tenant_still_runs_is_not_its_successors_trouble() {
    let host = Host::with_guests(&["hello"]);
    let hold = |name: &str| {
        let mut running = host.connect();
        running.send(format!("GET /?n=2&ms=800 HTTP/1.1\r\nhost: {name}.localhost\r\n\r\n"));
        assert_eq!(running.head().unwrap().status, 200);
        running
    };
    for turn in 0..3 {
        host.deploy("before", &repo::guest("sse"), &[]);
        let running: Vec<Connection> = (0..4).map(|_| hold("before")).collect();
        host.must(["rm", "before"]);
        // It may get the place in the shared table that the other one had.
        let after = format!("after-{turn}");
        host.deploy(&after, &repo::guest("sse"), &["--concurrency", "2", "--queue", "0"]);
        let own = hold(&after);
        for mut connection in running {
            let mut framing = insula_tests::http::Framing::Chunked;
            while connection.piece(&mut framing).unwrap().is_some() {}
        }
        let counters = host.counters(&after);
        assert!(counters.running <= 1 && counters.requests <= 1, "{counters:?}");
        // Its places are its own: two, of which one may be in use.
        host.get(&after, "/?n=1").expect_ok();
        drop(own);
        let done = |running| (running == 0).then_some(());
        eventually("nothing runs", || done(host.counters(&after).running));
        let counters = host.counters(&after);
        assert_eq!((counters.requests, counters.shed), (2, 0), "{counters:?}");
    }
}

#[test]
fn deploys_at_once_do_not_mix() {
    let host = &*HOST;
    let files = [repo::guest("hello"), repo::guest("echo")];
    std::thread::scope(|scope| {
        for client in 0..6 {
            let files = &files;
            scope.spawn(move || {
                for turn in 0..5 {
                    // Three tenants, each with two clients that disagree.
                    let name = format!("contested-{}", client % 3);
                    host.deploy(&name, &files[(client + turn) % 2], &[]);
                }
            });
        }
    });
    for i in 0..3 {
        let name = format!("contested-{i}");
        let active = host.tenant(&name).summary.artifact;
        let is_hello = active == host.tenant("hello").summary.artifact;
        for connection in &mut connections(host) {
            let answer = connection.get(&format!("{name}.localhost"), "/");
            assert_eq!(is_echo(&answer), !is_hello, "{name}");
        }
        assert_eq!(revisions(host, &name).iter().filter(|r| r.active).count(), 1);
    }
}

#[test]
fn a_new_host_on_the_same_data_serves_the_same() {
    let mut host = Host::with_guests(&["hello"]);
    host.deploy("two", &repo::guest("echo"), &["--route", "two.example/x"]);
    host.deploy("two", &repo::guest("echo"), &["--route", "two.example/y"]);
    let before = (host.tenants().len(), revisions(&host, "two").len());
    let ended = host.stop(Signal::TERM);
    assert!(ended.success(), "{ended}");
    host.restart();
    assert_eq!((host.tenants().len(), revisions(&host, "two").len()), before);
    host.get("hello", "/").expect_ok();
    assert!(is_echo(&host.connect().get("two.example", "/y")));
    host.connect().get("two.example", "/x").expect_fault("no-route");
    // Nothing was compiled again: the code on disk was sound.
    assert!(!host.log().contains("made again"), "{}", host.log());
    host.must(["rollback", "two"]);
    assert!(is_echo(&host.connect().get("two.example", "/x")));
}

/// The compiled code of a tenant, and its seal.
fn code(host: &Host, name: &str) -> [PathBuf; 2] {
    let digest = host.tenant(name).summary.artifact;
    let find = |extension: &str| {
        let files = repo::files(&host.data().join("code"), extension);
        let ours = |file: &PathBuf| file.to_string_lossy().contains(&digest.hex());
        files.into_iter().find(ours).unwrap_or_else(|| panic!("no .{extension} of {name}"))
    };
    [find("code"), find("seal")]
}

#[test]
fn code_that_was_tampered_with_is_made_again_and_never_run() {
    let mut host = Host::with_guests(&["hello", "echo"]);
    let [hello, echo] = ["hello", "echo"].map(|name| code(&host, name));
    let sound: Vec<Vec<u8>> = hello.iter().map(|file| fs::read(file).unwrap()).collect();
    let foreign: Vec<Vec<u8>> = echo.iter().map(|file| fs::read(file).unwrap()).collect();
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let middle = sound[0].len() / 2;
    type Tamper<'a> = (&'a str, Option<Vec<u8>>, Option<Vec<u8>>);
    let all: [Tamper<'_>; 7] = [
        ("a bit of the code", Some(flipped(&sound[0], middle)), Some(sound[1].clone())),
        ("the code's end", Some(sound[0][..middle].to_vec()), Some(sound[1].clone())),
        // Within the tag of `insula-seal 2 KIND LENGTH TAG …`.
        ("a bit of the seal", Some(sound[0].clone()), Some(flipped(&sound[1], 50))),
        ("the seal", Some(sound[0].clone()), None),
        ("the code", None, Some(sound[1].clone())),
        // Sealed by this very host, but for another artifact.
        ("another's", Some(foreign[0].clone()), Some(foreign[1].clone())),
        ("nonsense", Some(vec![0x90; sound[0].len()]), Some(vec![0; sound[1].len()])),
    ];
    for (what, code, seal) in all {
        assert!(host.stop(Signal::TERM).success());
        for (file, bytes) in hello.iter().zip([code, seal]) {
            // A new file, as an editor would write: nobody's mapping is changed.
            let _ = fs::remove_file(file);
            if let Some(bytes) = bytes {
                fs::write(file, bytes).unwrap();
            }
        }
        let told = host.log().matches("made again").count();
        host.restart();
        let answer = host.get("hello", "/");
        assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n", "{what}");
        assert!(host.log().matches("made again").count() > told, "{what}: nobody was told");
        assert!(is_echo(&host.get("echo", "/")), "{what}");
        assert_eq!(fs::read(&hello[0]).unwrap(), sound[0], "{what}: the code was not mended");
    }
}

/// Code is marked, so that loading it need not read it all. The mark says no more than that it is as it was.
#[test]
fn a_mark_spares_no_changed_file() {
    let mut host = Host::start();
    let data = "x".repeat(3 << 20);
    let large = wasm::handler(&format!(
        r#"(memory 64) (data (i32.const 0) "{data}") (func (export "handle") (param i32 i32))"#
    ));
    let file = host.file("large.wasm", large);
    host.deploy("large", &file, &[]);
    host.get("large", "/").expect_fault("no-response");
    let [file, seal] = code(&host, "large");
    let sound = fs::read(&file).unwrap();
    let words = || Some(fs::read_to_string(&seal).ok()?.split(' ').count());
    let marked = || eventually("a mark", || words().filter(|words| *words == 9));
    marked(); // Once the disk has it.

    // Moved to another disk and back: another file, the same bytes.
    assert!(host.stop(Signal::TERM).success());
    fs::remove_file(&file).unwrap();
    fs::write(&file, &sound).unwrap();
    host.restart();
    host.get("large", "/").expect_fault("no-response");
    assert!(!host.log().contains("made again"), "{}", host.log());

    // Made again by the host, so marked again; then changed in place, with its old time put back.
    assert!(host.stop(Signal::TERM).success());
    fs::remove_file(&file).unwrap();
    fs::remove_file(&seal).unwrap();
    host.restart();
    host.get("large", "/").expect_fault("no-response");
    marked();
    assert!(host.stop(Signal::TERM).success());
    assert_eq!(host.log().matches("made again").count(), 1, "{}", host.log());
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    let changed = fs::File::options().write(true).open(&file).unwrap();
    changed.write_all_at(&[sound[1 << 20] ^ 1], 1 << 20).unwrap();
    changed.set_modified(written).unwrap();
    host.restart();
    host.get("large", "/").expect_fault("no-response");
    assert_eq!(host.log().matches("made again").count(), 2, "{}", host.log());
    assert_eq!(fs::read(&file).unwrap(), sound, "the code was not mended");
}

#[test]
fn code_that_cannot_be_made_again_is_said_and_comes_back_with_the_artifact() {
    let mut host = Host::with_guests(&["hello", "echo"]);
    let [file, _] = code(&host, "hello");
    let digest = host.tenant("hello").summary.artifact;
    let artifact = host.data().join("artifacts").join(format!("{}.wasm", digest.hex()));
    assert!(host.stop(Signal::TERM).success());
    let bytes = fs::read(&artifact).unwrap();
    fs::remove_file(&file).unwrap();
    fs::remove_file(&artifact).unwrap();
    host.restart();
    let answer = host.get("hello", "/");
    answer.expect_fault("code-unavailable");
    host.eventually_told("hello", answer.request_id(), "code-unavailable");
    host.get("echo", "/").expect_ok();
    // Deployed again, it is there again.
    let file = host.file("hello.wasm", bytes);
    host.deploy("hello", &file, &[]);
    eventually("hello answers again", || (host.get("hello", "/").status() == 200).then_some(()));
}
