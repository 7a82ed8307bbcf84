//! The limits that every tenant always has, resolved to plain numbers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The limits of one revision. Every field is a bound; "unlimited" cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Bytes of one instance: the sum over all its linear memories and tables.
    pub memory_bytes: u64,
    /// Units of wasmtime fuel for one request (about one per executed instruction), instantiation and
    /// start functions included.
    pub fuel: u64,
    /// Wall-clock milliseconds from admission to the last byte of the response body.
    pub timeout_ms: u64,
    /// Requests running at once, over all workers.
    pub concurrency: u32,
    /// Requests waiting for one of those places, in each worker.
    pub queue: u32,
    /// Milliseconds a request waits there before it is refused with 503.
    pub queue_wait_ms: u64,
    /// Bytes of a request body.
    pub request_body_bytes: u64,
    /// Bytes of a request's head: target, names and values of all fields.
    pub request_header_bytes: u32,
    /// Bytes of a response body.
    pub response_body_bytes: u64,
    /// Whether, and how long, an instance may serve more than one request.
    pub reuse: Option<Reuse>,
}

/// Opt-in reuse of an instance; never across tenants or revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reuse {
    /// Requests that one instance serves before it is retired.
    pub requests: u32,
    /// Milliseconds without a request after which it is retired.
    pub idle_ms: u64,
    /// Requests that it serves at the same time.
    #[serde(default = "one")]
    pub concurrent: u32,
}

fn one() -> u32 {
    1
}
