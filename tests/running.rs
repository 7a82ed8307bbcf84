//! What the flags of `insula run` grant: directories, time, chance and peers; and nothing without them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::{Output, cli, repo};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

/// Runs `guests/tool` with these flags of `insula run`, and these of its own.
fn tool(home: &Path, flags: &[&str], own: &[&str]) -> Output {
    let mut command = cli::insula(home);
    command.arg("run").args(flags).arg(repo::guest("tool")).arg("--").args(own);
    cli::finish(&mut command, b"")
}

/// What stands behind `word: ` on its standard output.
#[track_caller]
fn said<'a>(output: &'a Output, word: &str) -> &'a str {
    output.expect(0, &[]);
    let found = output.stdout.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no `{word}` in {output:#?}"))
}

#[test]
fn directories_are_mounted_and_can_be_read_only() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("inner");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a-file"), "").unwrap();
    // Relative paths are meant from where the command runs.
    for flag in ["--mount=inner:/data", "--mount=inner:/data:rw", "--dir=inner::/data"] {
        let _ = fs::remove_file(dir.join("new"));
        let output = tool(home.path(), &[flag], &["--ls", "/data", "--write", "/data/new"]);
        output.expect(0, &[]);
        assert!(output.stdout.lines().any(|line| line == "a-file"), "{flag}: {output:?}");
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "written", "{flag}");
    }
    fs::remove_file(dir.join("new")).unwrap();
    for flag in ["--mount=inner:/data:ro", "--dir=inner::/data:ro"] {
        let output = tool(home.path(), &[flag], &["--ls", "/data", "--write", "/data/new"]);
        output.expect(1, &["tool: /data/new: "]);
        assert!(output.stdout.lines().any(|line| line == "a-file"), "{flag}: {output:?}");
        assert!(!dir.join("new").exists(), "{flag}");
    }
    tool(home.path(), &["--mount=inner:/data"], &["--ls", "/data/.."]).expect(1, &["/data/..: "]);
    tool(home.path(), &["--mount=absent:/data"], &[]).expect(125, &["is not a directory", "hint:"]);
    let twice = ["--mount=inner:/data", "--dir=inner::/data"];
    tool(home.path(), &twice, &[]).expect(125, &["`/data` is given twice", "hint:"]);
    tool(home.path(), &["--mount=inner"], &[]).expect(2, &["HOST:GUEST"]);
}

#[test]
fn a_seed_repeats_what_is_drawn() {
    let home = tempfile::tempdir().unwrap();
    let draw = |flags: &[&str]| said(&tool(home.path(), flags, &["--random"]), "random").to_owned();
    assert_eq!(draw(&["--seed=7"]), draw(&["--seed=7"]));
    assert_ne!(draw(&["--seed=7"]), draw(&["--seed=8"]));
    assert_ne!(draw(&[]), draw(&[]));
}

#[test]
fn the_clock_can_stand_still() {
    let home = tempfile::tempdir().unwrap();
    let fixed = ["--clock-fixed=2020-01-02T03:04:05Z"];
    let output = tool(home.path(), &fixed, &["--time"]);
    assert_eq!(said(&output, "time"), "1577934245000");
    let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let told: u128 = said(&tool(home.path(), &[], &["--time"]), "time").parse().unwrap();
    assert!(told >= before, "{told} is before {before}");
    tool(home.path(), &["--clock-fixed=yesterday"], &[]).expect(125, &["yesterday"]);
}

#[test]
fn sockets_reach_the_peers_that_are_named() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap().to_string();
    let connect = |flags: &[&str]| tool(home.path(), flags, &["--connect", &peer]);
    connect(&[]).expect(1, &["tool: "]);
    connect(&["--socket=tcp://127.0.0.1:9"]).expect(1, &["tool: "]);
    connect(&[&format!("--socket=udp://{peer}")]).expect(1, &["tool: "]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody knocked");
    listener.set_nonblocking(false).unwrap();
    let greeter = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello"));
    assert_eq!(said(&connect(&[&format!("--socket=tcp://{peer}")]), "peer"), "hello");
    greeter.join().unwrap().unwrap();
    tool(home.path(), &["--socket=tcp://example.com:80"], &[])
        .expect(2, &["names are not possible"]);
}
