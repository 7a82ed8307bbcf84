//! Programs served as CGI: what they are told, how they answer, and every way in which they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::LogStream;
use insula_tests::wait::eventually;
use insula_tests::{Answer, Host, cli, repo, wasm};
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A preview 1 module and a component, of one source: what holds for one holds for both.
const BOTH: [&str; 2] = ["cgi-rust", "cgi-component"];

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let host = Host::with_guests(&["hello", "cgi-rust", "cgi-component"]);
    for guest in BOTH {
        let short = format!("{guest}-short");
        let flags = ["--timeout", "400ms", "--fuel", "1T", "--memory", "8Mi"];
        host.deploy(&short, &repo::guest(guest), &flags);
        let route = format!("--route={guest}.example/a/b");
        host.deploy(&format!("{guest}-routed"), &repo::guest(guest), &[&route]);
    }
    host
});

/// A preview 1 program: the fields of its module after one page of memory.
fn program(fields: &str) -> Vec<u8> {
    wasm::binary(&format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1) {fields})"#
    ))
}

/// Waits until a program says this on its standard error.
fn said(guest: &str, request: &str, words: &str) {
    eventually(&format!("`{words}` from {guest} for request {request}"), || {
        HOST.records(guest).into_iter().find(|record| {
            record.stream == LogStream::Stderr
                && record.request == request
                && record.text.starts_with(words)
        })
    });
}

fn variables(answer: &Answer) -> HashMap<String, String> {
    let pairs = answer.expect_ok().text();
    pairs
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

#[test]
fn a_request_arrives_in_variables() {
    for guest in BOTH {
        let host = format!("{guest}.localhost:8080");
        let fields = [
            ("content-type", "text/x-parrot"),
            ("accept", "a"),
            ("accept", "b"),
            ("proxy", "http://evil.example/"),
            ("authorization", "Basic Zm9vOmJhcg=="),
            ("greeting", "not granted"),
            ("x_sly", "1"),
        ];
        let answer =
            HOST.connect().ask("PUT", &host, "/p%20q/%C3%A9?x=1&y", &fields, Some(b"12345"));
        let told = variables(&answer);
        let port = HOST.addr().port().to_string();
        for (name, value) in [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("REQUEST_METHOD", "PUT"),
            ("SCRIPT_NAME", ""),
            ("PATH_INFO", "/p q/é"),
            ("QUERY_STRING", "x=1&y"),
            ("REQUEST_URI", "/p%20q/%C3%A9?x=1&y"),
            ("CONTENT_TYPE", "text/x-parrot"),
            ("CONTENT_LENGTH", "5"),
            ("SERVER_NAME", &format!("{guest}.localhost")),
            ("SERVER_PORT", &port),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REDIRECT_STATUS", "200"),
            ("HTTP_ACCEPT", "a, b"),
            ("HTTP_AUTHORIZATION", "Basic Zm9vOmJhcg=="),
            ("HTTP_X_REQUEST_ID", answer.request_id()),
            ("GREETING", "granted"),
            ("HTTP_GREETING", "not granted"),
        ] {
            assert_eq!(told.get(name).map(String::as_str), Some(value), "{guest}: {name}");
        }
        assert!(told["SERVER_SOFTWARE"].starts_with("insula/"));
        for absent in ["HTTP_PROXY", "HTTP_X_SLY", "HTTP_CONTENT_TYPE", "HTTPS", "HTTP_CONNECTION"]
        {
            assert!(!told.contains_key(absent), "{guest}: {absent}");
        }
        let text = answer.text();
        // A query without `=` could be arguments (RFC 3875, section 4.4); here it never is.
        assert!(HOST.get(guest, "/?one+two").text().contains(&format!("arguments: [\"{guest}\"]")));
        assert!(text.contains(&format!("arguments: [\"{guest}\"]")), "{text}");
    }
}

#[test]
fn a_route_splits_script_name_from_path_info() {
    for guest in BOTH {
        let mut connection = HOST.connect();
        let host = format!("{guest}.example");
        for (target, script, path) in
            [("/a/b", "/a/b", ""), ("/a/b/", "/a/b", "/"), ("/a/b/c/d?e", "/a/b", "/c/d")]
        {
            let told = variables(&connection.get(&host, target));
            assert_eq!((&*told["SCRIPT_NAME"], &*told["PATH_INFO"]), (script, path), "{target}");
        }
        connection.get(&host, "/a/bc").expect_fault("no-route");
    }
}

#[test]
fn a_path_that_no_variable_can_hold_is_the_clients_fault() {
    for guest in BOTH {
        HOST.get(guest, "/a%00b").expect_fault("bad-request");
        HOST.get(guest, "/a%ffb").expect_fault("bad-request");
    }
}

#[test]
fn what_the_manifest_sets_stands_whatever_a_client_sends() {
    let manifest = format!(
        "name = 'set'\ncomponent = '{}'\nargs = ['-q']\n[env]\nHTTP_X_ROLE = 'guest'\nSCRIPT_FILENAME = '/app/index.php'\nREDIRECT_STATUS = '404'\n",
        repo::guest("cgi-rust").display()
    );
    let file = HOST.file("set.toml", manifest);
    HOST.must(["deploy", "-f", file.to_str().unwrap()]);
    let fields = [("x-role", "admin")];
    let answer = HOST.connect().ask("GET", "set.localhost", "/", &fields, None);
    let told = variables(&answer);
    assert_eq!(told["HTTP_X_ROLE"], "guest");
    assert_eq!(told["SCRIPT_FILENAME"], "/app/index.php");
    assert_eq!(told["REDIRECT_STATUS"], "404");
    let text = answer.text();
    assert_eq!(text.matches("HTTP_X_ROLE=").count(), 1, "{text}");
    assert!(text.contains("arguments: [\"set\", \"-q\"]"), "{text}");
}

#[test]
fn a_body_flows_through_as_it_arrives() {
    for guest in BOTH {
        let mut connection = HOST.connect();
        connection.send(format!(
            "POST /echo HTTP/1.1\r\nhost: {guest}.localhost\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n"
        ));
        connection.send("5\r\nfirst\r\n");
        let head = connection.head().unwrap();
        assert_eq!((head.status, head.field("content-type")), (200, Some("a/b")));
        let mut framing = head.framing();
        // The program has the first piece, and has answered it, while the second is not even sent.
        let mut echoed = Vec::new();
        while echoed.len() < 5 {
            echoed.extend(connection.piece(&mut framing).unwrap().unwrap());
        }
        connection.send("7\r\n, later\r\n0\r\n\r\n");
        while let Some(piece) = connection.piece(&mut framing).unwrap() {
            echoed.extend(piece);
        }
        assert_eq!(echoed, b"first, later");
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let body: Vec<u8> = (0..24_u32 << 20).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
    for guest in BOTH {
        let host = format!("{guest}.localhost");
        let mut connection = HOST.connect();
        let mut sender = connection.stream.try_clone().unwrap();
        let echoed = std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::io::Write;
                let head = format!(
                    "POST /echo HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                sender.write_all(head.as_bytes()).unwrap();
                sender.write_all(&body).unwrap();
            });
            connection.answer()
        });
        assert!(echoed.expect_ok().body == body, "{guest}: the body came back changed");
    }
}

