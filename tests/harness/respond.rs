//! A guest with a canned answer, right or wrong.

use crate::wasm::component;
use std::fmt::Write;

/// What a guest answers to every request.
#[derive(Debug, Clone)]
pub struct Canned<'a> {
    /// The status; one that the host refuses leaves it at 200.
    pub status: u16,
    /// Fields, appended in order; those that the host refuses are left out.
    pub fields: &'a [(&'a str, &'a [u8])],
    /// What is written to the body, piece by piece, each flushed.
    pub body: &'a [&'a str],
    /// Whether the environment is written to the body too, a line `NAME=VALUE` for each variable.
    pub environment: bool,
    /// Whether the body is finished; if not, it is dropped.
    pub finished: bool,
}

impl Default for Canned<'_> {
    fn default() -> Self {
        Self { status: 200, fields: &[], body: &[], environment: false, finished: true }
    }
}

const IMPORTS: &str = r#"
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (export "output-stream" (type $stream (sub resource)))
    (type $defined (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $defined)))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $stream))
      (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))"#;

const TYPES: &str = r#"
  (alias outer 1 $stream (type $outer-stream))
  (export "output-stream" (type $stream (eq $outer-stream)))
  (export "fields" (type $fields (sub resource)))
  (export "outgoing-response" (type $response (sub resource)))
  (export "outgoing-body" (type $body (sub resource)))
  (type $he (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
  (export "header-error" (type $header-error (eq $he)))
  @ERROR_CODE@
  (export "[constructor]fields" (func (result (own $fields))))
  (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string)
    (param "value" (list u8)) (result (result (error $header-error)))))
  (export "[constructor]outgoing-response"
    (func (param "headers" (own $fields)) (result (own $response))))
  (export "[method]outgoing-response.set-status-code"
    (func (param "self" (borrow $response)) (param "status-code" u16) (result (result))))
  (export "[method]outgoing-response.body"
    (func (param "self" (borrow $response)) (result (result (own $body)))))
  (export "[method]outgoing-body.write"
    (func (param "self" (borrow $body)) (result (result (own $stream)))))
  (export "[static]outgoing-body.finish" (func (param "this" (own $body))
    (param "trailers" (option (own $fields))) (result (result (error $error-code)))))
  (export "[static]response-outparam.set" (func (param "param" (own $outparam))
    (param "response" (result (own $response) (error $error-code)))))"#;

const LOWERED: &str = r#"
  (alias export $types "outgoing-body" (type $body))
  (core func $fields (canon lower (func $types "[constructor]fields")))
  (core func $append (canon lower (func $types "[method]fields.append") (memory $bytes)))
  (core func $response (canon lower (func $types "[constructor]outgoing-response")))
  (core func $status (canon lower (func $types "[method]outgoing-response.set-status-code")))
  (core func $body (canon lower (func $types "[method]outgoing-response.body") (memory $bytes)))
  (core func $write (canon lower (func $types "[method]outgoing-body.write") (memory $bytes)))
  (core func $flush (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory $bytes)))
  (core func $finish (canon lower
    (func $types "[static]outgoing-body.finish") (memory $bytes) (realloc $realloc)))
  (core func $set (canon lower (func $types "[static]response-outparam.set") (memory $bytes)))
  (core func $drop-stream (canon resource.drop $stream))
  (core func $drop-body (canon resource.drop $body))"#;

const IMPORTED: &str = r#"
  (import "host" "fields" (func $fields (result i32)))
  (import "host" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
  (import "host" "response" (func $response (param i32) (result i32)))
  (import "host" "status" (func $status (param i32 i32) (result i32)))
  (import "host" "body" (func $body (param i32 i32)))
  (import "host" "write" (func $write (param i32 i32)))
  (import "host" "flush" (func $flush (param i32 i32 i32 i32)))
  (import "host" "finish" (func $finish (param i32 i32 i32 i32)))
  (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "host" "drop-stream" (func $drop-stream (param i32)))
  (import "host" "drop-body" (func $drop-body (param i32)))"#;

/// Pages for what host calls return: the environment.
const RETURNED_PAGES: usize = 8;

/// Import, lowering, core import and argument of the call that gives the environment; and its use: the
/// list is at 40, each entry four words of name and value.
const ENVIRONMENT: [&str; 5] = [
    r#"(import "wasi:cli/environment@0.2.0" (instance $environment
      (export "get-environment" (func (result (list (tuple string string)))))))"#,
    r#"(core func $environment (canon lower
      (func $environment "get-environment") (memory $bytes) (realloc $realloc)))"#,
    r#"(import "host" "environment" (func $environment (param i32)))"#,
    r#"(export "environment" (func $environment))"#,
    r#"(call $environment (i32.const 40))
    (local.set $at (i32.load (i32.const 40)))
    (local.set $end (i32.add (local.get $at) (i32.shl (i32.load (i32.const 44)) (i32.const 4))))
    (block $done (loop $more
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (call $flush (i32.load (i32.const 20)) (i32.load (local.get $at))
        (i32.load offset=4 (local.get $at)) (i32.const 32))
      (call $flush (i32.load (i32.const 20)) EQUALS (i32.const 32))
      (call $flush (i32.load (i32.const 20)) (i32.load offset=8 (local.get $at))
        (i32.load offset=12 (local.get $at)) (i32.const 32))
      (call $flush (i32.load (i32.const 20)) LINE (i32.const 32))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (br $more)))"#,
];

