//! The access log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One line of a tenant's access log: one request, when it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessRecord {
    /// When its head had come (RFC 3339, milliseconds).
    pub at: String,
    /// Its id, as in `X-Request-Id`.
    pub request: String,
    /// The tenant.
    pub tenant: String,
    /// The revision that it was for.
    pub revision: u32,
    /// `GET`, `POST` …
    pub method: String,
    /// The path, without the query, which may hold secrets. Not trusted: it is the client's.
    pub path: String,
    /// The status that went out; none if the client had gone before.
    pub status: Option<u16>,
    /// `response`, `client-fault`, `guest-fault`, `host-fault` or `shed`.
    pub outcome: String,
    /// What went wrong, as in `insula-fault`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Microseconds until it had ended, its wait for a place included.
    pub duration_us: u64,
    /// Bytes of its body that the guest got.
    pub bytes_in: u64,
    /// Bytes of the response body that the client got.
    pub bytes_out: u64,
    /// Fuel consumed.
    pub fuel: u64,
    /// Microseconds during which the guest held a thread.
    pub cpu_us: u64,
    /// The client's address and port; none of a call from another tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// `HTTP/1.1`, `HTTP/2.0` …
    pub protocol: String,
    /// Requests before this one that were to be logged, and for which there was no room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
