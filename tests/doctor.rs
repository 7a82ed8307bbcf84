//! `insula doctor`: what it finds on a good day, and that it finds each thing that can be broken here.
//!
//! Not broken here, since the whole machine would feel it: `vm.max_map_count`, `vm.overcommit_memory`,
//! swap, huge pages, and the kernel. `faults` breaks databases, artifacts and disks, and asks the doctor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::{finish, insula, surroundings};
use insula_tests::disk::Kind;
use insula_tests::host::can_mount;
use insula_tests::process::signal;
use insula_tests::wait::eventually;
use insula_tests::{Host, Setup, binary, repo};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A port that is free, whatever runs beside.
const FREE: [&str; 2] = ["--listen", "127.0.0.1:0"];

struct Report {
    findings: BTreeMap<String, (String, String)>,
    code: Option<i32>,
}

impl Report {
    #[track_caller]
    fn read(mut command: Command) -> Self {
        let output = finish(&mut command, b"");
        let report: Value = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let word =
            |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let findings = report["findings"].as_array().unwrap().iter().map(|finding| {
            let (found, mend) = (word(finding, "found"), word(finding, "mend"));
            assert_eq!(mend.is_empty(), word(finding, "level") == "ok", "{finding}");
            let said = format!("{found} {mend}");
            (word(finding, "what"), (word(finding, "level"), said))
        });
        let report_says: (u64, u64) =
            (report["failures"].as_u64().unwrap(), report["warnings"].as_u64().unwrap());
        let report = Self { findings: findings.collect(), code: output.code };
        let count = |level: &str| report.findings.values().filter(|(l, _)| l == level).count();
        assert_eq!(report_says, (count("fail") as u64, count("warn") as u64));
        assert_eq!(report.code, Some(i32::from(count("fail") > 0)), "{:?}", report.findings);
        report
    }

    #[track_caller]
    fn expect(&self, what: &str, level: &str, words: &[&str]) {
        let (found, said) =
            self.findings.get(what).unwrap_or_else(|| panic!("{what}: {:?}", self.findings));
        assert_eq!(found, level, "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: `{word}` is not said: {said}");
        }
    }
}

#[track_caller]
fn examine(home: &Path, data: &Path, more: &[&str]) -> Report {
    let mut command = insula(home);
    command.args(["doctor", "--json", "--data"]).arg(data).args(FREE).args(more);
    Report::read(command)
}

/// The doctor behind another program, such as a shell that sets limits.
#[track_caller]
fn behind(home: &Path, words: &[&str]) -> Report {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(binary::insula()).args(["doctor", "--json"]).args(FREE);
    surroundings(&mut command, home);
    Report::read(command)
}

