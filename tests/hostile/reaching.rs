//! Guests with grants, who want more of them: files, directories, descriptors, calls.

use crate::beside::{GROWTH_MAX, alone, beside, ends_in, victim};
use crate::guests::looping;
use insula_tests::upstream::Upstream;
use insula_tests::wait::eventually;
use insula_tests::{Host, repo};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(victim);

const AT_ONCE: usize = 6;

/// Deploys a component with this more in its manifest.
#[track_caller]
fn grant(name: &str, component: &Path, more: &str) {
    let text = format!(
        "name = \"{name}\"\ncomponent = {component:?}\nmemory = \"32Mi\"\nfuel = \"1T\"\n\
         timeout = \"1s\"\nconcurrency = 64\n{more}\n"
    );
    let file = HOST.file(&format!("{name}.toml"), text);
    HOST.must(["deploy".as_ref(), "-f".as_ref(), file.as_os_str()]);
}

/// A directory that can be written, with a quota.
fn mounted(name: &str) -> (PathBuf, String) {
    let dir = HOST.home().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let mount = format!(
        "mounts = [{{ host = {dir:?}, guest = \"/data\", access = \"rw\", quota = \"4Mi\" }}]"
    );
    (dir, mount)
}

fn descriptors() -> usize {
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    HOST.worker_pids().into_iter().map(open).sum()
}

#[test]
fn files_directories_and_descriptors_without_end() {
    let _alone = alone();
    let (dir, mount) = mounted("files");
    grant("files", &repo::guest("files"), &mount);
    let before = descriptors();
    for (what, target) in [
        ("one large file", "/?op=fill&path=/data/large&n=3000000"),
        ("a file without a name", "/?op=ghost&path=/data/ghost&n=1000000000"),
        ("many files", "/?op=make&path=/data&n=1000000"),
        ("a file held often", "/?op=open&path=/data/0&n=1000000"),
        ("lists", "/?op=list&path=/data"),
    ] {
        beside(what, &HOST, GROWTH_MAX, |attack| {
            attack.ask("files", target, AT_ONCE, |answer| {
                let answer = answer.as_ref().unwrap();
                let is_denied = answer.status() == 200 || answer.fault() == Some("deadline");
                assert!(is_denied, "{answer:?}");
            });
        });
    }
    let files = std::fs::read_dir(&dir).unwrap();
    let held: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!((1 << 20..=5 << 20).contains(&held), "{held} bytes in a quota of 4 MiB");
    eventually("descriptors are given back", || (descriptors() <= before + 64).then_some(()));
}

const PATH_OPEN: (&str, &str) =
    ("path_open", "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)");
const MKDIR: (&str, &str) = ("path_create_directory", "(param i32 i32 i32) (result i32)");
const RENUMBER: (&str, &str) = ("fd_renumber", "(param i32 i32) (result i32)");
const PREAD: (&str, &str) = ("fd_readdir", "(param i32 i32 i32 i64 i32) (result i32)");

/// Opens or creates (by `flags`) the name of one letter at 0, in the directory `$n`; its descriptor is
/// at 16, its error the result.
fn open(flags: u32, rights: &str) -> String {
    format!(
        "(call $path_open (local.get $n) (i32.const 0) (i32.const 0) (i32.const 1)
        (i32.const {flags}) (i64.const {rights}) (i64.const {rights}) (i32.const 0) (i32.const 16))"
    )
}

#[test]
fn programs_that_dig_hoard_and_renumber() {
    let _alone = alone();
    let name = "(i32.store8 (i32.const 0) (i32.const 100)) (local.set $n (i32.const 3))";
    // A directory in the directory in the directory …; at the end of what is allowed from the root again.
    let dig = format!(
        "(drop (call $path_create_directory (local.get $n) (i32.const 0) (i32.const 1)))
        (if {} (then (local.set $n (i32.const 3)))
          (else (local.set $n (i32.load (i32.const 16)))))",
        open(2, "8704")
    );
    // Files that stay open for ever.
    let hoard = format!("(drop {})", open(1, "66"));
    // Over another, over itself, over one that is far from being there.
    let renumber = format!(
        "(drop {}) (drop {}) (local.set $m (i32.load (i32.const 16)))
        (drop (call $fd_renumber (local.get $m) (i32.sub (local.get $m) (i32.const 1))))
        (drop (call $fd_renumber (local.get $m) (local.get $m)))
        (drop (call $fd_renumber (i32.sub (local.get $m) (i32.const 1)) (i32.const -2)))
        (drop (call $fd_renumber (i32.sub (local.get $m) (i32.const 1)) (local.get $m)))",
        open(1, "66"),
        open(1, "66")
    );
    let list =
        "(drop (call $fd_readdir (i32.const 3) (i32.const 64) (i32.const 65000) (i64.const 0)
        (i32.const 32)))";
    let imports = [PATH_OPEN, MKDIR, RENUMBER, PREAD];
    let before = descriptors();
    for (what, body) in
        [("digs", dig.as_str()), ("hoards", &hoard), ("renumbers", &renumber), ("lists", list)]
    {
        let file = HOST.file(&format!("{what}.wasm"), looping(&imports, 2, name, body));
        let (_, mount) = mounted(what);
        grant(what, &file, &mount);
        beside(what, &HOST, GROWTH_MAX, |attack| {
            attack.ask(
                what,
                "/",
                AT_ONCE,
                ends_in(&["deadline", "trap", "out-of-memory", "out-of-storage"]),
            );
        });
        let records = HOST.records(what);
        let odd = records.iter().find(|record| record.text.contains("conversion"));
        assert!(odd.is_none(), "the attack itself is wrong: {odd:?}");
        let given_back = || descriptors() <= before + 64;
        eventually(&format!("{what}: descriptors are given back"), || given_back().then_some(()));
    }
    let dug = depth(&HOST.home().join("digs"));
    assert!((2..=2_000).contains(&dug), "{dug} levels");
}

