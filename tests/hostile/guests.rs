//! Attackers in text: programs of preview 1, and handlers with most of `wasi:http` at hand.

use insula_tests::wasm::{binary, component};

/// A preview 1 program with these imports, as `NAME TYPE` each, so many pages, and these fields.
#[track_caller]
pub(crate) fn program(imports: &[(&str, &str)], pages: usize, fields: &str) -> Vec<u8> {
    let imports: String = imports
        .iter()
        .map(|(name, signature)| {
            format!(r#"(import "wasi_snapshot_preview1" "{name}" (func ${name} {signature}))"#)
        })
        .collect();
    binary(&format!(r#"(module {imports} (memory (export "memory") {pages}) {fields})"#))
}

/// One that repeats `body` for ever.
#[track_caller]
pub(crate) fn looping(imports: &[(&str, &str)], pages: usize, start: &str, body: &str) -> Vec<u8> {
    let fields = format!(
        r#"(func (export "_start") (local $n i32) (local $m i32) {start} (loop $again {body} (br $again)))"#
    );
    program(imports, pages, &fields)
}

const IMPORTS: &str = r#"
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (export "output-stream" (type $stream (sub resource)))
    (type $defined (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $defined)))
    (export "[method]output-stream.check-write"
      (func (param "self" (borrow $stream)) (result (result u64 (error $stream-error)))))
    (export "[method]output-stream.write" (func (param "self" (borrow $stream))
      (param "contents" (list u8)) (result (result (error $stream-error)))))
    (export "[method]output-stream.flush"
      (func (param "self" (borrow $stream)) (result (result (error $stream-error)))))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream))
      (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))"#;

const TYPES: &str = r#"
  (alias outer 1 $stream (type $outer-stream))
  (export "output-stream" (type $stream (eq $outer-stream)))
  (export "fields" (type $fields (sub resource)))
  (export "outgoing-request" (type $oreq (sub resource)))
  (export "outgoing-response" (type $response (sub resource)))
  (export "outgoing-body" (type $body (sub resource)))
  (type $he (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
  (export "header-error" (type $header-error (eq $he)))
  (type $me (variant (case "get") (case "head") (case "post") (case "put") (case "delete")
    (case "connect") (case "options") (case "trace") (case "patch") (case "other" string)))
  (export "method" (type $method (eq $me)))
  @ERROR_CODE@
  (export "[constructor]fields" (func (result (own $fields))))
  (export "[static]fields.from-list" (func
    (param "entries" (list (tuple string (list u8))))
    (result (result (own $fields) (error $header-error)))))
  (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string)
    (param "value" (list u8)) (result (result (error $header-error)))))
  (export "[method]fields.clone" (func (param "self" (borrow $fields)) (result (own $fields))))
  (export "[method]incoming-request.headers"
    (func (param "self" (borrow $request)) (result (own $fields))))
  (export "[constructor]outgoing-request"
    (func (param "headers" (own $fields)) (result (own $oreq))))
  (export "[method]outgoing-request.set-method"
    (func (param "self" (borrow $oreq)) (param "method" $method) (result (result))))
  (export "[method]outgoing-request.set-path-with-query" (func (param "self" (borrow $oreq))
    (param "path-with-query" (option string)) (result (result))))
  (export "[method]outgoing-request.set-authority" (func (param "self" (borrow $oreq))
    (param "authority" (option string)) (result (result))))
  (export "[constructor]outgoing-response"
    (func (param "headers" (own $fields)) (result (own $response))))
  (export "[method]outgoing-response.body"
    (func (param "self" (borrow $response)) (result (result (own $body)))))
  (export "[method]outgoing-body.write"
    (func (param "self" (borrow $body)) (result (result (own $stream)))))
  (export "[static]outgoing-body.finish" (func (param "this" (own $body))
    (param "trailers" (option (own $fields))) (result (result (error $error-code)))))
  (export "[static]response-outparam.set" (func (param "param" (own $outparam))
    (param "response" (result (own $response) (error $error-code)))))"#;

