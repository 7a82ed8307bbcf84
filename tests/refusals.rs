//! Bad input: each with a message that names cause and mend, and with nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::disk::Kind;
use insula_tests::host::can_mount;
use insula_tests::wait::eventually;
use insula_tests::{Host, Output, Setup, repo, wasm};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello", "echo"]));

/// Deploys these bytes over a tenant that runs, which must be refused with `code` and `words`.
#[track_caller]
fn refused(name: &str, bytes: &[u8], code: i32, words: &[&str]) -> Output {
    HOST.deploy(name, &repo::guest("hello"), &[]);
    let file = HOST.file(&format!("{name}.wasm"), bytes);
    let output = HOST.cli(["deploy", name, file.to_str().unwrap()]);
    output.expect(code, &["error:", "hint:"]).expect(code, words);
    assert_eq!(output.stdout, "", "{output:?}");
    // What ran goes on.
    assert_eq!(HOST.tenant(name).summary.revision, 1);
    assert_eq!(HOST.get(name, "/").expect_ok().text(), "Hello from Insula!\n");
    output
}

#[test]
fn files_that_are_no_component() {
    let hello = fs::read(repo::guest("hello")).unwrap();
    refused("text", b"#!/bin/sh\necho hello\n", 3, &["not WebAssembly", "component"]);
    refused("wat", b";; text\n(component)\n", 1, &["WebAssembly text", "wasm-tools parse"]);
    refused("empty", b"", 1, &["is empty"]);
    refused("stub", &hello[..3], 3, &["truncated"]);
    refused("half", &hello[..hello.len() / 2], 3, &["truncated"]);
    refused("almost", &hello[..hello.len() - 1], 3, &["truncated"]);
    refused("future", b"\0asm\x63\0\x01\0", 3, &["version"]);
    let mut damaged = hello.clone();
    damaged[hello.len() / 3..hello.len() / 3 + 64].fill(0xa5);
    refused("damaged", &damaged, 3, &[]);
}

#[test]
fn components_that_cannot_be_served() {
    refused("no-exports", &wasm::binary("(component)"), 3, &["no handler", "incoming-handler"]);
    // An import of the right name with the wrong function in it, and imports that nobody offers.
    for (name, import, named) in [
        (
            "unknown",
            r#"(import "foo:bar/baz@1.2.3" (instance (export "qux" (func))))"#,
            "foo:bar/baz",
        ),
        (
            "draft",
            r#"(import "wasi:keyvalue/store@0.2.0-draft" (instance (export "get" (func))))"#,
            "wasi:keyvalue/store",
        ),
        (
            "function",
            r#"(import "wasi:cli/environment@0.2.0" (instance (export "no-such" (func))))"#,
            "no-such",
        ),
        (
            "type",
            r#"(import "wasi:cli/environment@0.2.0" (instance
            (export "get-arguments" (func (result u64)))))"#,
            "get-arguments",
        ),
        ("bare", r#"(import "helper" (func))"#, "helper"),
    ] {
        let cores = r#"(core module $m (func (export "handle") (param i32 i32)))
            (core instance $i (instantiate $m))"#;
        refused(name, &wasm::component(import, "", cores), 3, &[named, "import"]);
    }
}

#[test]
fn a_handler_that_is_not_there() {
    let hollow = wasm::binary(
        r#"(component (instance $h) (export "wasi:http/incoming-handler@0.2.0" (instance $h)))"#,
    );
    refused("hollow", &hollow, 3, &["handle"]);
}