#[track_caller]
fn limited(home: &Path, limits: &str) -> Report {
    behind(home, &["bash", "-c", &format!(r#"{limits} && exec "$@""#), "bash"])
}

#[test]
fn a_sound_host_is_found_sound_with_its_mends_for_people_and_programs() {
    let mut host = Host::with_guests(&["hello"]);
    eventually("the copy", || host.data().join("state.db.bak").exists().then_some(()));
    let data = host.data();
    let running = examine(host.home(), &data, &["--deep"]);
    running.expect("configuration", "ok", &[]);
    running.expect("lock", "ok", &[&host.pid().to_string()]);
    running.expect("control socket", "ok", &["answers", "1 tenants"]);
    running.expect("workers", "ok", &["2 of 2"]);
    running.expect("port", "ok", &[&host.addr().to_string(), "this host's"]);
    running.expect("state", "ok", &["1 tenant,"]);
    running.expect("copy of the state", "ok", &["sound"]);
    running.expect("artifacts", "ok", &["all bytes"]);
    running.expect("compiled code", "ok", &["1 files"]);
    running.expect("writing", "ok", &["synced"]);
    for what in ["kernel", "vm.max_map_count", "vm.overcommit_memory", "swap", "clock", "secrets"] {
        assert!(running.findings.contains_key(what), "{what}");
    }
    assert_eq!(running.code, Some(0));
    let table = host.must(["doctor", "--data", data.to_str().unwrap()]).stdout;
    assert!(table.contains("LOOKED AT") && table.contains("0 failures"), "{table}");
    assert!(host.stop(Signal::TERM).success());
    let stopped = examine(host.home(), &data, &["--deep"]);
    stopped.expect("lock", "ok", &["free"]);
    stopped.expect("control socket", "ok", &["none"]);
    assert_eq!(stopped.code, Some(0));
    // It has changed nothing that a start would mind.
    host.restart();
    assert!(!host.log().contains("is not there"), "{}", host.log());
    host.get("hello", "/").expect_ok();
    let home = tempfile::tempdir().unwrap();
    let nothing = examine(home.path(), &home.path().join("none"), &[]);
    nothing.expect("data directory", "ok", &["not there yet"]);
    assert!(!home.path().join("none").exists());
}

#[test]
fn limits_are_found() {
    let home = tempfile::tempdir().unwrap();
    limited(home.path(), "ulimit -n 100").expect("open files", "fail", &["100", "ulimit -n"]);
    limited(home.path(), "ulimit -n 4096").expect("open files", "warn", &["LimitNOFILE"]);
    limited(home.path(), "ulimit -v 8000000").expect("address space", "fail", &["unlimited"]);
    limited(home.path(), "ulimit -u 100").expect("processes", "warn", &["ulimit -u"]);
    behind(home.path(), &["setpriv", "--bounding-set=-sys_nice"]).expect(
        "thread priorities",
        "warn",
        &["CAP_SYS_NICE", "LimitNICE"],
    );
    let data = home.path().join("data");
    examine(home.path(), &data, &["--workers", "256"]).expect("processors", "warn", &["256"]);
}

/// A control group of our own, removed at the end.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn limits_of_control_groups_are_found() {
    // Version 1 has a tree for each controller.
    let trees = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
    let name = format!("insula-test-{}", std::process::id());
    let made = trees.iter().find_map(|tree| {
        let group = Group(tree.join(&name));
        let limited =
            fs::create_dir(&group.0).and_then(|()| fs::write(group.0.join("pids.max"), "100"));
        limited.ok().map(|()| group)
    });
    let Some(group) = made else {
        repo::untested("control groups", "as root, with a pids controller,");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let enter = format!("echo $$ > {}/cgroup.procs", group.0.display());
    limited(home.path(), &enter).expect("cgroup processes", "warn", &["100", "TasksMax"]);
}

#[test]
fn a_wrong_configuration_is_a_finding_among_others() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("host.toml");
    fs::write(&file, "workers = 2\nlisten_on = '127.0.0.1:0'\n").unwrap();
    let report =
        examine(home.path(), &home.path().join("data"), &["--config", file.to_str().unwrap()]);
    report.expect("configuration", "fail", &["listen_on", "line 2"]);
    report.expect("kernel", "ok", &[]);
}

#[test]
fn a_taken_port_and_its_owner_are_named() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = insula(home.path());
    command.args(["doctor", "--json", "--listen", &address]);
    let us = format!("process {}", std::process::id());
    Report::read(command).expect("port", "fail", &[&address, &us, "--listen"]);
    let mut command = insula(home.path());
    command.args(["doctor", "--json", "--listen", "192.0.2.1:80"]);
    Report::read(command).expect("port", "fail", &["192.0.2.1", "--listen"]);
}

#[test]
fn owners_and_modes_are_found() {
    let mut host = Host::with_guests(&["hello"]);
    let data = host.data();
    let look = || examine(host.home(), &data, &[]);
    fs::set_permissions(data.join("host.key"), Permissions::from_mode(0o644)).unwrap();
    look().expect("modes", "fail", &["host.key", "chmod go="]);
    fs::set_permissions(data.join("host.key"), Permissions::from_mode(0o600)).unwrap();
    look().expect("modes", "ok", &[]);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&data, Some(12_345), None).unwrap();
        look().expect("data directory", "fail", &["12345", "chown"]);
        std::os::unix::fs::chown(&data, Some(0), None).unwrap();
    }
    assert!(host.stop(Signal::TERM).success());
    let file = host.file("file", b"");
    examine(host.home(), &file, &[]).expect("data directory", "fail", &["not a directory"]);
    examine(host.home(), &file.join("below"), &[]).expect("data directory", "fail", &["--data"]);
}

#[test]
fn hosts_that_hang_hide_or_are_gone_are_told_apart() {
    let mut host = Host::with_guests(&["hello"]);
    let data = host.data();
    signal(host.pid(), Signal::STOP);
    let hanging = examine(host.home(), &data, &[]);
    signal(host.pid(), Signal::CONT);
    hanging.expect("control socket", "fail", &["did not answer"]);
    let socket = data.join("control.sock");
    fs::rename(&socket, data.join("hidden")).unwrap();
    examine(host.home(), &data, &[]).expect("control socket", "fail", &["socket is gone"]);
    fs::rename(data.join("hidden"), &socket).unwrap();
    let worker = host.worker_pids()[0];
    signal(worker, Signal::KILL);
    eventually("replaced", || (host.workers()[0].restarts == 1).then_some(()));
    examine(host.home(), &data, &[]).expect(
        "workers",
        "warn",
        &["replaced 1 time", "ps --workers"],
    );
    host.kill_everything();
    host.kill();
    let dead = examine(host.home(), &data, &[]);
    dead.expect("control socket", "warn", &["stale"]);
    dead.expect("lock", "ok", &["free"]);
    host.restart();
    host.get("hello", "/").expect_ok();
}

