//! Guests that want the host's memory: their own, and what the host holds for them.

use crate::beside::{GROWTH_MAX, alone, beside, ends_in, victim};
use crate::guests::{RESPOND, handler};
use insula_tests::wait::eventually;
use insula_tests::{Host, repo, wasm};
use std::sync::LazyLock;

static HOST: LazyLock<Host> = LazyLock::new(victim);

const AT_ONCE: usize = 4;
/// What one of these guests may have; all of them at once have four times that.
const MEMORY: u64 = 32 << 20;
const LIMITS: [&str; 6] = ["--fuel", "1T", "--timeout", "1500ms", "--memory", "32Mi"];
/// How a guest may end that was denied something.
const DENIED: [&str; 4] = ["out-of-memory", "trap", "deadline", "out-of-fuel"];

#[track_caller]
fn deploy(name: &str, bytes: &[u8]) {
    let file = HOST.file(&format!("{name}.wasm"), bytes);
    HOST.deploy(name, &file, &LIMITS);
}

#[track_caller]
fn holds(name: &str, bytes: &[u8], target: &str) {
    deploy(name, bytes);
    beside(name, &HOST, GROWTH_MAX + AT_ONCE as u64 * MEMORY, |attack| {
        attack.ask(name, target, AT_ONCE, ends_in(&DENIED));
    });
}

#[test]
fn memory_to_the_limit_and_beyond() {
    let _alone = alone();
    holds("grow", &std::fs::read(repo::guest("hostile-grow")).unwrap(), "/go?then=ask");
    let memories: String = (0..8).map(|i| format!("(memory $m{i} 1)")).collect();
    let grow: String = (0..8)
        .map(|i| {
            format!(
                "(drop (memory.grow $m{i} (i32.const 16)))
                (memory.fill $m{i} (i32.const 0) (i32.const 1)
                  (i32.shl (memory.size $m{i}) (i32.const 16)))"
            )
        })
        .collect();
    let many = format!(
        r#"{memories} (func (export "handle") (param i32 i32) (loop $again {grow} (br $again)))"#
    );
    holds("memories", &wasm::handler(&many), "/");
    let peak = HOST.counters("memories").memory_peak_bytes;
    assert!((MEMORY - (2 << 20)..=MEMORY).contains(&peak), "{peak}");
}

#[test]
fn tables_to_the_limit_and_beyond() {
    let _alone = alone();
    let tables: String = (0..30).map(|i| format!("(table $t{i} 1 funcref)")).collect();
    let grow: String = (0..30)
        .map(|i| format!("(drop (table.grow $t{i} (ref.null func) (i32.const 10000)))"))
        .collect();
    let many = format!(
        r#"{tables} (func (export "handle") (param i32 i32) (loop $again {grow} (br $again)))"#
    );
    holds("tables", &wasm::handler(&many), "/");
    let peak = HOST.counters("tables").memory_peak_bytes;
    assert!((8 << 20..=MEMORY).contains(&peak), "{peak}");
}

#[test]
fn handles() {
    let _alone = alone();
    let forever = |code: &str| handler(1, "", &format!("(loop $again {code} (br $again))"));
    holds("pollables", &forever("(drop (call $subscribe (i64.const 1000000000000)))"), "/");
    holds("responses", &forever("(drop (call $response (call $fields)))"), "/");
    holds("requests", &forever("(drop (call $request (call $fields)))"), "/");
}

/// Fields of some 64 KiB in `$a`, half of what one set of fields may have.
const FIELDS: &str = "(memory.fill (i32.const 8192) (i32.const 120) (i32.const 1024))
    (local.set $a (call $fields)) (local.set $n (i32.const 0))
    (loop $more
      (call $append (local.get $a) (i32.const 4096) (i32.const 5) (i32.const 8192) (i32.const 1024)
        (i32.const 0))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 60))))";

#[test]
fn fields_in_sum() {
    let _alone = alone();
    let code = format!("(loop $again {FIELDS} (br $again))");
    holds("fields", &handler(2, "x-pil", &code), "/");
}

