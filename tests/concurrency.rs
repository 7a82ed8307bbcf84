//! Several requests in one instance of a WASI 0.3 service, where its manifest allows that, and never
//! where it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::LogStream;
use insula_tests::wait::eventually;
use insula_tests::{Answer, Host, Setup, repo};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// A host with one worker, so that requests meet, and `meet`: `gather-p3` with room for four.
#[track_caller]
fn host(timeout: &str) -> Host {
    let host = Setup::default().args(["--workers", "1"]).start();
    host.deploy_guests(&["hello"]);
    publish(&host, "meet", timeout, "{ requests = 1000, idle = \"30s\", concurrent = 4 }");
    host
}

/// Deploys `gather-p3` under a manifest of the test's own.
#[track_caller]
fn publish(host: &Host, name: &str, timeout: &str, reuse: &str) {
    let guest = repo::guest("gather-p3");
    let text = format!(
        "name = {name:?}\ncomponent = {guest:?}\nconcurrency = 64\nmemory = \"8Mi\"\n\
         timeout = {timeout:?}\nfuel = \"2G\"\nreuse = {reuse}\n"
    );
    let file = host.file(&format!("{name}.toml"), text);
    host.must([std::ffi::OsStr::new("deploy"), "-f".as_ref(), file.as_os_str()]);
}

/// What `gather-p3` says under `key`.
#[track_caller]
fn said(answer: &Answer, key: &str) -> String {
    let text = answer.text();
    let last = text.lines().last().unwrap_or_default();
    let pairs = last.split(' ').filter_map(|word| word.split_once('='));
    let mut found = pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned());
    found.next().unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

/// Asks for all of these at once.
#[track_caller]
fn at_once(host: &Host, name: &str, targets: &[&str]) -> Vec<Answer> {
    thread::scope(|scope| {
        let ask = |target: &&str| {
            let target = (*target).to_owned();
            scope.spawn(move || host.get(name, &target))
        };
        let asked: Vec<_> = targets.iter().map(ask).collect();
        asked.into_iter().map(|asked| asked.join().expect("asked")).collect()
    })
}

fn instances(answers: &[Answer]) -> BTreeSet<String> {
    answers.iter().map(|answer| said(answer, "instance")).collect()
}

#[test]
fn as_many_as_allowed_are_in_one_instance_at_once() {
    let host = host("20s");
    let answers = at_once(&host, "meet", &["/gather?n=4"; 4]);
    answers.iter().for_each(|answer| _ = answer.expect_ok());
    assert_eq!(instances(&answers).len(), 1, "they did not meet");
    assert!(answers.iter().all(|answer| said(answer, "peak") == "4"), "{answers:?}");
    // A fifth finds no room beside four.
    let answers = at_once(&host, "meet", &["/wait?ms=1000"; 5]);
    assert_eq!(instances(&answers).len(), 2);
    assert!(answers.iter().all(|answer| said(answer, "peak").parse::<u32>().unwrap() <= 4));
    // An idle one is taken again.
    let answers: Vec<Answer> = (0..10).map(|_| host.get("meet", "/")).collect();
    assert!(instances(&answers).len() <= 2, "{answers:?}");
    let counters = host.counters("meet");
    assert_eq!((counters.responses, counters.running), (19, 0), "{counters:?}");
    assert!(counters.fuel > 0 && counters.cpu_us > 0, "{counters:?}");
    assert!(counters.memory_peak_bytes >= 64 << 10, "{counters:?}");
}

#[test]
fn never_where_it_is_not_allowed() {
    let host = host("20s");
    publish(&host, "fresh", "20s", "{ requests = 1, idle = \"30s\" }");
    publish(&host, "again", "20s", "{ requests = 1000, idle = \"30s\" }");
    for name in ["fresh", "again"] {
        let answers = at_once(&host, name, &["/wait?ms=500"; 6]);
        assert_eq!(instances(&answers).len(), 6, "{name}");
        assert!(answers.iter().all(|answer| said(answer, "peak") == "1"), "{name}");
    }
    // What is allowed to one tenant brings it nowhere near another.
    publish(&host, "other", "20s", "{ requests = 1000, idle = \"30s\", concurrent = 4 }");
    let mut of_both = at_once(&host, "meet", &["/wait?ms=200"; 2]);
    of_both.extend(at_once(&host, "other", &["/wait?ms=200"; 2]));
    assert_eq!(instances(&of_both).len(), 2);
}

#[test]
fn an_instance_serves_as_many_requests_as_allowed_in_all() {
    let host = host("20s");
    publish(&host, "few", "20s", "{ requests = 3, idle = \"30s\", concurrent = 4 }");
    let answers: Vec<Answer> = (0..6).map(|_| host.get("few", "/")).collect();
    let served: Vec<String> = answers.iter().map(|answer| said(answer, "served")).collect();
    assert_eq!(served, ["1", "2", "3", "1", "2", "3"]);
    publish(&host, "brief", "20s", "{ requests = 1000, idle = \"1s\", concurrent = 4 }");
    let first = said(&host.get("brief", "/"), "instance");
    thread::sleep(Duration::from_millis(2_500));
    assert_ne!(said(&host.get("brief", "/"), "instance"), first, "it idled for ever");
}

