//! Recurses until a stack overflows.

use common::{Target, text};
use std::hint::black_box;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Recurse;
wasip2::http::proxy::export!(Recurse);

const ABOUT: &str = "hostile-recurse: GET /go overflows the call stack; \
    ?stack=shadow the one that the compiler keeps in linear memory.\n";

impl Guest for Recurse {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        let sum = match target.get("stack") {
            Some("shadow") => wide(1),
            _ => narrow(1),
        };
        text(out, &format!("came back with {sum}\n"));
    }
}

/// Keeps next to nothing in linear memory, so that the host's stack limit is met first. The call is
/// indirect lest the compiler make a loop of it.
fn narrow(depth: u64) -> u64 {
    let next: fn(u64) -> u64 = black_box(narrow);
    next(depth + 1).rotate_left(1) ^ depth
}

/// Keeps 16 KiB of each frame in linear memory, whose own bounds are met first.
fn wide(depth: u64) -> u64 {
    let frame = black_box([depth; 2048]);
    let next: fn(u64) -> u64 = black_box(wide);
    next(depth + 1).rotate_left(1) ^ frame[(depth % 2048) as usize]
}
