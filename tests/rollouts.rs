//! How a new revision takes over: at once, and nobody notices; or as a canary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{CanaryStatus, LogStream, RevisionInfo, RolloutState};
use insula_tests::h2::{Http2, run};
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Answer, Connection, Host, repo};
use rustix::process::Signal;
use serde_json::json;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

static HOST: LazyLock<Host> = LazyLock::new(Host::start);

/// A guest that says which it is in several pieces, then what its environment is.
fn saying(host: &Host, word: &str, status: u16) -> PathBuf {
    let piece = format!("{word}\n");
    let body = [piece.as_str(); 3];
    let canned = Canned { status, body: &body, environment: true, ..Canned::default() };
    // Tests run at once: none writes over what another reads.
    static FILES: AtomicU64 = AtomicU64::new(0);
    host.file(&format!("{word}-{}.wasm", FILES.fetch_add(1, Relaxed)), responder(&canned))
}

/// The one word that a whole answer of such a guest says throughout, environment included.
#[track_caller]
fn said(body: &str) -> String {
    let mut words = body.lines().map(|line| line.trim_start_matches("REV="));
    let first = words.next().expect("a word").to_owned();
    assert!(words.all(|word| word.starts_with(&first)), "of two revisions: {body:?}");
    first
}

fn revisions(host: &Host, name: &str) -> Vec<RevisionInfo> {
    let (status, value) = host.api("GET", &format!("/v1/tenants/{name}/revisions"), None);
    assert_eq!(status, 200, "{value}");
    serde_json::from_value(value).unwrap()
}

#[track_caller]
fn canary(host: &Host, name: &str) -> CanaryStatus {
    host.tenant(name).summary.canary.expect("a canary")
}

/// Asks so often on these connections in turn; how many answers said `word`.
#[track_caller]
fn share(connections: &mut [Connection], name: &str, requests: usize, word: &str) -> usize {
    let host = format!("{name}.localhost");
    let many = connections.len();
    let mut ask = |at: usize| -> String { said(&connections[at % many].get(&host, "/").text()) };
    (0..requests).filter(|at| ask(*at) == word).count()
}

/// A stable revision that says `a`, and a canary that says `b`.
fn pair(host: &Host, name: &str, flags: &[&str]) {
    host.deploy(name, &saying(host, "a", 200), &[]);
    let output = host.deploy(name, &saying(host, "b", 200), flags);
    assert!(output.stdout.contains("as a canary"), "{output:?}");
}

#[test]
fn two_hundred_deploys_and_fifty_rollbacks_under_load_fail_no_request() {
    let host = Host::start();
    let digest = |file: PathBuf, word: &str| {
        host.deploy("busy", &file, &["--env", &format!("REV={word}0")]);
        host.tenant("busy").summary.artifact.to_string()
    };
    let [a, b] = [("a", 200), ("b", 200)].map(|(word, status)| (word, saying(&host, word, status)));
    let artifacts = [("a", digest(a.1, a.0)), ("b", digest(b.1, b.0))];
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen = |answer: &str| {
        said(answer);
        asked.fetch_add(1, Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = host.connect();
                while !stop.load(Relaxed) {
                    let answer = connection.get("busy.localhost", "/");
                    seen(&answer.expect_ok().text());
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                run(async {
                    let connection = Http2::open(host.addr()).await;
                    for _ in 0..20 {
                        let asked: Vec<_> = (0..4)
                            .map(|_| {
                                let connection = connection.clone();
                                tokio::spawn(async move {
                                    connection.ask("GET", "busy.localhost", "/", b"").await
                                })
                            })
                            .collect();
                        for answer in asked {
                            let answer = answer.await.unwrap();
                            assert_eq!(answer.head.status(), 200);
                            let body = answer.body.expect("a whole body");
                            seen(std::str::from_utf8(&body).unwrap());
                        }
                    }
                });
            }
        });
        for turn in 0..200 {
            let (word, artifact) = &artifacts[turn % 2];
            let manifest = json!({"name": "busy", "env": {"REV": format!("{word}{turn}")},
                "probe": {"path": "/"}});
            let body = json!({"manifest": manifest, "artifact": artifact});
            let (status, value) = host.api("PUT", "/v1/tenants/busy", Some(&body));
            assert_eq!(status, 200, "turn {turn}: {value}");
            if turn % 4 == 3 {
                let (status, value) =
                    host.api("POST", "/v1/tenants/busy/rollback", Some(&json!({})));
                assert_eq!(status, 200, "turn {turn}: {value}");
            }
        }
        stop.store(true, Relaxed);
    });
    let asked = asked.load(Relaxed);
    assert!(asked > 1_000, "only {asked} requests: that is no load");
    eventually("all of them are counted", || {
        let counters = host.counters("busy");
        assert_eq!(counters.guest_faults + counters.host_faults + counters.shed, 0, "{counters:?}");
        (counters.running == 0 && counters.responses >= asked).then_some(())
    });
}

