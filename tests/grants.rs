//! What a tenant may reach: written by manifest or flag, refused where it cannot be given, and shown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::{finish, insula, run};
use insula_tests::{Host, Setup, repo};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(Host::start);

/// Deploys `hello` as `name` with these flags, which must be refused, and with nothing changed.
#[track_caller]
fn refused(host: &Host, name: &str, flags: &[&str], code: i32, words: &[&str]) {
    host.deploy(name, &repo::guest("hello"), &[]);
    let file = repo::guest("hello");
    let args = [&["deploy", name, file.to_str().unwrap()], flags].concat();
    let output = host.cli(args);
    output.expect(code, &["error:"]).expect(code, words);
    assert_eq!(host.tenant(name).summary.revision, 1);
    assert_eq!(host.get(name, "/").expect_ok().text(), "Hello from Insula!\n");
}

fn grants(host: &Host, name: &str) -> Value {
    host.must(["inspect", name, "--json"]).json()["grants"].clone()
}

/// A directory of the host with a manifest for `hello` in it.
fn manifest(host: &Host, dir: &str, text: &str) -> String {
    let dir = host.home().join(dir);
    fs::create_dir_all(&dir).unwrap();
    let hello = repo::guest("hello");
    let text = format!("name = '{}'\ncomponent = '{}'\n{text}", "written", hello.display());
    fs::write(dir.join("insula.toml"), text).unwrap();
    dir.join("insula.toml").to_str().unwrap().to_owned()
}

#[test]
fn nothing_is_granted_unless_it_is_asked_for() {
    HOST.deploy("bare", &repo::guest("hello"), &[]);
    let page = HOST.must(["inspect", "bare"]).stdout;
    assert!(page.contains("nothing          beyond its own memory"), "{page}");
    let granted = grants(&HOST, "bare");
    for (field, value) in granted.as_object().unwrap() {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let clock = json!({"precision_ns": 1_000_000, "fixed_ms": null});
        assert!(empty || (field == "clock" && *value == clock), "{field}: {value}");
    }
}

