//! The first eight bytes of an artifact: what the rest of it is.
//!
//! A pure function of bytes that names no engine, so that it can be fuzzed without one.

/// How to build what can be served.
pub(crate) const BUILD_HINT: &str =
    "build a component, for instance with `cargo build --target wasm32-wasip2 --release`";
const WASM_MAGIC: &[u8] = b"\0asm";
/// Bytes of a preamble: magic, then version and layer.
const PREAMBLE_BYTES: usize = 8;

/// What a preamble says that the rest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// A core module.
    Module,
    /// A component.
    Component,
}

/// Reads the preamble; what is none is refused with its cause and its mend.
pub(crate) fn read(bytes: &[u8]) -> Result<Layer, (String, &'static str)> {
    let Some((magic, version)) =
        bytes.get(..PREAMBLE_BYTES).map(|preamble| preamble.split_at(WASM_MAGIC.len()))
    else {
        return Err(if bytes.is_empty() {
            ("the file is empty".into(), "check the path and the build that writes it")
        } else if WASM_MAGIC.starts_with(&bytes[..bytes.len().min(4)]) {
            (
                format!("the file is truncated: {} bytes, not even a whole preamble", bytes.len()),
                "copy it again, or build it again",
            )
        } else {
            ("the file is not WebAssembly".into(), BUILD_HINT)
        });
    };
    if magic != WASM_MAGIC {
        let hint = if magic.starts_with(b"(") {
            "this looks like WebAssembly text; turn it into a binary with `wasm-tools parse`"
        } else {
            BUILD_HINT
        };
        return Err(("the file is not WebAssembly: it does not start with `\\0asm`".into(), hint));
    }
    match version {
        [1, 0, 0, 0] => Ok(Layer::Module),
        [13, 0, 1, 0] => Ok(Layer::Component),
        _ => Err((
            format!("unknown WebAssembly version {version:02x?}"),
            "build it with a current toolchain",
        )),
    }
}
