//! Components that no toolchain makes: each ends in a word of its own, and in no worker's death.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::process::resident_bytes;
use insula_tests::{Answer, Host, Output, wasm};
use std::fmt::Write;
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(|| Host::with_guests(&["hello"]));

/// A handler that does nothing.
const IDLE: &str = r#"(func (export "handle") (param i32 i32))"#;

/// Deploys a component; whether the host takes it is the test's question.
#[track_caller]
fn offer(name: &str, component: &[u8], flags: &[&str]) -> Output {
    let file = HOST.file(&format!("{name}.wasm"), component);
    let args = ["deploy", name, file.to_str().unwrap()];
    HOST.cli(args.iter().chain(flags))
}

/// Deploys a component and asks it once.
#[track_caller]
fn ask(name: &str, component: &[u8], flags: &[&str]) -> Answer {
    offer(name, component, flags).expect(0, &[]);
    HOST.get(name, "/")
}

/// Deploys a component, which must be refused, or end in one of `words` when it is asked, with a
/// worker that lives on either way.
#[track_caller]
fn ends(name: &str, component: &[u8], flags: &[&str], words: &[&str]) {
    let workers = HOST.worker_pids();
    let output = offer(name, component, flags);
    if output.code == Some(0) {
        for _ in 0..3 {
            let answer = HOST.get(name, "/");
            let word = answer.fault().unwrap_or("a response").to_owned();
            assert!(words.contains(&word.as_str()), "{name}: {answer:?}");
            answer.expect_fault(&word);
            HOST.eventually_told(name, answer.request_id(), &word);
        }
    } else {
        output.expect(3, &["error:", name]);
    }
    assert_eq!(HOST.worker_pids(), workers, "{name}: {}", HOST.log());
    HOST.get("hello", "/").expect_ok();
}

#[test]
fn many_memories_are_one_limit() {
    // Eight of 1 MiB, of which four are allowed.
    let memories = "(memory 16) ".repeat(8);
    let flags = ["--memory", "4Mi"];
    ends("memories", &wasm::handler(&format!("{memories}{IDLE}")), &flags, &["out-of-memory"]);
    // The same, grown in turn until all are denied. Then it traps.
    let mut grow = String::from(
        r#"(func (export "handle") (param i32 i32) (local $grew i32)
        (loop $again (local.set $grew (i32.const 0))"#,
    );
    for memory in 0..8 {
        write!(
            grow,
            "(local.set $grew (i32.or (local.get $grew)
               (i32.ge_s (memory.grow {memory} (i32.const 1)) (i32.const 0))))"
        )
        .unwrap();
    }
    grow.push_str("(br_if $again (local.get $grew))) unreachable)");
    let module = format!("{}{grow}", "(memory 0) ".repeat(8));
    ends("memories-grown", &wasm::handler(&module), &flags, &["out-of-memory"]);
    let peak = HOST.counters("memories-grown").memory_peak_bytes;
    assert!((3 << 20..=4 << 20).contains(&peak), "{peak} bytes in eight memories");
}

#[test]
fn memories_and_tables_of_all_modules_are_one_limit() {
    // Three modules in one component, each within the limit, together beyond it.
    let cores = r#"
        (core module $big (memory 24) (table 1000 funcref))
        (core instance (instantiate $big))
        (core instance (instantiate $big))
        (core instance (instantiate $big))
        (core module $m (func (export "handle") (param i32 i32)))
        (core instance $i (instantiate $m))"#;
    let component = wasm::component("", "", cores);
    ends("modules", &component, &["--memory", "4Mi"], &["out-of-memory"]);
    ask("modules-fit", &component, &["--memory", "8Mi"]).expect_fault("no-response");
    let tables = format!("{} {IDLE}", "(table 100000 funcref) ".repeat(8));
    ends("tables", &wasm::handler(&tables), &["--memory", "4Mi"], &["out-of-memory"]);
}

#[test]
fn what_is_too_large_from_the_start_never_starts() {
    let start = "(func $mark (loop $for-ever (br $for-ever))) (start $mark)";
    let huge = wasm::handler(&format!("(memory 65536) {start} {IDLE}"));
    ends("huge-memory", &huge, &["--memory", "64Mi"], &["out-of-memory"]);
    let huge = wasm::handler(&format!("(table 10000000 funcref) {start} {IDLE}"));
    ends("huge-table", &huge, &["--memory", "1Gi"], &["out-of-memory"]);
    // Growing by all there is, at once, is denied like any other growth.
    let leap = r#"(memory 1) (table 1 funcref) (func (export "handle") (param i32 i32)
        (if (i32.ge_s (memory.grow (i32.const 65535)) (i32.const 0)) (then (return)))
        (if (i32.ge_s (table.grow (ref.null func) (i32.const 0x5000000)) (i32.const 0))
            (then (return)))
        unreachable)"#;
    // Elements cost fuel, asked for or had: either limit may be the first.
    ends("leap", &wasm::handler(leap), &["--memory", "64Mi"], &["out-of-memory", "out-of-fuel"]);
}

