//! The guests that are measured, within the program itself, so that it needs no other file.

/// `guests/hello`: answers `Hello from Insula!`.
pub const HELLO: &[u8] = include_bytes!("../guests/hello/hello.wasm");
/// The same as a WASI 0.3 service.
pub const HELLO_P3: &[u8] = include_bytes!("../guests/hello-p3/hello-p3.wasm");
/// `guests/hello-c`: the same in C, a CGI program.
pub const HELLO_C: &[u8] = include_bytes!("../guests/hello-c/hello-c.wasm");
/// `guests/echo`: answers with what it was sent.
pub const ECHO: &[u8] = include_bytes!("../guests/echo/echo.wasm");
/// `guests/hostile-spin`: computes without end.
pub const SPIN: &[u8] = include_bytes!("../guests/hostile-spin/hostile-spin.wasm");
/// `guests/hostile-grow`: grows its memory and touches it.
pub const GROW: &[u8] = include_bytes!("../guests/hostile-grow/hostile-grow.wasm");
/// `guests/hostile-hostcalls`: calls the host without end.
pub const HOSTCALLS: &[u8] = include_bytes!("../guests/hostile-hostcalls/hostile-hostcalls.wasm");

/// The same component under another digest: a custom section with this text is appended, which means
/// nothing to anybody.
pub fn distinct(component: &[u8], text: &str) -> Vec<u8> {
    const NAME: &[u8] = b"twin";
    let mut section = Vec::new();
    leb128(&mut section, NAME.len());
    section.extend_from_slice(NAME);
    section.extend_from_slice(text.as_bytes());
    let mut whole = component.to_vec();
    whole.push(0);
    leb128(&mut whole, section.len());
    whole.extend_from_slice(&section);
    whole
}

fn leb128(into: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            into.push(low);
            return;
        }
        into.push(low | 0x80);
    }
}
