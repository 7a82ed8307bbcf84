//! Namespaces: what all tenants of one may have together, and that nothing gets past it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::{self, insula};
use insula_tests::{Host, Output, repo};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// One host, in which each test has namespaces of its own.
static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello"]));

/// Deploys `hello` as `name` into `namespace`.
#[track_caller]
fn offer(host: &Host, name: &str, namespace: &str, flags: &[&str]) -> Output {
    let hello = repo::guest("hello");
    let args = ["deploy", name, hello.to_str().unwrap(), "-n", namespace];
    host.cli(args.iter().chain(flags))
}

#[track_caller]
fn accepted(host: &Host, name: &str, namespace: &str, flags: &[&str]) {
    offer(host, name, namespace, flags).expect(0, &[]);
}

/// What a namespace's tenants have, as the API says it.
#[track_caller]
fn used(host: &Host, namespace: &str) -> Value {
    host.must(["namespace", "inspect", namespace, "--json"]).json()["used"].clone()
}

fn exists(host: &Host, name: &str) -> bool {
    host.api("GET", &format!("/v1/tenants/{name}"), None).0 == 200
}

#[test]
fn a_deploy_beyond_a_quota_is_refused_with_the_sums() {
    HOST.must(["namespace", "set", "sums", "--cpu", "1", "--memory", "256Mi", "--tenants", "3"]);
    accepted(&HOST, "sums-a", "sums", &["--cpu-limit", "600m", "--memory-limit", "128Mi"]);
    let refused = |flags: &[&str], words: &[&str]| {
        let output = offer(&HOST, "sums-x", "sums", flags);
        output.expect(3, &["`sums-x`", "namespace `sums`", "hint:"]).expect(3, words);
        assert!(!exists(&HOST, "sums-x"), "it is there all the same");
    };
    refused(
        &["--cpu-limit", "500m", "--memory-limit", "64Mi"],
        &["cpu: 600m used by others + 500m asked = 1100m, above the quota of 1", "namespace set"],
    );
    refused(
        &["--cpu-limit", "100m", "--memory-limit", "192Mi"],
        &["memory: 128Mi used by others + 192Mi asked = 320Mi, above the quota of 256Mi"],
    );
    // Without a limit it may have 1Gi; of the CPU there is no sum at all then.
    refused(&["--cpu-limit", "100m"], &["1Gi asked = 1152Mi"]);
    refused(&["--memory-limit", "64Mi"], &["no `cpu.limit`", "--cpu-limit"]);
    // A request is no limit.
    refused(&["--cpu-request", "100m", "--memory-limit", "64Mi"], &["no `cpu.limit`"]);
    // Everything that is wrong is told at once.
    refused(&["--cpu-limit", "401m"], &["= 1001m", "= 1152Mi"]);
    // What fills it to the brim fits, and then there are as many as there may be.
    accepted(&HOST, "sums-b", "sums", &["--cpu-limit", "300m", "--memory-limit", "126Mi"]);
    accepted(&HOST, "sums-c", "sums", &["--cpu-limit", "0.1", "--memory-limit", "2Mi"]);
    refused(
        &["--cpu-limit", "1m", "--memory-limit", "64Ki"],
        &["tenants: 3 used by others + 1 asked = 4, above the quota of 3", "= 1001m"],
    );
    let sums = used(&HOST, "sums");
    assert_eq!(sums["cpu_m"], 1_000, "{sums}");
    assert_eq!(sums["memory_bytes"], 256 << 20, "{sums}");
    assert_eq!(sums["tenants"], 3, "{sums}");
    // To a program it is one word.
    let artifact = HOST.tenant("hello").summary.artifact.to_string();
    let body = json!({"manifest": {"name": "sums-x", "namespace": "sums"}, "artifact": artifact});
    let (status, error) = HOST.api("PUT", "/v1/tenants/sums-x", Some(&body));
    assert_eq!((status, &error["code"]), (403, &json!("quota")), "{error}");
    // Others have quotas of their own, or none.
    HOST.get("sums-a", "/").expect_ok();
    accepted(&HOST, "elsewhere", "default", &[]);
}

