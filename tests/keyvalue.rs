//! `wasi:keyvalue`: durable, shared by all workers, and nobody else's. `wasi:config/store`: what the
//! manifest says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::disk::Kind;
use insula_tests::host::can_mount;
use insula_tests::process::signal;
use insula_tests::wait::eventually;
use insula_tests::{Answer, Connection, Host, Setup, repo};
use rustix::process::Signal;
use std::fmt::Write;
use std::net::TcpStream;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

static HOST: LazyLock<Host> = LazyLock::new(Host::start);

/// Deploys an example guest as `name` with a manifest that ends in `grants`.
#[track_caller]
fn deploy(host: &Host, guest: &str, name: &str, grants: &str) {
    let component = repo::guest(guest);
    let manifest = format!("name = '{name}'\ncomponent = '{}'\n{grants}\n", component.display());
    let file = host.file(&format!("{name}.toml"), manifest);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
}

#[track_caller]
fn counter(host: &Host, name: &str) {
    deploy(host, "counter", name, "keyvalue = {}");
}

/// The number that a visit is answered with.
#[track_caller]
fn count(answer: &Answer) -> u64 {
    answer.expect_ok().text().trim().parse().unwrap_or_else(|_| panic!("{}", answer.text()))
}

#[track_caller]
fn expect(answer: &Answer, status: u16, text: &str) {
    assert_eq!((answer.status(), answer.text().as_str()), (status, text));
}

#[test]
fn a_store_does_all_that_its_interfaces_say() {
    counter(&HOST, "does");
    let get = |target: &str| HOST.get("does", target);
    expect(&get("/get?key=a"), 200, "nothing");
    expect(&get("/exists?key=a"), 200, "false\n");
    expect(&get("/set?key=a&value=1"), 200, "done\n");
    expect(&get("/get?key=a"), 200, "1");
    expect(&get("/exists?key=a"), 200, "true\n");
    expect(&get("/add?key=a&n=41"), 200, "42\n");
    expect(&get("/add?key=a&n=-43"), 200, "-1\n");
    expect(&get("/delete?key=a"), 200, "done\n");
    expect(&get("/delete?key=a"), 200, "done\n");
    expect(&get("/get?key=a"), 200, "nothing");
    // Compare and swap: what it found, and how many attempts that took.
    expect(&get("/set?key=s&value=old"), 200, "done\n");
    expect(&get("/swap?key=s&value=new"), 200, "old in 1\n");
    expect(&get("/swap?key=s&value=newer&stale"), 200, "new in 2\n");
    expect(&get("/get?key=s"), 200, "newer");
    expect(&get("/delete?key=s"), 200, "done\n");
    // The guest asks for one key more than it sets.
    let refused = get("/batch?n=1000");
    assert!(refused.text().starts_with("one call may name 1000 keys"), "{}", refused.text());
    expect(&get("/delete?key=batch-0000"), 200, "done\n");
    expect(&get("/list"), 200, &(1..1_000).map(|n| format!("batch-{n:04}\n")).collect::<String>());
    expect(&get("/batch?n=999"), 200, "999 right, 1 absent\n");
    expect(&get("/list"), 200, "batch-0000\nbatch-0999\n");
}

#[test]
fn a_listing_has_several_pages_when_there_are_many_keys() {
    deploy(&HOST, "counter", "pages", "keyvalue = {}\nfuel = '10G'");
    let mut one = HOST.connect();
    let mut expected = String::new();
    for n in 0..1_200 {
        let key = format!("k{n:04}");
        expect(&one.get("pages.localhost", &format!("/set?key={key}&value=")), 200, "done\n");
        let _ = writeln!(expected, "{key}");
    }
    expect(&one.get("pages.localhost", "/list"), 200, &expected);
    // The older draft counts in the same stores.
    expect(&one.get("pages.localhost", "/older?key=n"), 200, "1, 1 of 2, 1201 keys\n");
    expect(&one.get("pages.localhost", "/add?key=n"), 200, "2\n");
    expect(&one.get("pages.localhost", "/older?key=n"), 200, "3, 1 of 2, 1201 keys\n");
}

