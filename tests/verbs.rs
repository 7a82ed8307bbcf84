//! One verb after another: what it prints, for people and for programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::HostInfo;
use insula_tests::cli::{finish, insula, run};
use insula_tests::process::Server;
use insula_tests::wait::eventually;
use insula_tests::{Host, repo};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;

static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::with_guests(&["hello", "hello-p3", "hostile-flood", "hostile-trap"]));

#[test]
fn ps_lists_tenants_workers_or_names() {
    for _ in 0..3 {
        HOST.get("hello-p3", "/").expect_ok();
    }
    // A request is counted when it has ended, which its client may hear of before.
    eventually("three are counted", || (HOST.counters("hello-p3").requests == 3).then_some(()));
    let table = HOST.must(["ps"]).stdout;
    let mut lines = table.lines();
    let header = lines.next().unwrap();
    for title in ["NAME", "REV", "KIND", "ROUTES", "REQUESTS", "FAULTS", "SHED"] {
        assert!(header.contains(title), "{header}");
    }
    let row = lines.find(|line| line.starts_with("hello-p3 ")).unwrap();
    assert!(row.contains("http-0.3") && row.contains("hello-p3.localhost"), "{row}");
    // Numbers stand under the ends of their headers.
    let end = header.find("REQUESTS").unwrap() + "REQUESTS".len();
    assert!(row[..end].ends_with('3'), "{table}");
    let names = HOST.must(["ps", "-q"]).stdout;
    assert_eq!(names.lines().take(2).collect::<Vec<_>>(), ["hello", "hello-p3"]);
    let workers = HOST.must(["ps", "--workers"]).stdout;
    assert_eq!(workers.lines().count(), 3, "{workers}");
    for worker in HOST.workers() {
        assert!(workers.contains(&worker.pid.unwrap().to_string()), "{workers}");
    }
    let info: HostInfo =
        serde_json::from_value(HOST.must(["ps", "--workers", "--json"]).json()).unwrap();
    assert_eq!((info.pid, info.workers.len()), (HOST.pid(), 2));
    // An empty host says how to go on, and nothing to a program.
    let empty = Host::start();
    let output = empty.must(["ps"]);
    assert!(output.stderr.contains("insula deploy"), "{output:?}");
    assert_eq!(empty.must(["ps", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn inspect_shows_limits_and_figures() {
    let page = HOST.must(["inspect", "hello"]).stdout;
    let digest = HOST.tenant("hello").summary.artifact.to_string();
    let url = format!("http://hello.localhost:{}/", HOST.addr().port());
    for shown in ["64Mi", "1G", "10s", "http-0.2", digest.as_str(), url.as_str(), "guest faults"] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let json = HOST.must(["inspect", "hello", "--json"]).json();
    assert_eq!(json["counters"]["guest_faults"], 0, "{json}");
    assert!(json["code_bytes"].as_u64().unwrap() > 1_000, "{json}");
}

#[test]
fn logs_show_the_newest_lines_and_follow() {
    HOST.deploy("chatty", &repo::guest("hostile-flood"), &[]);
    HOST.get("chatty", "/go?lines=5").expect_ok();
    eventually("ten lines", || (HOST.records("chatty").len() == 10).then_some(()));
    let lines = HOST.must(["logs", "chatty", "-n", "3"]).stdout;
    assert_eq!(lines.lines().count(), 3, "{lines}");
    assert!(lines.contains("5 all work"), "{lines}");
    let json = HOST.must(["logs", "chatty", "--json"]).stdout;
    let streams: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["stream"].clone())
        .collect();
    assert_eq!(streams.iter().filter(|stream| **stream == "stderr").count(), 5, "{streams:?}");
    // Following ends with the tenant.
    let dir = tempfile::tempdir().unwrap();
    let mut command = insula(dir.path());
    command.env("INSULA_DATA", HOST.data()).args(["logs", "chatty", "-f", "-n", "0"]);
    let mut following = Server::start(command.stderr(Stdio::null()), dir.path());
    eventually("a line that is followed", || {
        HOST.get("chatty", "/go?lines=1").expect_ok();
        following.printed().contains("1 all work").then_some(())
    });
    assert!(!following.printed().contains("5 all work"), "{}", following.printed());
    HOST.must(["rm", "chatty"]);
    let ended = following.wait(insula_tests::wait::PATIENCE).expect("it ends with the tenant");
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_trap_is_told_with_its_request_and_where_it_was() {
    let answer = HOST.get("hostile-trap", "/go");
    let id = answer.request_id();
    HOST.eventually_told("hostile-trap", id, "trap");
    let shown = HOST.must(["logs", "hostile-trap"]).stdout;
    assert!(shown.contains("host   trap: ") && shown.contains("unreachable"), "{shown}");
    assert!(HOST.must(["logs", "hostile-trap", "--json"]).stdout.contains(id));
}

#[test]
fn pipes_get_no_colours_and_may_close() {
    for verb in [&["ps"][..], &["inspect", "hello"], &["logs", "hostile-trap"], &["--help"]] {
        let output = HOST.cli(verb);
        assert!(!output.stdout.contains('\x1b') && !output.stderr.contains('\x1b'), "{output:?}");
    }
    // A reader that has seen enough is no reason to complain.
    let mut command = std::process::Command::new("sh");
    let script = r#"{ sleep 0.2; "$0" completions bash; echo "code $?" >&2; } | true"#;
    command.args(["-c", script]).arg(insula_tests::binary::insula());
    let output = finish(&mut command, b"");
    assert_eq!(output.stderr.trim(), "code 0", "{output:?}");
}

#[test]
fn the_schema_names_every_path_and_no_other() {
    let documented: Vec<String> = repo::text("host/model/src/api/mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! ")?.split_whitespace().nth(1).map(str::to_owned))
        .filter(|path| path.starts_with("/v1/"))
        .collect();
    assert!(documented.len() >= 11, "{documented:?}");
    let schema = HOST.must(["openapi"]).json();
    let (status, served) = HOST.api("GET", "/v1/openapi.json", None);
    assert_eq!((status, &served), (200, &schema));
    let paths = schema["paths"].as_object().unwrap();
    for path in &documented {
        assert!(paths.contains_key(path), "{path} is not in the schema");
    }
    for path in paths.keys().filter(|path| path.starts_with("/v1/")) {
        assert!(documented.contains(path), "{path} is not in model/src/api/mod.rs");
    }
    // Every answer of 400 and above has the one shape.
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.as_str() >= "400" && method != "head" && path.starts_with("/v1/") {
                    let shape = response["content"]["application/json"]["schema"]["$ref"].as_str();
                    let is_error = shape.is_some_and(|shape| shape.ends_with("/ErrorBody"));
                    assert!(is_error, "{method} {path} {status}: {response}");
                }
            }
        }
    }
}