fn depth(dir: &Path) -> usize {
    // Step by step: the whole path is longer than the kernel takes.
    let script = r#"n=0; while cd d 2>/dev/null; do n=$((n+1)); done; echo $n"#;
    let output =
        std::process::Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

#[test]
fn calls_without_end() {
    let _alone = alone();
    let upstream = Upstream::plain();
    let relay = repo::guest("relay");
    let outbound = format!(
        "[outbound]\nhosts = [\"http://localhost:{0}\"]\nprivate = [\"127.0.0.0/8\", \"::1/128\"]",
        upstream.port()
    );
    grant("caller", &relay, &outbound);
    for (what, path) in [
        ("calls that are never answered", "hold"),
        ("answers that never end", "drip"),
        ("answers that are long", "chunked/3000000"),
        ("answers that promise too much", "declare/1000000000000"),
        ("heads that are large", "large-head"),
    ] {
        let target = format!("/?url=http://localhost:{}/{path}", upstream.port());
        beside(what, &HOST, GROWTH_MAX, |attack| {
            attack.ask("caller", &target, 40, |answer| {
                let answer = answer.as_ref().unwrap();
                assert!(answer.status() >= 200, "{answer:?}");
            });
        });
    }
    eventually("no call is left", || (upstream.held() == 0).then_some(()));
}

#[test]
fn calls_through_other_tenants() {
    let _alone = alone();
    let relay = repo::guest("relay");
    grant("ping", &relay, "[outbound]\nhosts = [\"http://pong.internal\"]");
    grant("pong", &relay, "[outbound]\nhosts = [\"http://ping.internal\"]");
    grant("alone", &relay, "[outbound]\nhosts = [\"self\"]");
    // Twelve hops are asked for; eight are had.
    let names = ["pong", "ping"].iter().cycle().take(12);
    let loops = names.map(|name| format!("/?url=http://{name}.internal")).collect::<String>();
    beside("a loop of tenants", &HOST, GROWTH_MAX, |attack| {
        attack.ask("ping", &format!("{loops}/"), 16, |answer| {
            let answer = answer.as_ref().unwrap();
            assert!(answer.status() >= 500, "{answer:?}");
        });
    });
    let own = "/?url=http://alone.internal".repeat(12);
    beside("a tenant that calls itself", &HOST, GROWTH_MAX, |attack| {
        attack.ask("alone", &format!("{own}/"), 16, |answer| {
            let answer = answer.as_ref().unwrap();
            assert!(answer.status() >= 500, "{answer:?}");
        });
    });
    // One that holds places of the innocent's: it may, and the innocent has its own limit for that.
    grant("greedy", &relay, "[outbound]\nhosts = [\"http://hello.internal\"]");
    beside("calls to the innocent", &HOST, GROWTH_MAX, |attack| {
        attack.ask("greedy", "/?url=http://hello.internal/", AT_ONCE, |answer| {
            let answer = answer.as_ref().unwrap();
            assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n");
        });
    });
}

#[test]
fn stores_written_and_listed_without_end() {
    let _alone = alone();
    grant("hoard", &repo::guest("counter"), "keyvalue = { quota = \"4Mi\" }");
    for (what, target) in [
        ("increments without end", "/add"),
        ("values that pass the quota", "/set?key=large&bytes=3000000"),
        ("thousands of keys at once", "/batch?n=3000"),
        ("long lists", "/list"),
        ("swaps that collide", "/swap?key=large&value=x&stale"),
    ] {
        beside(what, &HOST, GROWTH_MAX, |attack| {
            // Refused by the quota, by a bound of the store's, or by the deadline, as it comes.
            attack.ask("hoard", target, AT_ONCE, |answer| {
                let answer = answer.as_ref().unwrap();
                assert!(answer.status() >= 200, "{answer:?}");
            });
        });
    }
}
