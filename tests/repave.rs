//! What is kept between requests goes when it is to go: by `insula repave`, by `max_age`, when a secret
//! changes; and no request fails for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::RepaveResponse;
use insula_tests::cli::{finish, insula};
use insula_tests::process::owner;
use insula_tests::respond::{Canned, responder};
use insula_tests::upstream::Upstream;
use insula_tests::wait::{eventually, within};
use insula_tests::{Answer, Connection, Host, Setup, repo};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const REUSED: &str = "reuse = { requests = 1000000, idle = \"1h\" }";
const SHARED: &str = "reuse = { requests = 1000000, idle = \"1h\", concurrent = 8 }";

/// A host with one worker, so that whoever asks twice finds what was kept.
fn one_worker() -> Host {
    Setup::default().args(["--workers", "1"]).start()
}

/// Deploys an example guest under a manifest that ends in `more`.
#[track_caller]
fn deploy(host: &Host, guest: &str, name: &str, more: &str) {
    let text = format!("name = {name:?}\ncomponent = {:?}\n{more}\n", repo::guest(guest));
    let file = host.file(&format!("{name}.toml"), text);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
}

/// What `gather-p3` says under `key`.
#[track_caller]
fn said(answer: &Answer, key: &str) -> String {
    let text = answer.expect_ok().text();
    let pairs = text.lines().last().unwrap_or_default().split(' ');
    let mut found = pairs.filter_map(|word| word.split_once('=')).filter(|(name, _)| *name == key);
    found.next().map(|(_, value)| value.to_owned()).unwrap_or_else(|| panic!("no {key}: {text:?}"))
}

#[track_caller]
fn instance(host: &Host, name: &str) -> String {
    said(&host.get(name, "/"), "instance")
}

#[track_caller]
fn repave(host: &Host, args: &[&str]) -> RepaveResponse {
    let output = host.must([&["repave", "--json"], args].concat());
    serde_json::from_value(output.json()).unwrap()
}

/// The one file of compiled code in the data directory.
fn code(host: &Host) -> PathBuf {
    let engines = fs::read_dir(host.data().join("code")).unwrap();
    let files = engines.flat_map(|engine| fs::read_dir(engine.unwrap().path()).unwrap());
    let files = files.map(|file| file.unwrap().path());
    let code: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "code")).collect();
    assert_eq!(code.len(), 1, "{code:?}");
    code[0].clone()
}