#[test]
fn a_program_waits_for_a_client_that_does_not_read() {
    for guest in BOTH {
        let mut connection = HOST.connect();
        connection
            .send(format!("GET /bytes?{} HTTP/1.1\r\nhost: {guest}.localhost\r\n\r\n", 40 << 20));
        let head = connection.head().unwrap();
        let id = head.field("x-request-id").unwrap().to_owned();
        said(guest, &id, "left: ");
        let lines = || HOST.records(guest).iter().filter(|r| r.request == id).count();
        // It gets as far as the buffers on the way, which are megabytes at most, and rests there.
        let rested = eventually("the program rests", || {
            let before = lines();
            std::thread::sleep(Duration::from_millis(300));
            (lines() == before).then_some(before)
        });
        assert!(rested < 30, "{guest} wrote {rested} MiB to a client that reads nothing");
        let mut framing = head.framing();
        let mut read = 0;
        while let Some(piece) = connection.piece(&mut framing).unwrap() {
            read += piece.len();
        }
        assert_eq!(read, 40 << 20);
    }
}

#[test]
fn output_leaves_while_the_program_runs() {
    for guest in BOTH {
        let start = Instant::now();
        let mut connection = HOST.connect();
        connection.send(format!("GET /slow?400 HTTP/1.1\r\nhost: {guest}.localhost\r\n\r\n"));
        let mut framing = connection.head().unwrap().framing();
        let first = connection.piece(&mut framing).unwrap().unwrap();
        let first_after = start.elapsed();
        assert_eq!(first, b"line 1\n");
        let mut rest = Vec::new();
        while let Some(piece) = connection.piece(&mut framing).unwrap() {
            rest.extend(piece);
        }
        assert_eq!(rest, b"line 2\nline 3\n");
        assert!(
            start.elapsed() >= first_after + Duration::from_millis(600),
            "all of it came at once"
        );
    }
}

