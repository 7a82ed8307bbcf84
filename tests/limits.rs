//! Every limit has an end of its own, and what one tenant does is nobody else's trouble.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_model::api::LogStream;
use insula_tests::process::resident_bytes;
use insula_tests::wait::eventually;
use insula_tests::{Answer, Connection, Host, repo, wasm};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let host = Host::with_guests(&[
        "hello",
        "echo",
        "sse",
        "hostile-endless",
        "hostile-exit",
        "hostile-flood",
        "hostile-grow",
        "hostile-hostcalls",
        "hostile-recurse",
        "hostile-spin",
        "hostile-stall",
        "hostile-tables",
        "hostile-trap",
    ]);
    host.deploy("fuel", &repo::guest("hostile-spin"), &["--fuel", "100M", "--timeout", "60s"]);
    host.deploy("fuel-ask", &repo::guest("hostile-grow"), &["--fuel", "50M", "--timeout", "60s"]);
    host.deploy("short", &repo::guest("hostile-stall"), &["--timeout", "300ms"]);
    host
});

/// The operator is told all of it, the tenant goes on, and so does the one beside it.
#[track_caller]
fn aftermath(name: &str, answer: &Answer, word: &str) {
    let told = HOST.eventually_told(name, answer.request_id(), word);
    assert!(told.text.len() > word.len() + 2, "only the word: {told:?}");
    HOST.get(name, "/").expect_ok();
    HOST.get("hello", "/").expect_ok();
}

/// A request that ends before its head, in `word`.
#[track_caller]
fn ends(name: &str, target: &str, word: &str) {
    let before = HOST.counters(name).guest_faults;
    let answer = HOST.get(name, target);
    answer.expect_fault(word);
    aftermath(name, &answer, word);
    assert!(HOST.counters(name).guest_faults > before, "{name}{target} is not counted");
}

/// A request that ends in `word` when its head is out: a part must not pass for the whole.
#[track_caller]
fn breaks_off(name: &str, target: &str, word: &str) -> Answer {
    let answer = HOST.get(name, target);
    assert_eq!((answer.status(), answer.fault()), (200, None), "{}", answer.text());
    assert!(!answer.whole, "{name}{target}: a part was passed off as the whole");
    aftermath(name, &answer, word);
    answer
}

#[test]
fn fuel() {
    ends("fuel", "/go", "out-of-fuel");
    ends("fuel-ask", "/go?then=ask", "out-of-fuel");
    assert!(HOST.counters("fuel").fuel >= 100_000_000, "{:?}", HOST.counters("fuel"));
}

#[test]
fn memory() {
    ends("hostile-grow", "/go", "out-of-memory");
    let peak = HOST.counters("hostile-grow").memory_peak_bytes;
    assert!((31 << 20..=32 << 20).contains(&peak), "{peak}");
}

#[test]
fn tables_are_memory() {
    ends("hostile-tables", "/go", "deadline");
    let peak = HOST.counters("hostile-tables").memory_peak_bytes;
    assert!((1 << 20..=2 << 20).contains(&peak), "{peak}");
}

#[test]
fn deadlines_of_those_that_compute_and_those_that_wait() {
    let since = Instant::now();
    ends("short", "/go", "deadline");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    ends("hostile-spin", "/go", "deadline");
    ends("hostile-hostcalls", "/go", "deadline");
    breaks_off("short", "/go?at=head", "deadline");
    let half = breaks_off("short", "/go?at=body", "deadline");
    assert_eq!(half.text(), "the first half\n");
}

#[test]
fn handles_and_fields_are_bounded_like_memory() {
    let workers = HOST.worker_pids();
    let before: u64 = workers.iter().map(|pid| resident_bytes(*pid)).sum();
    for call in ["handles", "fields", "random"] {
        let answer = HOST.get("hostile-hostcalls", &format!("/go?call={call}"));
        let word = answer.fault().unwrap_or_default().to_owned();
        assert!(
            ["out-of-memory", "trap", "deadline"].contains(&word.as_str()),
            "{call}: {answer:?}"
        );
        answer.expect_fault(&word);
        aftermath("hostile-hostcalls", &answer, &word);
    }
    assert_eq!(HOST.worker_pids(), workers);
    let after: u64 = workers.iter().map(|pid| resident_bytes(*pid)).sum();
    assert!(after < before + (512 << 20), "{before} bytes before, {after} after");
}

#[test]
fn recursion() {
    ends("hostile-recurse", "/go", "trap");
    ends("hostile-recurse", "/go?stack=shadow", "trap");
}