/// Puts another file in the place of compiled code, with a byte changed; who has it mapped keeps it.
fn tamper(code: &PathBuf) {
    let mut bytes = fs::read(code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let other = code.with_extension("other");
    fs::write(&other, bytes).unwrap();
    fs::rename(&other, code).unwrap();
}

#[test]
fn what_is_kept_is_retired_and_told_of() {
    let host = one_worker();
    deploy(&host, "gather-p3", "reused", REUSED);
    deploy(&host, "gather-p3", "shared", SHARED);
    deploy(&host, "hello", "fresh", "");
    deploy(&host, "hello", "unasked", REUSED);
    let names = ["reused", "shared"];
    host.get("fresh", "/").expect_ok();
    let before = names.map(|name| instance(&host, name));
    assert_eq!(names.map(|name| instance(&host, name)), before, "nothing is kept");
    let memory = host.counters("reused").memory_bytes;
    assert!(memory > 0);
    // One that runs is not ended, and nobody else joins it.
    let (running, after) = thread::scope(|scope| {
        let running = scope.spawn(|| host.get("shared", "/wait?ms=1500"));
        eventually("it runs", || (host.counters("shared").running == 1).then_some(()));
        let done = repave(&host, &["reused", "shared", "fresh", "unasked", "shared"]);
        // `hello` is one artifact of two tenants, and so is `gather-p3`; one of them was never loaded.
        assert_eq!((done.tenants, done.instances, done.code), (4, 2, 2), "{done:?}");
        assert_eq!(done.running, 1, "{done:?}");
        let after = names.map(|name| instance(&host, name));
        (running.join().unwrap(), after)
    });
    assert_eq!(said(&running, "instance"), before[1], "it did not finish where it was");
    assert!(after.iter().all(|instance| !before.contains(instance)), "{before:?} {after:?}");
    assert_eq!(names.map(|name| instance(&host, name)), after, "nothing is kept any more");
    // By namespace, and for people.
    host.must(["namespace", "set", "team-a"]);
    deploy(&host, "gather-p3", "other", &format!("namespace = \"team-a\"\n{REUSED}"));
    let other = instance(&host, "other");
    let told = host.must(["repave", "-n", "team-a"]).stdout;
    assert!(told.contains("repaved 1 tenant ") && told.contains("1 instance retired"), "{told}");
    assert_ne!(instance(&host, "other"), other);
    assert_eq!(names.map(|name| instance(&host, name)), after, "others were retired");
    let done = repave(&host, &["--all"]);
    assert_eq!((done.tenants, done.instances), (5, 3), "{done:?}");
    for name in names {
        assert_eq!(host.counters(name).host_faults + host.counters(name).guest_faults, 0);
    }
}

#[test]
fn what_is_not_there_is_said_and_nothing_is_done() {
    let host = one_worker();
    deploy(&host, "gather-p3", "kept", REUSED);
    let before = instance(&host, "kept");
    host.cli(["repave", "kept", "absent"]).expect(4, &["`absent`", "hint:"]);
    host.cli(["repave", "-n", "absent"]).expect(4, &["`absent`", "hint:"]);
    host.cli(["repave"]).expect(2, &["NAME"]);
    host.cli(["repave", "--all", "kept"]).expect(2, &["--all"]);
    let nothing = serde_json::json!({});
    assert_eq!(host.api("POST", "/v1/repave", Some(&nothing)).0, 400);
    assert_eq!(instance(&host, "kept"), before);
}

#[test]
fn connections_to_others_are_made_anew() {
    let host = one_worker();
    let upstream = Upstream::plain();
    let url = format!("http://127.0.0.1:{}", upstream.port());
    deploy(&host, "relay", "calling", &format!("[outbound]\nhosts = [{url:?}]"));
    let call = || _ = host.get("calling", &format!("/?url={url}/head")).expect_ok();
    (0..3).for_each(|_| call());
    assert_eq!(upstream.accepted(), 1, "connections are not kept");
    repave(&host, &["calling"]);
    (0..3).for_each(|_| call());
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn code_is_read_again_and_its_seal_checked() {
    let host = one_worker();
    deploy(&host, "gather-p3", "sealed", SHARED);
    instance(&host, "sealed");
    let code = code(&host);
    let sound = fs::read(&code).unwrap();
    tamper(&code);
    // What is mapped is mapped.
    instance(&host, "sealed");
    assert!(!host.log().contains("cannot use compiled code"), "{}", host.log());
    repave(&host, &["sealed"]);
    // Requests wait until the code has been made again, if that does not take more than 5 s.
    eventually("the code made again", || {
        let answer = host.get("sealed", "/");
        (answer.status() == 200).then_some(()).or_else(|| {
            answer.expect_fault("code-unavailable");
            None
        })
    });
    host.eventually_logs("cannot use compiled code");
    assert!(fs::read(&code).unwrap() == sound, "the code is another");
}

/// Asks these tenants from several threads for as long as `work` takes; every answer must be good.
fn under_load(host: &Host, targets: &[(&str, &str)], work: impl FnOnce()) -> u64 {
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (name, target) in targets {
            let (stop, asked) = (&stop, &asked);
            scope.spawn(move || {
                let mut connection = host.connect();
                while !stop.load(Relaxed) {
                    connection.get(&format!("{name}.localhost"), target).expect_ok();
                    asked.fetch_add(1, Relaxed);
                }
            });
        }
        let stopping = Stopping(&stop);
        work();
        drop(stopping);
    });
    asked.load(Relaxed)
}

/// Stops the others also if this one fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn no_request_fails_while_everything_is_repaved() {
    let host = Host::start();
    deploy(&host, "gather-p3", "reused", REUSED);
    deploy(&host, "gather-p3", "shared", SHARED);
    deploy(&host, "hello", "fresh", "");
    let targets = [("reused", "/"), ("shared", "/"), ("shared", "/wait?ms=20"), ("fresh", "/")];
    let mut retired = 0;
    let asked = under_load(&host, &[targets, targets].concat(), || {
        for _ in 0..40 {
            let done = repave(&host, &["--all"]);
            assert_eq!(done.tenants, 3);
            retired += done.instances;
        }
    });
    assert!(asked > 200 && retired > 20, "{asked} asked, {retired} retired");
    for name in ["reused", "shared", "fresh"] {
        let counters = host.counters(name);
        let failed = counters.host_faults + counters.guest_faults + counters.shed;
        assert_eq!(failed, 0, "{name}: {counters:?}");
    }
}

