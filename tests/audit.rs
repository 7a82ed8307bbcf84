//! The audit log: every change and every sensitive read is in it, and nothing can be taken out unnoticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{AuditRecord, AuditStage};
use insula_tests::cli::{finish, insula};
use insula_tests::process::Server;
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Host, Setup, repo};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

fn records(host: &Host, args: &[&str]) -> Vec<AuditRecord> {
    let output = host.must(["audit", "--json"].iter().chain(args));
    output.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The actions that are recorded, with how they ended.
fn actions(host: &Host, args: &[&str]) -> Vec<String> {
    let text = |record: &AuditRecord| {
        format!("{} {}", record.event.action, record.event.result.as_deref().unwrap())
    };
    records(host, args).iter().map(text).collect()
}

fn files(host: &Host) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(host.data().join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    files.sort();
    files
}

#[test]
fn who_did_what_to_which_revision() {
    let host = Host::start();
    let hello = repo::guest("hello");
    host.deploy("shop", &hello, &[]);
    host.deploy("shop", &hello, &["--memory", "32Mi"]);
    host.must(["rollback", "shop"]);
    let key = host.file("value", "a-very-secret-value");
    let secret = ["secret", "set", "shop", "TOKEN", "--from-file", key.to_str().unwrap()];
    host.must(secret);
    host.must(["secret", "ls", "shop"]);
    host.must(["inspect", "shop"]);
    host.must(["logs", "shop"]);
    host.cli(["deploy", "shop", hello.to_str().unwrap(), "-n", "nowhere"]).expect(3, &[]);
    host.must(["namespace", "set", "team", "--tenants", "3"]);
    host.must(["rm", "shop"]);

    let shop = actions(&host, &["shop"]);
    let expected = [
        "deploy ok",
        "deploy ok",
        "rollback ok",
        "secret-set ok",
        "secret-list ok",
        "inspect ok",
        "logs ok",
        "deploy conflict",
        "remove ok",
    ];
    // A verb may look before it acts.
    let mut rest = shop.iter();
    for one in expected {
        assert!(rest.any(|action| action == one), "{one} is missing: {shop:?}");
    }
    let all = records(&host, &["shop"]);
    let of = |action: &str| all.iter().filter(|r| r.event.action == action).collect::<Vec<_>>();
    let deploys = of("deploy");
    let steps: Vec<_> =
        deploys.iter().map(|r| (r.event.revision_before, r.event.revision_after)).collect();
    assert_eq!(steps, [(None, Some(1)), (Some(1), Some(2)), (Some(1), Some(1))]);
    assert_eq!(of("rollback")[0].event.revision_after, Some(1));
    assert_eq!(
        (of("remove")[0].event.revision_before, of("remove")[0].event.revision_after),
        (Some(1), None)
    );
    for deploy in &deploys {
        assert!(deploy.event.artifact.as_ref().unwrap().starts_with("sha256:"), "{deploy:?}");
    }
    assert_eq!(deploys[0].event.namespace.as_deref(), Some("default"));
    // Who: this user, by that program.
    let actor = &deploys[0].event.actor;
    let uid = rustix::process::getuid().as_raw();
    let program = insula_tests::binary::insula();
    let program = program.file_name().unwrap().to_str().unwrap();
    assert_eq!((actor.uid, actor.command.as_deref()), (Some(uid), Some(program)), "{actor:?}");
    assert!(actor.pid.is_some() && actor.from == "control.sock", "{actor:?}");
    assert_eq!(of("secret-set")[0].event.target.as_deref(), Some("TOKEN"));
    for file in files(&host) {
        assert!(!fs::read_to_string(file).unwrap().contains("very-secret"), "a value is recorded");
    }
    // For people.
    let page = host.must(["audit", "shop", "--action", "deploy,secret"]).stdout;
    assert!(
        page.contains("→ 1") && page.contains("1 → 2") && page.contains(&format!("{program}[")),
        "{page}"
    );
    assert!(page.contains("shop/TOKEN") && !page.contains("rollback"), "{page}");
    assert_eq!(actions(&host, &["--action", "namespace"]), ["namespace-set ok"]);
    assert_eq!(actions(&host, &["--action", "deploy", "-n", "1"]), ["deploy conflict"]);
    // Times.
    assert!(actions(&host, &["--until", "1h", "shop"]).is_empty());
    assert_eq!(actions(&host, &["--since", "1h", "shop"]), shop);
    host.cli(["audit", "--since", "yesterday"]).expect(2, &["yesterday", "10m"]);
    host.cli(["audit", "--action", "a b"]).expect(2, &["no action"]);
}

#[test]
fn no_call_of_the_schema_escapes() {
    let host = Host::with_guests(&["hello"]);
    let schema = host.must(["openapi"]).json();
    let mut asked = Vec::new();
    for (path, methods) in schema["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            if !["PUT", "POST", "DELETE", "PATCH"].contains(&method.as_str()) {
                continue;
            }
            let digest = format!("sha256:{}", "0".repeat(64));
            let concrete = path
                .replace("{digest}", &digest)
                .replace("{key}", "KEY")
                .replace("{name}", "nobody");
            assert!(!concrete.contains('{'), "give {path} an example above");
            host.api_raw(&method, &concrete, Some(b"{}"));
            asked.push(format!("{method} {path}"));
        }
    }
    assert!(asked.len() >= 9, "{asked:?}");
    let recorded = records(&host, &[]);
    for call in &asked {
        let found = recorded.iter().find(|record| record.event.call == *call);
        let found = found.unwrap_or_else(|| panic!("{call} is not recorded"));
        assert_eq!(found.event.stage, AuditStage::Ended, "{found:?}");
        assert!(found.event.result.is_some() && found.event.of.is_some(), "{found:?}");
    }
    // Nothing but the layer knows of a method that a path does not have.
    host.api_raw("POST", "/v1/host", None);
    assert_eq!(actions(&host, &["--action", "host"]).last().unwrap(), "host bad-request");
}

