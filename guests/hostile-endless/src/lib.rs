//! Answers with a body that never ends.

use common::{Reply, Target, text};
use std::io::Write;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Endless;
wasip2::http::proxy::export!(Endless);

const ABOUT: &str = "hostile-endless: GET /go answers with a body that never ends.\n";

impl Guest for Endless {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        if !Target::of(&request).is_go() {
            return text(out, ABOUT);
        }
        let mut reply = Reply::start(out, 200, &[("content-type", b"text/plain")]);
        // A closed stream is no reason to stop either: the host has to end this.
        loop {
            let _ = reply.stream().write_all(&[b'x'; 16 * 1024]);
        }
    }
}
