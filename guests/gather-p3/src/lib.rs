//! Requests that meet inside one instance: each says how many are there with it, and may wait for
//! others, or do what ends badly for them.

use std::cell::Cell;
use wasip3::cli::{environment, stdout};
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::random::random::get_random_u64;
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Gather;
wasip3::http::service::export!(Gather);

const MS: u64 = 1_000_000;

thread_local! {
    /// Names the instance.
    static NAME: Cell<u64> = const { Cell::new(0) };
    static INSIDE: Cell<u32> = const { Cell::new(0) };
    static SERVED: Cell<u32> = const { Cell::new(0) };
    /// The most that were ever inside at once.
    static PEAK: Cell<u32> = const { Cell::new(0) };
}

/// One request's presence.
struct Present;

impl Present {
    fn enter() -> Self {
        if NAME.get() == 0 {
            NAME.set(get_random_u64() | 1);
        }
        SERVED.set(SERVED.get() + 1);
        INSIDE.set(INSIDE.get() + 1);
        PEAK.set(PEAK.get().max(INSIDE.get()));
        Self
    }

    fn tell() -> String {
        let (name, inside, peak, served) = (NAME.get(), INSIDE.get(), PEAK.get(), SERVED.get());
        format!("instance={name:016x} inside={inside} peak={peak} served={served}\n")
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

impl Guest for Gather {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let present = Present::enter();
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse::<u64>().ok())
        };
        match path {
            // Until so many have been inside at once, or for so long.
            "/gather" => {
                let (wanted, mut left) = (number("n").unwrap_or(2), number("ms").unwrap_or(5_000));
                while u64::from(PEAK.get()) < wanted && left > 0 {
                    wait_for(2 * MS).await;
                    left = left.saturating_sub(2);
                }
            }
            "/wait" => wait_for(number("ms").unwrap_or(100) * MS).await,
            "/stall" => loop {
                wait_for(3_600_000 * MS).await;
            },
            "/trap" => {
                wait_for(number("ms").unwrap_or(0) * MS).await;
                core::arch::wasm32::unreachable()
            }
            "/spin" => {
                wait_for(number("ms").unwrap_or(0) * MS).await;
                loop {
                    core::hint::black_box(PEAK.get());
                }
            }
            // Holds on to so many KiB.
            "/hold" => {
                let bytes = number("kib").unwrap_or(64) << 10;
                core::mem::forget(core::hint::black_box(vec![1u8; bytes as usize]));
            }
            "/say" => say(&format!("said at {}\n", number("ms").unwrap_or(0))).await,
            // What the request was addressed to.
            "/address" => {
                let (scheme, authority) = (request.get_scheme(), request.get_authority());
                say(&format!("asked by {scheme:?} as {authority:?}\n")).await;
            }
            _ => {}
        }
        let told = match path {
            "/env" => {
                let variables = environment::get_environment().into_iter();
                variables.map(|(name, value)| format!("{name}={value} ")).collect()
            }
            _ => String::new(),
        };
        respond(path == "/stream", told, present)
    }
}

/// Writes to standard output.
async fn say(text: &str) {
    let (mut output, lines) = wit_stream::new();
    let done = stdout::write_via_stream(lines);
    let _unwritten = output.write_all(text.as_bytes().to_vec()).await;
    drop(output);
    let _ = done.await;
}

/// Answers with `told` and what is known here; `endless` adds a line every few milliseconds for ever.
fn respond(endless: bool, mut told: String, present: Present) -> Result<Response, ErrorCode> {
    let headers = Fields::new();
    headers.append("content-type", b"text/plain").unwrap();
    let (mut body, contents) = wit_stream::new();
    // Dropping the sender sends the default: no trailers.
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), trailers);
    wit_bindgen::spawn_local(async move {
        let _present = present;
        loop {
            told += &Present::tell();
            let unread = body.write_all(std::mem::take(&mut told).into_bytes()).await;
            if !endless || !unread.is_empty() {
                return;
            }
            wait_for(5 * MS).await;
        }
    });
    Ok(response)
}