#[test]
fn traps_at_every_moment() {
    ends("hostile-trap", "/go", "trap");
    ends("hostile-trap", "/go?at=set", "trap");
    breaks_off("hostile-trap", "/go?at=head", "trap");
    for at in ["body", "end"] {
        // Whether the head was out by then is a matter of timing; that all went well is a lie.
        let before = HOST.counters("hostile-trap").guest_faults;
        let mut connection = HOST.connect();
        let target = format!("/go?at={at}");
        match connection.try_ask("GET", "hostile-trap.localhost", &target, &[], None) {
            Ok(answer) if answer.whole => {
                answer.expect_fault("trap");
            }
            Ok(_) => {}
            Err(error) => assert!(!insula_tests::http::is_timeout(&error), "{error}"),
        }
        let after = || HOST.counters("hostile-trap").guest_faults;
        eventually("the trap is counted", || (after() > before).then_some(()));
    }
}

#[test]
fn exit() {
    ends("hostile-exit", "/go", "exit");
    ends("hostile-exit", "/go?status=err", "exit");
}

#[test]
fn response_bodies() {
    let answer = breaks_off("hostile-endless", "/go", "response-body-too-large");
    assert!(answer.body.len() <= 1 << 20, "{} bytes", answer.body.len());
    // A declared length over the limit needs no byte to be sent.
    HOST.deploy("wordy", &repo::guest("hello"), &["--response-body", "18"]);
    let answer = HOST.get("wordy", "/");
    answer.expect_fault("response-body-too-large");
    HOST.eventually_told("wordy", answer.request_id(), "response-body-too-large");
    HOST.deploy("wordy", &repo::guest("hello"), &["--response-body", "19"]);
    HOST.get("wordy", "/").expect_ok();
}

