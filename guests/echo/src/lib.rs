//! Streams the request's body back as it arrives, and on GET describes the request.

use common::{Reply, text};
use std::fmt::Write;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};

struct Echo;
wasip2::http::proxy::export!(Echo);

/// How many bytes are under way at once. The host waits for the client to take them before it reads
/// more, so an upload of any size needs no more than this.
const CHUNK_BYTES: u64 = 64 * 1024;

impl Guest for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match request.method() {
            Method::Get | Method::Head => text(out, &describe(&request)),
            _ => echo(request, out),
        }
    }
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let content_type = request.headers().get("content-type");
    let content_type = content_type.first().map_or(&b"application/octet-stream"[..], Vec::as_slice);
    let mut reply = Reply::start(out, 200, &[("content-type", content_type)]);

    let incoming = request.consume().expect("first use of the body");
    let input = incoming.stream().expect("first use of the stream");
    // Splicing moves the bytes inside the host: they never pass through the guest's memory. It ends
    // when either side closes.
    while reply.stream().blocking_splice(&input, CHUNK_BYTES).is_ok() {}
    reply.finish();
}

fn describe(request: &IncomingRequest) -> String {
    let target = request.path_with_query().unwrap_or_default();
    let mut lines = format!("{} {target}\n", method_name(&request.method()));
    for (name, value) in request.headers().entries() {
        let _ = writeln!(lines, "{name}: {}", String::from_utf8_lossy(&value));
    }
    lines
}

fn method_name(method: &Method) -> &'static str {
    match method {
        Method::Head => "HEAD",
        _ => "GET",
    }
}
