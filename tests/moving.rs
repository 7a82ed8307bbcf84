//! `insula export` and `insula import`: tenants on their way to another host, or to a backup and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::{ArchiveManifest, ExportedScratch, ImportResponse, ImportResult};
use insula_tests::cli::{finish, insula};
use insula_tests::process::Server;
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Host, Output, repo};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Deploys an example guest under a manifest that ends in `more`.
#[track_caller]
fn deploy(host: &Host, guest: &str, name: &str, more: &str) {
    let text = format!("name = {name:?}\ncomponent = {:?}\n{more}\n", repo::guest(guest));
    let file = host.file(&format!("{name}.toml"), text);
    host.must(["deploy", "-f", file.to_str().unwrap()]);
}

/// A verb with this on standard input.
#[track_caller]
fn with_input(host: &Host, args: &[&str], input: &[u8]) -> Output {
    let mut command = insula(host.home());
    finish(command.env("INSULA_DATA", host.data()).args(args), input)
}

#[track_caller]
fn export(host: &Host, file: &Path, args: &[&str]) -> ArchiveManifest {
    let file = file.to_str().unwrap();
    let output = host.must([&["export", "--json", "-o", file], args].concat());
    serde_json::from_value(output.json()).unwrap()
}

#[track_caller]
fn import(host: &Host, file: &Path, args: &[&str]) -> ImportResponse {
    let output = host.cli([&["import", "--json", file.to_str().unwrap()], args].concat());
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"))
}

fn results(done: &ImportResponse) -> Vec<(&str, ImportResult)> {
    done.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.result)).collect()
}

/// What a host has, but for what it has counted.
fn whole(host: &Host, names: &[&str]) -> Vec<serde_json::Value> {
    let of = |name: &&str| {
        let mut detail = host.must(["inspect", name, "--json"]).json();
        let revisions = host.must(["revisions", name, "--json"]).json();
        for gone in ["counters", "breaker", "urls", "code_bytes", "latency", "durations", "canary"]
        {
            detail.as_object_mut().unwrap().remove(gone);
        }
        serde_json::json!({"detail": detail, "revisions": revisions})
    };
    names.iter().map(of).collect()
}

/// Some of everything: two revisions, an artifact of two tenants, stores, a scratch directory, secrets, a
/// namespace with a quota, one that is stopped.
fn furnished() -> Host {
    let host = Host::start();
    host.must(["namespace", "set", "team-a", "--memory", "8Gi", "--tenants", "9"]);
    deploy(&host, "hello", "shop", "timeout = \"3s\"");
    deploy(&host, "echo", "shop", "namespace = \"default\"");
    deploy(&host, "echo", "cart", "namespace = \"team-a\"\nroutes = [\"cart.example/v1\"]");
    deploy(&host, "counter", "count", "keyvalue = {}");
    for _ in 0..3 {
        host.get("count", "/").expect_ok();
    }
    // It sets a thousand, and then asks for one too many.
    host.get("count", "/batch?n=1000");
    deploy(&host, "files", "files", "scratch = { per = \"tenant\", guest = \"/tmp\" }");
    let canned = Canned { environment: true, ..Canned::default() };
    let teller = host.file("teller.wasm", responder(&canned));
    with_input(&host, &["secret", "set", "told", "KEY"], b"Marker-of-the-secret").expect(0, &[]);
    with_input(&host, &["secret", "set", "told", "SPARE"], b"another").expect(0, &[]);
    host.deploy("told", &teller, &["--secret", "KEY"]);
    host.must(["stop", "cart"]);
    host
}

const NAMES: [&str; 5] = ["cart", "count", "files", "shop", "told"];