#[test]
fn reads_are_recorded_once_in_a_while_and_followed_at_once() {
    let host = Host::with_guests(&["hello"]);
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(["audit", "-f", "--action", "namespace"]);
    let following = Server::start(command.stderr(Stdio::null()), host.home());
    eventually("a record that is followed", || {
        host.must(["namespace", "set", "team"]);
        following.printed().contains("namespace-set").then_some(())
    });
    // One process that asks again and again is one reader.
    for _ in 0..5 {
        assert_eq!(host.api("GET", "/v1/tenants/hello/secrets", None).0, 200);
    }
    assert_eq!(actions(&host, &["--action", "secret"]), ["secret-list ok"]);
}

#[test]
fn the_chain_goes_on_after_restarts_and_shows_what_was_changed() {
    let mut host = Host::with_guests(&["hello"]);
    host.must(["audit", "--verify"]);
    host.stop(Signal::TERM);
    host.restart();
    host.kill();
    host.restart();
    host.must(["namespace", "set", "team"]);
    let whole = host.must(["audit", "--verify", "--json"]).json();
    assert!(whole["records"].as_u64().unwrap() > 5 && whole["first"] == 1, "{whole}");
    let hosts = actions(&host, &["--action", "host"]);
    assert_eq!(hosts, ["host-start ok", "host-stop ok", "host-start ok", "host-start ok"]);

    let file = files(&host).pop().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let spoilt = |text: String, says: &str| {
        fs::write(&file, text).unwrap();
        host.cli(["audit", "--verify"]).expect(1, &["not as it was written", says]);
    };
    spoilt(text.replacen("hello", "hallo", 1), "was changed");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    spoilt([&lines[..2], &lines[3..]].concat().concat(), "record 3 is missing");
    spoilt(lines[..lines.len() - 1].concat(), "end with");
    fs::write(&file, &text).unwrap();
    host.must(["audit", "--verify"]);
}

#[test]
fn a_change_that_cannot_be_recorded_is_not_made() {
    if !insula_tests::host::can_mount(insula_tests::disk::Kind::Tmpfs) {
        eprintln!("skipped: users may not mount here");
        return;
    }
    let host = Setup::new().disk(24 << 20).start();
    host.must(["namespace", "set", "before"]);
    let file = files(&host).pop().unwrap();
    let filler = host.data().join("filler");
    let _ = finish(
        std::process::Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", filler.display())),
        b"",
    );
    // What was reserved for the log is there all the same: a full disk can be looked after.
    let (status, body) = host.api("PUT", "/v1/namespaces/full", Some(&json!({})));
    assert!(status == 507 || status == 200, "{status} {body}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"namespace\":\"full\""), "the try is not recorded: {text}");
    fs::remove_file(&filler).unwrap();
    host.must(["audit", "--verify"]);
}

