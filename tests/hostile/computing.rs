//! Guests that want the processor: loops in code, in calls, in polling and in failing.

use crate::beside::{GROWTH_MAX, alone, beside, ends_in, victim};
use crate::guests::{handler, looping};
use insula_tests::{Host, repo, wasm};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(victim);

/// Ends by its deadline and by nothing else.
const FOREVER: [&str; 6] = ["--fuel", "1T", "--timeout", "1s", "--memory", "32Mi"];
/// Connections that ask an attacker at once.
const AT_ONCE: usize = 8;

#[track_caller]
fn deploy(name: &str, bytes: &[u8], flags: &[&str]) {
    let file = HOST.file(&format!("{name}.wasm"), bytes);
    HOST.deploy(name, &file, flags);
}

/// An attacker that computes until its deadline.
#[track_caller]
fn computes(name: &str, bytes: &[u8], words: &[&'static str]) {
    deploy(name, bytes, &FOREVER);
    beside(name, &HOST, GROWTH_MAX, |attack| {
        attack.ask(name, "/go", AT_ONCE, ends_in(words));
    });
}

#[test]
fn loops_of_code_and_of_calls() {
    let _alone = alone();
    for guest in ["hostile-spin", "hostile-hostcalls"] {
        computes(guest, &std::fs::read(repo::guest(guest)).unwrap(), &["deadline"]);
    }
}

/// The subscription to a clock that `poll_oneoff` reads at 0, due at once.
const AT_ZERO: &str = "(i32.store (i32.const 16) (i32.const 1))";
const POLL: (&str, &str) = ("poll_oneoff", "(param i32 i32 i32 i32) (result i32)");
const YIELD: (&str, &str) = ("sched_yield", "(result i32)");

#[test]
fn polling_without_a_timeout_and_yielding() {
    let _alone = alone();
    let poll =
        "(drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))";
    computes("poll-zero-p1", &looping(&[POLL], 1, AT_ZERO, poll), &["deadline"]);
    let zero = "(loop $again (local.set $a (call $subscribe (i64.const 0)))
        (call $block (local.get $a)) (call $drop-pollable (local.get $a)) (br $again))";
    computes("poll-zero", &handler(1, "", zero), &["deadline"]);
    computes("yield-p1", &looping(&[YIELD], 1, "", "(drop (call $sched_yield))"), &["deadline"]);
    // Just short of a slice, and then a wait that is over at once.
    let spin = "(local.set $n (i32.const 100000))
        (loop $spin (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br_if $spin (local.get $n)))";
    let spin_p1 = format!("{spin} (drop (call $sched_yield))");
    computes("yield-and-spin-p1", &looping(&[YIELD], 1, "", &spin_p1), &["deadline"]);
    let short = zero
        .replace("i64.const 0", "i64.const 1000")
        .replace("(loop $again", &format!("(loop $again {spin}"));
    computes("wait-and-spin", &handler(1, "", &short), &["deadline"]);
}

#[test]
fn calls_that_have_much_to_look_at() {
    let _alone = alone();
    // A million subscriptions, and a million pieces of nothing to write, in one call each.
    let poll = "(drop (call $poll_oneoff (i32.const 0) (i32.const 16777216) (i32.const 300000)
        (i32.const 33500000)))";
    computes(
        "poll-many-p1",
        &looping(&[POLL], 512, "", poll),
        &["deadline", "trap", "exit", "bad-response"],
    );
    let write = ("fd_write", "(param i32 i32 i32 i32) (result i32)");
    let many = "(drop (call $fd_write (i32.const 2) (i32.const 65536) (i32.const 4000000)
        (i32.const 0)))";
    computes(
        "write-nothing-p1",
        &looping(&[write], 512, "", many),
        &["deadline", "trap", "exit", "bad-response"],
    );
    let random = ("random_get", "(param i32 i32) (result i32)");
    let fill = "(drop (call $random_get (i32.const 0) (i32.const 33000000)))";
    computes(
        "random-p1",
        &looping(&[random], 512, "", fill),
        &["deadline", "trap", "exit", "bad-response"],
    );
    // One pollable, many times in one list.
    let list = "(local.set $a (call $subscribe (i64.const 0)))
        (local.set $n (i32.const 1048576))
        (loop $fill (i32.store (local.get $n) (local.get $a))
          (local.set $n (i32.add (local.get $n) (i32.const 4)))
          (br_if $fill (i32.lt_u (local.get $n) (i32.const 16000000))))
        (loop $again (call $poll (i32.const 1048576) (i32.const 3000000) (i32.const 0))
          (br $again))";
    computes("poll-list", &handler(256, "", list), &["deadline", "trap"]);
}