/// Answers with exactly these bytes.
fn raw(guest: &str, bytes: &str) -> Answer {
    let query: String = bytes.bytes().map(|byte| format!("%{byte:02x}")).collect();
    HOST.get(guest, &format!("/raw?{query}"))
}

#[test]
fn heads_become_status_and_fields() {
    for guest in BOTH {
        let created = raw(guest, "Status: 201 Made\nContent-Type: a/b\nX-Two: 1\nX-Two: 2\n\nbody");
        assert_eq!((created.status(), created.field("content-type")), (201, Some("a/b")));
        assert_eq!(created.text(), "body");
        let twos = created.head.fields.iter().filter(|(name, _)| name == "x-two").count();
        assert_eq!((twos, created.field("status")), (2, None));
        assert_eq!(raw(guest, "Content-Type: a/b\r\n\r\n\r\nx").expect_ok().text(), "\r\nx");
        let moved = raw(guest, "Location: /else?where\n\n");
        assert_eq!((moved.status(), moved.field("location")), (302, Some("/else?where")));
        let moved = raw(guest, "Status: 308 Moved\nLocation: http://a.example/\n\n");
        assert_eq!((moved.status(), moved.field("location")), (308, Some("http://a.example/")));
        let none = raw(guest, "Status: 204 No Content\n\n");
        assert_eq!((none.status(), none.body.len()), (204, 0));
        let forged = raw(
            guest,
            "Content-Type: a/b\ninsula-fault: trap\nx-request-id: mine\nConnection: x-a\nX-A: b\n\n",
        );
        assert_eq!((forged.fault(), forged.field("x-a")), (None, None));
        assert_ne!(forged.field("x-request-id"), Some("mine"));
    }
}

#[test]
fn what_is_no_answer_is_said_to_be_none() {
    for guest in BOTH {
        for (bytes, why) in [
            ("", "wrote nothing"),
            ("Content-Type: text/plain\n", "blank line"),
            ("Hello, world!\n\n", "not a header field: `Hello, world!`"),
            ("X-Only: 1\n\nbody", "none of `Content-Type`"),
            ("Status: fine\n\n", "`Status: fine`"),
            ("Status: 101\n\n", "200 to 599"),
            ("HTTP/1.1 200 OK\nContent-Type: a/b\n\n", "NPH"),
            ("Content-Type: a/b\nContent-Length: 9\n\nbody", "content-length"),
        ] {
            let answer = raw(guest, bytes);
            // A program that is still ending when its head is there has it sent: then the body breaks off.
            if answer.fault().is_none() && why == "content-length" {
                assert!(!answer.whole, "{guest}: a part was passed off as the whole");
            } else {
                answer.expect_fault("bad-response");
            }
            let told = HOST.eventually_told(guest, answer.request_id(), "bad-response");
            assert!(told.text.contains(why), "{guest} {bytes:?}: {}", told.text);
        }
        raw(guest, "Content-Type: a/b\n\n").expect_ok();
    }
}

#[test]
fn a_head_has_an_end() {
    // Writes the same 64 bytes for ever, and never a blank line.
    let endless = program(
        r#"(data (i32.const 64) "X-Long-Field: 0123456789012345678901234567890123456789012345678\n")
        (data (i32.const 0) "\40\00\00\00\40\00\00\00")
        (func (export "_start") (loop
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))) (br 0)))"#,
    );
    let file = HOST.file("endless-head.wasm", endless);
    HOST.deploy("endless-head", &file, &[]);
    let answer = HOST.get("endless-head", "/");
    answer.expect_fault("bad-response");
    let told = HOST.eventually_told("endless-head", answer.request_id(), "bad-response: ");
    assert!(told.text.contains("longer than 131072 bytes"), "{}", told.text);
}