#[test]
fn without_a_grant_there_is_no_store_and_with_one_only_those_it_names() {
    deploy(&HOST, "counter", "ungranted", "");
    expect(&HOST.get("ungranted", "/"), 403, "access denied\n");
    expect(&HOST.get("ungranted", "/older"), 403, "access denied\n");
    deploy(&HOST, "counter", "named", "keyvalue = { stores = ['one', 'two'] }");
    expect(&HOST.get("named", "/"), 404, "no such store\n");
    expect(&HOST.get("named", "/set?key=k&value=1&store=one"), 200, "done\n");
    expect(&HOST.get("named", "/get?key=k&store=one"), 200, "1");
    expect(&HOST.get("named", "/get?key=k&store=two"), 200, "nothing");
    // A grant that is taken back is gone, and what was stored is not.
    deploy(&HOST, "counter", "named", "");
    expect(&HOST.get("named", "/get?key=k&store=one"), 403, "access denied\n");
    deploy(&HOST, "counter", "named", "keyvalue = { stores = ['one'] }");
    expect(&HOST.get("named", "/get?key=k&store=one"), 200, "1");
}

#[test]
fn tenants_do_not_share_a_store_of_the_same_name() {
    counter(&HOST, "mine");
    counter(&HOST, "yours");
    for n in 1..=3 {
        assert_eq!(count(&HOST.get("mine", "/")), n);
    }
    assert_eq!(count(&HOST.get("yours", "/")), 1);
    expect(&HOST.get("yours", "/list"), 200, "visits\n");
}

#[test]
fn what_is_too_large_or_over_the_quota_is_refused_with_words() {
    deploy(&HOST, "counter", "quota", "keyvalue = { quota = '1500Ki' }");
    let get = |target: &str| HOST.get("quota", target);
    expect(&get("/set?key=large&bytes=1048576"), 200, "done\n");
    let whole = get("/get?key=large");
    assert!(whole.expect_ok().body.iter().all(|byte| *byte == b'x') && whole.body.len() == 1 << 20);
    let refused = get("/set?key=larger&bytes=1048577");
    assert!(refused.status() == 500 && refused.text().contains("split it"), "{}", refused.text());
    let refused = get("/set?key=more&bytes=600000");
    assert_eq!(refused.status(), 500);
    assert!(refused.text().contains("quota is 1536000"), "{}", refused.text());
    assert!(refused.text().contains("keyvalue.quota"), "{}", refused.text());
    expect(&get("/list"), 200, "large\n");
    let refused = get(&format!("/get?key={}", "k".repeat(1_025)));
    assert!(refused.text().contains("1025 bytes"), "{}", refused.text());
    // Room is made by deleting, and by deploying with more.
    expect(&get("/delete?key=large"), 200, "done\n");
    expect(&get("/set?key=more&bytes=600000"), 200, "done\n");
    deploy(&HOST, "counter", "quota", "keyvalue = { quota = '4Mi' }");
    expect(&get("/set?key=large&bytes=1048576"), 200, "done\n");
}

#[test]
fn stores_outlive_revisions_and_hosts_and_end_with_their_tenant() {
    let mut host = Host::start();
    counter(&host, "lasting");
    assert_eq!(count(&host.get("lasting", "/")), 1);
    deploy(&host, "counter", "lasting", "keyvalue = {}\nmemory = '32Mi'");
    assert_eq!(count(&host.get("lasting", "/")), 2);
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    assert_eq!(count(&host.get("lasting", "/")), 3);
    host.kill();
    host.restart();
    assert_eq!(count(&host.get("lasting", "/")), 4);

    host.must(["rm", "lasting"]);
    counter(&host, "lasting");
    assert_eq!(count(&host.get("lasting", "/")), 1);
    // Not only out of sight.
    let holds = |words: &str| {
        let dir = host.data().join("tenants");
        let files = ["keyvalue.db", "keyvalue.db-wal"].map(|file| std::fs::read(dir.join(file)));
        files
            .iter()
            .flatten()
            .any(|bytes| bytes.windows(words.len()).any(|w| w == words.as_bytes()))
    };
    expect(&host.get("lasting", "/set?key=secretive&value=abc"), 200, "done\n");
    assert!(holds("secretive"));
    host.must(["rm", "lasting"]);
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    counter(&host, "lasting");
    expect(&host.get("lasting", "/list"), 200, "");
}

