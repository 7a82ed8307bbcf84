//! The vocabulary of Insula, and nothing else.
//!
//! Owns: names, quantities, routes, limits, the manifest, outcomes, the control API's types and the
//! messages between supervisor and workers. Does no I/O, runs nothing asynchronous and knows neither
//! wasmtime nor hyper, so every rule in here can be tested by calling a function.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod api;
pub mod breaker;
pub mod ceilings;
pub mod cgi;
pub mod config;
pub mod digest;
pub mod grants;
pub mod latency;
pub mod limits;
pub mod manifest;
pub mod metering;
pub mod name;
pub mod namespace;
pub mod outcome;
pub mod packed;
pub mod prices;
pub mod probe;
pub mod quantity;
pub mod quota;
pub mod request_id;
pub mod resources;
pub mod rollout;
pub mod route;
pub mod trace;
pub mod usage;
pub mod wire;

pub use ceilings::Ceilings;
pub use digest::Digest;
pub use grants::Grants;
pub use latency::{Latency, LatencyQuantiles};
pub use limits::{Limits, Reuse};
pub use manifest::Manifest;
pub use metering::{CodeId, Metering};
pub use name::TenantName;
pub use namespace::Namespace;
pub use outcome::{Fault, Outcome, StatusClass, Usage};
pub use quantity::{ByteSize, Count, DurationMs, MilliCpu};
pub use request_id::RequestId;
pub use resources::{Qos, Resources};
pub use route::Route;
