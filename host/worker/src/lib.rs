//! The worker: one process per core that accepts connections and runs guests, on one thread but for
//! guests that compute for long (see `long`).
//!
//! ```text
//! listener → connection → dispatch { route → admit → revision → instance → invoke } → respond
//! ```
//! Owns: its connections, its instances, the code it has loaded. Bounded by the constants of each
//! module; ends when the supervisor says `Drain` or is gone. It can die at any time: nothing that
//! must last is in here. All state is reached through `worker::Worker`, on one thread, without
//! locks; only guests' futures and what they hold are `Send`.
#![forbid(unsafe_code)]

mod access;
mod admission;
mod breaker;
mod canary;
mod codes;
mod connection;
mod cores;
mod dispatch;
mod early;
mod errand;
mod hand;
mod headers;
mod holding;
mod job;
mod link;
mod listener;
mod long;
mod outbound;
mod outbox;
mod paced;
mod pool;
mod pressure;
mod probe;
mod repave;
mod request_body;
mod respond;
mod response_body;
mod roll;
mod share;
mod sharing;
mod shed;
mod tenant;
mod tenant_log;
mod ticket;
mod tracer;
mod turns;
mod worker;

pub use outbound::{CaError, check_ca};

use std::io::Write;
use std::process::ExitCode;

/// The `__worker` role: takes the inherited descriptors and serves until drained or orphaned.
pub fn main() -> ExitCode {
    match link::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("worker: {error}");
            // Without a subscriber the operator would see nothing.
            let _ = writeln!(std::io::stderr(), "insula worker: {error}");
            ExitCode::FAILURE
        }
    }
}
