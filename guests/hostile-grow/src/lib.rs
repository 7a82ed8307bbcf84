//! Grows its memory and touches every page until that is denied; then traps, or never stops asking.

use common::{Target, text};
use std::arch::wasm32::{memory_grow, unreachable};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Grow;
wasip2::http::proxy::export!(Grow);

const ABOUT: &str = "hostile-grow: GET /go grows memory until that is denied, then traps; \
    ?then=ask keeps asking for ever.\n";
const PAGE_BYTES: usize = 64 * 1024;
const STEP_PAGES: usize = 16;

impl Guest for Grow {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        let keep_asking = target.get("then") == Some("ask");
        loop {
            let first_page = memory_grow::<0>(STEP_PAGES);
            if first_page != usize::MAX {
                touch(first_page);
            } else if !keep_asking {
                unreachable();
            }
        }
    }
}

/// Untouched pages cost the host nothing, so each of them gets a byte.
fn touch(first_page: usize) {
    for page in first_page..first_page + STEP_PAGES {
        let byte = (page * PAGE_BYTES) as *mut u8;
        // SAFETY: the page was just granted, and the allocator does not know of it.
        unsafe { byte.write_volatile(1) };
    }
}
