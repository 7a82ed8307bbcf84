//! Clients that stay connected while the host is upgraded: none is refused, none misses or sees twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::insula;
use insula_tests::process::Server;
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Setup, binary, repo};
use rustix::process::Signal;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a client may take to end when nothing is left to wait for.
const END_MAX: Duration = Duration::from_secs(30);

/// Upgrades to the same version by another name.
#[track_caller]
fn upgrade(host: &Host, name: &str) {
    let to: PathBuf = host.home().join(name);
    if fs::hard_link(binary::insula(), &to).is_err() {
        fs::copy(binary::insula(), &to).unwrap();
    }
    let output = host.must(["upgrade".as_ref(), "--binary".as_ref(), to.as_os_str()]);
    assert!(output.stdout.contains("upgraded from"), "{output:?}");
}

/// A client that goes on until it is ended; its standard error is in `NAME.err`.
fn client(host: &Host, name: &str, args: &[&str]) -> Server {
    let errors = File::create(host.home().join(format!("{name}.err"))).unwrap();
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(args).stderr(errors);
    Server::start(&mut command, host.home())
}

fn errors(host: &Host, name: &str) -> String {
    fs::read_to_string(host.home().join(format!("{name}.err"))).unwrap()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Fails unless `seen` stands in `all` without a gap, and is not empty.
#[track_caller]
fn expect_run_of(all: &[String], seen: &[String]) {
    let first = seen.first().expect("something was seen");
    let from = all.iter().position(|line| line == first).expect("the first one");
    let same = all[from..].iter().zip(seen).take_while(|(a, b)| a == b).count();
    let next = (all.get(from + same), seen.get(same));
    assert_eq!(same, seen.len().min(all.len() - from), "of {}, then {next:?}", seen.len());
}

#[test]
fn scrapers_are_not_refused() {
    let host = Setup::new().args(["--metrics", "127.0.0.1:0"]).start();
    host.deploy_guests(&["hello"]);
    let at: SocketAddr = host.info().metrics.unwrap().parse().unwrap();
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            while !over.load(Relaxed) {
                let answer = Connection::try_open(at)
                    .and_then(|mut c| c.try_ask("GET", "localhost", "/metrics", &[], None));
                match answer {
                    Ok(answer) if answer.status() == 200 => drop(done.fetch_add(1, Relaxed)),
                    Ok(answer) => return Err(answer.text()),
                    Err(error) => return Err(error.to_string()),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for name in ["insula-a", "insula-b"] {
                let before = done.load(Relaxed);
                upgrade(&host, name);
                assert_eq!(host.info().metrics, Some(at.to_string()));
                eventually("it scrapes on", || (done.load(Relaxed) > before + 5).then_some(()));
            }
        }));
        over.store(true, Relaxed);
        assert_eq!(scraper.join().unwrap(), Ok(()), "after {} scrapes", done.load(Relaxed));
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn followers_go_on_where_they_were() {
    let mut host = Host::start();
    host.deploy("chatty", &repo::guest("hostile-flood"), &["--access-log"]);
    host.get("chatty", "/go?lines=4").expect_ok();
    eventually("its lines", || (host.records("chatty").len() == 8).then_some(()));
    let following = ["logs", "chatty", "-f", "--json"];
    let mut all = client(&host, "all", &following);
    let some = [&following[..], &["-n", "1", "--stream", "stderr", "--grep", "^[23] all"]].concat();
    let mut some = client(&host, "some", &some);
    let mut requests = client(&host, "requests", &[&following[..], &["--access"]].concat());
    let mut changes = client(&host, "changes", &["audit", "-f", "--json", "-n", "0"]);
    let top = client(&host, "top", &["top", "--json", "--interval", "200ms"]);
    eventually("all have begun", || {
        let lines = [&all, &some, &requests, &top].map(|one| one.printed().lines().count());
        (lines[0] == 8 && lines[1..].iter().all(|n| *n > 0)).then_some(())
    });
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                host.get("chatty", "/go?lines=3").expect_ok();
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for name in ["insula-a", "insula-b"] {
                let tables = top.printed().lines().count();
                upgrade(&host, name);
                host.deploy("other", &repo::guest("hello"), &["--env", &format!("TURN={name}")]);
                eventually("top goes on", || {
                    (top.printed().lines().count() > tables + 3).then_some(())
                });
            }
        }));
        over.store(true, Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let log = |query: &str| {
        lines(&host.api_raw("GET", &format!("/v1/tenants/chatty/logs?{query}"), None).text())
    };
    // What was written last has come as well, and in between nothing is missing or twice.
    eventually("everything is there", || (lines(&all.printed()) == log("")).then_some(()));
    let passing = log("stream=stderr&grep=%5E%5B23%5D%20all");
    eventually("what passes is there", || {
        (lines(&some.printed()).last() == passing.last()).then_some(())
    });
    expect_run_of(&passing, &lines(&some.printed()));
    eventually("all requests are there", || {
        (lines(&requests.printed()) == log("access=true")).then_some(())
    });
    eventually("the last deploy is there", || {
        (changes.printed().matches("\"action\":\"deploy\"").count() >= 2).then_some(())
    });
    let recorded = lines(&host.api_raw("GET", "/v1/audit", None).text());
    expect_run_of(&recorded, &lines(&changes.printed()));
    let upgrades = changes.printed().matches("\"action\":\"upgrade\"").count();
    assert_eq!(upgrades, 2, "{}", changes.printed());

    // A host that stops ends what follows it, as it always did.
    assert!(host.stop(Signal::TERM).success(), "{}", host.log());
    for (name, client) in [("all", &mut all), ("some", &mut some), ("requests", &mut requests)] {
        let ended = client.wait(END_MAX).unwrap_or_else(|| panic!("`{name}` goes on"));
        assert!(ended.success(), "{name}: {}", errors(&host, name));
        assert!(errors(&host, name).contains("the log has ended"), "{}", errors(&host, name));
    }
    assert!(changes.wait(END_MAX).is_some_and(|ended| ended.success()));
}

#[test]
fn a_host_that_is_gone_is_not_waited_for() {
    let host = Host::start();
    host.deploy("chatty", &repo::guest("hostile-flood"), &[]);
    host.get("chatty", "/go?lines=1").expect_ok();
    let mut following = client(&host, "all", &["logs", "chatty", "-f"]);
    eventually("it has begun", || following.printed().contains("1 all").then_some(()));
    host.kill_everything();
    let ended = following.wait(END_MAX).expect("it goes on");
    let said = errors(&host, "all");
    assert_eq!(ended.code(), Some(5), "{said}");
    assert!(said.contains("the host closed the connection while it sent the log"), "{said}");
}
