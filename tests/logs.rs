//! Logs: what is asked for comes, and no more; requests in the access log; bounds on both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::AccessRecord;
use insula_tests::cli::insula;
use insula_tests::process::Server;
use insula_tests::wait::eventually;
use insula_tests::{Host, Setup, repo};
use std::fs;
use std::process::Stdio;

/// A host with the tenant `chatty`, which has written five lines on each of its streams, for one request;
/// and that request's id.
fn chatty() -> (Host, String) {
    let host = Host::start();
    host.deploy("chatty", &repo::guest("hostile-flood"), &[]);
    let id = host.get("chatty", "/go?lines=5").request_id().to_owned();
    eventually("ten lines", || (host.records("chatty").len() == 10).then_some(()));
    (host, id)
}

fn lines(host: &Host, args: &[&str]) -> usize {
    host.must(["logs", "chatty"].iter().chain(args)).stdout.lines().count()
}

fn access(host: &Host, name: &str, args: &[&str]) -> Vec<AccessRecord> {
    let output = host.must(["logs", name, "--access", "--json"].iter().chain(args));
    output.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[track_caller]
fn eventually_access(host: &Host, name: &str, count: usize) -> Vec<AccessRecord> {
    eventually(&format!("{count} requests of {name} are logged"), || {
        let records = access(host, name, &[]);
        (records.len() == count).then_some(records)
    })
}

#[test]
fn only_what_is_asked_for_is_shown() {
    let (host, id) = chatty();
    assert_eq!(lines(&host, &[]), 10);
    assert_eq!(lines(&host, &["--stream", "stderr"]), 5);
    assert_eq!(lines(&host, &["--stream", "stdout,stderr"]), 10);
    assert_eq!(lines(&host, &["--stream", "host"]), 0);
    assert_eq!(lines(&host, &["--grep", "^[24] all"]), 4);
    assert_eq!(lines(&host, &["--grep", "^[24] all", "--stream", "stdout"]), 2);
    // Of what passes, the newest.
    let last = host.must(["logs", "chatty", "--grep", "all", "--stream", "stdout", "-n", "1"]);
    assert!(last.stdout.contains("5 all work") && last.stdout.lines().count() == 1, "{last:?}");
    assert_eq!(lines(&host, &["--request", &id]), 10);
    assert_eq!(lines(&host, &["--request", "another"]), 0);
    assert_eq!(lines(&host, &["--revision", "1"]), 10);
    assert_eq!(lines(&host, &["--revision", "2"]), 0);
    assert_eq!(lines(&host, &["--since", "10m"]), 10);
    assert_eq!(lines(&host, &["--until", "10m"]), 0);
    assert_eq!(
        lines(&host, &["--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02T00:00:00Z"]),
        0
    );
    // A pattern is text like any other on its way.
    assert_eq!(lines(&host, &["--grep", "all work&tail=1"]), 0);
    assert_eq!(lines(&host, &["--grep", "% ü+"]), 0);
    let refused = |args: &[&str], says: &str| {
        let output = host.cli(["logs", "chatty"].iter().chain(args));
        assert!(output.code != Some(0) && output.stderr.contains(says), "{output:?}");
    };
    refused(&["--grep", "("], "the pattern cannot be used");
    refused(&["--grep", &"a".repeat(2_000)], "more than 1024 bytes");
    refused(&["--grep", "((((a{100}){100}){100}){100})"], "the pattern cannot be used");
    refused(&["--since", "soon"], "soon");
    assert_eq!(host.api("GET", "/v1/tenants/chatty/logs?stream=stdin", None).0, 400);
}

#[test]
fn several_are_shown_and_followed_with_their_names() {
    let (host, _) = chatty();
    host.deploy("other", &repo::guest("hostile-flood"), &[]);
    host.get("other", "/go?lines=1").expect_ok();
    eventually("its lines", || (host.records("other").len() == 2).then_some(()));
    let both = host.must(["logs", "other", "chatty"]).stdout;
    let of = |name: &str| both.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((of("chatty "), of("other ")), (10, 2), "{both}");
    let json = host.must(["logs", "other", "chatty", "--json"]).stdout;
    for line in json.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(["chatty", "other"].contains(&record["tenant"].as_str().unwrap()), "{line}");
    }
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data());
    command.args(["logs", "chatty", "other", "-f", "-n", "0", "--grep", "^2 all"]);
    let following = Server::start(command.stderr(Stdio::null()), host.home());
    for name in ["chatty", "other"] {
        eventually("a line that is followed", || {
            host.get(name, "/go?lines=3").expect_ok();
            following.printed().contains(&format!("{name} ")).then_some(())
        });
    }
    let printed = following.printed();
    assert!(printed.lines().all(|line| line.contains(" 2 all work")), "{printed}");
}