#[test]
fn validate_checks_without_a_host() {
    let home = tempfile::tempdir().unwrap();
    let validate = |path: &Path, more: &[&str]| {
        let args = ["validate".as_ref(), path.as_os_str()];
        run(home.path(), args.into_iter().chain(more.iter().map(std::ffi::OsStr::new)))
    };
    let all = validate(&repo::root().join("guests"), &[]);
    all.expect(0, &[]);
    assert!(all.stdout.contains("ok: hello ") && all.stdout.lines().count() >= 16, "{all:?}");
    let manifest = home.path().join("insula.toml");
    fs::write(&manifest, "name = 'x'\ncomponent = 'x.wasm'\nmemory = '2Gi'\n").unwrap();
    validate(&manifest, &[]).expect(2, &["insula.toml", "memory", "1Gi"]);
    fs::write(&manifest, "name = 'x'\ncomponent = 'x.wasm'\nmemory = '64Mi'\n").unwrap();
    validate(&manifest, &[]).expect(2, &["insula.toml", "x.wasm"]);
    fs::copy(repo::guest("hello"), home.path().join("x.wasm")).unwrap();
    validate(&manifest, &[]).expect(0, &[]);
    let config = home.path().join("host.toml");
    fs::write(&config, "[ceilings]\nmemory = '32Mi'\n").unwrap();
    validate(&manifest, &["--config", config.to_str().unwrap()]).expect(2, &["memory", "32Mi"]);
}

#[test]
fn a_host_is_found_by_its_socket_too() {
    let socket = HOST.data().join("control.sock");
    let home = tempfile::tempdir().unwrap();
    let by_flag =
        run(home.path(), ["ps".as_ref(), "-q".as_ref(), "--host".as_ref(), socket.as_os_str()]);
    by_flag.expect(0, &[]);
    assert!(by_flag.stdout.starts_with("hello\n"), "{by_flag:?}");
    let mut by_variable = insula(home.path());
    by_variable.env("INSULA_HOST", format!("unix://{}", socket.display())).args(["ps", "-q"]);
    assert_eq!(finish(&mut by_variable, b"").stdout, by_flag.stdout);
    // Without either it is the default directory's, where nobody is.
    run(home.path(), ["ps"]).expect(5, &[".local/share/insula/control.sock", "insula serve"]);
    let both = ["ps", "--host", "a", "--data", "b"];
    run(home.path(), both).expect(2, &["--data", "--host"]);
}

#[test]
fn run_keeps_what_it_compiled() {
    let home = tempfile::tempdir().unwrap();
    let tool = repo::guest("tool");
    let once = || run(home.path(), ["run".as_ref(), tool.as_os_str()]);
    once().expect(0, &[]);
    let cache = home.path().join(".cache/insula/run");
    let compiled = repo::files(&cache, "code");
    assert_eq!(compiled.len(), 1, "{compiled:?}");
    let modified = fs::metadata(&compiled[0]).unwrap().modified().unwrap();
    once().expect(0, &[]);
    assert_eq!(fs::metadata(&compiled[0]).unwrap().modified().unwrap(), modified);
    // Tampered with, it is compiled again, never run.
    let mut bytes = fs::read(&compiled[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&compiled[0], &bytes).unwrap();
    let output = once();
    output.expect(0, &[]);
    assert!(output.stdout.starts_with("args: "), "{output:?}");
    assert_ne!(fs::read(&compiled[0]).unwrap(), bytes);
    // No host is needed, and none is left behind.
    assert!(!home.path().join(".local").exists());
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let home = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["frobnicate"],
        &["deploy"],
        &["deploy", "name"],
        &["deploy", "name", "file", "--memory", "64MB"],
        &["deploy", "name", "file", "--route", "http://x"],
        &["deploy", "name", "file", "-f", "x.toml"],
        &["rm"],
        &["serve", "--workers", "0"],
        &["serve", "--workers", "257"],
        &["serve", "--instances", "63"],
        &["serve", "--instances", "16385"],
        &["serve", "--listen", "localhost"],
        &["serve", "--drain", "soon"],
        &["serve", "--log", "no=such=filter"],
        &["serve", "--config", "/no/such/file"],
        &["ps", "-q", "--json"],
    ] {
        let output = run(home.path(), args);
        output.expect(2, &[]);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}