#[test]
fn storage_is_all_that_a_tenant_may_write() {
    HOST.must(["namespace", "set", "disk", "--storage", "100Mi"]);
    let manifest = |name: &str, more: &str| {
        let hello = repo::guest("hello");
        let text = format!("name = '{name}'\ncomponent = '{}'\n{more}", hello.display());
        HOST.file(&format!("{name}.toml"), format!("namespace = 'disk'\n{text}"))
    };
    let offer = |name: &str, more: &str| {
        let path = manifest(name, more);
        HOST.cli(["deploy", "-f", path.to_str().unwrap()])
    };
    let dir = HOST.home().join("mounted");
    std::fs::create_dir_all(&dir).unwrap();
    let mount =
        |more: &str| format!("mounts = [{{ host = '{}', guest = '/m' {more} }}]", dir.display());
    offer("disk-a", "scratch = { quota = '40Mi' }\nkeyvalue = { quota = '20Mi' }").expect(0, &[]);
    assert_eq!(used(&HOST, "disk")["storage_bytes"], 60 << 20);
    let sums = "storage: 60Mi used by others + 41Mi asked = 101Mi, above the quota of 100Mi";
    offer("disk-b", "keyvalue = { quota = '41Mi' }").expect(3, &[sums]);
    offer("disk-b", &mount(", access = 'rw', quota = '41Mi'")).expect(3, &[sums]);
    // A directory without a quota has no bound but the disk's; one that is only read takes nothing.
    offer("disk-b", &mount(", access = 'rw'"))
        .expect(3, &["`rw` and no `quota`", "mounts[].quota"]);
    offer("disk-b", &mount("")).expect(0, &[]);
    offer("disk-b", &mount(", access = 'rw', quota = '40Mi'")).expect(0, &[]);
    offer("disk-c", "").expect(0, &[]);
    offer("disk-c", "scratch = { quota = '1Mi' }").expect(3, &["= 101Mi"]);
}

#[test]
fn a_rollback_to_a_larger_revision_is_refused_until_there_is_room() {
    HOST.must(["namespace", "set", "back", "--memory", "256Mi"]);
    accepted(&HOST, "back-a", "back", &["--memory-limit", "200Mi"]);
    accepted(&HOST, "back-a", "back", &["--memory-limit", "64Mi"]);
    accepted(&HOST, "back-b", "back", &["--memory-limit", "150Mi"]);
    let refused = HOST.cli(["rollback", "back-a"]);
    refused.expect(3, &["memory: 150Mi used by others + 200Mi asked = 350Mi", "256Mi"]);
    HOST.cli(["rollback", "back-a", "1"]).expect(3, &["= 350Mi"]);
    assert_eq!(HOST.tenant("back-a").summary.revision, 2);
    assert_eq!(used(&HOST, "back")["memory_bytes"], 214 << 20);
    // A removal frees what the tenant had.
    HOST.must(["rm", "back-b"]);
    HOST.must(["rollback", "back-a"]);
    assert_eq!(HOST.tenant("back-a").summary.revision, 1);
    assert_eq!(used(&HOST, "back")["memory_bytes"], 200 << 20);
    HOST.must(["rm", "back-a"]);
    assert_eq!(used(&HOST, "back")["memory_bytes"], 0);
    accepted(&HOST, "back-c", "back", &["--memory-limit", "256Mi"]);
}

#[test]
fn a_quota_below_what_is_there_refuses_only_what_adds() {
    let limits = ["--cpu-limit", "500m", "--memory-limit", "128Mi"];
    HOST.must(["namespace", "set", "less"]);
    accepted(&HOST, "less-a", "less", &limits);
    accepted(&HOST, "less-free", "less", &["--memory-limit", "64Mi"]);
    let set = HOST.must(["namespace", "set", "less", "--cpu", "100m", "--memory", "32Mi"]);
    assert_eq!(set.stdout.trim(), "set less: cpu 100m, memory 32Mi", "{set:?}");
    assert!(set.stderr.contains("cpu: its tenants have 500m already"), "{set:?}");
    assert!(set.stderr.contains("memory: its tenants have 192Mi already"), "{set:?}");
    let page = HOST.must(["namespace", "inspect", "less"]).stdout;
    assert!(page.contains("500m used and 1 tenant without cpu.limit, quota 100m"), "{page}");
    // As it was, and changed in what does not count.
    let again = offer(&HOST, "less-a", "less", &limits);
    assert!(again.expect(0, &[]).stdout.contains("unchanged"), "{again:?}");
    let other: Vec<&str> = limits.into_iter().chain(["--timeout", "3s"]).collect();
    accepted(&HOST, "less-a", "less", &other);
    accepted(&HOST, "less-free", "less", &["--memory-limit", "63Mi"]);
    let mut secret = insula(HOST.home());
    secret.env("INSULA_DATA", HOST.data()).args(["secret", "set", "less-a", "KEY"]);
    cli::finish(&mut secret, b"value").expect(0, &[]);
    // Less of one while it has more of another is more.
    let shifted = ["--cpu-limit", "501m", "--memory-limit", "64Mi"];
    offer(&HOST, "less-a", "less", &shifted).expect(3, &["501m asked", "quota of 100m"]);
    accepted(&HOST, "less-a", "less", &["--cpu-limit", "400m", "--memory-limit", "127Mi"]);
    offer(&HOST, "less-a", "less", &limits).expect(3, &["cpu", "memory"]);
    offer(&HOST, "less-a", "less", &["--memory-limit", "1Mi"]).expect(3, &["no `cpu.limit`"]);
    let new = ["--cpu-limit", "1m", "--memory-limit", "64Ki"];
    offer(&HOST, "less-b", "less", &new).expect(3, &["= 401m", "above the quota of 32Mi"]);
    HOST.get("less-a", "/").expect_ok();
    // Set again without them, there is no bound.
    let set = HOST.must(["namespace", "set", "less"]);
    assert_eq!((set.stdout.trim(), set.stderr.as_str()), ("set less: no quota", ""));
    accepted(&HOST, "less-b", "less", &["--cpu-limit", "1m", "--memory-limit", "2Mi"]);
}

