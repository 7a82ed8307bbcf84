//! Disks that are full, read-only, or taken away.

use super::{deploy, doctor, set_secret};
use insula_tests::disk::Kind;
use insula_tests::host::can_mount;
use insula_tests::wait::within;
use insula_tests::{Connection, Host, Setup, repo};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Long enough for the host to have made its reserve and its copy.
const SETTLED: Duration = Duration::from_secs(20);

fn mounts(kind: Kind) -> bool {
    let can = can_mount(kind);
    if !can {
        repo::untested(&format!("{kind:?} disks"), "as root, with /dev/loop-control,");
    }
    can
}

#[track_caller]
fn settled(host: &Host) {
    within(SETTLED, "reserve and copy", || {
        let there = |name| host.data().join(name).exists();
        (there("reserve") && there("state.db.bak")).then_some(())
    });
}

#[test]
fn a_full_disk_refuses_changes_and_nothing_else_and_is_over_when_it_is() {
    if !mounts(Kind::Tmpfs) {
        return;
    }
    let mut host = Setup::new().disk(24 << 20).start();
    host.deploy_guests(&["hello"]);
    set_secret(&host, "shop", "TOKEN", "before").expect(0, &[]);
    deploy(&host, "settings", "shop", "secrets = { TOKEN = 'env' }").expect(0, &[]);
    deploy(&host, "counter", "counter", "keyvalue = {}").expect(0, &[]);
    assert_eq!(host.get("counter", "/").expect_ok().text().trim(), "1");
    settled(&host);
    let echo = repo::guest("echo");
    let works = |host: &Host, token: &str| {
        host.get("hello", "/").expect_ok();
        assert_eq!(host.get("shop", "/env?key=TOKEN").expect_ok().text(), token);
    };
    let refuses = |host: &Host| {
        host.cli(["deploy", "new", echo.to_str().unwrap()]).expect(1, &["free some"]);
        set_secret(host, "shop", "TOKEN", &"after".repeat(2_000)).expect(1, &["free some"]);
        assert_eq!(host.cli(["inspect", "new"]).code, Some(4));
        let stored = host.get("counter", "/");
        assert!(stored.status() != 200, "a visit was stored on a full disk: {}", stored.text());
        works(host, "before");
    };
    host.disk().fill(0);
    refuses(&host);
    let (level, said, code) = doctor(&host, "disk");
    assert_eq!((level.as_str(), code), ("fail", Some(1)), "{said}");
    // It starts on the full disk too, after a clean end and after none.
    assert!(host.stop(Signal::TERM).success());
    host.disk().fill(0);
    host.restart();
    // Of what it had in reserve, too.
    host.disk().fill(0);
    refuses(&host);
    host.kill_everything();
    host.kill();
    host.disk().fill(0);
    host.restart();
    host.disk().fill(0);
    refuses(&host);
    // Nobody has to restart anything afterwards.
    host.disk().free();
    host.must(["deploy", "new", echo.to_str().unwrap()]);
    host.get("new", "/").expect_ok();
    set_secret(&host, "shop", "TOKEN", "after").expect(0, &[]);
    works(&host, "after");
    let visits = host.get("counter", "/").expect_ok().text();
    assert_eq!(visits.trim(), "2", "what was refused was stored");
    // A clean end gives back what the log had; then only the reserve is left to start with.
    assert!(host.stop(Signal::TERM).success());
    host.restart();
    within(SETTLED, "the reserve", || host.data().join("reserve").exists().then_some(()));
    assert!(host.stop(Signal::TERM).success());
    host.disk().fill(0);
    host.restart();
    assert!(host.log().contains("kept in reserve"), "{}", host.log());
    works(&host, "after");
}

#[test]
fn a_read_only_data_directory_is_refused_at_the_start() {
    if !mounts(Kind::Tmpfs) {
        return;
    }
    let mut host = Setup::new().disk(16 << 20).start();
    host.deploy_guests(&["hello"]);
    assert!(host.stop(Signal::TERM).success());
    host.disk().remount("ro");
    host.refuses_to_start().expect(1, &["Read-only", "data directory", "--data"]);
    let (level, said, _) = doctor(&host, "disk");
    assert_eq!(level, "fail", "{said}");
    host.disk().remount("rw");
    host.restart();
    host.get("hello", "/").expect_ok();
}

#[test]
fn a_disk_that_fails_while_the_host_runs_stops_changes_and_no_request() {
    if !mounts(Kind::Ext4) {
        return;
    }
    let mut host = Setup::new().disk_of(Kind::Ext4, 64 << 20).start();
    host.deploy_guests(&["hello"]);
    deploy(&host, "settings", "shop", "").expect(0, &[]);
    // Loaded or not makes no difference.
    host.get("hello", "/").expect_ok();
    if !host.disk().fail() {
        repo::untested("ext4 errors", "on a kernel with trigger_fs_error");
        return;
    }
    for _ in 0..2 {
        let refused = deploy(&host, "settings", "shop", "env = { A = 'b' }");
        refused.expect(1, &["disk", "ead-only"]);
        set_secret(&host, "shop", "TOKEN", "x").expect(1, &["disk"]);
        let refused = host.cli(["deploy", "new", repo::guest("echo").to_str().unwrap()]);
        refused.expect(1, &["ead-only"]);
        host.cli(["rm", "hello"]).expect(1, &["disk"]);
    }
    host.get("hello", "/").expect_ok();
    host.get("shop", "/").expect_ok();
    assert_eq!(host.tenants().len(), 2);
    let (level, said, _) = doctor(&host, "writing");
    assert_eq!(level, "fail", "{said}");
    // It ends as it should, too.
    assert!(host.stop(Signal::TERM).success());
}

#[test]
fn a_data_directory_that_vanishes_is_missed_and_welcome_back() {
    // One worker, so that it has loaded the code.
    let host = Setup::default().args(["--workers", "1"]).start();
    host.deploy_guests(&["hello"]);
    let artifact = host.tenant("hello").summary.artifact.to_string();
    host.get("hello", "/").expect_ok();
    // A client that had connected before.
    let stream = UnixStream::connect(host.data().join("control.sock")).unwrap();
    let mut client = Connection::over(stream);
    let mut put = |name: &str| {
        let body = json!({"manifest": {"name": name}, "artifact": artifact}).to_string();
        let path = format!("/v1/tenants/{name}");
        let answer = client.ask("PUT", "insula", &path, &[], Some(body.as_bytes()));
        (answer.status(), answer.text())
    };
    let away = host.home().join("away");
    fs::rename(host.data(), &away).unwrap();
    let (status, said) = put("lost");
    assert_eq!(status, 507, "{said}");
    host.get("hello", "/").expect_ok();
    host.cli(["ps"]).expect(5, &["no socket"]);
    // Somebody else's directory in its place is not written to.
    fs::create_dir_all(host.data().join("artifacts")).unwrap();
    fs::write(host.data().join("state.db"), b"").unwrap();
    let (status, said) = put("lost");
    assert_eq!(status, 507, "{said}");
    host.get("hello", "/").expect_ok();
    fs::remove_dir_all(host.data()).unwrap();
    fs::rename(&away, host.data()).unwrap();
    assert_eq!(put("found").0, 200);
    host.get("found", "/").expect_ok();
    assert_eq!(host.must(["ps", "-q"]).stdout, "found\nhello\n");
}
