//! Traps at a chosen moment of the request.

use common::{Reply, Target, text};
use std::arch::wasm32::unreachable;
use std::io::Write;
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Trap;
wasip2::http::proxy::export!(Trap);

const ABOUT: &str = "hostile-trap: GET /go traps before the head is set; ?at=set right after; \
    ?at=head once it is sent; ?at=body in the middle of the body; ?at=end after the body.\n";
const LONG_ENOUGH_TO_SEND_A_HEAD_NS: u64 = 50_000_000;

impl Guest for Trap {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        let at = target.get("at").unwrap_or("start");
        if at == "start" {
            unreachable();
        }
        let mut reply = Reply::start(out, 200, &[("content-type", b"text/plain")]);
        if at == "set" {
            unreachable();
        }
        if at == "head" {
            monotonic_clock::subscribe_duration(LONG_ENOUGH_TO_SEND_A_HEAD_NS).block();
            unreachable();
        }
        let _ = reply.stream().write_all(b"the first half\n");
        let _ = reply.stream().flush();
        if at == "body" {
            unreachable();
        }
        let _ = reply.stream().write_all(b"the second half\n");
        reply.finish();
        unreachable();
    }
}
