//! The smallest ordinary guest: one HTTP handler in Rust, with the standard library.
//!
//! It is also what the benchmarks measure. It allocates nothing, so its memory never grows.

use std::io::Write;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;
wasip2::http::proxy::export!(Hello);

const GREETING: &[u8] = b"Hello from Insula!\n";

impl Guest for Hello {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let headers = Fields::new();
        headers.append("content-type", b"text/plain").unwrap();
        // With a known length the host need not send the body in chunks.
        headers.append("content-length", b"19").unwrap();

        let response = OutgoingResponse::new(headers);
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));

        // A client that has gone away is no reason to trap, so errors from here on are let go. The
        // stream needs no flush: finishing the body hands over what was written.
        let mut stream = body.write().unwrap();
        let _ = stream.write_all(GREETING);
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
