//! Secrets: set, delivered, changed without a deploy, and never seen anywhere else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::SecretInfo;
use insula_tests::cli::{finish, insula};
use insula_tests::process::children;
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use insula_tests::{Connection, Host, Output, Setup, process, repo};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

static HOST: LazyLock<Host> = LazyLock::new(Host::start);

const KEY: &str = "8f3c1f7e5bb0a4d2c6e9017a2b4d6f80a1c3e5079b2d4f6081a3c5e7092b4d6f";

/// A guest that answers with its environment.
fn teller(host: &Host) -> PathBuf {
    host.file("teller.wasm", responder(&Canned { environment: true, ..Canned::default() }))
}

/// `insula secret set` with this on standard input.
#[track_caller]
fn set(host: &Host, name: &str, key: &str, value: impl AsRef<[u8]>) -> Output {
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(["secret", "set", name, key]);
    finish(&mut command, value.as_ref())
}

#[track_caller]
fn listed(host: &Host, name: &str) -> Vec<SecretInfo> {
    serde_json::from_value(host.must(["secret", "ls", name, "--json"]).json()).unwrap()
}

/// What the tenant finds in its environment.
#[track_caller]
fn told(host: &Host, name: &str) -> String {
    host.get(name, "/").expect_ok().text()
}

#[test]
fn a_secret_reaches_its_guest_and_nobody_else() {
    // Not printable by accident: no other bytes of the host look like it.
    const MARKER: &str = "Marker-7Qw5uZr1vYx3-secret";
    let host = Setup::new().args(["--log", "trace"]).start();
    let teller = teller(&host);
    let mut shown = vec![set(&host, "shop", "API_KEY", MARKER)];
    shown[0].expect(0, &[]);
    shown.push(host.deploy("shop", &teller, &["--secret", "API_KEY"]));
    assert_eq!(told(&host, "shop"), format!("API_KEY={MARKER}\n"));
    // Another tenant that runs the same code gets nothing of it.
    host.deploy("other", &teller, &[]);
    assert_eq!(told(&host, "other"), "");
    shown.push(host.deploy("shop", &teller, &["--secret", "API_KEY", "--env", "MODE=live"]));
    for verb in [
        &["secret", "ls", "shop"][..],
        &["secret", "ls", "shop", "--json"],
        &["secret", "rm", "shop", "API_KEY"],
        &["inspect", "shop"],
        &["inspect", "shop", "--json"],
        &["ps"],
        &["ps", "--json"],
        &["ps", "--workers", "--json"],
        &["revisions", "shop", "--json"],
        &["logs", "shop", "--json"],
        &["openapi"],
        &["rollback", "shop"],
    ] {
        shown.push(host.cli(verb));
    }
    for output in &shown {
        assert!(!format!("{output:?}").contains(MARKER), "{output:?}");
    }
    for path in ["/v1/tenants/shop/secrets", "/v1/tenants/shop/secrets/API_KEY", "/v1/tenants"] {
        assert!(!host.api_raw("GET", path, None).text().contains(MARKER), "{path}");
    }
    let everyone = [vec![host.pid()], host.worker_pids()].concat();
    assert_eq!(everyone.len(), 3);
    for pid in everyone {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!contains(&bytes, MARKER), "{file} of {pid}");
        }
    }
    assert!(host.log().contains("secret set"), "{}", host.log());
    assert!(!host.log().contains(MARKER));
    let mut looked_at = 0;
    everything_below(host.home(), &mut |path, bytes| {
        assert!(!contains(bytes, MARKER), "{}", path.display());
        looked_at += 1;
    });
    assert!(looked_at > 5, "{looked_at} files");
    let database = fs::read(host.data().join("state.db-wal")).unwrap();
    assert!(contains(&database, "API_KEY"), "what was looked at is where it would be");
}

#[test]
fn a_secret_comes_as_configuration_or_as_a_variable_never_both() {
    let host = &*HOST;
    for key in ["AS_CONFIG", "AS_ENV", "NOT_GRANTED"] {
        set(host, "reader", key, format!("value of {key}")).expect(0, &[]);
    }
    let settings = repo::guest("settings");
    let flags = ["--secret", "AS_CONFIG=config", "--secret", "AS_ENV", "--config", "plain=1"];
    host.deploy("reader", &settings, &flags);
    let read = |path: &str| host.get("reader", path).expect_ok().text();
    assert_eq!(read("/config?key=AS_CONFIG"), "value of AS_CONFIG");
    assert_eq!(read("/env"), "AS_ENV=value of AS_ENV\n");
    let config = read("/config");
    assert!(config.contains("plain=1") && config.contains("AS_CONFIG="), "{config}");
    assert!(!config.contains("AS_ENV") && !config.contains("NOT_GRANTED"), "{config}");
    set(host, "reader", "AS_CONFIG", "changed").expect(0, &[]);
    assert_eq!(read("/config?key=AS_CONFIG"), "changed");
}

