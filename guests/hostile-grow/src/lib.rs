//! Grows its memory and touches every page until that is denied; then traps, or never stops asking.

use common::{Target, text};
use std::arch::wasm32::{memory_grow, memory_size, unreachable};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Grow;
wasip2::http::proxy::export!(Grow);

const ABOUT: &str = "hostile-grow: GET /go grows memory until that is denied, then traps; \
    ?then=ask keeps asking for ever; ?then=tell answers how far it came.\n";
const PAGE_BYTES: usize = 64 * 1024;
const STEP_PAGES: usize = 16;

impl Guest for Grow {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !target.is_go() {
            return text(out, ABOUT);
        }
        grow_until_denied();
        match target.get("then") {
            Some("tell") => {
                text(out, &format!("denied at {} bytes\n", memory_size::<0>() * PAGE_BYTES));
            }
            Some("ask") => loop {
                grow_until_denied();
            },
            _ => unreachable(),
        }
    }
}

fn grow_until_denied() {
    loop {
        let first_page = memory_grow::<0>(STEP_PAGES);
        if first_page == usize::MAX {
            return;
        }
        touch(first_page);
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