#[test]
fn traps_while_it_is_made_are_like_any_others() {
    for (name, module) in [
        ("start-trap", "(func $start unreachable) (start $start)"),
        ("data-outside", r#"(memory 1) (data (i32.const 65535) "ab")"#),
        ("elements-outside", "(func $f) (table 1 funcref) (elem (i32.const 1) $f)"),
        ("division", "(func $start (drop (i32.div_u (i32.const 1) (i32.const 0)))) (start $start)"),
    ] {
        ends(name, &wasm::handler(&format!("{module} {IDLE}")), &[], &["trap"]);
    }
    for (name, body) in [
        ("null-call", "(call_indirect $table (type $type) (i32.const 0))"),
        ("wild-read", "(drop (i64.load (i32.const -1)))"),
        ("wild-copy", "(memory.copy (i32.const 0) (i32.const 1) (i32.const 70000))"),
        ("wild-fill", "(memory.fill (i32.const 65530) (i32.const 7) (i32.const 100))"),
    ] {
        let module = format!(
            r#"(type $type (func)) (memory 1) (table $table 1 funcref)
            (func (export "handle") (param i32 i32) {body})"#
        );
        ends(name, &wasm::handler(&module), &[], &["trap"]);
    }
}

#[test]
fn more_parts_than_a_worker_has_room_for_are_refused_when_they_are_deployed() {
    let parts = "(core instance (instantiate $part))".repeat(200);
    let cores = format!(
        r#"(core module $part (memory 1)) {parts}
        (core module $m (func (export "handle") (param i32 i32)))
        (core instance $i (instantiate $m))"#
    );
    let zero = "(global (mut v128) (v128.const i64x2 0 0)) ";
    for (name, component) in [
        ("many-parts", wasm::component("", "", &cores)),
        ("many-tables", wasm::handler(&format!("{} {IDLE}", "(table 1 funcref) ".repeat(80)))),
        ("many-memories", wasm::handler(&format!("{} {IDLE}", "(memory 0) ".repeat(80)))),
        ("many-globals", wasm::handler(&format!("{} {IDLE}", zero.repeat(70_000)))),
    ] {
        // A tenant that is deployed and can never answer would be the worst of both.
        offer(name, &component, &[]).expect(3, &["error:", name]);
    }
    HOST.get("hello", "/").expect_ok();
}

#[test]
fn deep_stacks_of_every_kind_end_in_a_trap() {
    // Few bytes in each frame, and very many.
    let locals = "(local i64) ".repeat(5_000);
    for (name, locals) in [("deep", ""), ("wide", locals.as_str())] {
        let module = format!(
            r#"(func $down (param i32) {locals} (call $down (i32.add (local.get 0) (i32.const 1))))
            (func (export "handle") (param i32 i32) (call $down (i32.const 0)))"#
        );
        ends(name, &wasm::handler(&module), &[], &["trap"]);
    }
}

#[test]
fn bulk_operations_are_bounded_by_the_deadline() {
    // One instruction that takes long, over and over: fuel counts it as little.
    let fill = r#"(memory 800) (func (export "handle") (param i32 i32)
        (loop $again
          (memory.fill (i32.const 0) (i32.const 1) (i32.const 52428800))
          (br $again)))"#;
    let flags = ["--memory", "64Mi", "--fuel", "1T", "--timeout", "700ms"];
    ends("fill", &wasm::handler(fill), &flags, &["deadline", "out-of-fuel"]);
}

#[test]
fn what_one_instance_touched_is_not_kept_for_ever() {
    let touch = r#"(memory 3200) (func (export "handle") (param i32 i32)
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 209715200)))"#;
    let host = Host::with_guests(&["hello"]);
    let file = host.file("touch.wasm", wasm::handler(touch));
    host.deploy("touch", &file, &["--memory", "256Mi"]);
    for _ in 0..8 {
        host.get("touch", "/").expect_fault("no-response");
    }
    let held: u64 = host.worker_pids().iter().map(|pid| resident_bytes(*pid)).sum();
    assert!(held < 300 << 20, "{held} bytes are held after 8 instances of 200 MiB");
    assert!(host.counters("touch").memory_peak_bytes >= 200 << 20);
}
