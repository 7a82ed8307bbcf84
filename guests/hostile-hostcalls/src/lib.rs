//! Runs next to no code of its own: keeps the host busy with calls.

use common::{Target, text};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, ResponseOutparam};
use wasip2::random::random::get_random_bytes;

struct Hostcalls;
wasip2::http::proxy::export!(Hostcalls);

const ABOUT: &str = "hostile-hostcalls: GET /go reads the clock for ever; ?call=handles piles up \
    handles; ?call=fields piles up header fields; ?call=random asks for megabytes.\n";

impl Guest for Hostcalls {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        match target.get("call") {
            Some("handles") => loop {
                std::mem::forget(Fields::new());
            },
            Some("fields") => {
                // Full ones are kept, so that a limit on each of them does not bound the sum.
                loop {
                    let fields = Fields::new();
                    while fields.append("x-pile", &[b'x'; 1024]).is_ok() {}
                    std::mem::forget(fields);
                }
            }
            Some("random") => loop {
                drop(get_random_bytes(1 << 20));
            },
            _ => loop {
                monotonic_clock::now();
            },
        }
    }
}