#[test]
fn a_canary_gets_its_part_of_the_requests_exactly() {
    let host = &*HOST;
    pair(host, "share", &["--canary", "5%"]);
    let one = share(&mut [host.connect()], "share", 1_000, "b");
    assert!((49..=51).contains(&one), "{one} of 1,000");
    let mut several: Vec<Connection> = (0..8).map(|_| host.connect()).collect();
    let all = share(&mut several, "share", 1_000, "b");
    assert!((47..=53).contains(&all), "{all} of 1,000 over both workers");
    // It is shown wherever the tenant is.
    let expected = u64::try_from(one + all).unwrap();
    let shown = eventually("the canary's requests are counted", || {
        let shown = canary(host, "share");
        (shown.requests == expected).then_some(shown)
    });
    assert_eq!((shown.revision, shown.errors, shown.verdict.as_str()), (2, 0, "well"));
    assert_eq!(shown.rollout.share.to_string(), "5%");
    let beside = eventually("what went to the active revision is counted", || {
        let beside = canary(host, "share").active;
        (beside.requests == 2_000 - expected).then_some(beside)
    });
    assert_eq!((beside.revision, beside.errors), (1, 0));
    assert!(beside.latency.p99_ms.is_some(), "{beside:?}");
    assert_eq!(host.tenant("share").summary.revision, 1);
    eventually("all are the tenant's", || (host.counters("share").requests == 2_000).then_some(()));
    let page = host.must(["inspect", "share"]).stdout;
    for words in ["canary", "5% of the tenant's", "well", "by `insula promote`", "meanwhile"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let table = host.must(["ps"]).stdout;
    assert!(table.contains("r2: 5%"), "{table}");
    let table = host.must(["revisions", "share"]).stdout;
    assert!(table.contains("canary: 5%"), "{table}");

    let promoted = host.must(["promote", "share"]);
    assert!(promoted.stdout.contains("revision 2: it gets all requests"), "{promoted:?}");
    assert_eq!(share(&mut several, "share", 40, "b"), 40);
    let tenant = host.tenant("share").summary;
    assert_eq!((tenant.revision, tenant.canary), (2, None));
    let history = revisions(host, "share");
    let rollout = history[0].rollout.as_ref().unwrap();
    assert_eq!((rollout.state, history[0].active), (RolloutState::Promoted, true));
    // What it did as a canary stays the tenant's.
    eventually("no request is forgotten", || {
        (host.counters("share").requests == 2_040).then_some(())
    });
    host.must(["rollback", "share"]);
    assert_eq!(share(&mut several, "share", 10, "a"), 10);
    host.cli(["promote", "share"]).expect(3, &["has no canary", "--canary"]);
    host.cli(["promote", "nobody"]).expect(4, &["nobody"]);
}

#[test]
fn a_rollback_ends_the_canary_first() {
    let host = &*HOST;
    pair(host, "back", &["--canary", "50%"]);
    let output = host.must(["rollback", "back"]);
    assert!(output.stdout.contains("canary revision 2: revision 1 gets all"), "{output:?}");
    assert_eq!(share(&mut [host.connect(), host.connect()], "back", 40, "a"), 40);
    let history = revisions(host, "back");
    let rollout = history[0].rollout.as_ref().unwrap();
    assert_eq!(rollout.state, RolloutState::RolledBack);
    assert_eq!(rollout.reason.as_deref(), Some("asked for"));
    // With a number, that revision follows.
    host.deploy("back", &saying(host, "c", 200), &[]);
    host.deploy("back", &saying(host, "b", 200), &["--canary", "50%"]);
    host.must(["rollback", "back", "1"]);
    let tenant = host.tenant("back").summary;
    assert_eq!((tenant.revision, tenant.canary), (1, None));
    assert_eq!(share(&mut [host.connect()], "back", 10, "a"), 10);
}

#[test]
fn nothing_else_changes_while_a_canary_runs() {
    let host = &*HOST;
    let [a, b] = ["a", "b"].map(|word| saying(host, word, 200));
    // There is nothing to be a canary of.
    let first = host.deploy("alone", &a, &["--canary", "5%"]);
    assert!(first.stderr.contains("nothing to be a canary of"), "{first:?}");
    assert_eq!(host.tenant("alone").summary.canary, None);
    host.deploy("alone", &b, &["--canary", "5%"]);
    let deploy = |file: &PathBuf, flags: &[&str]| {
        let args = ["deploy", "alone", file.to_str().unwrap()];
        host.cli(args.iter().chain(flags))
    };
    for flags in [&[][..], &["--canary", "10%"]] {
        let refused = deploy(&b, flags);
        refused.expect(3, &["revision 2", "is a canary", "insula promote alone"]);
    }
    // The same again is no change.
    let again = deploy(&b, &["--canary", "5%"]);
    again.expect(0, &[]);
    assert!(again.stdout.contains("unchanged"), "{again:?}");
    deploy(&a, &["--canary", "5%"]).expect(0, &[]);
    host.must(["promote", "alone"]);
    // A canary answers where the active revision does.
    let routes = ["--canary", "5%", "--route", "elsewhere.example"];
    deploy(&a, &routes).expect(3, &["the routes of `alone`", "elsewhere.example"]);
    deploy(&a, &["--canary", "0%"]).expect(3, &["more than 0%"]);
    deploy(&a, &["--canary-for", "1m"]).expect(2, &["--canary"]);
    deploy(&a, &["--canary", "5"]).expect(2, &["such as `5%`"]);
    assert_eq!(revisions(host, "alone").len(), 2);
    // A tenant that is removed takes its canary along; one of that name has nothing of it.
    deploy(&a, &["--canary", "50%"]).expect(0, &[]);
    host.must(["rm", "alone"]);
    host.connect().get("alone.localhost", "/").expect_fault("no-route");
    host.deploy("alone", &b, &[]);
    assert_eq!(share(&mut [host.connect(), host.connect()], "alone", 20, "b"), 20);
    assert_eq!(host.tenant("alone").summary.canary, None);
}

#[test]
fn clients_stick_to_a_revision_by_header_or_cookie() {
    let host = &*HOST;
    for (name, by, field) in
        [("by-header", "header:X-User", "x-user"), ("by-cookie", "cookie:session", "cookie")]
    {
        pair(host, name, &["--canary", "30%", "--canary-sticky", by]);
        let to = format!("{name}.localhost");
        let value = |user: usize| match field {
            "cookie" => format!("theme=dark; session=user-{user}; a=b"),
            _ => format!("user-{user}"),
        };
        let ask = |connection: &mut Connection, user: usize| -> String {
            said(&connection.ask("GET", &to, "/", &[(field, &value(user))], None).text())
        };
        let mut connections: Vec<Connection> = (0..4).map(|_| host.connect()).collect();
        let mut canaries = 0;
        for user in 0..200 {
            let first = ask(&mut connections[0], user);
            for connection in &mut connections[1..] {
                assert_eq!(ask(connection, user), first, "{name}: user {user} sees both");
            }
            canaries += usize::from(first == "b");
        }
        assert!((35..=85).contains(&canaries), "{canaries} of 200 users are canaries");
        // Who has nothing to stick by is spread.
        let spread = share(&mut [host.connect()], name, 100, "b");
        assert!((28..=32).contains(&spread), "{spread} of 100");
    }
}

/// Asks until the canary has ended.
fn ask_until_it_ends(host: &Host, name: &str, target: &str) {
    let to = format!("{name}.localhost");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = host.connect();
                eventually("the canary has ended", || {
                    for _ in 0..20 {
                        connection.get(&to, target);
                    }
                    host.tenant(name).summary.canary.is_none().then_some(())
                });
            });
        }
    });
}