#[test]
fn what_is_older_than_max_age_serves_no_further_request() {
    let host = one_worker();
    deploy(&host, "gather-p3", "reused", &format!("{REUSED}\nmax_age = \"2s\""));
    let code = code(&host);
    deploy(&host, "gather-p3", "shared", &format!("{SHARED}\nmax_age = \"2s\""));
    deploy(&host, "gather-p3", "ageless", REUSED);
    assert_eq!(host.tenant("reused").limits.max_age_ms, Some(2_000));
    let ageless = instance(&host, "ageless");
    for name in ["reused", "shared"] {
        let born = Instant::now();
        let first = instance(&host, name);
        let mut last = first.clone();
        // Asked all the time, so that it is never idle.
        let changed = within(Duration::from_secs(20), "it is retired", || {
            last = instance(&host, name);
            (last != first).then(|| born.elapsed())
        });
        assert!(changed >= Duration::from_millis(1_800), "{name}: retired after {changed:?}");
        // Its age alone retires it, with nobody asking.
        eventually("it is gone", || (host.counters(name).memory_bytes == 0).then_some(()));
    }
    assert_eq!(instance(&host, "ageless"), ageless, "`reuse.idle` is long, and so it lives");
    // Loaded code is as old as that by now.
    tamper(&code);
    instance(&host, "ageless");
    thread::sleep(Duration::from_millis(2_200));
    instance(&host, "reused");
    host.eventually_logs("cannot use compiled code");
    for (age, word) in [("999ms", "1s"), ("8761h", "max_age")] {
        let file = repo::guest("hello");
        let output = host.cli(["deploy", "bad", file.to_str().unwrap(), "--max-age", age]);
        assert_ne!(output.code, Some(0), "{output:?}");
        assert!(output.stderr.contains("`max_age") && output.stderr.contains(word), "{output:?}");
    }
}

#[test]
fn max_age_wakes_nobody() {
    let host = one_worker();
    deploy(&host, "hello", "aging", "max_age = \"1s\"");
    host.get("aging", "/").expect_ok();
    let switches = || {
        let status = format!("/proc/{}/status", host.worker_pids()[0]);
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // The worker goes to sleep for good first: connections end, the clock's thread stops.
    let quiet = within(Duration::from_secs(60), "the worker sleeps", || {
        let before = switches();
        thread::sleep(Duration::from_millis(3_500));
        Some(switches() - before).filter(|switches| *switches < 3)
    });
    assert!(quiet < 3);
}

/// `insula secret set` with this value.
#[track_caller]
fn set(host: &Host, name: &str, value: u32) {
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(["secret", "set", name, "TURN"]);
    finish(&mut command, value.to_string().as_bytes()).expect(0, &[]);
}

/// The value of the secret that a guest finds.
#[track_caller]
fn turn(connection: &mut Connection, name: &str) -> u32 {
    let text = connection.get(&format!("{name}.localhost"), "/env").expect_ok().text();
    let value = text.split("TURN=").nth(1).and_then(|rest| rest.split([' ', '\n']).next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn a_rotated_secret_is_seen_by_every_request_from_then_on() {
    let host = Host::start();
    let canned = Canned { environment: true, ..Canned::default() };
    let teller = host.file("teller.wasm", responder(&canned));
    let manifest = |name: &str, component: &PathBuf, more: &str| {
        set(&host, name, 0);
        let text = format!(
            "name = {name:?}\ncomponent = {component:?}\nsecrets = {{ TURN = \"env\" }}\n{more}\n"
        );
        let file = host.file(&format!("{name}.toml"), text);
        host.must(["deploy", "-f", file.to_str().unwrap()]);
    };
    manifest("fresh", &teller, "");
    // It never frees what it has allocated.
    manifest("reused", &teller, "reuse = { requests = 1000, idle = \"1h\" }");
    manifest("shared", &repo::guest("gather-p3"), SHARED);
    let names = ["fresh", "reused", "shared"];
    // One connection to each worker.
    let pids = host.worker_pids();
    let mut open = Vec::new();
    for pid in &pids {
        open.push(within(Duration::from_secs(30), "a connection to each worker", || {
            let connection = host.connect();
            let client = connection.stream.local_addr().unwrap();
            (owner(client, host.addr(), &pids) == Some(*pid)).then_some(connection)
        }));
    }
    let load: Vec<_> = names.iter().flat_map(|name| [(*name, "/env"); 2]).collect();
    let mut slowest = Duration::ZERO;
    let asked = under_load(&host, &load, || {
        for now in 1..=50 {
            for name in names {
                set(&host, name, now);
                let since = Instant::now();
                for connection in &mut open {
                    // The very first request after the command: not one sees what was before.
                    assert_eq!(turn(connection, name), now, "{name}");
                }
                slowest = slowest.max(since.elapsed());
            }
        }
    });
    println!("seen in every worker within {slowest:?}; {asked} requests beside");
    assert!(asked > 300, "{asked}");
    for name in names {
        let tenant = host.tenant(name).summary;
        assert_eq!(tenant.revision, 1, "no deploy");
        let counters = tenant.counters;
        assert_eq!(counters.host_faults + counters.guest_faults + counters.shed, 0, "{counters:?}");
    }
}