#[test]
fn a_whole_host_moves_while_it_serves() {
    let (from, to) = (furnished(), Host::start());
    let scratch = from.data().join("tenants/scratch/files");
    from.must(["stop", "files"]);
    fs::create_dir_all(scratch.join("deep")).unwrap();
    fs::write(scratch.join("deep/kept.txt"), "kept").unwrap();
    let (key, file) = (from.file("key.txt", "correct horse\n"), from.home().join("all.tar"));
    let with_key = ["--passphrase-file", key.to_str().unwrap()];
    let manifest = thread::scope(|scope| {
        let asking = scope.spawn(|| (0..50).for_each(|_| _ = from.get("shop", "/").expect_ok()));
        let manifest = export(&from, &file, &[&["--all", "--secrets"], &with_key[..]].concat());
        asking.join().unwrap();
        manifest
    });
    // What is in it, each artifact once.
    let names: Vec<&str> = manifest.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, NAMES);
    let of = |name: &str| manifest.tenants.iter().find(|t| t.name.as_str() == name).unwrap();
    assert_eq!((of("shop").revisions, of("count").keyvalue), (2, Some(1_001)));
    assert_eq!((of("told").secrets, of("shop").secrets), (Some(2), Some(0)));
    assert_eq!(
        (of("files").scratch, of("shop").scratch),
        (ExportedScratch::Included, ExportedScratch::None)
    );
    let artifacts = manifest.members.iter().filter(|m| m.name.starts_with("artifacts/")).count();
    assert_eq!(artifacts, 5);
    // Any tar reads it, and finds no secret.
    let listed = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let last = listed.lines().next_back();
    assert_eq!((listed.lines().count(), last), (manifest.members.len() + 1, Some("manifest.json")));
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"Marker"));
    assert!(bytes.windows(4).any(|window| window == b"KEY\""), "what was looked at is there");
    assert!(!from.home().join("all.tar.partial").exists());
    // Without the passphrase, or with another, nothing happens.
    to.cli(["import", file.to_str().unwrap()]).expect(3, &["no passphrase", "--passphrase-file"]);
    let wrong = to.file("wrong.txt", "battery staple");
    let wrong = ["import", file.to_str().unwrap(), "--passphrase-file", wrong.to_str().unwrap()];
    to.cli(wrong).expect(3, &["passphrase is not the one"]);
    assert!(to.tenants().is_empty());
    let done = import(&to, &file, &with_key);
    assert_eq!(results(&done), NAMES.map(|name| (name, ImportResult::Imported)));
    assert_eq!(done.namespaces.iter().map(ToString::to_string).collect::<Vec<_>>(), ["team-a"]);
    assert_eq!(whole(&from, &NAMES), whole(&to, &NAMES));
    let quota = |host: &Host| {
        host.must(["namespace", "inspect", "team-a", "--json"]).json()["quota"].clone()
    };
    assert_eq!(quota(&from), quota(&to));
    // It runs, and goes on where it was.
    assert_eq!(to.get("count", "/list").expect_ok().text(), from.get("count", "/list").text());
    assert_eq!(to.get("told", "/").expect_ok().text(), "KEY=Marker-of-the-secret\n");
    assert_eq!(to.must(["secret", "ls", "told", "--json"]).json().as_array().unwrap().len(), 2);
    to.connect().get("cart.example", "/v1").expect_fault("tenant-stopped");
    let arrived = to.data().join("tenants/scratch/files/deep/kept.txt");
    assert_eq!(fs::read_to_string(arrived).unwrap(), "kept");
    to.must(["start", "files", "cart"]);
    to.connect().get("cart.example", "/v1").expect_ok();
    to.must(["rollback", "shop"]);
    assert_eq!(to.get("shop", "/").expect_ok().text(), "Hello from Insula!\n");
}

