//! Components that no toolchain makes, from text.

/// Text to bytes.
#[track_caller]
pub fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A component that is served: `module` are the fields of its one core module, which exports
/// `handle` with two parameters of type `i32`.
#[track_caller]
pub fn handler(module: &str) -> Vec<u8> {
    component("", "", &format!("(core module $m {module}) (core instance $i (instantiate $m))"))
}

/// `error-code` of `wasi:http/types`, for a text of its types to say in one word: `@ERROR_CODE@`.
const ERROR_CODE: &str = r#"  (type $dns (record (field "rcode" (option string)) (field "info-code" (option u16))))
  (export "DNS-error-payload" (type $dns-payload (eq $dns)))
  (type $tls (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
  (export "TLS-alert-received-payload" (type $tls-payload (eq $tls)))
  (type $size (record (field "field-name" (option string)) (field "field-size" (option u32))))
  (export "field-size-payload" (type $size-payload (eq $size)))
  (type $ec (variant
    (case "DNS-timeout") (case "DNS-error" $dns-payload) (case "destination-not-found")
    (case "destination-unavailable") (case "destination-IP-prohibited")
    (case "destination-IP-unroutable") (case "connection-refused")
    (case "connection-terminated") (case "connection-timeout") (case "connection-read-timeout")
    (case "connection-write-timeout") (case "connection-limit-reached")
    (case "TLS-protocol-error") (case "TLS-certificate-error")
    (case "TLS-alert-received" $tls-payload) (case "HTTP-request-denied")
    (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
    (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid")
    (case "HTTP-request-URI-too-long") (case "HTTP-request-header-section-size" (option u32))
    (case "HTTP-request-header-size" (option $size-payload))
    (case "HTTP-request-trailer-section-size" (option u32))
    (case "HTTP-request-trailer-size" $size-payload) (case "HTTP-response-incomplete")
    (case "HTTP-response-header-section-size" (option u32))
    (case "HTTP-response-header-size" $size-payload)
    (case "HTTP-response-body-size" (option u64))
    (case "HTTP-response-trailer-section-size" (option u32))
    (case "HTTP-response-trailer-size" $size-payload)
    (case "HTTP-response-transfer-coding" (option string))
    (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
    (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
    (case "configuration-error") (case "internal-error" (option string))))
  (export "error-code" (type $error-code (eq $ec)))"#;

/// A component that is served: `imports` come before `wasi:http/types`, of which it needs `types`;
/// `cores` define the core instance `$i` that exports `handle`.
#[track_caller]
pub fn component(imports: &str, types: &str, cores: &str) -> Vec<u8> {
    let types = types.replace("@ERROR_CODE@", ERROR_CODE);
    binary(&format!(
        r#"(component
          {imports}
          (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type $request (sub resource)))
            (export "response-outparam" (type $outparam (sub resource)))
            {types}))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $out))
          {cores}
          (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $i "handle")))
          (instance $handler (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    ))
}

/// Imports `wasi:io/streams` with one resource and one method of it.
fn streams(resource: &str, method: &str) -> String {
    format!(
        r#"(import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
        (alias export $io-error "error" (type $error))
        (import "wasi:io/streams@0.2.0" (instance $streams
          (alias outer 1 $error (type $outer-error))
          (export "error" (type $error (eq $outer-error)))
          (export "{resource}" (type $stream (sub resource)))
          (type $defined (variant (case "last-operation-failed" (own $error)) (case "closed")))
          (export "stream-error" (type $stream-error (eq $defined)))
          (export "[method]{resource}.{method})))
        (alias export $streams "{resource}" (type $stream))"#
    )
}

/// The memory that host calls write their results to, and the program.
fn memory(pages: usize, data: &str) -> String {
    format!(
        r#"(core module $memory (memory (export "memory") {pages}) {data})
        (core instance $memory (instantiate $memory))
        (alias core export $memory "memory" (core memory $bytes))"#
    )
}

/// A handler that writes `text` to its standard output, and then returns without a response.
#[track_caller]
pub fn printer(text: &[u8]) -> Vec<u8> {
    let hex: String = text.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let memory =
        memory(text.len().div_ceil(64 << 10) + 1, &format!(r#"(data (i32.const 16) "{hex}")"#));
    let write = r#"blocking-write-and-flush" (func (param "self" (borrow $stream))
        (param "contents" (list u8)) (result (result (error $stream-error))))"#;
    let imports = format!(
        r#"{} (import "wasi:cli/stdout@0.2.0" (instance $stdout
          (alias outer 1 $stream (type $outer-stream))
          (export "output-stream" (type $stream (eq $outer-stream)))
          (export "get-stdout" (func (result (own $stream))))))"#,
        streams("output-stream", write)
    );
    let cores = format!(
        r#"{memory}
        (core func $get (canon lower (func $stdout "get-stdout")))
        (core func $write (canon lower
          (func $streams "[method]output-stream.blocking-write-and-flush") (memory $bytes)))
        (core module $m
          (import "host" "get" (func $get (result i32)))
          (import "host" "write" (func $write (param i32 i32 i32 i32)))
          (func (export "handle") (param i32 i32)
            (local $stream i32) (local $at i32) (local $left i32)
            (local.set $stream (call $get))
            (local.set $at (i32.const 16))
            (local.set $left (i32.const {length}))
            (loop $more
              (call $write (local.get $stream) (local.get $at)
                (select (local.get $left) (i32.const 4096)
                  (i32.lt_u (local.get $left) (i32.const 4096)))
                (i32.const 0))
              (local.set $at (i32.add (local.get $at) (i32.const 4096)))
              (local.set $left (i32.sub (local.get $left) (i32.const 4096)))
              (br_if $more (i32.gt_s (local.get $left) (i32.const 0))))))
        (core instance $i (instantiate $m (with "host" (instance
          (export "get" (func $get)) (export "write" (func $write))))))"#,
        length = text.len(),
    );
    component(&imports, "", &cores)
}

/// A handler that reads its request's body to the end, and then returns without a response.
#[track_caller]
pub fn reader() -> Vec<u8> {
    let skip = r#"blocking-skip" (func (param "self" (borrow $stream)) (param "len" u64)
        (result (result u64 (error $stream-error))))"#;
    let types = r#"
        (alias outer 1 $stream (type $outer-stream))
        (export "input-stream" (type $stream (eq $outer-stream)))
        (export "incoming-body" (type $body (sub resource)))
        (export "[method]incoming-request.consume"
          (func (param "self" (borrow $request)) (result (result (own $body)))))
        (export "[method]incoming-body.stream"
          (func (param "self" (borrow $body)) (result (result (own $stream)))))"#;
    let memory = memory(1, "");
    let cores = format!(
        r#"{memory}
        (core func $consume (canon lower
          (func $types "[method]incoming-request.consume") (memory $bytes)))
        (core func $stream-of (canon lower
          (func $types "[method]incoming-body.stream") (memory $bytes)))
        (core func $skip (canon lower
          (func $streams "[method]input-stream.blocking-skip") (memory $bytes)))
        (core module $m
          (import "host" "memory" (memory 1))
          (import "host" "consume" (func $consume (param i32 i32)))
          (import "host" "stream" (func $stream (param i32 i32)))
          (import "host" "skip" (func $skip (param i32 i64 i32)))
          (func (export "handle") (param $request i32) (param i32)
            (call $consume (local.get $request) (i32.const 0))
            (call $stream (i32.load (i32.const 4)) (i32.const 8))
            (loop $more
              (call $skip (i32.load (i32.const 12)) (i64.const 65536) (i32.const 16))
              (br_if $more (i32.eqz (i32.load8_u (i32.const 16)))))))
        (core instance $i (instantiate $m (with "host" (instance
          (export "memory" (memory $bytes)) (export "consume" (func $consume))
          (export "stream" (func $stream-of)) (export "skip" (func $skip))))))"#
    );
    component(&streams("input-stream", skip), types, &cores)
}

/// A small module that takes minutes to compile: the time that nested loops take grows with the
/// square of their number.
#[track_caller]
pub fn compile_bomb() -> Vec<u8> {
    const LOOPS: usize = 40_000;
    let bomb = handler(&format!(
        r#"(func (export "handle") (param i32 i32) {})"#,
        "(loop) ".repeat(LOOPS)
    ));
    assert!(bomb.len() < 256 << 10, "{} bytes", bomb.len());
    bomb
}