#[test]
fn deploys_at_the_same_time_do_not_pass_a_quota_together() {
    // A host of its own, so that all of them wait for the same compiler and then publish at once.
    let host = Host::start();
    host.must(["namespace", "set", "race", "--memory", "350Mi"]);
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let deploy = |i: u32| {
            let host = &host;
            let limit = ["--memory-limit", "100Mi"];
            scope.spawn(move || offer(host, &format!("race-{i}"), "race", &limit))
        };
        let all: Vec<_> = (0..8).map(deploy).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let done = outputs.iter().filter(|output| output.code == Some(0)).count();
    assert_eq!(done, 3, "{outputs:#?}");
    for refused in outputs.iter().filter(|output| output.code != Some(0)) {
        refused.expect(3, &["100Mi asked = 400Mi", "above the quota of 350Mi"]);
    }
    assert_eq!(host.tenants().len(), 3);
    assert_eq!(used(&host, "race")["memory_bytes"], 300 << 20);
}

#[test]
fn a_restart_keeps_quotas_and_sums() {
    let mut host = Host::start();
    let flags = ["--cpu", "1", "--memory", "256Mi", "--tenants", "7", "--storage", "1Gi"];
    host.must(["namespace", "set", "kept"].iter().chain(&flags));
    host.must(["namespace", "set", "empty"]);
    let limits = ["--cpu-limit", "600m", "--memory-limit", "200Mi", "--keyvalue"];
    accepted(&host, "kept-a", "kept", &limits);
    let before = host.must(["namespace", "ls", "--json"]).json();
    assert_eq!(before.as_array().unwrap().len(), 3, "{before}");
    for end in [Signal::KILL, Signal::TERM] {
        host.stop(end);
        host.restart();
        assert_eq!(host.must(["namespace", "ls", "--json"]).json(), before);
        let words = ["= 1100m", "= 300Mi"];
        offer(&host, "kept-b", "kept", &["--cpu-limit", "0.5", "--memory-limit", "100Mi"])
            .expect(3, &words);
        assert_eq!(host.tenant("kept-a").summary.namespace.as_str(), "kept");
    }
}

#[test]
fn a_tenant_stays_in_its_namespace() {
    HOST.must(["namespace", "set", "home"]);
    accepted(&HOST, "settled", "home", &[]);
    let hello = repo::guest("hello");
    // A deploy says everything about a tenant: one that names no namespace says `default`.
    HOST.cli(["deploy", "settled", hello.to_str().unwrap()]).expect(
        3,
        &["`settled` is in namespace `home`", "move to `default`", "--namespace home", "insula rm"],
    );
    HOST.cli(["namespace", "rm", "home"]).expect(3, &["has 1 tenant", "ps -q -n home"]);
    assert_eq!(HOST.tenant("settled").summary.revision, 1);
    HOST.must(["rm", "settled"]);
    HOST.deploy("settled", &hello, &[]);
    assert_eq!(HOST.tenant("settled").summary.namespace.as_str(), "default");
    assert_eq!(HOST.must(["namespace", "rm", "home"]).stdout.trim(), "removed namespace home");
    offer(&HOST, "settled", "home", &[]).expect(3, &["is in namespace `default`"]);
}

