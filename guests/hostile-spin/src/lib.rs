//! Spins for ever: nothing but a deadline or fuel ends it.

use common::{Target, text};
use std::hint::black_box;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Spin;
wasip2::http::proxy::export!(Spin);

impl Guest for Spin {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        if !Target::of(&request).is_go() {
            return text(out, "hostile-spin: GET /go spins for ever.\n");
        }
        let mut turns: u64 = 0;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }
}
