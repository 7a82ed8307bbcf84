//! Small programs that do nothing but compute, each in its own way. `benches/peer/kernels.rs` has them in
//! Rust.

use anyhow::Result;

/// Name, the functions that `$compute` needs, and what it does to get `$result`.
pub const KERNELS: [(&str, &str, &str); 4] = [
    (
        "integers",
        "",
        "(local $n i32) (local.set $n (i32.const 30000000))
         (loop $more
           (local.set $result (i64.add (i64.mul (local.get $result)
             (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
           (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))",
    ),
    (
        "memory",
        "",
        // 1 MiB, a word at a time, a hundred times over.
        "(local $pass i32) (local $at i32) (local.set $pass (i32.const 100))
         (loop $again
           (local.set $at (i32.const 0))
           (loop $more
             (i64.store offset=65536 (local.get $at)
               (i64.add (i64.load offset=65544 (local.get $at)) (i64.extend_i32_u (local.get $at))))
             (br_if $more (i32.lt_u
               (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 1048576))))
           (br_if $again (local.tee $pass (i32.sub (local.get $pass) (i32.const 1)))))
         (local.set $result (i64.load (i32.const 65544)))",
    ),
    (
        "calls",
        "(func $fib (param $n i64) (result i64)
           (if (result i64) (i64.lt_u (local.get $n) (i64.const 2))
             (then (local.get $n))
             (else (i64.add
               (call $fib (i64.sub (local.get $n) (i64.const 1)))
               (call $fib (i64.sub (local.get $n) (i64.const 2)))))))",
        "(local.set $result (call $fib (i64.const 31)))",
    ),
    (
        "branches",
        "",
        // Collatz's sequences, from every number up to a bound down to one.
        "(local $from i64) (local $x i64) (local.set $from (i64.const 100000))
         (loop $next
           (local.set $x (local.get $from))
           (loop $more
             (local.set $result (i64.add (local.get $result) (i64.const 1)))
             (if (i64.eqz (i64.and (local.get $x) (i64.const 1)))
               (then (local.set $x (i64.shr_u (local.get $x) (i64.const 1))))
               (else (local.set $x
                 (i64.add (i64.mul (local.get $x) (i64.const 3)) (i64.const 1)))))
             (br_if $more (i64.gt_u (local.get $x) (i64.const 1))))
           (br_if $next (i64.gt_u
             (local.tee $from (i64.sub (local.get $from) (i64.const 1))) (i64.const 1))))",
    ),
];

/// A program that computes, and then answers.
pub fn program(functions: &str, compute: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 32)
          (data (i32.const 8) "\10\00\00\00\23\00\00\00content-type: text/plain\0a\0acomputed\0a")
          {functions}
          (func $compute (result i64) (local $result i64)
            {compute} (local.get $result))
          (func (export "_start")
            (i64.store (i32.const 128) (call $compute))
            (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))))"#
    ))?)
}