fn contains(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

fn everything_below(dir: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => everything_below(&entry.path(), look),
            // Files come and go while a host runs; sockets are none.
            kind if kind.is_file() => {
                if let Ok(bytes) = fs::read(entry.path()) {
                    look(&entry.path(), &bytes);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_new_value_is_in_force_when_set_returns_and_no_request_fails() {
    let host = &*HOST;
    let teller = teller(host);
    for (name, flags) in [("fresh", &[][..]), ("reused", &["--reuse-requests", "1000"])] {
        set(host, name, "TURN", "0").expect(0, &[]);
        host.deploy(name, &teller, &[&["--secret", "TURN"][..], flags].concat());
        let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (mut connection, mut last) = (host.connect(), 0);
                    while !stop.load(Relaxed) {
                        let now = turn(&mut connection, name);
                        // One worker serves a connection: it never goes back.
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                        asked.fetch_add(1, Relaxed);
                    }
                });
            }
            let mut open: Vec<Connection> = (0..4).map(|_| host.connect()).collect();
            for turn_now in 1..=50 {
                set(host, name, "TURN", turn_now.to_string()).expect(0, &[]);
                for connection in &mut open {
                    assert_eq!(turn(connection, name), turn_now, "{name}");
                }
            }
            stop.store(true, Relaxed);
        });
        assert!(asked.load(Relaxed) > 50, "{asked:?}");
        let tenant = host.tenant(name);
        assert_eq!(tenant.summary.revision, 1, "no deploy");
        assert_eq!(tenant.summary.counters.guest_faults + tenant.summary.counters.host_faults, 0);
    }
}