#[test]
fn what_the_host_holds_counts_for_the_tenant() {
    let _alone = alone();
    // The guest needs two pages of its own, and fills sets of fields that are the host's.
    let limits = ["--fuel", "1T", "--timeout", "10s", "--memory", "4Mi", "--memory-limit", "4Mi"];
    let code = format!("(loop $again {FIELDS} (br $again))");
    let file = HOST.file("owed-fields.wasm", handler(2, "x-pil", &code));
    HOST.deploy("owed-fields", &file, &limits);
    let answer = HOST.get("owed-fields", "/");
    answer.expect_fault("out-of-memory");
    let words = "out-of-memory: the host holds too much for this tenant's guests";
    HOST.eventually_told("owed-fields", answer.request_id(), words);
    eventually("all of it is given back", || {
        (HOST.counters("owed-fields").memory_bytes == 0).then_some(())
    });
}

#[test]
fn what_waits_for_a_client_counts_for_the_tenant() {
    let _alone = alone();
    let flags = ["--timeout", "10s", "--response-body", "1Gi", "--fuel", "1T"];
    HOST.deploy("owed-answer", &repo::guest("hostile-endless"), &flags);
    let mut connection = HOST.connect();
    connection.send("GET /go HTTP/1.1\r\nhost: owed-answer.localhost\r\n\r\n");
    // The instance's own, and what the connection has taken in for a client that does not read.
    let counters = eventually("it waits for its client", || {
        let counters = HOST.counters("owed-answer");
        (counters.memory_host_bytes >= (32 + 192) << 10).then_some(counters)
    });
    assert!(counters.memory_bytes >= counters.memory_host_bytes + (64 << 10), "{counters:?}");
    let shown = HOST.must(["inspect", "owed-answer"]);
    assert!(shown.stdout.contains("held by the host"), "{shown:?}");
    drop(connection);
    eventually("all of it is given back", || {
        (HOST.counters("owed-answer").memory_bytes == 0).then_some(())
    });
}

#[test]
fn fields_cloned() {
    let _alone = alone();
    let code = format!("{FIELDS} (loop $again (drop (call $clone (local.get $a))) (br $again))");
    holds("clones", &handler(2, "x-pil", &code), "/");
}

#[test]
fn many_fields_at_once() {
    let _alone = alone();
    // A list of 400,000 entries, each the same name and an empty value.
    let list = "(local.set $n (i32.const 65536))
        (loop $fill
          (i32.store (local.get $n) (i32.const 4096))
          (i32.store offset=4 (local.get $n) (i32.const 1))
          (local.set $n (i32.add (local.get $n) (i32.const 16)))
          (br_if $fill (i32.lt_u (local.get $n) (i32.const 6465536))))
        (loop $again (call $from-list (i32.const 65536) (i32.const 400000) (i32.const 0))
          (br $again))";
    holds("from-list", &handler(100, "x", list), "/");
}

/// Forty outgoing requests, each with this done to it, and then a wait; 30 MB of `a` lie at 64 KiB.
/// Forty are enough to show what is not counted, and few enough to leave the machine alive.
fn outgoing(each: &str) -> Vec<u8> {
    let code = format!(
        "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 31000000))
        (i32.store8 (i32.const 65536) (i32.const 47))
        (loop $again (local.set $a (call $request (call $fields))) {each}
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const 40))))
        (call $block (call $subscribe (i64.const 1000000000000)))"
    );
    handler(500, "", &code)
}

#[test]
fn methods_as_long_as_a_call_allows() {
    let _alone = alone();
    let set = "(drop (call $set-method (local.get $a) (i32.const 9) (i32.const 65537)
        (i32.const 15000000)))";
    holds("methods", &outgoing(set), "/");
}

#[test]
fn authorities_as_long_as_a_call_allows() {
    let _alone = alone();
    let set = "(drop (call $set-authority (local.get $a) (i32.const 1) (i32.const 65537)
        (i32.const 15000000)))";
    holds("authorities", &outgoing(set), "/");
}