#[test]
fn a_change_that_a_dead_host_left_open_is_closed() {
    let mut host = Host::start();
    let hello = repo::guest("hello");
    host.deploy("shop", &hello, &[]);
    // A deploy that waits for its body for ever.
    use std::io::Write;
    let mut socket =
        std::os::unix::net::UnixStream::connect(host.data().join("control.sock")).unwrap();
    let head = "PUT /v1/tenants/shop HTTP/1.1\r\nhost: insula\r\ncontent-length: 100\r\n\r\n{";
    socket.write_all(head.as_bytes()).unwrap();
    eventually("its begin is written", || {
        let text = fs::read_to_string(files(&host).pop().unwrap()).unwrap();
        (text.matches("\"stage\":\"began\",\"action\":\"deploy\"").count() == 2).then_some(())
    });
    host.kill();
    host.restart();
    let deploys = actions(&host, &["shop", "--action", "deploy"]);
    assert_eq!(deploys, ["deploy ok", "deploy host-died"]);
    // One whose client goes away is told as such.
    let mut socket =
        std::os::unix::net::UnixStream::connect(host.data().join("control.sock")).unwrap();
    socket.write_all(head.as_bytes()).unwrap();
    drop(socket);
    eventually("its end is written", || {
        let last = actions(&host, &["shop", "--action", "deploy"]).pop().unwrap();
        (last != "deploy host-died").then_some(())
    });
    host.must(["audit", "--verify"]);
}

#[test]
fn what_the_host_decides_by_itself_is_recorded_like_any_change() {
    let host = Host::start();
    let saying = |word: &str, status| {
        let canned = Canned { status, body: &[word], ..Canned::default() };
        host.file(&format!("{word}.wasm"), responder(&canned))
    };
    let until_the_canary_ends = || {
        eventually("the canary has ended", || {
            (0..20).for_each(|_| drop(host.get("shop", "/")));
            host.tenant("shop").summary.canary.is_none().then_some(())
        });
    };
    host.deploy("shop", &saying("good", 200), &[]);
    host.deploy("shop", &saying("bad", 503), &["--canary", "50%"]);
    let artifact = host.tenant("shop").summary.canary.unwrap().artifact.to_string();
    until_the_canary_ends();
    // It is recorded when it is done, a moment after it can be seen.
    let of = |action: &str| {
        let all = eventually("it is recorded", || {
            Some(records(&host, &["shop", "--action", action])).filter(|all| !all.is_empty())
        });
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].event.clone()
    };
    let event = of("rollback");
    assert_eq!((event.stage, event.result.as_deref()), (AuditStage::Ended, Some("ok")));
    assert_eq!((event.revision_before, event.revision_after), (Some(1), Some(1)));
    assert_eq!((event.artifact.as_ref(), event.call.as_str()), (Some(&artifact), "-"));
    assert_eq!(event.namespace.as_deref(), Some("default"));
    let actor = &event.actor;
    assert_eq!((actor.from.as_str(), actor.pid, actor.uid), ("host", Some(host.pid()), None));
    let reason = event.reason.as_deref().unwrap();
    assert!(reason.starts_with("canary revision 2: "), "{reason}");
    assert!(reason.contains("requests failed, more than 5%"), "{reason}");
    // It was there before it was carried out.
    let query = "/v1/audit?tenant=shop&action=rollback&begins=true";
    let both = host.api_raw("GET", query, None).text();
    let both: Vec<AuditRecord> =
        both.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((both.len(), both[0].event.stage), (2, AuditStage::Began), "{both:?}");
    assert_eq!(
        (both[0].event.reason.as_deref(), both[1].event.of),
        (Some(reason), Some(both[0].seq))
    );

    host.deploy("shop", &saying("better", 200), &["--canary", "50%", "--canary-for", "1s"]);
    until_the_canary_ends();
    let event = of("promote");
    assert_eq!((event.revision_before, event.revision_after), (Some(1), Some(3)));
    assert!(event.reason.unwrap().starts_with("canary revision 3: 0 of "));
    let page = host.must(["audit", "shop", "--action", "promote,rollback"]).stdout;
    assert!(
        page.contains("1 → 3") && page.contains(&format!("[{}]: canary", host.pid())),
        "{page}"
    );
    assert_eq!(page.lines().count(), 2, "{page}");
    host.must(["audit", "--verify"]);
}
