//! Waits for ever, using no CPU.

use common::{Reply, Target, text};
use std::io::Write;
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Stall;
wasip2::http::proxy::export!(Stall);

const ABOUT: &str = "hostile-stall: GET /go never answers; ?at=head answers a head and no body; \
    ?at=body stops in the middle of the body.\n";

impl Guest for Stall {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        let at = target.get("at").unwrap_or("start");
        if at == "start" {
            stall();
        }
        let mut reply = Reply::start(out, 200, &[("content-type", b"text/plain")]);
        if at == "body" {
            let _ = reply.stream().write_all(b"the first half\n");
            let _ = reply.stream().flush();
        }
        stall();
    }
}

fn stall() -> ! {
    loop {
        monotonic_clock::subscribe_duration(u64::MAX).block();
    }
}