/// What the core module calls each function, which instance has it, its name there, its core type.
const CALLS: [(&str, &str, &str, &str); 23] = [
    ("subscribe", "$clock", "subscribe-duration", "(param i64) (result i32)"),
    ("block", "$poll", "[method]pollable.block", "(param i32)"),
    ("poll", "$poll", "poll", "(param i32 i32 i32)"),
    ("check-write", "$streams", "[method]output-stream.check-write", "(param i32 i32)"),
    ("put", "$streams", "[method]output-stream.write", "(param i32 i32 i32 i32)"),
    ("flush", "$streams", "[method]output-stream.flush", "(param i32 i32)"),
    (
        "write",
        "$streams",
        "[method]output-stream.blocking-write-and-flush",
        "(param i32 i32 i32 i32)",
    ),
    ("fields", "$types", "[constructor]fields", "(result i32)"),
    ("from-list", "$types", "[static]fields.from-list", "(param i32 i32 i32)"),
    ("append", "$types", "[method]fields.append", "(param i32 i32 i32 i32 i32 i32)"),
    ("clone", "$types", "[method]fields.clone", "(param i32) (result i32)"),
    ("headers", "$types", "[method]incoming-request.headers", "(param i32) (result i32)"),
    ("request", "$types", "[constructor]outgoing-request", "(param i32) (result i32)"),
    (
        "set-method",
        "$types",
        "[method]outgoing-request.set-method",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    (
        "set-path",
        "$types",
        "[method]outgoing-request.set-path-with-query",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    (
        "set-authority",
        "$types",
        "[method]outgoing-request.set-authority",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    ("response", "$types", "[constructor]outgoing-response", "(param i32) (result i32)"),
    ("body", "$types", "[method]outgoing-response.body", "(param i32 i32)"),
    ("body-stream", "$types", "[method]outgoing-body.write", "(param i32 i32)"),
    ("finish", "$types", "[static]outgoing-body.finish", "(param i32 i32 i32 i32)"),
    (
        "set",
        "$types",
        "[static]response-outparam.set",
        "(param i32 i32 i32 i32 i64 i32 i32 i32 i32)",
    ),
    ("drop-pollable", "", "$pollable", "(param i32)"),
    ("drop-stream", "", "$stream", "(param i32)"),
];

/// A handler whose body is `code`, with `$request`, `$out` and some locals; `CALLS` are its functions.
/// Its memory has so many pages, and `data` from 4096 on; host calls return what they allocate at 1024.
#[track_caller]
pub(crate) fn handler(pages: usize, data: &str, code: &str) -> Vec<u8> {
    let (mut lowered, mut imported, mut given) = (String::new(), String::new(), String::new());
    for (name, instance, function, signature) in CALLS {
        lowered.push_str(&match instance {
            "" => format!("(core func ${name} (canon resource.drop {function}))"),
            instance => format!(
                r#"(core func ${name} (canon lower (func {instance} "{function}")
                (memory $bytes) (realloc $realloc)))"#
            ),
        });
        imported.push_str(&format!(r#"(import "host" "{name}" (func ${name} {signature}))"#));
        given.push_str(&format!(r#"(export "{name}" (func ${name}))"#));
    }
    let data = if data.is_empty() {
        String::new()
    } else {
        format!(r#"(data (i32.const 4096) "{data}")"#)
    };
    let cores = format!(
        r#"(core module $memory (memory (export "memory") {pages}) {data}
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
        (core instance $memory (instantiate $memory))
        (alias core export $memory "realloc" (core func $realloc))
        (alias core export $memory "memory" (core memory $bytes))
        (alias export $types "outgoing-body" (type $body))
        {lowered}
        (core module $m (import "host" "memory" (memory 1)) {imported}
          (func (export "handle") (param $request i32) (param $out i32)
            (local $a i32) (local $b i32) (local $c i32) (local $n i32) {code}))
        (core instance $i (instantiate $m (with "host" (instance
          (export "memory" (memory $bytes)) {given}))))"#
    );
    component(IMPORTS, TYPES, &cores)
}

/// Sends the head of a response, and leaves its body's stream in `$a`.
pub(crate) const RESPOND: &str = r"
    (local.set $b (call $response (call $fields)))
    (call $body (local.get $b) (i32.const 0))
    (call $set (local.get $out) (i32.const 0) (local.get $b) (i32.const 0)
      (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $body-stream (i32.load (i32.const 4)) (i32.const 16))
    (local.set $a (i32.load (i32.const 20)))";