#[test]
fn the_manifest_names_a_namespace_and_the_flag_another() {
    for name in ["written", "said"] {
        HOST.must(["namespace", "set", name]);
    }
    let hello = repo::guest("hello");
    let text =
        format!("name = 'placed'\nnamespace = 'written'\ncomponent = '{}'\n", hello.display());
    let path = HOST.file("placed.toml", text);
    HOST.must(["deploy", "-f", path.to_str().unwrap()]);
    let inspect = || HOST.must(["inspect", "placed"]).stdout;
    let line =
        |page: &str| page.lines().find(|line| line.contains("namespace")).unwrap().to_owned();
    assert!(line(&inspect()).ends_with(" written"), "{}", inspect());
    let json = HOST.must(["inspect", "placed", "--json"]).json();
    assert_eq!(json["namespace"], "written", "{json}");
    HOST.must(["rm", "placed"]);
    HOST.must(["deploy", "-f", path.to_str().unwrap(), "--namespace", "said"]);
    assert!(line(&inspect()).ends_with(" said"), "{}", inspect());
    // `ps` shows it, and lists one alone.
    let table = HOST.must(["ps"]).stdout;
    let header = table.lines().next().unwrap();
    let at = header.find("NAMESPACE").expect("a column");
    let row = table.lines().find(|row| row.starts_with("placed ")).unwrap();
    assert_eq!(row[at..].split_whitespace().next(), Some("said"), "{table}");
    assert_eq!(HOST.must(["ps", "-q", "-n", "said"]).stdout, "placed\n");
    let json = HOST.must(["ps", "--namespace", "said", "--json"]).json();
    assert_eq!((json.as_array().unwrap().len(), &json[0]["name"]), (1, &json!("placed")));
    let none = HOST.must(["ps", "-n", "written"]);
    assert!(none.stderr.contains("namespace written has no tenants"), "{none:?}");
    let table = HOST.must(["namespace", "ls"]).stdout;
    let row = table.lines().find(|row| row.starts_with("said ")).unwrap();
    assert_eq!(row.split_whitespace().nth(1), Some("1"), "{table}");
}

#[test]
fn wrong_names_and_requests_are_refused() {
    let mend = ["no namespace `nowhere`", "insula namespace set nowhere"];
    offer(&HOST, "lost", "nowhere", &[]).expect(4, &mend);
    assert!(!exists(&HOST, "lost"));
    HOST.cli(["ps", "-n", "nowhere"]).expect(4, &["`nowhere`"]);
    HOST.cli(["namespace", "inspect", "nowhere"]).expect(4, &["`nowhere`", "namespace ls"]);
    HOST.cli(["namespace", "rm", "nowhere"]).expect(4, &["`nowhere`"]);
    // `default` always exists, and its quota holds like any other's.
    HOST.cli(["namespace", "rm", "default"]).expect(3, &["always exists"]);
    let json = HOST.must(["namespace", "inspect", "default", "--json"]).json();
    assert_eq!(json["quota"]["memory_bytes"], Value::Null, "{json}");
    for name in ["Team_A", "-a", "a.b", ""] {
        HOST.cli(["namespace", "set", name]).expect(2, &[]);
    }
    HOST.cli(["namespace", "set", "odd", "--cpu", "many"]).expect(2, &["not an amount"]);
    HOST.cli(["namespace", "set", "odd", "--memory", "1GB"]).expect(2, &["GB"]);
    let bad = HOST.file("bad.toml", "name = 'x'\nnamespace = 'No Such'\ncomponent = 'x.wasm'\n");
    HOST.cli(["deploy", "-f", bad.to_str().unwrap()]).expect(2, &["not a namespace"]);
    for (method, path, body, status) in [
        ("GET", "/v1/namespaces/No_Name", None, 400),
        ("PUT", "/v1/namespaces/No_Name", Some(json!({})), 400),
        ("PUT", "/v1/namespaces/odd", Some(json!({"disk": "1Gi"})), 400),
        ("PUT", "/v1/namespaces/odd", Some(json!({"memory": "-1"})), 400),
        ("PUT", "/v1/namespaces/odd", Some(json!({"tenants": -1})), 400),
        ("GET", "/v1/namespaces/odd", None, 404),
        ("POST", "/v1/namespaces", None, 405),
        ("GET", "/v1/tenants?namspace=default", None, 400),
        ("GET", "/v1/tenants?namespace=No_Name", None, 400),
        ("GET", "/v1/tenants?namespace=odd", None, 404),
        ("DELETE", "/v1/namespaces/default", None, 409),
    ] {
        let (found, error) = HOST.api(method, path, body.as_ref());
        assert_eq!(found, status, "{method} {path}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 5), "{path}: {error}");
    }
    // A failure among several does not keep the others.
    HOST.must(["namespace", "set", "goes"]);
    let output = HOST.cli(["namespace", "rm", "nowhere", "goes"]);
    output.expect(4, &["`nowhere`"]);
    assert_eq!(output.stdout.trim(), "removed namespace goes");
}
