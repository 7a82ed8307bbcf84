//! Every example guest, deployed as README's first command deploys it, does what its line in
//! guests/README.md says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::wait::{eventually, within};
use insula_tests::{Host, Setup, cli, repo};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// `insula up guests`, for all tests of this file.
static HOST: LazyLock<Host> = LazyLock::new(|| {
    let host = Setup::new().up(&repo::root().join("guests")).start();
    // The large ones, if built, take the compiler half a minute each.
    let patience = Duration::from_secs(300);
    within(patience, "all is deployed", || host.printed().contains("\n  stop ").then_some(()));
    host
});

/// One test for each guest, and the list of their names.
macro_rules! guests {
    ($($test:ident($guest:literal, $host:ident) $body:block)*) => {
        const TESTED: &[&str] = &[$($guest),*];
        $(#[test]
        fn $test() {
            let $host = &*HOST;
            $body
        })*
    };
}

#[test]
fn every_guest_has_a_test_and_a_line() {
    let mut tested = TESTED.to_vec();
    tested.sort_unstable();
    let mut guests = repo::guest_names();
    // Those may or may not be built here.
    guests.extend(repo::LARGE_GUESTS.map(str::to_owned));
    guests.sort();
    guests.dedup();
    assert_eq!(guests, tested, "guests/*/*.wasm and the tests of tests/guests.rs");
    let readme = repo::text("guests/README.md");
    for guest in tested {
        assert!(readme.contains(&format!("| `{guest}` |")), "{guest}: no line in guests/README.md");
    }
}

#[test]
fn up_prints_a_url_of_every_tenant_and_each_answers() {
    let mut deployed = 0;
    for guest in repo::guest_names() {
        if !repo::root().join("guests").join(&guest).join("insula.toml").is_file() {
            continue;
        }
        let authority = format!("{guest}.localhost:{}", HOST.addr().port());
        let url = format!("http://{authority}/");
        assert!(HOST.printed().contains(&url), "{url}: {}", HOST.printed());
        let answer = HOST.connect().get(&authority, "/");
        answer.expect_ok();
        assert!(!answer.body.is_empty(), "{guest}");
        deployed += 1;
    }
    assert!(HOST.printed().contains(&format!("\n{deployed} tenants deployed")), "{}", HOST.log());
}

fn greets(host: &Host, guest: &str) {
    let answer = host.get(guest, "/any/path?at=all");
    assert_eq!(answer.expect_ok().text(), "Hello from Insula!\n");
    assert_eq!(answer.field("content-type"), Some("text/plain"));
}

fn echoes(host: &Host, guest: &str) {
    let body = b"to and fro".repeat(2_000);
    let authority = format!("{guest}.localhost");
    let echoed = host.connect().ask("POST", &authority, "/echo", &[], Some(&body));
    assert!(echoed.expect_ok().body == body, "{guest}");
}