#[track_caller]
fn rolled_back(host: &Host, name: &str, words: &str) {
    let history = revisions(host, name);
    let rollout = history[0].rollout.clone().unwrap();
    assert_eq!(rollout.state, RolloutState::RolledBack, "{rollout:?}");
    assert!(rollout.reason.as_deref().unwrap().contains(words), "{rollout:?}");
    assert!(history[1].active, "{history:?}");
    let table = host.must(["revisions", name]).stdout;
    assert!(table.contains("rolled back: ") && table.contains(words), "{table}");
    eventually("the tenant's log says so", || {
        let mut records = host.records(name).into_iter();
        let told = |stream, text: &str| stream == LogStream::Host && text.contains(words);
        records.find(|record| record.revision == 2 && told(record.stream, &record.text))
    });
}

#[test]
fn a_canary_that_fails_is_rolled_back_by_itself() {
    let host = &*HOST;
    host.deploy("failing", &saying(host, "a", 200), &[]);
    host.deploy("failing", &saying(host, "bad", 503), &["--canary", "25%"]);
    ask_until_it_ends(host, "failing", "/");
    rolled_back(host, "failing", "requests failed, more than 5%");
    assert_eq!(share(&mut [host.connect(), host.connect()], "failing", 40, "a"), 40);
    // Its own faults count as much as its answers.
    host.deploy("trapping", &repo::guest("hello"), &[]);
    let flags = ["--canary", "25%", "--canary-max-errors", "1%"];
    host.deploy("trapping", &repo::guest("hostile-trap"), &flags);
    ask_until_it_ends(host, "trapping", "/go");
    // Faster than anybody looks, its circuit may have opened.
    rolled_back(host, "trapping", "requests failed");
}

