//! Spins in its start function: whoever instantiates it has already lost the thread, unless start functions run under the same limits as requests.

use common::text;
use std::hint::black_box;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Start;
wasip2::http::proxy::export!(Start);

/// The component's start section calls what a core module exports under this name.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

impl Guest for Start {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        text(out, "hostile-start: nobody gets here.\n");
    }
}