/// A number in a guest's answer.
fn number(text: &str, word: usize) -> u64 {
    text.split_whitespace()
        .nth(word)
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

guests! {
    hello("hello", host) {
        greets(host, "hello");
        assert_eq!(host.tenant("hello").summary.kind.as_str(), "http-0.2");
    }

    hello_c("hello-c", host) {
        greets(host, "hello-c");
    }

    hello_js("hello-js", host) {
        if repo::is_built("hello-js") {
            greets(host, "hello-js");
            echoes(host, "hello-js");
        }
    }

    hello_python("hello-python", host) {
        if repo::is_built("hello-python") {
            greets(host, "hello-python");
            echoes(host, "hello-python");
        }
    }

    hello_p3("hello-p3", host) {
        greets(host, "hello-p3");
        assert_eq!(host.tenant("hello-p3").summary.kind.as_str(), "http-0.3");
    }

    gather_p3("gather-p3", host) {
        assert_eq!(host.tenant("gather-p3").summary.kind.as_str(), "http-0.3");
        // More than there are workers, so that two meet in one.
        let told: Vec<String> = thread::scope(|scope| {
            let ask = || host.get("gather-p3", "/gather?n=2&ms=3000").expect_ok().text();
            let asked: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert!(told.iter().any(|text| !text.contains(" peak=1 ")), "nobody met: {told:?}");
        host.connect().get("gather-p3.localhost:81", "/address").expect_ok();
        eventually("it says what it was asked as", || {
            let said = "asked by Some(Scheme::Http) as Some(\"gather-p3.localhost:81\")";
            host.records("gather-p3").into_iter().find(|record| record.text == said)
        });
    }

    cgi_c("cgi-c", host) {
        assert_eq!(host.tenant("cgi-c").summary.kind.as_str(), "wasi-p1");
        let fields = [("user-agent", "parrot/1")];
        let told = host.connect().ask("GET", "cgi-c.localhost", "/a%20b?c=d", &fields, None);
        let expected = "Hello from CGI!\nscript: \npath: /a b\nquery: c=d\nyou: 127.0.0.1, with parrot/1\n";
        assert_eq!(told.expect_ok().text(), expected);
        let body = b"one line\n".repeat(100_000);
        let counted = host.connect().ask("POST", "cgi-c.localhost", "/", &[], Some(&body));
        assert_eq!(counted.expect_ok().text(), "900000 bytes, 100000 lines\n");
        let other = host.connect().ask("PUT", "cgi-c.localhost", "/", &[], None);
        assert_eq!((other.status(), other.field("allow")), (405, Some("GET, HEAD, POST")));
    }

    cgi_rust("cgi-rust", host) {
        assert_eq!(host.tenant("cgi-rust").summary.kind.as_str(), "wasi-p1");
        let told = host.get("cgi-rust", "/").expect_ok().text();
        assert!(told.contains("GREETING=granted\n"), "{told}");
    }

    cgi_component("cgi-component", host) {
        assert_eq!(host.tenant("cgi-component").summary.kind.as_str(), "command");
        let told = host.get("cgi-component", "/").expect_ok().text();
        assert!(told.contains("GREETING=granted\n"), "{told}");
    }

    echo("echo", host) {
        let described = host.get("echo", "/a?b").expect_ok().text();
        assert!(described.starts_with("GET /a?b\n"), "{described}");
        let body = b"to and fro".repeat(10_000);
        let fields = [("content-type", "text/x-parrot")];
        let echoed = host.connect().ask("POST", "echo.localhost", "/", &fields, Some(&body));
        assert!(echoed.expect_ok().body == body);
        assert_eq!(echoed.field("content-type"), Some("text/x-parrot"));
    }

    counter("counter", host) {
        let first = number(&host.get("counter", "/").expect_ok().text(), 0);
        assert_eq!(number(&host.get("counter", "/").expect_ok().text(), 0), first + 1);
        assert_eq!(host.get("counter", "/set?key=K&value=V").expect_ok().text(), "done\n");
        assert_eq!(host.get("counter", "/get?key=K").expect_ok().text(), "V");
    }

    settings("settings", host) {
        let shown = host.get("settings", "/").expect_ok().text();
        assert_eq!(shown, "config\ngreeting=Hello\nenv\nSTAGE=example\nargs\nsettings\n--verbose\n");
        assert_eq!(host.get("settings", "/env?key=STAGE").expect_ok().text(), "example");
    }

    prowler("prowler", host) {
        let told = host.get("prowler", "/").expect_ok().text();
        assert!(told.contains("environment: refused (") && !told.contains("REACHED"), "{told}");
    }

    sse("sse", host) {
        let answer = host.get("sse", "/?n=3&ms=1");
        let expected = "id: 1\ndata: event 1 of 3\n\nid: 2\ndata: event 2 of 3\n\nid: 3\ndata: event 3 of 3\n\n";
        assert_eq!(answer.expect_ok().text(), expected);
        assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    }

    relay("relay", host) {
        assert_eq!(host.get("relay", "/").expect_ok().text(), "Hello from Insula!\n");
        let refused = host.get("relay", "/?url=http://echo.internal/");
        assert_eq!(refused.status(), 502);
        assert!(refused.text().contains("HttpRequestDenied"), "{}", refused.text());
    }

    relay_p3("relay-p3", host) {
        assert_eq!(host.get("relay-p3", "/").expect_ok().text(), "Hello from Insula!\n");
        let refused = host.get("relay-p3", "/?url=http://echo.internal/");
        assert_eq!(refused.status(), 502);
        assert!(refused.text().contains("HttpRequestDenied"), "{}", refused.text());
    }

    residue("residue", host) {
        let mut one = host.connect();
        for _ in 0..3 {
            assert_eq!(one.get("residue.localhost", "/").expect_ok().text(), "clean\n");
        }
        // Where reuse is asked for, the search must find what the first request left: else `clean`
        // would mean nothing.
        host.deploy("residue-reused", &repo::guest("residue"), &["--reuse-requests", "10"]);
        let mut one = host.connect();
        assert_eq!(one.get("residue-reused.localhost", "/").expect_ok().text(), "clean\n");
        let second = one.get("residue-reused.localhost", "/").expect_ok().text();
        assert!(second.starts_with("DIRTY "), "{second}");
    }

    tool("tool", host) {
        let tool = repo::guest("tool");
        let output = cli::run(host.home(), ["run", tool.to_str().unwrap(), "--", "one", "two"]);
        output.expect(0, &[]);
        assert_eq!(output.stdout, "args: one two\nenvironment: 0 variables\n");
    }

    files("files", host) {
        assert_eq!(host.get("files", "/").expect_ok().text(), "directories: /tmp\n");
        host.get("files", "/?op=write&path=/tmp/note&data=kept").expect_ok();
        assert_eq!(host.get("files", "/?op=read&path=/tmp/note").expect_ok().text(), "kept");
    }

    machine("machine", host) {
        assert!(host.get("machine", "/").expect_ok().text().starts_with("/time /sleep"));
        let time = host.get("machine", "/time").expect_ok().text();
        assert!(time.starts_with("wall 1") && time.contains("in steps of 1000000\n"), "{time}");
    }

    hostile_endless("hostile-endless", host) {
        let answer = host.get("hostile-endless", "/go");
        assert_eq!(answer.status(), 200);
        assert!(!answer.whole, "an endless body seemed to end");
        assert!(!answer.body.is_empty() && answer.body.len() <= 1 << 20, "{}", answer.body.len());
    }

    hostile_exit("hostile-exit", host) {
        host.get("hostile-exit", "/go").expect_fault("exit");
        host.get("hostile-exit", "/go?status=err").expect_fault("exit");
    }

    hostile_flood("hostile-flood", host) {
        assert_eq!(host.get("hostile-flood", "/go?lines=3").expect_ok().text(), "flooded\n");
    }

    hostile_grow("hostile-grow", host) {
        let told = host.get("hostile-grow", "/go?then=tell").expect_ok().text();
        let held = number(&told, 2);
        // In steps of 1 MiB, so it comes that close.
        assert!((31 << 20..=32 << 20).contains(&held), "{told}");
        host.get("hostile-grow", "/go").expect_fault("out-of-memory");
    }

    hostile_hostcalls("hostile-hostcalls", host) {
        host.get("hostile-hostcalls", "/go").expect_fault("deadline");
    }

    hostile_recurse("hostile-recurse", host) {
        host.get("hostile-recurse", "/go").expect_fault("trap");
        host.get("hostile-recurse", "/go?stack=shadow").expect_fault("trap");
    }

    hostile_spin("hostile-spin", host) {
        host.get("hostile-spin", "/go").expect_fault("deadline");
    }

    hostile_stall("hostile-stall", host) {
        host.get("hostile-stall", "/go").expect_fault("deadline");
    }

    hostile_start("hostile-start", host) {
        // Its manifest is not `insula.toml`, and `up` has passed it by.
        assert!(host.tenants().iter().all(|tenant| tenant.name.as_str() != "hostile-start"));
        let manifest = repo::root().join("guests/hostile-start/refused.toml");
        let output = host.cli(["deploy", "-f", manifest.to_str().unwrap()]);
        if output.code == Some(0) {
            host.get("hostile-start", "/").expect_fault("out-of-fuel");
            host.must(["rm", "hostile-start"]);
        } else {
            output.expect(3, &["hostile-start", "hint:"]);
        }
    }

    hostile_tables("hostile-tables", host) {
        let told = host.get("hostile-tables", "/tell").expect_ok().text();
        let slots = number(&told, 2) + number(&told, 4);
        // Each slot is a pointer of the host's.
        assert!(slots * 8 <= 2 << 20, "{told}");
        host.get("hostile-tables", "/go").expect_fault("deadline");
    }

    hostile_trap("hostile-trap", host) {
        host.get("hostile-trap", "/go").expect_fault("trap");
    }
}
