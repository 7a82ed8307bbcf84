//! Server-sent events: `?n=` of them (default 5), `?ms=` milliseconds apart (default 200), each
//! flushed as it is written.

use common::{Reply, Target};
use std::io::Write;
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Sse;
wasip2::http::proxy::export!(Sse);

impl Guest for Sse {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let count: u32 = target.number("n", 5);
        let pause_ns = target.number("ms", 200_u64).saturating_mul(1_000_000);

        let headers: [(&str, &[u8]); 2] =
            [("content-type", b"text/event-stream"), ("cache-control", b"no-store")];
        let mut reply = Reply::start(out, 200, &headers);
        for id in 1..=count {
            if id > 1 {
                monotonic_clock::subscribe_duration(pause_ns).block();
            }
            let event = format!("id: {id}\ndata: event {id} of {count}\n\n");
            let stream = reply.stream();
            // An error means that the client has gone: nobody is left to write to.
            if stream.write_all(event.as_bytes()).is_err() || stream.flush().is_err() {
                break;
            }
        }
        reply.finish();
    }
}