#[test]
fn every_grant_is_shown_by_inspect() {
    let host = &*HOST;
    fs::create_dir_all(host.home().join("all/assets")).unwrap();
    fs::create_dir_all(host.home().join("all/state")).unwrap();
    let path = manifest(
        host,
        "all",
        "args = ['-v']
         env = { GREETING = 'hello there', RING = \"a\\u0007b\" }
         config = { 'shop.currency' = 'EUR' }
         secrets = { API_KEY = 'config' }
         mounts = [{ host = 'assets', guest = '/assets' },
                   { host = './x/../state', guest = '/state', access = 'rw', quota = '1Mi' }]
         scratch = { guest = '/tmp', quota = '2Mi' }
         outbound = { hosts = ['https://api.example.com', 'self'], private = ['10.0.0.0/8'] }
         keyvalue = { stores = ['carts'], quota = '3Mi' }
         clock = { fixed = '2026-01-01T00:00:00Z' }
         seed = 7
         sockets = ['tcp://10.0.0.1:5432']
         build = { command = 'make' }",
    );
    let mut set = insula(host.home());
    set.env("INSULA_DATA", host.data()).args(["secret", "set", "written", "API_KEY"]);
    finish(&mut set, b"hidden").expect(0, &[]);
    host.must(["validate", &path]);
    host.must(["deploy", "-f", &path]);
    let page = host.must(["inspect", "written"]).stdout;
    let home = fs::canonicalize(host.home()).unwrap();
    let mounted = format!("{}/all/assets → /assets (ro)", home.display());
    for shown in [
        "\nreaches\n",
        "args             \"-v\"",
        "env              GREETING=hello there\n                   RING=a\\x07b",
        "config           shop.currency=EUR",
        "secrets          API_KEY, by wasi:config",
        &mounted,
        "/all/state → /state (rw, 1Mi)",
        "scratch          /tmp (2Mi, empty for each instance)",
        "outbound         https://api.example.com\n                   self",
        "private network 10.0.0.0/8",
        "at most 16 calls at once, 10s each, 10Mi out, 10Mi in",
        "keyvalue         carts (3Mi together)",
        "clock            stands still at 2026-01-01T00:00:00Z",
        "seed             7",
        "sockets          tcp://10.0.0.1:5432",
    ] {
        assert!(page.contains(shown), "{shown}\n{page}");
    }
    assert!(!page.contains("hidden"));
    let detail = host.must(["inspect", "written", "--json"]).json();
    assert_eq!(detail["grants"]["secrets"], json!([["API_KEY", "config"]]));
    // How it was built is not sent.
    assert_eq!(detail["manifest"]["build"], Value::Null, "{detail}");
}

#[test]
fn flags_grant_what_a_manifest_can_and_add_to_it() {
    let host = &*HOST;
    let home = host.home().to_owned();
    for dir in ["flags/one", "flags/two", "here"] {
        fs::create_dir_all(home.join(dir)).unwrap();
    }
    let path = manifest(
        host,
        "flags",
        "args = ['old']\nenv = { A = '1', B = '2' }\nmounts = [{ host = 'one', guest = '/d' }]
         outbound = { hosts = ['self'] }",
    );
    let written = fs::read_to_string(&path).unwrap().replace("'written'", "'flagged'");
    fs::write(&path, written).unwrap();
    host.must([
        "deploy",
        "-f",
        &path,
        "--env",
        "B=3=3",
        "--env",
        "C=",
        "--arg",
        "--new",
        "--arg",
        "x",
        "--config",
        "k=v",
        "--mount",
        "flags/two:/d/:rw",
        "--mount",
        "here:/here",
        "--keyvalue",
        "--keyvalue=other",
        "--allow-outbound",
        "https://a.example",
        "--reuse-requests",
        "5",
    ]);
    let home = fs::canonicalize(home).unwrap();
    let granted = grants(host, "flagged");
    assert_eq!(granted["args"], json!(["--new", "x"]));
    assert_eq!(granted["env"], json!([["A", "1"], ["B", "3=3"], ["C", ""]]));
    assert_eq!(granted["config"], json!([["k", "v"]]));
    assert_eq!(granted["keyvalue"]["stores"], json!(["default", "other"]));
    assert_eq!(granted["outbound"]["hosts"], json!(["self", "https://a.example"]));
    let mounts = json!([
        {"host": home.join("flags/two"), "guest": "/d", "access": "rw", "quota_bytes": null},
        {"host": home.join("here"), "guest": "/here", "access": "ro", "quota_bytes": null},
    ]);
    assert_eq!(granted["mounts"], mounts);
    for (flag, words) in [
        (["--env", "A"], "NAME=VALUE"),
        (["--mount", "/srv"], "HOST:GUEST"),
        (["--mount", "/srv:data"], "GUEST is an absolute path"),
        (["--allow-outbound", "a.example"], "no scheme"),
        (["--schedule", "sometimes"], "cron"),
        (["--secret", "A=s3cret"], "never by a flag"),
    ] {
        let output = host.cli([&["deploy", "a", "b.wasm"][..], &flag].concat());
        output.expect(2, &[words]);
    }
}

#[test]
fn a_directory_that_cannot_be_mounted_says_which_and_why() {
    let host = &*HOST;
    let home = host.home();
    fs::create_dir_all(home.join("real")).unwrap();
    fs::write(home.join("file"), "x").unwrap();
    symlink(home.join("data"), home.join("link-to-data")).unwrap();
    for (name, mount, words) in [
        ("m-none", "none:/d", &["/none cannot be opened", "No such file", "mkdir -p"][..]),
        ("m-file", "file:/d", &["/file cannot be opened", "Not a directory"]),
        ("m-data", "data:/d", &["which is the host's alone", "hint:"]),
        ("m-below", "data/artifacts:/d", &["which is the host's alone"]),
        ("m-above", ".:/d", &["which is the host's alone"]),
        ("m-root", "/:/d", &["which is the host's alone"]),
        ("m-link", "link-to-data:/d", &["which is the host's alone"]),
        ("m-twice", "real:/d:ro", &["mounted twice"]),
    ] {
        let more: &[&str] = if name == "m-twice" { &["--mount", "real:/d/"] } else { &[] };
        refused(host, name, &[&["--mount", mount][..], more].concat(), 3, words);
    }
    // A system that nobody can write to.
    if Path::new("/sys/kernel").is_dir() && fs::write("/sys/kernel/x", "").is_err() {
        let output = host.cli([
            "deploy",
            "m-sys",
            repo::guest("hello").to_str().unwrap(),
            "--mount",
            "/proc/sys/kernel/random:/d:rw",
        ]);
        if output.code == Some(3) {
            output.expect(3, &["cannot be written"]);
        }
    }
}

#[test]
fn the_ceiling_of_mounts_holds_for_what_links_lead_to() {
    let dir = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    for inner in ["allowed/ok", "outside"] {
        fs::create_dir_all(real.join(inner)).unwrap();
    }
    symlink(real.join("outside"), real.join("allowed/escape")).unwrap();
    symlink(real.join("allowed/ok"), real.join("allowed/inner")).unwrap();
    let allowed = real.join("allowed").display().to_string();
    let config = format!(
        "[ceilings]\nmounts = ['{allowed}/']\nkeyvalue = '1Mi'\nstorage = '1Mi'\noutbound_concurrency = 2\noutbound_body = '1Ki'\n"
    );
    let mut host = Setup::new().config(&config).start();
    let mount = |path: &str| format!("{}/{path}:/d", real.display());
    refused(&host, "outside", &["--mount", &mount("outside")], 3, &["ceilings.mounts", &allowed]);
    let escape = ["is outside of what this host allows"; 1];
    refused(&host, "dots", &["--mount", &mount("allowed/../outside")], 3, &escape);
    let escape = ["allowed/escape is ", "/outside, which is outside", "ceilings.mounts"];
    refused(&host, "escape", &["--mount", &mount("allowed/escape")], 3, &escape);
    host.deploy("inner", &repo::guest("hello"), &["--mount", &mount("allowed/inner")]);
    assert_eq!(grants(&host, "inner")["mounts"][0]["host"], json!(real.join("allowed/ok")));
    // A directory that has gone is not gone back to.
    host.deploy("inner", &repo::guest("hello"), &[]);
    fs::remove_dir(real.join("allowed/ok")).unwrap();
    host.cli(["rollback", "inner"]).expect(3, &["allowed/ok cannot be opened", "mkdir -p"]);
    symlink(real.join("outside"), real.join("allowed/ok")).unwrap();
    host.cli(["rollback", "inner"]).expect(3, &["outside of what this host allows"]);
    assert_eq!(host.tenant("inner").summary.revision, 2);
    host.stop(Signal::TERM);
    let config = host.file("relative.toml", "[ceilings]\nmounts = ['srv']\n");
    let output = run(host.home(), ["serve", "--config", config.to_str().unwrap()]);
    output.expect(2, &["`ceilings.mounts`: `srv` is not an absolute path"]);
}

#[test]
fn grants_must_fit_the_kind_of_guest() {
    let host = &*HOST;
    refused(host, "job", &["--schedule", "*/5 * * * *"], 3, &["`schedule`", "http-0.2", "hint:"]);
    let many = ["--reuse-concurrent", "4"];
    refused(host, "many", &many, 3, &["`reuse.concurrent`", "WASI 0.3", "hint:"]);
    host.deploy("p3", &repo::guest("hello-p3"), &many);
    assert_eq!(host.tenant("p3").limits.reuse.unwrap().concurrent, 4);
    host.get("p3", "/").expect_ok();
    let tool = repo::guest("tool");
    let output = host.cli(["deploy", "cgi", tool.to_str().unwrap(), "--reuse-requests", "5"]);
    output.expect(3, &["`reuse`", "command", "once for each request", "hint:"]);
}

#[test]
fn validate_checks_grants_without_a_host() {
    let host = &*HOST;
    let check = |text: &str, code: i32, words: &[&str]| {
        let path = manifest(host, "checked", text);
        let config = host.file("small.toml", "[ceilings]\nmounts = []\nkeyvalue = '1Mi'\n");
        let args = ["validate", &path, "--config", config.to_str().unwrap()];
        host.cli(args).expect(code, words);
    };
    check("env = { A = '1' }\nsecrets = { B = 'config' }", 0, &[]);
    check("mounts = [{ host = '.', guest = '/d' }]", 2, &["ceilings.mounts", "nothing"]);
    check("keyvalue = { quota = '2Mi' }", 2, &["keyvalue.quota", "ceiling of 1Mi"]);
    check("secrets = { B = 'file' }", 2, &["line 3", "`env` or `config`"]);
    check("env = { A = '1' }\nsecrets = { A = 'env' }", 2, &["is a secret too"]);
    check("schedule = 'daily'", 2, &["cron"]);
}