#[test]
fn an_import_may_be_repeated_and_says_what_is_in_its_way() {
    let host = furnished();
    let (shop, count) = (host.home().join("shop.tar"), host.home().join("count.tar"));
    let batch = host.get("count", "/get?key=batch-0001").expect_ok().text();
    assert_ne!(batch, "nothing");
    export(&host, &shop, &["shop"]);
    export(&host, &count, &["count"]);
    assert_eq!(results(&import(&host, &shop, &[])), [("shop", ImportResult::Unchanged)]);
    // What was stored since is not undone by repeating.
    host.get("count", "/set?key=later&value=1").expect_ok();
    assert_eq!(results(&import(&host, &count, &[])), [("count", ImportResult::Unchanged)]);
    assert_eq!(host.get("count", "/get?key=later").expect_ok().text(), "1");
    // Replaced, it is as it was.
    assert_eq!(
        results(&import(&host, &count, &["--replace"])),
        [("count", ImportResult::Replaced)]
    );
    assert_eq!(host.get("count", "/get?key=later").text(), "nothing");
    assert_eq!(host.get("count", "/get?key=batch-0001").text(), batch);
    // Another revision in its place is a conflict, by name.
    deploy(&host, "hello", "shop", "timeout = \"4s\"");
    let refused = host.cli(["import", shop.to_str().unwrap()]);
    refused.expect(3, &["`shop` is here already", "--replace", "--name"]);
    assert!(refused.stdout.contains("refused"), "{refused:?}");
    assert_eq!(host.tenant("shop").summary.revision, 3);
    // Under another name, its default route follows.
    let done = import(&host, &shop, &["--name", "shop-2"]);
    assert_eq!(results(&done), [("shop-2", ImportResult::Imported)]);
    assert_eq!(host.get("shop-2", "/").expect_ok().status(), 200);
    assert_eq!(host.tenant("shop-2").summary.revision, 2);
    // A route of its own does not.
    let cart = host.home().join("cart.tar");
    export(&host, &cart, &["cart"]);
    let taken = host.cli(["import", cart.to_str().unwrap(), "--name", "cart-2"]);
    taken.expect(3, &["cart.example/v1", "`cart`"]);
    assert!(host.tenants().iter().all(|tenant| tenant.name.as_str() != "cart-2"));
    // One that is refused keeps none of the others.
    let both = host.home().join("both.tar");
    export(&host, &both, &["shop", "shop-2", "cart"]);
    host.must(["rm", "shop-2"]);
    deploy(&host, "hello", "shop", "timeout = \"5s\"");
    let done = import(&host, &both, &[]);
    let expected = [
        ("shop", ImportResult::Refused),
        ("shop-2", ImportResult::Imported),
        ("cart", ImportResult::Unchanged),
    ];
    assert_eq!(results(&done), expected);
    host.cli(["import", both.to_str().unwrap(), "--name", "one"]).expect(3, &["3 tenants"]);
    // Secrets that did not come along have to be there.
    let told = host.home().join("told.tar");
    export(&host, &told, &["told"]);
    let other = Host::start();
    other.cli(["import", told.to_str().unwrap()]).expect(3, &["`KEY`", "insula secret set told"]);
    with_input(&other, &["secret", "set", "told", "KEY"], b"of this host").expect(0, &[]);
    assert_eq!(results(&import(&other, &told, &[])), [("told", ImportResult::Imported)]);
    assert_eq!(other.get("told", "/").expect_ok().text(), "KEY=of this host\n");
    // Names that are not there, and what cannot be asked for.
    let nowhere = host.home().join("nowhere.tar");
    host.cli(["export", "absent", "-o", nowhere.to_str().unwrap()]).expect(4, &["`absent`"]);
    assert!(!nowhere.exists());
    host.cli(["export", "shop"]).expect(2, &["--output"]);
    host.cli(["export", "--all", "-o", "-", "--json"]).expect(2, &["standard output"]);
    let short = with_input(&host, &["export", "shop", "--secrets", "-o", "x.tar"], b"short");
    short.expect(3, &["8 to 1024 bytes"]);
}