#[test]
fn operations_that_nothing_interrupts() {
    let _alone = alone();
    for (name, operation) in [
        ("copy", "(memory.copy (i32.const 0) (i32.const 16000000) (i32.const 16000000))"),
        ("fill", "(memory.fill (i32.const 0) (i32.const 7) (i32.const 33000000))"),
        ("init", "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 65536))"),
        ("table-fill", "(table.fill $t (i32.const 0) (ref.null func) (i32.const 100000))"),
        ("table-copy", "(table.copy $t $t (i32.const 1) (i32.const 0) (i32.const 99999))"),
    ] {
        let data = "x".repeat(65_536);
        let module = format!(
            r#"(memory 510) (table $t 100000 funcref) (data $d "{data}")
            (func (export "handle") (param i32 i32) (loop $again {operation} (br $again)))"#
        );
        let name = format!("bulk-{name}");
        deploy(
            &name,
            &wasm::handler(&module),
            &["--fuel", "1T", "--timeout", "1s", "--memory", "40Mi"],
        );
        beside(&name, &HOST, GROWTH_MAX + ((AT_ONCE as u64 * 40) << 20), |attack| {
            attack.ask(&name, "/go", AT_ONCE, ends_in(&["deadline"]));
        });
    }
}

#[test]
fn deep_recursion() {
    let _alone = alone();
    let plain = r#"(func $down (param i64) (result i64)
          (i64.add (call $down (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
        (func (export "handle") (param i32 i32) (drop (call $down (i64.const 0))))"#;
    computes("recurse", &wasm::handler(plain), &["trap"]);
    // Frames as large as they get, so that one passes the guard at once.
    let locals = "i64 ".repeat(40_000);
    let uses: String = (1..40_000)
        .step_by(16)
        .map(|i| format!("(local.set {i} (call $id (local.get 0)))"))
        .collect();
    let reads: String = (1..40_000)
        .step_by(16)
        .map(|i| format!("(local.set 0 (i64.xor (local.get 0) (local.get {i})))"))
        .collect();
    let wide = format!(
        r#"(func $id (param i64) (result i64) (local.get 0))
        (func $down (param i64) (result i64) (local {locals}) {uses}
          (local.set 0 (call $down (local.get 0))) {reads} (local.get 0))
        (func (export "handle") (param i32 i32) (drop (call $down (i64.const 1))))"#
    );
    computes("recurse-wide", &wasm::handler(&wide), &["trap"]);
    let table = r#"(table 1 funcref) (elem (i32.const 0) $down)
        (func $down (call_indirect (i32.const 0)) (call_indirect (i32.const 0)))
        (func (export "handle") (param i32 i32) (call $down))"#;
    computes("recurse-indirect", &wasm::handler(table), &["trap"]);
}

#[test]
fn failing_as_fast_as_possible() {
    let _alone = alone();
    for (name, module, word) in [
        ("fails-at-once", r#"(func (export "handle") (param i32 i32) unreachable)"#, "trap"),
        ("says-nothing", r#"(func (export "handle") (param i32 i32))"#, "no-response"),
        (
            "dirties-much",
            r#"(memory 120) (func (export "handle") (param i32 i32)
              (memory.fill (i32.const 0) (i32.const 1) (i32.const 7864320)) unreachable)"#,
            "trap",
        ),
    ] {
        deploy(name, &wasm::handler(module), &["--memory", "8Mi"]);
        beside(name, &HOST, GROWTH_MAX, |attack| {
            attack.ask(name, "/", AT_ONCE, ends_in(&[word]));
        });
    }
}

#[test]
fn logging_as_fast_as_possible() {
    let _alone = alone();
    for target in ["/go", "/go?newline=no"] {
        deploy("log", &std::fs::read(repo::guest("hostile-flood")).unwrap(), &FOREVER);
        beside(&format!("log {target}"), &HOST, GROWTH_MAX, |attack| {
            attack.ask("log", target, AT_ONCE, ends_in(&["deadline"]));
        });
    }
    // A line for each of a great many requests.
    deploy("one-line", &wasm::printer(&[b'x'; 4000]), &[]);
    beside("a line for each request", &HOST, GROWTH_MAX, |attack| {
        attack.ask("one-line", "/", AT_ONCE, ends_in(&["no-response"]));
    });
}

/// The other engine, with a guest alone in its instance and with several requests in one.
#[test]
fn services_of_wasi_03() {
    let _alone = alone();
    let gather = repo::guest("gather-p3");
    HOST.deploy("p3", &gather, &FOREVER);
    let shared = format!(
        "name = \"p3-shared\"\ncomponent = {gather:?}\nmemory = \"32Mi\"\nfuel = \"1T\"\ntimeout = \"1s\"\n\
         reuse = {{ requests = 1000, idle = \"30s\", concurrent = 4 }}\n"
    );
    let file = HOST.file("p3-shared.toml", shared);
    HOST.must(["deploy".as_ref(), "-f".as_ref(), file.as_os_str()]);
    for (target, words) in [
        ("/spin", ["deadline", "deadline"]),
        ("/stall", ["deadline", "deadline"]),
        ("/trap", ["trap", "trap"]),
        ("/hold?kib=100000", ["out-of-memory", "trap"]),
    ] {
        beside(&format!("p3{target}"), &HOST, GROWTH_MAX, |attack| {
            attack.ask("p3", target, AT_ONCE, ends_in(&words));
        });
        // Who shares an instance with one that fails fails with it.
        let words = [words[0], words[1], "deadline", "trap", "out-of-memory", "no-response"];
        beside(&format!("p3-shared{target}"), &HOST, GROWTH_MAX, |attack| {
            attack.ask("p3-shared", target, AT_ONCE, ends_in(&words));
        });
    }
}