/// The component that answers so.
#[track_caller]
pub fn responder(canned: &Canned<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    let mut place = |bytes: &[u8]| {
        // Results of host calls go below.
        let at = 4096 + data.len();
        data.extend_from_slice(bytes);
        format!("(i32.const {at}) (i32.const {})", bytes.len())
    };
    let (mut appends, mut writes) = (String::new(), String::new());
    for (name, value) in canned.fields {
        let (name, value) = (place(name.as_bytes()), place(value));
        write!(appends, "(call $append (local.get $fields) {name} {value} (i32.const 0))").unwrap();
    }
    for piece in canned.body {
        let piece = place(piece.as_bytes());
        write!(writes, "(call $flush (i32.load (i32.const 20)) {piece} (i32.const 32))").unwrap();
    }
    let [import, lowering, core_import, argument, told] = match canned.environment {
        true => ENVIRONMENT,
        false => [""; 5],
    };
    let told = told.replace("EQUALS", &place(b"=")).replace("LINE", &place(b"\n"));
    let last = if canned.finished {
        "(call $finish (i32.load (i32.const 4)) (i32.const 0) (i32.const 0) (i32.const 64))"
    } else {
        "(call $drop-body (i32.load (i32.const 4)))"
    };
    let hex: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let free = (4096 + data.len()).next_multiple_of(64 << 10);
    let returned = if canned.environment { RETURNED_PAGES } else { 1 };
    let pages = free / (64 << 10) + returned;
    // An instance that serves many requests begins anew half-way.
    let full = free + returned * (32 << 10);
    let status = canned.status;
    let cores = format!(
        r#"(core module $memory (memory (export "memory") {pages}) (data (i32.const 4096) "{hex}")
          (global $free (mut i32) (i32.const {free}))
          (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (if (i32.gt_u (global.get $free) (i32.const {full}))
              (then (global.set $free (i32.const {free}))))
            (global.get $free)
            (global.set $free (i32.and (i32.const -8)
              (i32.add (i32.const 7) (i32.add (global.get $free) (local.get 3)))))))
        (core instance $memory (instantiate $memory))
        (alias core export $memory "realloc" (core func $realloc))
        (alias core export $memory "memory" (core memory $bytes))
        {LOWERED} {lowering}
        (core module $m (import "host" "memory" (memory 1)) {IMPORTED} {core_import}
          (func (export "handle") (param i32) (param $out i32)
            (local $fields i32) (local $response i32) (local $at i32) (local $end i32)
            (local.set $fields (call $fields))
            {appends}
            (local.set $response (call $response (local.get $fields)))
            (drop (call $status (local.get $response) (i32.const {status})))
            (call $body (local.get $response) (i32.const 0))
            (call $set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
              (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (call $write (i32.load (i32.const 4)) (i32.const 16))
            {writes}
            {told}
            (call $drop-stream (i32.load (i32.const 20)))
            {last}))
        (core instance $i (instantiate $m (with "host" (instance
          (export "memory" (memory $bytes)) (export "fields" (func $fields))
          (export "append" (func $append)) (export "response" (func $response))
          (export "status" (func $status)) (export "body" (func $body))
          (export "write" (func $write)) (export "flush" (func $flush))
          (export "finish" (func $finish)) (export "set" (func $set))
          (export "drop-stream" (func $drop-stream)) (export "drop-body" (func $drop-body))
          {argument}))))"#
    );
    component(&format!("{import}{IMPORTS}"), TYPES, &cores)
}