#[test]
fn it_goes_through_a_pipe() {
    let (from, to) = (furnished(), Host::start());
    let output = Command::new(insula_tests::binary::insula())
        .args(["export", "shop", "count", "-o", "-"])
        .env("INSULA_DATA", from.data())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("exported 2 tenants, 3 artifacts"), "{told}");
    let imported = with_input(&to, &["import", "-"], &output.stdout);
    imported.expect(0, &[]);
    assert!(imported.stdout.contains("imported"), "{imported:?}");
    assert_eq!(whole(&from, &["shop", "count"]), whole(&to, &["shop", "count"]));
    // Cut off, it is nothing.
    let half =
        with_input(&to, &["import", "-", "--replace"], &output.stdout[..output.stdout.len() / 2]);
    half.expect(3, &["cut off", "nothing was changed"]);
    assert_eq!(whole(&from, &["shop", "count"]), whole(&to, &["shop", "count"]));
}

/// Where a member's header is in a tar.
fn header_of(tar: &[u8], name: &str) -> usize {
    let mut at = 0;
    loop {
        let header = &tar[at..at + 512];
        if header.starts_with(name.as_bytes()) && header[name.len()] == 0 {
            return at;
        }
        let size = std::str::from_utf8(&header[124..135]).unwrap().trim_matches(['\0', ' ']);
        at += 512 + usize::from_str_radix(size, 8).unwrap().next_multiple_of(512);
    }
}

/// The same archive with a member's bytes changed to others of the same length.
fn changed(tar: &[u8], name: &str, from: &str, to: &str) -> Vec<u8> {
    let at = header_of(tar, name) + 512;
    let found = tar[at..].windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    let mut tar = tar.to_vec();
    tar[at + found..at + found + to.len()].copy_from_slice(to.as_bytes());
    tar
}

#[test]
fn what_is_not_whole_or_was_changed_is_refused_by_name() {
    let (from, to) = (furnished(), Host::start());
    let file = from.home().join("some.tar");
    let manifest = export(&from, &file, &["shop", "count"]);
    let tar = fs::read(&file).unwrap();
    let artifact = manifest.members.iter().find(|m| m.name.starts_with("artifacts/")).unwrap();
    let artifact = artifact.name.as_str();
    let refused = |bytes: &[u8], words: &[&str]| {
        let bad = to.file("bad.tar", bytes);
        to.cli(["import", bad.to_str().unwrap()])
            .expect(3, words)
            .expect(3, &["nothing was changed"]);
        assert!(to.tenants().is_empty(), "{words:?}");
    };
    for name in [artifact, "tenants/count/keyvalue.bin", "namespaces.json"] {
        let mut bad = tar.clone();
        bad[header_of(&tar, name) + 512 + 5] ^= 1;
        refused(&bad, &["was changed", name]);
    }
    let tenant = "tenants/shop/tenant.json";
    refused(&changed(&tar, tenant, "\"active\": 2", "\"active\": 1"), &["was changed", tenant]);
    refused(
        &changed(&tar, "insula.json", "\"version\": 1", "\"version\": 2"),
        &["version 2", "insula.json"],
    );
    // Cut within a member, between two, and before the last.
    refused(&tar[..header_of(&tar, artifact) + 512 + 100], &["cut off", artifact]);
    refused(&tar[..header_of(&tar, "tenants/shop/tenant.json")], &["cut off", "artifacts/"]);
    let end = header_of(&tar, "manifest.json");
    refused(&tar[..end], &["cut off", "after member"]);
    // A member more, and one less.
    let start = header_of(&tar, tenant);
    let next = start + 512 + {
        let member = manifest.members.iter().find(|m| m.name == tenant).unwrap();
        usize::try_from(member.bytes).unwrap().next_multiple_of(512)
    };
    refused(&[&tar[..start], &tar[next..]].concat(), &[tenant, "is missing"]);
    refused(&[&tar[..next], &tar[start..]].concat(), &[tenant, "twice"]);
    refused(b"neither a tar nor anything", &["not an export"]);
    refused(&fs::read(repo::guest("hello")).unwrap(), &["not an export"]);
    // It was the changes.
    assert_eq!(import(&to, &file, &[]).tenants.len(), 2);
}