#[test]
fn requests_are_logged_however_they_end() {
    let host = Host::start();
    let hello = repo::guest("hello");
    host.deploy("shop", &hello, &["--access-log"]);
    let answer = host.get("shop", "/cart/%1b[31m?token=secret");
    let id = answer.expect_ok().request_id().to_owned();
    let record = eventually_access(&host, "shop", 1).pop().unwrap();
    assert_eq!((record.method.as_str(), record.path.as_str()), ("GET", "/cart/%1b[31m"));
    assert_eq!(
        (record.status, record.outcome.as_str(), record.fault),
        (Some(200), "response", None)
    );
    assert_eq!((record.request, record.revision, record.tenant.as_str()), (id.clone(), 1, "shop"));
    assert_eq!(record.bytes_out, answer.body.len() as u64);
    assert!(record.duration_us > 0 && record.fuel > 0 && record.cpu_us <= record.duration_us);
    assert!(record.peer.unwrap().starts_with("127.0.0.1:"));
    assert_eq!(record.protocol, "HTTP/1.1");
    assert_eq!(access(&host, "shop", &["--request", &id]).len(), 1);
    assert_eq!(access(&host, "shop", &["--grep", "\"status\":5"]).len(), 0);
    let page = host.must(["logs", "shop", "--access"]).stdout;
    assert!(
        page.contains(" GET /cart/") && page.contains(" 200 ") && !page.contains("secret"),
        "{page}"
    );
    host.cli(["logs", "shop", "--access", "--stream", "host"]).expect(2, &[]);

    host.deploy("broken", &repo::guest("hostile-trap"), &["--access-log"]);
    host.get("broken", "/go");
    let record = eventually_access(&host, "broken", 1).pop().unwrap();
    assert_eq!((record.status, record.outcome.as_str()), (Some(500), "guest-fault"));
    assert_eq!(record.fault.as_deref(), Some("trap"));

    host.deploy("busy", &hello, &["--access-log", "--rate", "1", "--rate-burst", "1"]);
    host.get("busy", "/");
    host.get("busy", "/");
    let records = eventually_access(&host, "busy", 2);
    let shed = records.iter().find(|record| record.outcome == "shed").expect("one is refused");
    assert_eq!((shed.status, shed.fault.as_deref()), (Some(429), Some("rate-limit")));
    assert_eq!((shed.fuel, shed.bytes_out), (0, 0));
    // Of a request that is too large only the head is looked at.
    host.deploy("small", &hello, &["--access-log", "--request-body", "1Ki"]);
    host.connect().ask("POST", "small.localhost", "/", &[], Some(&[b'x'; 4_096]));
    let record = eventually_access(&host, "small", 1).pop().unwrap();
    assert_eq!((record.status, record.outcome.as_str()), (Some(413), "client-fault"));
    host.must(["rm", "small"]);
    eventually("its log goes with it", || {
        (!host.data().join("logs/small.access.log").exists()).then_some(())
    });
}

#[test]
fn a_share_is_logged_and_the_host_decides_for_those_who_do_not() {
    let host = Setup::new().args(["--access-log"]).start();
    let hello = repo::guest("hello");
    host.deploy("silent", &hello, &["--access-log=false"]);
    host.deploy("some", &hello, &["--access-log=50%", "--concurrency", "1"]);
    host.deploy("all", &hello, &[]);
    for name in ["silent", "some", "all"] {
        // Over one connection, and so in one worker: each counts for itself.
        let mut connection = host.connect();
        for _ in 0..10 {
            connection.get(&format!("{name}.localhost"), "/").expect_ok();
        }
    }
    eventually_access(&host, "all", 10);
    assert_eq!(eventually_access(&host, "some", 5).len(), 5);
    assert_eq!(access(&host, "silent", &[]).len(), 0);
    let manifest =
        format!("name = 'all'\ncomponent = '{}'\naccess_log = '0.5 percent'\n", hello.display());
    let file = host.file("wrong.toml", manifest);
    host.cli(["deploy", "-f", file.to_str().unwrap()]).expect(2, &["0.5 percent", "1%"]);
}

#[test]
fn logs_have_their_bounds() {
    let host = Host::start();
    host.deploy("chatty", &repo::guest("hostile-flood"), &[]);
    host.get("chatty", "/go?lines=1").expect_ok();
    eventually("its lines", || (host.records("chatty").len() == 2).then_some(()));
    let file = |name: &str| host.data().join("logs").join(name);
    let length = |name: &str| fs::metadata(file(name)).map_or(0, |metadata| metadata.len());
    // All but full: what comes next makes it the older one, and that one's older one goes.
    let text = fs::read_to_string(file("chatty.log")).unwrap();
    let line = text.lines().next().unwrap().to_owned() + "\n";
    let full = line.repeat((1 << 20) / line.len());
    fs::write(file("chatty.log"), &full).unwrap();
    fs::write(file("chatty.log.1"), "an older one\n").unwrap();
    host.get("chatty", "/go?lines=2").expect_ok();
    eventually("a new file", || (length("chatty.log.1") == full.len() as u64).then_some(()));
    eventually("with the new lines", || (length("chatty.log") > 0).then_some(()));
    assert!(length("chatty.log") < 4_096, "{}", length("chatty.log"));
    let kept = host.must(["logs", "chatty"]).stdout;
    assert!(!kept.contains("an older one"));
    assert!(kept.lines().count() > full.lines().count(), "a line is missing");

    host.deploy("shop", &repo::guest("hello"), &["--access-log"]);
    let path = format!("/{}", "x".repeat(4_000));
    let mut connection = host.connect();
    for _ in 0..4_500 {
        connection.get("shop.localhost", &path).expect_ok();
    }
    eventually("a second file", || (length("shop.access.log.1") > 0).then_some(()));
    let max = 8 << 20;
    assert!(length("shop.access.log.1") <= max && length("shop.access.log") <= max);
    let last = access(&host, "shop", &["-n", "1"]).pop().unwrap();
    assert_eq!(last.path.len(), 2_048, "a path is cut");
}