#[test]
fn increments_are_never_lost_while_workers_die() {
    const CLIENTS: u64 = 8;
    let host = Host::start();
    counter(&host, "hammered");
    let (stop, sent, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let Ok(stream) = TcpStream::connect(host.addr()) else { continue };
                    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    let mut connection = Connection::over(stream);
                    while !stop.load(Relaxed) {
                        sent.fetch_add(1, Relaxed);
                        let answer =
                            connection.try_ask("GET", "hammered.localhost", "/", &[], None);
                        match answer {
                            Ok(answer) if answer.whole && answer.status() == 200 => {
                                acknowledged.fetch_add(1, Relaxed);
                            }
                            _ => break,
                        }
                    }
                }
            });
        }
        for round in 1..=6 {
            let enough = acknowledged.load(Relaxed) + 40;
            eventually("increments", || (acknowledged.load(Relaxed) >= enough).then_some(()));
            let workers = host.eventually_serves();
            signal(workers[round % workers.len()].pid.unwrap(), Signal::KILL);
        }
        let enough = acknowledged.load(Relaxed) + 40;
        eventually("increments", || (acknowledged.load(Relaxed) >= enough).then_some(()));
        stop.store(true, Relaxed);
    });
    let (sent, acknowledged) = (sent.load(Relaxed), acknowledged.load(Relaxed));
    let stored = count(&host.get("hammered", "/add?key=visits&n=0"));
    assert!(acknowledged <= stored, "{acknowledged} acknowledged, {stored} stored");
    assert!(stored <= sent, "{stored} stored, {sent} sent");
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    if !can_mount(Kind::Tmpfs) {
        eprintln!("skipped: this kernel lets nobody mount");
        return;
    }
    let host = Setup::new().disk(16 << 20).start();
    deploy(&host, "counter", "full", "keyvalue = { quota = '1Gi' }");
    assert_eq!(count(&host.get("full", "/")), 1);
    let mut stored = 0;
    let refused = loop {
        let answer = host.get("full", &format!("/set?key=k{stored:04}&bytes=500000"));
        if answer.status() != 200 {
            break answer;
        }
        stored += 1;
        assert!(stored < 100, "a disk of 16 MiB holds all of this");
    };
    assert!(refused.text().contains("disk is full"), "{}", refused.text());
    host.eventually_logs("key-value store: the host's disk is full");
    expect(&host.get("full", "/get?key=visits"), 200, "1");
    assert_eq!(host.get("full", "/list").expect_ok().text().lines().count(), stored + 1);
}

#[test]
fn configuration_is_what_the_manifest_says() {
    let grants = "config = { greeting = 'Hello', 'a.b' = 'ä = 1' }\nenv = { STAGE = 'test' }\nargs = ['-v', 'x y']";
    deploy(&HOST, "settings", "configured", grants);
    let get = |target: &str| HOST.get("configured", target);
    expect(&get("/config"), 200, "a.b=ä = 1\ngreeting=Hello\n");
    expect(&get("/config?key=greeting"), 200, "Hello");
    expect(&get("/config?key=Greeting"), 404, "not set\n");
    expect(&get("/env"), 200, "STAGE=test\n");
    expect(&get("/args"), 200, "configured\n-v\nx y\n");
    deploy(&HOST, "settings", "configured", "config = { greeting = 'Goodbye' }");
    expect(&get("/config"), 200, "greeting=Goodbye\n");
    expect(&get("/env"), 200, "");
    deploy(&HOST, "settings", "configured", "");
    expect(&get("/config"), 200, "");
    expect(&get("/config?key=greeting"), 404, "not set\n");
}