#[test]
fn failures_before_and_after_the_head() {
    for guest in BOTH {
        let before = HOST.get(guest, "/trap");
        before.expect_fault("trap");
        let told = HOST.eventually_told(guest, before.request_id(), "trap: ");
        assert!(told.text.contains("unreachable"), "{}", told.text);
        let exit = HOST.get(guest, "/exit?3");
        exit.expect_fault("exit");
        let told = HOST.eventually_told(guest, exit.request_id(), "exit: ");
        assert!(told.text.contains("before its header was complete"), "{}", told.text);
        HOST.get(guest, "/exit?0").expect_fault("bad-response");
        for target in ["/trap?after", "/fail?1"] {
            let cut = HOST.get(guest, target);
            assert_eq!((cut.status(), cut.fault()), (200, None), "{}", cut.text());
            assert!(!cut.whole, "{guest}{target}: a part was passed off as the whole");
        }
        HOST.get(guest, "/").expect_ok();
    }
    assert!(HOST.counters("cgi-rust").guest_faults >= 5);
}

#[test]
fn limits_end_a_program_as_they_end_a_handler() {
    for guest in BOTH {
        let short = format!("{guest}-short");
        for target in ["/spin", "/sleep"] {
            let late = HOST.get(&short, target);
            late.expect_fault("deadline");
            HOST.eventually_told(&short, late.request_id(), "deadline");
        }
        HOST.get(&short, "/grow").expect_fault("out-of-memory");
        let fuel = format!("{guest}-fuel");
        HOST.deploy(&fuel, &repo::guest(guest), &["--fuel", "20M", "--timeout", "60s"]);
        HOST.get(&fuel, "/spin").expect_fault("out-of-fuel");
        HOST.get(&fuel, "/").expect_ok();
        HOST.get("hello", "/").expect_ok();
    }
}

#[test]
fn standard_error_is_the_tenants_log() {
    for guest in BOTH {
        let answer = HOST.get(guest, "/log?parrot");
        assert_eq!(answer.expect_ok().text(), "logged\n");
        said(guest, answer.request_id(), "said: parrot");
    }
}

#[test]
fn every_request_is_a_run_of_its_own() {
    for guest in BOTH {
        let mut connection = HOST.connect();
        for _ in 0..3 {
            assert_eq!(
                connection.get(&format!("{guest}.localhost"), "/runs").expect_ok().text(),
                "0\n"
            );
        }
        // Two at once, of which neither waits for the other.
        let slow = || HOST.get(guest, "/slow?300").expect_ok().text();
        std::thread::scope(|scope| {
            let both = [scope.spawn(slow), scope.spawn(slow)];
            for one in both {
                assert_eq!(one.join().unwrap(), "line 1\nline 2\nline 3\n");
            }
        });
    }
}

#[test]
fn head_runs_the_program_and_drops_its_body() {
    for guest in BOTH {
        let mut connection = HOST.connect();
        let host = format!("{guest}.localhost");
        let faults = HOST.counters(guest).client_faults;
        // More than the host would buffer.
        let answer = connection.ask("HEAD", &host, "/bytes?1000000", &[], None);
        assert_eq!((answer.status(), answer.field("content-type")), (200, Some("text/plain")));
        // The connection goes on in step, and nobody is blamed for a body that nobody wanted.
        let next = connection.get(&host, "/runs");
        assert_eq!(next.expect_ok().text(), "0\n");
        assert_eq!(HOST.counters(guest).client_faults, faults);
    }
}

#[test]
fn run_takes_the_same_programs() {
    for guest in BOTH {
        let file = repo::guest(guest);
        let file = file.to_str().unwrap();
        let output = cli::run(HOST.home(), ["run", file, "--", "a", "b c"]);
        output.expect(0, &[]);
        let named = format!("arguments: [\"{guest}.wasm\", \"a\", \"b c\"]");
        assert_eq!(output.stdout, format!("Content-Type: text/plain\n\n{named}\n"));
        let env = ["run", file, "--env", "PATH_INFO=/exit", "--env", "QUERY_STRING=7"];
        let code = if guest == "cgi-rust" { 7 } else { 1 };
        cli::run(HOST.home(), env).expect(code, &[]);
        let trap = cli::run(HOST.home(), ["run", file, "--env", "PATH_INFO=/trap"]);
        trap.expect(125, &["trapped"]);
        let mut echo = cli::insula(HOST.home());
        echo.args(["run", file, "--env", "PATH_INFO=/echo"]);
        let echoed = cli::finish(&mut echo, b"to and fro");
        assert!(echoed.stdout.ends_with("\r\n\r\nto and fro"), "{echoed:?}");
    }
}