#[test]
fn a_canary_that_is_slow_is_rolled_back_by_itself() {
    let host = &*HOST;
    host.deploy("slow", &repo::guest("hello"), &[]);
    let flags = ["--canary", "50%", "--canary-max-latency", "25ms"];
    host.deploy("slow", &repo::guest("sse"), &flags);
    ask_until_it_ends(host, "slow", "/?n=2&ms=60");
    rolled_back(host, "slow", "took longer than 25ms, more than 1%");
}

#[test]
fn a_canary_that_is_well_is_promoted_when_its_time_has_passed() {
    let host = &*HOST;
    let flags = ["--canary", "50%", "--canary-for", "1s", "--canary-max-errors", "1%"];
    pair(host, "well", &flags);
    // Nobody has asked it anything: that it is well is not known.
    std::thread::sleep(Duration::from_millis(1_500));
    let shown = canary(host, "well");
    assert_eq!(shown.verdict, "too few requests to tell: 0 of 20");
    ask_until_it_ends(host, "well", "/");
    assert_eq!(host.tenant("well").summary.revision, 2);
    let history = revisions(host, "well");
    assert_eq!(history[0].rollout.as_ref().unwrap().state, RolloutState::Promoted);
    assert_eq!(share(&mut [host.connect()], "well", 20, "b"), 20);
}

#[test]
fn a_canary_goes_on_after_a_restart() {
    let mut host = Host::start();
    let sticky = ["--canary", "40%", "--canary-sticky", "header:x-user"];
    pair(&host, "lasting", &sticky);
    let by_user = |host: &Host| -> Vec<String> {
        let mut connection = host.connect();
        let ask = |user: u32| -> Answer {
            let user = user.to_string();
            connection.ask("GET", "lasting.localhost", "/", &[("x-user", &user)], None)
        };
        (0..40).map(ask).map(|answer| said(&answer.text())).collect()
    };
    let before = by_user(&host);
    assert!(before.contains(&"a".into()) && before.contains(&"b".into()), "{before:?}");
    let since = canary(&host, "lasting").since;
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    assert_eq!(by_user(&host), before, "clients have changed their revision");
    host.kill();
    host.ended();
    host.restart();
    assert_eq!(by_user(&host), before);
    let shown = canary(&host, "lasting");
    assert_eq!((shown.revision, shown.since), (2, since));
    // A worker that is replaced knows of it, too.
    let dead = host.worker_pids();
    for pid in &dead {
        insula_tests::process::signal(*pid, Signal::KILL);
    }
    eventually("all workers are new", || {
        let pids = host.worker_pids();
        (pids.len() == dead.len() && pids.iter().all(|pid| !dead.contains(pid))).then_some(())
    });
    host.eventually_serves();
    assert_eq!(by_user(&host), before);
    host.must(["promote", "lasting"]);
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    assert_eq!(host.tenant("lasting").summary.revision, 2);
    assert_eq!(host.tenant("lasting").summary.canary, None);
    assert!(by_user(&host).iter().all(|word| word == "b"));
}

