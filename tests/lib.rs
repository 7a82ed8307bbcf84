//! The harness of the end-to-end tests: they start the real `insula` and see what a user sees.
//!
//! Nothing here depends on wasmtime. The binary is built once, by `cargo build --release`, as the
//! README's first command builds it; see [`binary`]. Every host gets a directory and a port of its
//! own, so tests run in parallel. Every wait has a deadline ([`wait`]), and whatever a test process
//! starts ends with it, however it ends ([`process`]).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "harness/api.rs"]
pub mod api;
#[path = "harness/binary.rs"]
pub mod binary;
#[path = "harness/browser.rs"]
pub mod browser;
#[path = "harness/cli.rs"]
pub mod cli;
#[path = "harness/collector.rs"]
pub mod collector;
#[path = "harness/disk.rs"]
pub mod disk;
#[path = "harness/faults.rs"]
pub mod faults;
#[path = "harness/h2.rs"]
pub mod h2;
#[path = "harness/host.rs"]
pub mod host;
#[path = "harness/http.rs"]
pub mod http;
#[path = "harness/process.rs"]
pub mod process;
#[path = "harness/repo.rs"]
pub mod repo;
#[path = "harness/respond.rs"]
pub mod respond;
#[path = "harness/upstream.rs"]
pub mod upstream;
#[path = "harness/wait.rs"]
pub mod wait;
#[path = "harness/wasm.rs"]
pub mod wasm;

pub use cli::Output;
pub use host::{Host, Setup};
pub use http::{Answer, Connection};