#[test]
fn what_does_not_answer_here_is_not_imported_unless_it_is_told_to_be() {
    let (from, to) = (Host::start(), Host::start());
    let hello = repo::guest("hello");
    from.deploy("hello", &hello, &[]);
    // It answers if the tenant `hello` does.
    let more =
        "probe = { path = '/', expect = 200 }\n[outbound]\nhosts = ['http://hello.internal']";
    deploy(&from, "relay", "front", more);
    let file = from.home().join("front.tar");
    export(&from, &file, &["front"]);
    let tar = file.to_str().unwrap();
    to.cli(["import", tar]).expect(3, &["failed its probe, GET /", "502", "--no-probe"]);
    assert!(to.tenants().is_empty());
    assert_eq!(results(&import(&to, &file, &["--no-probe"])), [("front", ImportResult::Imported)]);
    to.must(["rm", "front"]);
    to.deploy("hello", &hello, &[]);
    assert_eq!(results(&import(&to, &file, &[])), [("front", ImportResult::Imported)]);
    assert_eq!(to.get("front", "/").expect_ok().text(), "Hello from Insula!\n");
    // The probe is no request of anybody's.
    eventually("it is counted", || (to.counters("front").requests == 1).then_some(()));
}

/// Starts a verb and lets go of it.
fn begin(host: &Host, args: &[&str]) -> Server {
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(args).stderr(Stdio::null());
    Server::start(&mut command, host.home())
}

#[test]
fn a_kill_in_the_middle_leaves_a_sound_host() {
    let mut host = furnished();
    let file = host.home().join("count.tar");
    export(&host, &file, &["count", "shop"]);
    let listed = host.get("count", "/list").expect_ok().text();
    host.must(["rm", "count", "shop"]);
    let mut outcomes = [0, 0];
    for turn in 0..12_u64 {
        let mut importing = begin(&host, &["import", file.to_str().unwrap(), "--replace"]);
        thread::sleep(Duration::from_millis(15 + turn * 11));
        host.kill();
        host.ended();
        importing.kill();
        // A compiler that was just being forked has the lock until it begins.
        thread::sleep(Duration::from_millis(300));
        host.restart();
        host.eventually_serves();
        let there = host.tenants();
        let there = there.iter().any(|tenant| tenant.name.as_str() == "count");
        outcomes[usize::from(there)] += 1;
        if there {
            // All of it, or it would not be there.
            assert_eq!(host.get("count", "/list").expect_ok().text(), listed, "turn {turn}");
            assert_eq!(
                host.must(["revisions", "count", "--json"]).json().as_array().unwrap().len(),
                1
            );
        }
        // Nothing is left of what was under way, once it was swept.
        let scratch = host.data().join("tenants");
        eventually("nothing is left", || {
            let mut left = fs::read_dir(&scratch).into_iter().flatten().flatten();
            left.all(|entry| entry.path().extension().is_none_or(|e| e != "tmp")).then_some(())
        });
        if turn % 3 == 2 {
            let _ = host.cli(["rm", "count", "shop"]);
        }
    }
    println!("{} were cut off, {} done", outcomes[0], outcomes[1]);
    let done = import(&host, &file, &["--replace"]);
    assert_eq!(done.tenants.len(), 2);
    assert_eq!(host.get("count", "/list").expect_ok().text(), listed);
    // An export that is cut off leaves no file, and the host as it was.
    let out = host.home().join("cut.tar");
    for turn in 0..4 {
        let mut exporting = begin(&host, &["export", "--all", "-o", out.to_str().unwrap()]);
        thread::sleep(Duration::from_millis(5 + turn * 10));
        host.kill();
        host.ended();
        exporting.wait(Duration::from_secs(30));
        assert!(!host.home().join("cut.tar.partial").exists());
        if out.exists() {
            // It was whole before the kill.
            fs::remove_file(&out).unwrap();
        }
        host.restart();
        host.eventually_serves();
    }
    assert_eq!(host.get("count", "/list").expect_ok().text(), listed);
    eventually("it serves", || (host.get("shop", "/").status() == 200).then_some(()));
}