#[test]
fn no_response() {
    let file =
        HOST.file("silent.wasm", wasm::handler(r#"(func (export "handle") (param i32 i32))"#));
    HOST.deploy("silent", &file, &[]);
    let answer = HOST.get("silent", "/");
    answer.expect_fault("no-response");
    HOST.eventually_told("silent", answer.request_id(), "no-response");
}

#[test]
fn request_bodies_that_are_declared() {
    HOST.deploy("small", &repo::guest("echo"), &["--request-body", "1Ki"]);
    let mut connection = HOST.connect();
    let ask = |connection: &mut Connection, body: &[u8]| {
        connection.ask("POST", "small.localhost", "/", &[], Some(body))
    };
    assert_eq!(ask(&mut connection, &[b'x'; 1024]).expect_ok().body.len(), 1024);
    ask(&mut HOST.connect(), &[b'x'; 1025]).expect_fault("request-body-too-large");
    // The answer does not wait for a body that is not wanted.
    connection
        .send("POST / HTTP/1.1\r\nhost: small.localhost\r\ncontent-length: 9999999999\r\n\r\n");
    connection.answer().expect_fault("request-body-too-large");
    let mut connection = HOST.connect();
    assert_eq!(ask(&mut connection, b"x").expect_ok().body, b"x");
}

#[test]
fn request_bodies_that_are_not_declared() {
    let file = HOST.file("reader.wasm", wasm::reader());
    HOST.deploy("reader", &file, &["--request-body", "1Ki", "--timeout", "1s"]);
    let start = "POST / HTTP/1.1\r\nhost: reader.localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let told = |answer: &Answer, word: &str| {
        answer.expect_fault(word);
        HOST.eventually_told("reader", answer.request_id(), word);
    };
    // As long as is allowed …
    let mut connection = HOST.connect();
    connection.send(format!("{start}{chunk}0\r\n\r\n"));
    told(&connection.answer(), "no-response");
    // … one byte more …
    let mut connection = HOST.connect();
    connection.send(format!("{start}{chunk}1\r\nx\r\n0\r\n\r\n"));
    told(&connection.answer(), "request-body-too-large");
    // … never all of it …
    let mut connection = HOST.connect();
    connection.send(format!("{start}{chunk}"));
    told(&connection.answer(), "request-timeout");
    // … not what was announced, or not the framing.
    for broken in ["5\r\nabc", "5\r\nabcdefgh\r\n", "xyz\r\n"] {
        let mut connection = HOST.connect();
        connection.send(format!("{start}{broken}"));
        connection.stream.shutdown(std::net::Shutdown::Write).unwrap();
        told(&connection.answer(), "request-body-broken");
    }
    let counters = HOST.counters("reader");
    assert_eq!((counters.client_faults, counters.guest_faults), (5, 1), "{counters:?}");
}

#[test]
fn request_bodies_that_are_echoed_before_they_turn_out_too_long() {
    HOST.deploy("small-stream", &repo::guest("echo"), &["--request-body", "1Ki"]);
    let mut connection = HOST.connect();
    connection.send(
        "POST / HTTP/1.1\r\nhost: small-stream.localhost\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    let head = connection.head().unwrap();
    assert_eq!(head.status, 200);
    connection.send(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048)));
    let id = head.field("x-request-id").unwrap();
    // The head is out. What is left is not to pass the part for the whole.
    let mut framing = head.framing();
    let end = loop {
        match connection.piece(&mut framing) {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "the part was passed off as the whole");
    HOST.eventually_told("small-stream", id, "request-body-too-large");
}

#[test]
fn request_heads() {
    HOST.deploy("thin", &repo::guest("hello"), &["--request-header", "1Ki"]);
    let ask = |name: &str, bytes: usize| {
        let value = "x".repeat(bytes);
        HOST.connect().ask("GET", &format!("{name}.localhost"), "/", &[("x-pad", &value)], None)
    };
    ask("thin", 900).expect_ok();
    ask("thin", 1100).expect_fault("request-header-too-large");
    let long = format!("/{}", "x".repeat(1100));
    HOST.get("thin", &long).expect_fault("request-header-too-large");
    ask("hello", 30_000).expect_ok();
    ask("hello", 33_000).expect_fault("request-header-too-large");
    // Beyond what any tenant may be granted there is no tenant's answer, but still one.
    let mut connection = HOST.connect();
    let fields = "x: y\r\n".repeat(5_000);
    connection.send(format!("GET / HTTP/1.1\r\nhost: hello.localhost\r\n{fields}\r\n"));
    assert_eq!(connection.answer().status(), 431);
    HOST.get("thin", "/").expect_ok();
}

/// Opens a stream of events that lasts for `ms` and holds a place of `name`.
#[track_caller]
fn hold(name: &str, ms: u64) -> Connection {
    let mut holder = HOST.connect();
    holder.send(format!("GET /?n=2&ms={ms} HTTP/1.1\r\nhost: {name}.localhost\r\n\r\n"));
    assert_eq!(holder.head().unwrap().status, 200);
    holder
}

#[test]
fn concurrency_counts_over_all_workers() {
    let flags = ["--concurrency", "2", "--queue", "0", "--timeout", "30s"];
    HOST.deploy("narrow", &repo::guest("sse"), &flags);
    let _two = [hold("narrow", 20_000), hold("narrow", 20_000)];
    for _ in 0..8 {
        HOST.get("narrow", "/").expect_fault("concurrency");
    }
    let counters = HOST.counters("narrow");
    assert_eq!((counters.running, counters.shed, counters.requests), (2, 8, 0), "{counters:?}");
    HOST.get("hello", "/").expect_ok();
    drop(_two);
    eventually("the places are free again", || {
        (HOST.get("narrow", "/?n=1").status() == 200).then_some(())
    });
}

#[test]
fn a_queue_is_bounded_in_length_and_time() {
    let flags = ["--concurrency", "1", "--queue", "1", "--queue-wait", "20s", "--timeout", "30s"];
    HOST.deploy("queued", &repo::guest("sse"), &flags);
    let _holder = hold("queued", 3_000);
    // One place to wait in each of two workers; who finds none is refused at once.
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| HOST.get("queued", "/?n=1"))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let served = answers.iter().filter(|answer| answer.status() == 200).count();
    assert!((1..=2).contains(&served), "{served} waited");
    for answer in answers.iter().filter(|answer| answer.status() != 200) {
        answer.expect_fault("concurrency");
    }
    let flags = ["--concurrency", "1", "--queue", "9", "--queue-wait", "300ms", "--timeout", "30s"];
    HOST.deploy("impatient", &repo::guest("sse"), &flags);
    let _holder = hold("impatient", 20_000);
    let since = Instant::now();
    HOST.get("impatient", "/?n=1").expect_fault("concurrency");
    let waited = since.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
}

