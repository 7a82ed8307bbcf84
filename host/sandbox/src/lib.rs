//! The sandbox: everything that touches wasmtime, and nothing else does.
//!
//! ```text
//! bytes ─ store ─▶ artifact ─ compile (child) ─▶ code ─ seal ─▶ sealed code on disk
//!                                                                   │ code: verify, map, link
//! request ─ invoke ─▶ instance (fresh, or reused) ◀─ limits, log ── Loaded
//! ```
//! Unsafe code stands in `code` alone: mapping compiled code that this host authenticated.
#![deny(unsafe_code)]

mod bulk;
pub mod capabilities;
pub mod cgi;
pub mod code;
pub mod command;
pub mod compile;
pub mod engine;
pub mod epoch;
mod exports;
pub mod fault;
mod files;
mod held;
pub mod inventory;
pub mod invoke;
mod limiter;
mod linker;
pub mod log;
pub mod outbound;
mod preamble;
mod preview1;
pub mod program;
mod roster;
mod seal;
pub mod shared;
mod state;
pub mod store;
mod trial;
mod words;

pub use capabilities::Capabilities;
pub use cgi::Edge;
pub use code::{LoadError, Loaded};
pub use engine::Engines;
pub use fault::GuestFault;
pub use invoke::{GuestBody, Invocation, Running};
pub use program::Program;
pub use roster::Sharing;
pub use shared::Shared;
pub use trial::Trial;