#[test]
fn a_trap_fails_its_own_instance_only() {
    let host = host("20s");
    // Four fill an instance, so what comes later is elsewhere.
    let answers = at_once(
        &host,
        "meet",
        &["/trap?ms=1500", "/wait?ms=6000", "/wait?ms=6000", "/wait?ms=6000"],
    );
    answers.iter().for_each(|answer| _ = answer.expect_fault("trap"));
    let cause = host.eventually_told("meet", answers[0].request_id(), "trap");
    assert!(!cause.text.contains("another request"), "{cause:?}");
    let told = host.eventually_told("meet", answers[1].request_id(), "trap: another request");
    assert!(told.text.contains(answers[0].request_id()), "{told:?}");
    let after = host.get("meet", "/");
    assert_eq!(said(after.expect_ok(), "served"), "1", "the instance went on");
    assert_eq!(host.counters("meet").guest_faults, 4);
    host.get("hello", "/").expect_ok();
}

#[test]
fn a_request_that_waits_too_long_is_given_up_and_the_others_go_on() {
    let host = host("2s");
    let since = Instant::now();
    let answers = at_once(&host, "meet", &["/stall", "/wait?ms=1200", "/wait?ms=1200"]);
    answers[0].expect_fault("deadline");
    answers[1].expect_ok();
    answers[2].expect_ok();
    assert_eq!(said(&answers[1], "peak"), "3", "they did not meet");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    // What still waits in there gets no company.
    let after = host.get("meet", "/");
    assert_eq!(said(after.expect_ok(), "served"), "1");
}

#[test]
fn a_request_that_computes_too_long_ends_its_instance() {
    let host = host("1500ms");
    let answers = at_once(&host, "meet", &["/spin?ms=200", "/wait?ms=1000"]);
    let word = answers[0].fault().unwrap_or_default().to_owned();
    assert!(["deadline", "out-of-fuel"].contains(&word.as_str()), "{:?}", answers[0]);
    assert!(answers[1].fault().is_some(), "{:?}", answers[1]);
    host.get("meet", "/").expect_ok();
    host.get("hello", "/").expect_ok();
}

#[test]
fn a_client_that_goes_away_takes_only_its_own_request_along() {
    let host = host("20s");
    thread::scope(|scope| {
        let stays = scope.spawn(|| host.get("meet", "/wait?ms=3000"));
        let mut leaves = host.connect();
        leaves.send("GET /stream HTTP/1.1\r\nhost: meet.localhost\r\n\r\n");
        leaves.head().expect("a head");
        eventually("both inside", || (host.counters("meet").running == 2).then_some(()));
        drop(leaves);
        eventually("one left", || (host.counters("meet").client_faults == 1).then_some(()));
        let answer = stays.join().unwrap();
        assert_eq!(said(answer.expect_ok(), "peak"), "2", "they did not meet");
    });
    let counters = host.counters("meet");
    assert_eq!((counters.responses, counters.client_faults), (1, 1), "{counters:?}");
}

#[test]
fn memory_is_the_instances() {
    let host = host("20s");
    let answers: Vec<Answer> = (0..8).map(|_| host.get("meet", "/hold?kib=3000")).collect();
    let failed = answers.iter().filter(|answer| answer.fault() == Some("out-of-memory")).count();
    assert!(failed >= 2, "what earlier requests held was not counted: {answers:?}");
    assert!(answers.iter().any(|answer| answer.fault().is_none()), "{answers:?}");
    let peak = host.counters("meet").memory_peak_bytes;
    assert!(((6 << 20)..=(8 << 20)).contains(&peak), "{peak}");
}

#[test]
fn lines_name_their_request_when_it_is_alone() {
    let host = host("20s");
    let answer = host.get("meet", "/say?ms=7");
    let request = answer.expect_ok().request_id();
    let said = || host.records("meet").into_iter().find(|record| record.text == "said at 7");
    let record = eventually("the guest's line", said);
    assert_eq!((record.stream, record.request.as_str()), (LogStream::Stdout, request));
}

#[test]
fn a_deploy_under_load_loses_nothing_and_a_drain_waits() {
    let mut host = host("20s");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut connection = host.connect();
                while !stop.load(Relaxed) {
                    connection.get("meet.localhost", "/wait?ms=5").expect_ok();
                }
            });
        }
        for turn in 0..6 {
            let reuse = format!("{{ requests = {}, idle = \"30s\", concurrent = 4 }}", 100 + turn);
            publish(&host, "meet", "20s", &reuse);
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(host.counters("meet").guest_faults, 0);
    let mut inside = host.connect();
    inside.send("GET /wait?ms=1500 HTTP/1.1\r\nhost: meet.localhost\r\n\r\n");
    eventually("it is inside", || (host.counters("meet").running == 1).then_some(()));
    host.stop(rustix::process::Signal::TERM);
    inside.answer().expect_ok();
}