#[test]
fn paths_as_long_as_a_call_allows() {
    let _alone = alone();
    for (name, length) in [("paths-64k", 65_500), ("paths", 15_000_000)] {
        let set = format!(
            "(drop (call $set-path (local.get $a) (i32.const 1) (i32.const 65536)
            (i32.const {length})))"
        );
        holds(name, &outgoing(&set), "/");
    }
}

#[test]
fn bodies_that_nobody_sends() {
    let _alone = alone();
    // As much into each as it takes, then the next.
    let code = "(loop $again
        (call $body (call $response (call $fields)) (i32.const 0))
        (call $body-stream (i32.load (i32.const 4)) (i32.const 16))
        (local.set $a (i32.load (i32.const 20)))
        (local.set $n (i32.const 0))
        (loop $more
          (call $check-write (local.get $a) (i32.const 32))
          (if (i32.eqz (i32.load8_u (i32.const 32))) (then
            (local.set $b (i32.load (i32.const 40)))
            (if (local.get $b) (then
              (if (i32.gt_u (local.get $b) (i32.const 4000000))
                (then (local.set $b (i32.const 4000000))))
              (call $put (local.get $a) (i32.const 65536) (local.get $b) (i32.const 64))
              (call $flush (local.get $a) (i32.const 64))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $more (i32.lt_u (local.get $n) (i32.const 64))))))))
        (br $again))";
    holds("unsent", &handler(100, "", code), "/");
}

#[test]
fn nobody_sees_what_another_left_behind() {
    let _alone = alone();
    // One leaves an image, dirty pages and table entries behind, and dies of it; the other traps if it
    // finds anything but zeros and nulls, in what it begins with and in what it grows into.
    let secret = "secret".repeat(10_000);
    let leaves = format!(
        r#"(memory 100) (table 5000 funcref) (elem declare func $f) (func $f)
        (data (i32.const 0) "{secret}") (data (i32.const 4000000) "{secret}")
        (func (export "handle") (param i32 i32)
          (table.fill (i32.const 0) (ref.func $f) (i32.const 5000))
          (memory.fill (i32.const 100000) (i32.const 83) (i32.const 3000000))
          (drop (memory.grow (i32.const 50)))
          (memory.fill (i32.const 6553600) (i32.const 83) (i32.const 3276800)) unreachable)"#
    );
    let looks = r#"(memory 40) (table 5000 10000 funcref)
        (func $zero (param $at i32)
          (loop $more
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.shl (memory.size) (i32.const 16))))))
        (func $null (param $at i32)
          (loop $more
            (if (i32.eqz (ref.is_null (table.get (local.get $at)))) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $at) (table.size)))))
        (func (export "handle") (param i32 i32)
          (call $zero (i32.const 0)) (call $null (i32.const 0))
          (drop (memory.grow (i32.const 110)))
          (drop (table.grow (ref.null func) (i32.const 5000)))
          (call $zero (i32.const 0)) (call $null (i32.const 0)))"#;
    deploy("leaves", &wasm::handler(&leaves));
    deploy("looks", &wasm::handler(looks));
    beside("residue", &HOST, GROWTH_MAX + 2 * AT_ONCE as u64 * MEMORY, |attack| {
        attack.in_threads(2 * AT_ONCE, |number| {
            let (name, word) = [("leaves", "trap"), ("looks", "no-response")][number % 2];
            HOST.get(name, "/").expect_fault(word);
        });
    });
}

#[test]
fn pieces_without_content() {
    let _alone = alone();
    let code = format!(
        "{RESPOND} (loop $again
          (call $put (local.get $a) (i32.const 0) (i32.const 0) (i32.const 32))
          (call $check-write (local.get $a) (i32.const 32)) (br $again))"
    );
    deploy("empty-pieces", &handler(1, "", &code));
    beside("empty pieces", &HOST, GROWTH_MAX, |attack| {
        // A client that does not read, beside one that does.
        attack.in_threads(AT_ONCE, |number| {
            let mut connection = HOST.connect();
            connection.send("GET / HTTP/1.1\r\nhost: empty-pieces.localhost\r\n\r\n");
            if number % 2 == 0 {
                let _ = connection.try_answer(false);
            } else {
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        });
    });
}