#[test]
fn handlers_of_another_type() {
    let run = r#"(component (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result u32) (canon lift (core func $i "run")))
        (instance $e (export "run" (func $run)))"#;
    let command = wasm::binary(&format!(r#"{run} (export "wasi:cli/run@0.2.0" (instance $e)))"#));
    refused("odd-run", &command, 3, &["`run`", "wasi:cli/run@0.2.0", "type"]);
    let handler = run.replace("\"run\"", "\"handle\"");
    let handler =
        format!(r#"{handler} (export "wasi:http/incoming-handler@0.2.3" (instance $e)))"#);
    refused("odd-handle", &wasm::binary(&handler), 3, &["`handle`", "incoming-handler", "type"]);
    // The right number of handles, of the wrong resources.
    let swapped = wasm::binary(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type $request (sub resource)))
            (export "response-outparam" (type $outparam (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (core module $m (func (export "handle") (param i32 i32)))
          (core instance $i (instantiate $m))
          (func $handle (param "request" (own $request)) (param "response-out" (own $request))
            (canon lift (core func $i "handle")))
          (instance $handler (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#,
    );
    refused("swapped", &swapped, 3, &["`handle`", "incoming-handler", "type"]);
}

#[test]
fn core_modules_that_are_no_programs() {
    let import = |module: &str, name: &str| {
        format!(
            r#"(import "{module}" "{name}" (func)) (func (export "_start")) (memory (export "memory") 1)"#
        )
    };
    let start = r#"(func (export "_start"))"#;
    for (name, fields, words) in [
        (
            "library",
            r#"(func (export "add"))"#.to_owned(),
            vec!["core module", "`_start`", "add", "wasm-tools component new", "wasm32-wasip2"],
        ),
        (
            "reactor",
            r#"(func (export "_initialize"))"#.into(),
            vec!["`_start`", "_initialize", "main"],
        ),
        (
            "odd-start",
            r#"(func (export "_start") (param i32))"#.into(),
            vec!["`_start`", "without parameters"],
        ),
        ("no-func", r#"(memory (export "_start") 1)"#.into(), vec!["`_start`"]),
        ("env", import("env", "foo"), vec!["`env.foo`", "link"]),
        ("old", import("wasi_unstable", "fd_write"), vec!["`wasi_unstable.fd_write`", "preview 1"]),
        ("threads", import("wasi", "thread-spawn"), vec!["`wasi.thread-spawn`", "threads"]),
        ("browser", import("wbg", "__wbindgen_throw"), vec!["wbg.", "wasm-bindgen"]),
        ("unknown-call", import("wasi_snapshot_preview1", "fd_levitate"), vec!["fd_levitate"]),
        ("typed-call", import("wasi_snapshot_preview1", "fd_close"), vec!["fd_close"]),
        (
            "no-memory",
            format!(
                r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) {start}"#
            ),
            vec!["memory"],
        ),
        (
            "two-memories",
            format!("{} {start}", "(memory 1)".repeat(9)),
            vec!["larger than this host runs"],
        ),
        ("tables", format!("(table 300000 funcref) {start}"), vec!["larger than this host runs"]),
    ] {
        refused(name, &wasm::binary(&format!("(module {fields})")), 3, &words);
    }
    let module = wasm::binary(&format!("(module {start})"));
    refused("cut-module", &module[..module.len() - 2], 3, &["truncated"]);
}

#[test]
fn a_program_has_no_instance_to_reuse() {
    let tool = repo::guest("tool");
    let args = ["deploy", "reused", tool.to_str().unwrap(), "--reuse-requests", "5"];
    HOST.cli(args).expect(3, &["reuse", "program", "hint:"]);
}

/// Writes a manifest beside a component, and deploys it.
#[track_caller]
fn manifest(text: &str) -> Output {
    let dir = tempfile::tempdir_in(HOST.home()).unwrap();
    fs::copy(repo::guest("hello"), dir.path().join("hello.wasm")).unwrap();
    let file = dir.path().join("insula.toml");
    fs::write(&file, text).unwrap();
    HOST.cli([Path::new("deploy"), Path::new("-f"), &file])
}

#[test]
fn manifests_that_are_wrong_are_pointed_at() {
    let good = "name = 'm'\ncomponent = 'hello.wasm'\n";
    for (text, words) in [
        (format!("{good}memroy = '1Mi'\n"), vec!["line 3", "column 1", "memroy", "memory"]),
        (format!("{good}memory = '64MB'\n"), vec!["line 3", "column 10", "Mi"]),
        (format!("{good}memory = true\n"), vec!["line 3"]),
        (format!("{good}timeout = '2'\n"), vec!["line 3", "2s"]),
        (format!("{good}[request]\nbdy = '1Mi'\n"), vec!["line 4", "bdy"]),
        (format!("{good}routes = ['http://a.example']\n"), vec!["line 3", "scheme"]),
        (format!("{good}routes = ['a.example:80']\n"), vec!["line 3", "port"]),
        (format!("{good}routes = ['a.example/../b']\n"), vec!["line 3", "prefix"]),
        (format!("{good}reuse = {{ request = 3 }}\n"), vec!["line 3", "request"]),
        (format!("{good}name = 'again'\n"), vec!["line 3"]),
        ("component = 'hello.wasm'\n".into(), vec!["name"]),
        ("name = 'm'\n".into(), vec!["component"]),
        ("name = 'Shouting'\ncomponent = 'hello.wasm'\n".into(), vec!["line 1", "lower-case"]),
        ("name = 'm'\ncomponent = 'other.wasm'\n".into(), vec!["other.wasm", "does not exist"]),
        ("not toml at all".into(), vec!["line 1"]),
    ] {
        let output = manifest(&text);
        let code = if text.contains("other.wasm") { 1 } else { 2 };
        output.expect(
            code,
            &["error:", "insula.toml"].map(|word| if code == 1 { "error:" } else { word }),
        );
        output.expect(code, &words);
    }
    assert!(HOST.tenants().iter().all(|tenant| tenant.name.as_str() != "m"));
}

#[test]
fn more_than_a_ceiling_is_refused_with_the_ceiling() {
    let hello = repo::guest("hello");
    for (flag, asked, words) in [
        ("--memory", "2Gi", ["memory", "1Gi"]),
        ("--fuel", "2T", ["fuel", "1T"]),
        ("--timeout", "11m", ["timeout", "10m"]),
        ("--concurrency", "1001", ["concurrency", "1000"]),
        ("--queue", "1001", ["queue", "1000"]),
        ("--queue-wait", "31s", ["queue_wait", "30s"]),
        ("--request-body", "17Gi", ["request.body", "16Gi"]),
        ("--request-header", "65Ki", ["request.header", "64Ki"]),
        ("--response-body", "17Gi", ["response.body", "16Gi"]),
        ("--reuse-requests", "2M", ["reuse.requests", "1M"]),
        ("--reuse-idle", "2h", ["reuse.idle", "1h"]),
        ("--memory", "1Ki", ["memory", "64Ki"]),
        ("--fuel", "1", ["fuel", "10k"]),
        ("--concurrency", "0", ["concurrency", "1"]),
    ] {
        let output = HOST.cli(["deploy", "greedy", hello.to_str().unwrap(), flag, asked]);
        output.expect(3, &words).expect(3, &["greedy", asked]);
    }
    let routes: Vec<String> = (0..65).map(|i| format!("--route=r{i}.example")).collect();
    let args = ["deploy", "greedy", hello.to_str().unwrap()].map(str::to_owned);
    HOST.cli(args.into_iter().chain(routes)).expect(3, &["routes", "64"]);
    let repeated = ["--route", "a.example", "--route", "A.example/"];
    let args = ["deploy", "greedy", hello.to_str().unwrap()];
    HOST.cli(args.iter().chain(&repeated)).expect(3, &["a.example", "twice"]);
    assert!(HOST.tenants().iter().all(|tenant| tenant.name.as_str() != "greedy"));
}

#[test]
fn a_route_belongs_to_one_tenant() {
    let hello = repo::guest("hello");
    HOST.deploy("owner", &hello, &["--route", "shop.example/cart", "--route", "shop.example"]);
    for taken in ["shop.example", "SHOP.example/", "shop.example/cart/"] {
        let output = HOST.cli(["deploy", "thief", hello.to_str().unwrap(), "--route", taken]);
        output.expect(3, &["shop.example", "`owner`", "hint:"]);
    }
    // Another tenant's default route is a route like any other.
    let args = ["deploy", "thief", hello.to_str().unwrap(), "--route", "owner2.localhost"];
    HOST.must(args);
    HOST.cli(["deploy", "owner2", hello.to_str().unwrap()]).expect(3, &["`thief`"]);
    let artifact = HOST.tenant("owner").summary.artifact.to_string();
    let body =
        json!({"manifest": {"name": "thief", "routes": ["shop.example"]}, "artifact": artifact});
    let (status, error) = HOST.api("PUT", "/v1/tenants/thief", Some(&body));
    assert_eq!((status, &error["code"]), (409, &json!("route-taken")), "{error}");
    // Given up, it is free.
    HOST.deploy("owner", &hello, &["--route", "shop.example/cart"]);
    HOST.deploy("thief", &hello, &["--route", "shop.example"]);
    HOST.must(["rm", "thief"]);
    HOST.connect().get("shop.example", "/").expect_fault("no-route");
    HOST.connect().get("shop.example", "/cart").expect_ok();
}

#[test]
fn the_control_api_has_one_shape_of_error() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let deploy = |manifest: Value| json!({"manifest": manifest, "artifact": digest});
    let mut deep = json!({"name": "x"});
    deep["nonsense"] = json!(1);
    for (method, path, body, status, code) in [
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("GET", "/dashboard/nothing", None, 404, "not-found"),
        ("POST", "/v1/tenants", None, 405, "bad-request"),
        ("GET", "/v1/tenants/nobody", None, 404, "not-found"),
        ("DELETE", "/v1/tenants/nobody", None, 404, "not-found"),
        ("GET", "/v1/tenants/nobody/logs", None, 404, "not-found"),
        ("GET", "/v1/tenants/nobody/revisions", None, 404, "not-found"),
        ("GET", "/v1/tenants/hello/logs?tial=3", None, 400, "bad-request"),
        ("GET", "/v1/tenants/No_Name", None, 400, "bad-request"),
        ("PUT", "/v1/artifacts/sha256:12", None, 400, "bad-request"),
        ("PUT", "/v1/tenants/x", Some(json!("text")), 400, "bad-request"),
        ("PUT", "/v1/tenants/x", Some(deploy(json!({"name": "y"}))), 400, "bad-request"),
        ("PUT", "/v1/tenants/x", Some(deploy(deep)), 400, "bad-request"),
        ("PUT", "/v1/tenants/x", Some(deploy(json!({"name": "x"}))), 404, "not-found"),
        ("PUT", "/v1/tenants/x", Some(json!({"pad": "x".repeat(300 << 10)})), 413, "too-large"),
        ("POST", "/v1/tenants/hello/rollback", Some(json!({"revision": 99})), 404, "not-found"),
        ("POST", "/v1/tenants/hello/rollback", Some(json!({})), 404, "not-found"),
    ] {
        let (found, error) = HOST.api(method, path, body.as_ref());
        assert_eq!((found, &error["code"]), (status, &json!(code)), "{method} {path}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 5), "{path}: {error}");
    }
    let sent = HOST.api_raw("PUT", &format!("/v1/artifacts/{digest}"), Some(b"\0asm"));
    let error: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!((sent.status(), &error["code"]), (422, &json!("digest-mismatch")), "{error}");
    let sent = HOST.api_raw("PUT", "/v1/tenants/x", Some(b"{\"manifest\": "));
    assert_eq!(sent.status(), 400, "{}", sent.text());
}

#[test]
fn an_artifact_over_its_ceiling_is_refused_before_and_while_it_is_sent() {
    let host = Setup::new().config("[ceilings]\nartifact = '64Ki'\nmemory = '8Mi'\n").start();
    host.deploy("hello", &repo::guest("hello"), &[]);
    // A default above a ceiling is lowered to it.
    assert_eq!(host.tenant("hello").limits.memory_bytes, 8 << 20);
    let args = ["deploy", "echo", repo::guest("echo").to_str().unwrap()].map(str::to_owned);
    host.cli(args).expect(3, &["64Ki", "ceilings.artifact", "hint:"]);
    let digest = HOST.tenant("echo").summary.artifact;
    let bytes = fs::read(repo::guest("echo")).unwrap();
    let answer = host.api_raw("PUT", &format!("/v1/artifacts/{digest}"), Some(&bytes));
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status(), &error["code"]), (413, &json!("too-large")), "{error}");
    assert!(repo::files(&host.data().join("artifacts"), "tmp").is_empty());
    host.get("hello", "/").expect_ok();
}

#[test]
fn a_component_that_compiles_for_ever_is_refused_while_everything_else_goes_on() {
    let config = "[compiler]\ncpu = '3s'\ntimeout = '6s'\nat_once = 2\n";
    let host = Setup::new().config(config).start();
    host.deploy("hello", &repo::guest("hello"), &[]);
    let bomb = host.file("bomb.wasm", wasm::compile_bomb());
    let (refused, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let (refused, answers, host) = (&refused, &answers, &host);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let output = host.cli(["deploy", "bomb", bomb.to_str().unwrap()]);
            output.expect(3, &["compiling took more than", "compiler."]);
            assert!(output.took < Duration::from_secs(25), "{output:?}");
            refused.store(true, Relaxed);
        });
        scope.spawn(move || {
            let mut connection = host.connect();
            while !refused.load(Relaxed) {
                connection.get("hello.localhost", "/").expect_ok();
                answers.fetch_add(1, Relaxed);
                // The compiler steps back behind requests; this leaves it something.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // Another deploy does not wait for it.
        let other = host.deploy("hello-c", &repo::guest("hello-c"), &[]);
        assert!(!refused.load(Relaxed), "the bomb was over before: {other:?}");
        host.get("hello-c", "/").expect_ok();
    });
    assert!(answers.load(Relaxed) > 50, "{answers:?}");
    assert!(host.tenants().iter().all(|tenant| tenant.name.as_str() != "bomb"));
    assert!(repo::files(&host.data().join("code"), "tmp").is_empty(), "half-made code is left");
}

#[test]
fn a_compiler_short_of_memory_says_so() {
    let host = Setup::new().config("[compiler]\nmemory = '96Mi'\n").start();
    let output = host.cli(["deploy", "echo", repo::guest("echo").to_str().unwrap()]);
    output.expect(3, &["96Mi", "compiler.memory"]);
}

#[test]
fn a_full_disk_changes_nothing_and_is_said() {
    if !can_mount(Kind::Tmpfs) {
        eprintln!("skipped: this machine lets nobody mount a disk of their own");
        return;
    }
    let host = Setup::new().disk(16 << 20).start();
    host.deploy("hello", &repo::guest("hello"), &[]);
    let full = host.data().join("filler");
    let mut refusals = 0;
    // Room for ever more of what a deploy writes: the artifact, its code, the database.
    for (round, room) in [0, 8, 40, 72, 104, 136, 168, 232].iter().enumerate() {
        // A component of its own, so that nothing of it is there yet.
        let data = "x".repeat(20 << 10);
        let module = format!(
            r#"(memory 1) (data (i32.const {round}) "{data}") (func (export "handle") (param i32 i32))"#
        );
        let file = host.file("new.wasm", wasm::handler(&module));
        fill(&full, room << 10);
        let args = ["deploy", "new", file.to_str().unwrap()];
        let output = host.cli(args);
        if output.code != Some(0) {
            refusals += 1;
            output.expect(1, &["free some", "disk"]);
        }
        assert_eq!(host.get("hello", "/").expect_ok().text(), "Hello from Insula!\n");
        fs::remove_file(&full).unwrap();
        host.must(args);
        host.get("new", "/").expect_fault("no-response");
        host.must(["rm", "new"]);
    }
    assert!(refusals >= 2, "the disk was never full");
    // The host's own copy of its database has such a name while it is made.
    eventually("no leftovers", || repo::files(&host.data(), "tmp").is_empty().then_some(()));
}

/// Fills a disk but for `room` bytes.
fn fill(file: &Path, room: usize) {
    use std::io::Write;
    let mut filler = fs::File::create(file).unwrap();
    let mut written = 0;
    while let Ok(bytes) = filler.write(&[0; 4096]) {
        written += bytes;
    }
    filler.set_len((written - room) as u64).unwrap();
}