#[test]
fn start_functions_run_under_the_same_limits() {
    // Inline, as in guests/hostile-start. The probe of a deploy is an instantiation, so nobody ever asks it.
    let spin = r#"(func $spin (loop $again (br $again))) (start $spin)
        (func (export "handle") (param i32 i32))"#;
    let file = HOST.file("start.wasm", wasm::handler(spin));
    for (name, flags, word) in [
        ("start-fuel", ["--fuel", "100M", "--timeout", "60s"], "out-of-fuel"),
        ("start-time", ["--fuel", "1T", "--timeout", "500ms"], "deadline"),
    ] {
        let deploy = ["deploy", name, file.to_str().unwrap()];
        let refused = HOST.cli(deploy.into_iter().chain(flags));
        refused.expect(3, &[word, "cannot be instantiated", "hint:"]);
        HOST.get(name, "/").expect_fault("no-route");
    }
    HOST.get("hello", "/").expect_ok();
}

#[test]
fn logs_are_bounded_and_unforgeable() {
    // Several at once, until their deadline.
    std::thread::scope(|scope| {
        for target in ["/go", "/go", "/go", "/go?newline=no"] {
            scope
                .spawn(move || HOST.get("hostile-flood", target).expect_fault("deadline").status());
        }
    });
    // The flood may have used up what its tenant may write at once.
    eventually("the forged line is in the log", || {
        HOST.get("hostile-flood", "/go?forge").expect_ok();
        let forged = |text: &str| text.contains("hello stdout: forged");
        HOST.records("hostile-flood").iter().any(|record| forged(&record.text)).then_some(())
    });
    let forged = b"quiet\n{\"at\":\"2020-01-01T00:00:00.000Z\",\"stream\":\"host\",\"revision\":9,\
        \"request\":\"0\",\"text\":\"forged\"}\r\n\x1b]0;title\x07\x00 hello stdout forged \xff\xfe";
    let file = HOST.file("forger.wasm", wasm::printer(forged));
    HOST.deploy("forger", &file, &[]);
    let id = HOST.get("forger", "/").request_id().to_owned();
    HOST.eventually_told("forger", &id, "no-response");
    for (name, words) in [("forger", "forged"), ("hostile-flood", "hello stdout: forged")] {
        let records = HOST.records(name);
        let lines: Vec<_> = records.iter().filter(|record| record.text.contains(words)).collect();
        assert!(!lines.is_empty(), "{name}");
        assert!(lines.iter().all(|line| line.stream == LogStream::Stdout && line.revision == 1));
        // On a terminal none of it is obeyed.
        let shown = HOST.must(["logs", name]).stdout;
        assert!(shown.contains(words), "{name}");
        assert!(!shown.contains(['\x1b', '\x07', '\r', '\0']), "{name}");
        assert!(shown.lines().all(|line| !line.starts_with("hello") && !line.starts_with('{')));
    }
    assert!(HOST.records("hello").iter().all(|record| !record.text.contains("forged")));
    let dropped = |record: &insula_model::api::LogRecord| {
        record.stream == LogStream::Host && record.text.contains("lines dropped")
    };
    assert!(HOST.records("hostile-flood").iter().any(dropped), "nobody is told of lost lines");
    let bytes: u64 = std::fs::read_dir(HOST.data().join("logs"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("hostile-flood.log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(0 < bytes && bytes <= 2_200_000, "{bytes} bytes of log");
}

#[test]
fn while_others_misbehave_hello_keeps_answering_and_memory_stays_bounded() {
    let host = Host::with_guests(&["hello", "hostile-spin", "hostile-grow", "hostile-flood"]);
    let (stop, greeted) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop, greeted, host) = (&stop, &greeted, &host);
    std::thread::scope(|scope| {
        for name in ["hostile-spin", "hostile-grow", "hostile-flood"] {
            for _ in 0..3 {
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let answer = host.get(name, "/go?then=ask");
                        assert!(answer.fault().is_some(), "{name}: {answer:?}");
                    }
                });
            }
        }
        for _ in 0..2 {
            scope.spawn(move || {
                let mut connection = host.connect();
                while !stop.load(Relaxed) {
                    connection.get("hello.localhost", "/").expect_ok();
                    greeted.fetch_add(1, Relaxed);
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(5);
        let mut peak = 0;
        while Instant::now() < until {
            let now: u64 = host.worker_pids().iter().map(|pid| resident_bytes(*pid)).sum();
            peak = peak.max(now + resident_bytes(host.pid()));
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Relaxed);
        // Nine instances of at most 32 MiB, and what the processes hold themselves.
        assert!(peak < 1 << 30, "{peak} bytes");
    });
    let greeted = greeted.load(Relaxed);
    assert!(greeted >= 100, "hello answered only {greeted} times");
    let restarts: u64 = host.workers().iter().map(|worker| worker.restarts).sum();
    assert_eq!(restarts, 0, "{}", host.log());
}