#[test]
fn code_of_no_use_is_found_and_removed_when_asked() {
    let mut host = Host::with_guests(&["hello", "echo"]);
    let data = host.data();
    let stale = data.join("code/another-engine");
    fs::create_dir_all(&stale).unwrap();
    fs::write(stale.join("x.code"), vec![0; 300_000]).unwrap();
    let hex = host.tenant("hello").summary.artifact.hex();
    let seal = repo::files(&data.join("code"), "seal");
    let seal = seal.iter().find(|path| path.to_string_lossy().contains(&hex)).unwrap();
    fs::write(seal, "insula-seal 2 http-0.2 5 nonsense\n").unwrap();
    let words = ["1 of other versions", "1 without a sound seal", "can go"];
    examine(host.home(), &data, &[]).expect("compiled code", "warn", &words);
    host.cli(["doctor", "--fix"]).expect(1, &["stop the host first"]);
    assert!(stale.exists());
    assert!(host.stop(Signal::TERM).success());
    let report = examine(host.home(), &data, &["--fix"]);
    report.expect("compiled code", "ok", &["1 files"]);
    assert!(!stale.exists());
    // What only a reader of all bytes sees.
    let code = repo::files(&data.join("code"), "code");
    let last = fs::File::options().write(true).open(&code[0]).unwrap();
    last.write_all_at(b"\xff\xff\xff\xff", 200).unwrap();
    examine(host.home(), &data, &[]).expect("compiled code", "ok", &[]);
    examine(host.home(), &data, &["--deep"]).expect("compiled code", "warn", &["seal"]);
    host.restart();
    host.get("hello", "/").expect_ok();
    host.get("echo", "/").expect_ok();
}

#[test]
fn versions_keys_and_orphans_are_found() {
    let mut host = Host::with_guests(&["hello"]);
    let data = host.data();
    let mut set = insula(host.home());
    set.env("INSULA_DATA", &data).args(["secret", "set", "hello", "TOKEN"]);
    finish(&mut set, b"value").expect(0, &[]);
    examine(host.home(), &data, &[]).expect("secrets", "ok", &["1 open"]);
    let other = host.file("other.key", "ab".repeat(32));
    let report = examine(host.home(), &data, &["--secrets-key", other.to_str().unwrap()]);
    report.expect("secrets", "fail", &["1 of 1", "--secrets-key"]);
    fs::write(data.join(format!("artifacts/{}.wasm", "0".repeat(64))), b"x").unwrap();
    examine(host.home(), &data, &[]).expect("artifacts", "ok", &["1 without a tenant"]);
    assert!(host.stop(Signal::TERM).success());
    // `PRAGMA user_version` stands here in the file's head.
    let file = fs::File::options().write(true).open(data.join("state.db")).unwrap();
    file.write_all_at(&999_u32.to_be_bytes(), 60).unwrap();
    examine(host.home(), &data, &[]).expect("state", "fail", &["999", "version"]);
}

#[test]
fn a_clock_that_is_wrong_is_found() {
    let Some(library) = repo::faketime("wrong clocks") else { return };
    let host = Host::with_guests(&["hello"]);
    let at = |time: &str| {
        let mut command = insula(host.home());
        command.args(["doctor", "--json", "--data"]).arg(host.data()).args(FREE);
        command.env("LD_PRELOAD", &library).env("FAKETIME", time);
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Report::read(command)
    };
    at("@2020-01-01 00:00:00").expect("clock", "fail", &["2020-01-01", "timedatectl"]);
    let behind = at("-2h");
    behind.expect("clock", "ok", &[]);
    behind.expect("clock and records", "warn", &["to come"]);
    at("+2h").expect("clock and records", "ok", &[]);
}

#[test]
fn a_disk_that_is_memory_or_short_of_files_is_found() {
    if !can_mount(Kind::Tmpfs) {
        repo::untested("small disks", "as root");
        return;
    }
    let host = Setup::new().disk(16 << 20).start();
    let look = || examine(host.home(), &host.data(), &[]);
    let report = look();
    report.expect("file system", "warn", &["tmpfs"]);
    report.expect("disk", "warn", &["free"]);
    host.disk().remount("nr_inodes=200");
    look().expect("inodes", "warn", &["free"]);
}