#[track_caller]
fn turn(connection: &mut Connection, name: &str) -> u32 {
    let text = connection.get(&format!("{name}.localhost"), "/").expect_ok().text();
    let value = text.strip_prefix("TURN=").and_then(|rest| rest.strip_suffix('\n'));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn what_is_granted_must_be_set_and_what_is_in_use_stays() {
    let host = &*HOST;
    let teller = teller(host);
    let refused = |args: &[&str], words: &[&str]| {
        let file = teller.to_str().unwrap();
        let args: Vec<&str> =
            args.iter().map(|arg| if *arg == "FILE" { file } else { arg }).collect();
        host.cli(args).expect(3, &["error:", "hint:"]).expect(3, words);
    };
    refused(
        &["deploy", "needy", "FILE", "--secret", "ONE", "--secret", "TWO"],
        &["`ONE`, `TWO`", "never set", "insula secret set needy ONE"],
    );
    assert!(host.tenants().iter().all(|tenant| tenant.name.as_str() != "needy"));
    set(host, "needy", "ONE", "1").expect(0, &[]);
    set(host, "needy", "TWO", "2").expect(0, &[]);
    host.deploy("needy", &teller, &["--secret", "ONE", "--secret", "TWO"]);
    assert_eq!(told(host, "needy"), "ONE=1\nTWO=2\n");
    refused(
        &["secret", "rm", "needy", "ONE"],
        &["revision 1 of `needy`", "insula secret set needy ONE"],
    );
    host.deploy("needy", &teller, &["--secret", "TWO"]);
    assert_eq!(told(host, "needy"), "TWO=2\n");
    host.must(["secret", "rm", "needy", "ONE"]);
    refused(&["rollback", "needy"], &["`ONE`", "insula secret set needy ONE"]);
    assert_eq!(told(host, "needy"), "TWO=2\n");
    set(host, "needy", "ONE", "one").expect(0, &[]);
    host.must(["rollback", "needy"]);
    assert_eq!(told(host, "needy"), "ONE=one\nTWO=2\n");
    // They go with their tenant.
    host.must(["rm", "needy"]);
    host.cli(["secret", "ls", "needy"]).expect(4, &["no tenant"]);
    refused(&["deploy", "needy", "FILE", "--secret", "TWO"], &["never set"]);
}

#[test]
fn ls_says_when_and_how_and_nothing_more() {
    let host = &*HOST;
    for key in ["B", "A", "C"] {
        set(host, "kept", key, "hidden-value").expect(0, &[]);
    }
    host.deploy("kept", &teller(host), &["--secret", "A", "--secret", "B=config"]);
    let table = host.must(["secret", "ls", "kept"]).stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 4, "{table}");
    for (row, words) in
        rows[1..].iter().zip([["A ", "environment"], ["B ", "wasi:config"], ["C ", "not granted"]])
    {
        assert!(row.starts_with(words[0]) && row.contains(words[1]), "{table}");
    }
    let json = host.must(["secret", "ls", "kept", "--json"]).stdout;
    assert!(json.contains(r#""via":"config""#) && !json.contains("hidden"), "{json}");
    assert_eq!(listed(host, "kept").len(), 3);
    // A secret for wasi:config is not in the environment.
    assert_eq!(told(host, "kept"), "A=hidden-value\n");
    host.must(["secret", "rm", "kept", "C"]);
    host.cli(["secret", "rm", "kept", "C"]).expect(4, &["no secret `C`", "secret ls kept"]);
    assert_eq!(listed(host, "kept").len(), 2);
}

#[test]
fn values_come_from_standard_input_or_a_file_as_they_are() {
    let host = &*HOST;
    let output = set(host, "plain", "V", "one line\n");
    assert!(output.stdout.contains("nothing gets it yet"), "{output:?}");
    host.deploy("plain", &teller(host), &["--secret", "V"]);
    assert_eq!(told(host, "plain"), "V=one line\n");
    let output = set(host, "plain", "V", " two\n\n");
    assert!(output.stdout.contains("environment"), "{output:?}");
    assert_eq!(told(host, "plain"), "V= two\n\n");
    let file = host.file("value", "from a file\n");
    host.must(["secret", "set", "plain", "V", "--from-file", file.to_str().unwrap()]);
    assert_eq!(told(host, "plain"), "V=from a file\n\n");
    // What cannot be one says so, and never repeats it.
    for (value, code, words) in [
        (&b"\n"[..], 2, "empty"),
        (b"mis\0sion", 3, "NUL"),
        (b"mis\xffsion", 3, "not UTF-8"),
        (&[b'x'; (32 << 10) + 1], 3, "larger than 32Ki"),
    ] {
        let output = set(host, "plain", "V", value);
        output.expect(code, &[words, "error:"]);
        assert!(!output.stderr.contains("sion"), "{output:?}");
    }
    set(host, "plain", "NOT-A-NAME", "x").expect(2, &["letters, digits"]);
    host.cli(["secret", "set", "plain", "V", "value"]).expect(2, &[]);
    host.cli(["deploy", "plain", "x.wasm", "--secret", "V=value"]).expect(2, &["never by a flag"]);
    assert_eq!(told(host, "plain"), "V=from a file\n\n");
    // The largest there is.
    set(host, "large", "V", "x".repeat(32 << 10)).expect(0, &[]);
}

#[test]
fn one_tenant_has_64_secrets_and_256_kib_of_them() {
    let host = &*HOST;
    for n in 0..64 {
        set(host, "many", &format!("K{n}"), "x").expect(0, &[]);
    }
    set(host, "many", "K64", "x").expect(3, &["more than 64 secrets", "hint:"]);
    set(host, "many", "K0", "y").expect(0, &[]);
    let large = "x".repeat(32 << 10);
    for n in 0..8 {
        set(host, "big", &format!("K{n}"), &large).expect(0, &[]);
    }
    set(host, "big", "K8", "x").expect(3, &["more than 256 KiB"]);
    set(host, "big", "K0", &large).expect(0, &[]);
    // All of them travel to the workers.
    let flags: Vec<String> = (0..8).map(|n| format!("--secret=K{n}=config")).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    host.deploy("big", &teller(host), &flags);
    assert_eq!(told(host, "big"), "");
}

#[test]
fn a_terminal_is_asked_and_does_not_show_the_answer() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: util-linux's `script` is not here");
        return;
    }
    let host = &*HOST;
    let binary = insula_tests::binary::insula();
    let line = format!("{} secret set typed V", binary.display());
    // What the terminal shows, and how the command ended. Nothing is typed before it asks: until then
    // a terminal shows what is typed.
    let ask = |typed: &[u8]| {
        let mut command = Command::new("script");
        insula_tests::cli::surroundings(&mut command, host.home());
        command.env("INSULA_DATA", host.data()).args(["-qec", &line, "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let (mut keys, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let mut shown = Vec::new();
        while !contains(&shown, "(not shown): ") {
            let mut piece = [0; 64];
            match screen.read(&mut piece).unwrap() {
                0 => panic!("it did not ask: {}", String::from_utf8_lossy(&shown)),
                n => shown.extend_from_slice(&piece[..n]),
            }
        }
        keys.write_all(typed).unwrap();
        screen.read_to_end(&mut shown).unwrap();
        (String::from_utf8(shown).unwrap(), script.wait().unwrap().code())
    };
    let (shown, code) = ask(b"typed-value\n");
    assert!(shown.contains("value of V for typed") && shown.contains("set V of typed"), "{shown}");
    assert!(!shown.contains("typed-value") && code == Some(0), "{code:?} {shown}");
    host.deploy("typed", &teller(host), &["--secret", "V"]);
    assert_eq!(told(host, "typed"), "V=typed-value\n");
    let (shown, code) = ask(b"other\x03");
    assert!(shown.contains("interrupted; nothing was changed"), "{shown}");
    assert!(!shown.contains("other") && code == Some(1), "{code:?} {shown}");
    assert_eq!(told(host, "typed"), "V=typed-value\n");
}

#[test]
fn secrets_outlive_restarts_and_workers() {
    let mut host = Host::start();
    set(&host, "shop", "K", "kept").expect(0, &[]);
    host.deploy("shop", &teller(&host), &["--secret", "K"]);
    let mode = fs::metadata(host.data().join("secrets.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = host.worker_pids();
    for pid in &before {
        process::signal(*pid, Signal::KILL);
    }
    eventually("new workers", || {
        let pids: Vec<u32> =
            children(host.pid()).into_iter().filter(|p| !before.contains(p)).collect();
        (pids.len() == 2).then_some(())
    });
    host.eventually_serves();
    assert_eq!(told(&host, "shop"), "K=kept\n");
    host.stop(Signal::TERM);
    host.restart();
    assert_eq!(told(&host, "shop"), "K=kept\n");
    host.kill();
    host.ended();
    host.restart();
    assert_eq!(told(&host, "shop"), "K=kept\n");
}

/// Starts a host on what another left behind, which must be refused.
#[track_caller]
fn refused(host: &Host, args: &[&str], key: Option<&str>, code: i32, words: &[&str]) {
    let mut command = insula(host.home());
    command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--data"]).arg(host.data());
    command.args(args).envs(key.map(|key| ("INSULA_SECRETS_KEY", key)));
    finish(&mut command, b"").expect(code, words);
}

#[test]
fn a_host_does_not_start_with_a_key_that_opens_nothing() {
    let mut host = Setup::new().env("INSULA_SECRETS_KEY", KEY).start();
    set(&host, "shop", "K", "kept").expect(0, &[]);
    set(&host, "shop", "L", "kept too").expect(0, &[]);
    host.deploy("shop", &teller(&host), &["--secret", "K"]);
    assert!(!host.data().join("secrets.key").exists());
    host.stop(Signal::TERM);
    let other = KEY.replace('8', "9");
    let lost = ["2 of 2 secrets cannot be read", "nothing is lost", "--secrets-key"];
    refused(&host, &[], None, 1, &lost);
    refused(&host, &[], Some(&other), 1, &[&lost[..], &["INSULA_SECRETS_KEY"]].concat());
    refused(&host, &[], Some("no key"), 2, &["64 hexadecimal digits", "INSULA_SECRETS_KEY"]);
    refused(&host, &["--secrets-key", "nowhere"], None, 1, &["nowhere", "cannot be read"]);
    let file = host.file("other.key", &other);
    refused(&host, &["--secrets-key", file.to_str().unwrap()], Some(KEY), 1, &lost);
    let config = host.file("wrong.toml", "secrets_key = 'other.key'");
    refused(&host, &["--config", config.to_str().unwrap()], None, 1, &lost);
    // The right one, and nothing is lost.
    host.restart();
    assert_eq!(told(&host, "shop"), "K=kept\n");
}

#[test]
fn a_key_file_wins_over_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    let flags = ["--secrets-key", file.to_str().unwrap()];
    let wrong = KEY.replace('8', "9");
    let mut host = Setup::new().args(flags).env("INSULA_SECRETS_KEY", &wrong).start();
    set(&host, "shop", "K", "kept").expect(0, &[]);
    host.deploy("shop", &teller(&host), &["--secret", "K"]);
    // No tenant may be shown the key.
    let mount = format!("{}:/keys", dir.path().display());
    let output = host.cli(["deploy", "shop", "teller.wasm", "--mount", &mount]);
    output.expect(3, &["which is the host's alone", "hint:"]);
    host.stop(Signal::TERM);
    refused(&host, &[], Some(&wrong), 1, &["1 of 1 secrets cannot be read"]);
    host.restart();
    assert_eq!(told(&host, "shop"), "K=kept\n");
}