#[test]
fn requests_end_on_the_revision_they_began_on() {
    let host = &*HOST;
    host.deploy("ending", &repo::guest("hello"), &[]);
    host.deploy("ending", &repo::guest("sse"), &["--canary", "99%"]);
    let mut running = host.connect();
    running.send("GET /?n=4&ms=300 HTTP/1.1\r\nhost: ending.localhost\r\n\r\n");
    let head = running.head().unwrap();
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    host.must(["rollback", "ending"]);
    let mut framing = head.framing();
    let mut text = String::new();
    while let Some(piece) = running.piece(&mut framing).unwrap() {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(text.ends_with("event 4 of 4\n\n"), "{text}");
    assert_eq!(running.get("ending.localhost", "/").expect_ok().text(), "Hello from Insula!\n");
    eventually("both are counted", || (host.counters("ending").requests == 2).then_some(()));
}

/// What the canary of `kept` has shown, once that is so many requests.
#[track_caller]
fn shown(host: &Host, requests: usize) -> CanaryStatus {
    eventually(&format!("{requests} requests are counted"), || {
        let shown = canary(host, "kept");
        assert!(shown.requests <= requests as u64, "{} of {requests}", shown.requests);
        (shown.requests == requests as u64).then_some(shown)
    })
}

#[test]
fn what_a_canary_has_shown_outlives_restarts_and_upgrades() {
    let mut host = Host::start();
    pair(&host, "kept", &["--canary", "50%", "--canary-for", "1h"]);
    let ask = |host: &Host| share(&mut [host.connect()], "kept", 60, "b");
    let mut all = ask(&host);
    assert!(all >= 29, "{all}");
    let first = shown(&host, all);
    // Twice: what the first one wrote is what the second one begins with.
    for _ in 0..2 {
        assert!(host.stop(Signal::TERM).success());
        host.restart();
        let again = shown(&host, all);
        assert!(again.tried_ms >= first.tried_ms && again.since == first.since, "{again:?}");
        assert!(again.latency.p99_ms.is_some() && again.verdict == "well", "{again:?}");
        all += ask(&host);
    }
    for _ in 0..2 {
        shown(&host, all);
        host.must(["upgrade"]);
        shown(&host, all);
        all += ask(&host);
    }
    let page = host.must(["inspect", "kept"]).stdout;
    shown(&host, all);
    assert!(page.contains("50% of the tenant's"), "{page}");
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    shown(&host, all);
    all += ask(&host);
    // Nobody stops it in order: what was written is there, and it is written every ten seconds.
    std::thread::sleep(Duration::from_secs(13));
    host.kill();
    host.ended();
    host.restart();
    shown(&host, all);
}

#[test]
fn the_time_and_the_errors_of_a_canary_go_on_after_a_restart() {
    let mut host = Host::start();
    host.deploy("kept", &saying(&host, "a", 200), &[]);
    host.deploy("kept", &saying(&host, "bad", 503), &["--canary", "50%", "--canary-for", "1h"]);
    // Errors all, and too few to tell.
    let ask = |host: &Host, requests| share(&mut [host.connect()], "kept", requests, "bad");
    let all = ask(&host, 30);
    let (since, before) = (Instant::now(), shown(&host, all));
    assert_eq!(before.verdict, format!("too few requests to tell: {all} of 20"));
    assert!(host.stop(Signal::TERM).success());
    let down = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let down = down.elapsed();
    host.restart();
    let after = shown(&host, all);
    let ran_ms = (since.elapsed() - down).as_millis() as u64;
    assert_eq!(after.errors, before.errors);
    // Nothing was tried while nothing ran.
    let tried_ms = after.tried_ms - before.tried_ms;
    assert!(tried_ms <= ran_ms, "{tried_ms} ms of {ran_ms}");
    // The next few are the ones too many.
    ask(&host, 16);
    eventually("it is rolled back", || host.tenant("kept").summary.canary.is_none().then_some(()));
    rolled_back(&host, "kept", "requests failed, more than 5%");
}
