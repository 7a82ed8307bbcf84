//! Guests that no toolchain need build: a component from text around one core function.

use anyhow::Result;

/// A served component; `module` are the fields of its one core module, which exports `handle` with two
/// parameters of type `i32`. It never sets a response, so the host answers for it when it returns.
fn handler(module: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type $request (sub resource)))
            (export "response-outparam" (type $outparam (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $outparam))
          (core module $module {module})
          (core instance $core (instantiate $module))
          (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
            (canon lift (core func $core "handle")))
          (instance $served (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.0" (instance $served)))"#
    ))?)
}

/// Fills so many MiB of memory for ever; each fill is one operation.
pub fn filler(mib: u32) -> Result<Vec<u8>> {
    let (pages, bytes) = (mib * 16, mib << 20);
    handler(&format!(
        r#"(memory {pages})
        (func (export "handle") (param i32 i32)
          (loop $again
            (memory.fill (i32.const 0) (i32.const 90) (i32.const {bytes}))
            (br $again)))"#
    ))
}

/// Computes for some tens of milliseconds, and returns.
pub fn burner() -> Result<Vec<u8>> {
    handler(
        r#"(func (export "handle") (param i32 i32)
          (local $turns i64)
          (loop $again
            (local.set $turns (i64.add (local.get $turns) (i64.const 1)))
            (br_if $again (i64.lt_u (local.get $turns) (i64.const 100000000)))))"#,
    )
}
