//! Repave, stop and start.

use crate::{Namespace, TenantName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long a stop waits for running requests if nobody says otherwise, in milliseconds: `docker stop`'s.
pub const DRAIN_MS_DEFAULT: u64 = 10_000;
/// The longest that a stop may be asked to wait, in milliseconds: the longest `timeout` of a request.
pub const DRAIN_MS_MAX: u64 = 600_000;

/// `POST /v1/repave`: of which tenants. Exactly one of the three.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepaveRequest {
    /// These.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub tenants: Vec<TenantName>,
    /// All of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// All of the host.
    #[serde(default)]
    pub all: bool,
}

/// What a repave did, over all workers: every request from now on runs in new instances of code that was
/// read from disk again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepaveResponse {
    /// Tenants that were repaved; those that nothing was kept of among them.
    pub tenants: u64,
    /// Instances that were kept for further requests and are retired, shared ones among them.
    pub instances: u64,
    /// Pieces of compiled code that were mapped and are let go of.
    pub code: u64,
    /// Requests that were running at the end, and finish where they are.
    pub running: u64,
    /// Milliseconds until every worker had acknowledged.
    pub took_ms: u64,
}

/// `POST /v1/tenants/{name}/stop`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Milliseconds to wait for running requests, at most 600000. Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
}

/// A tenant is stopped, durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopResponse {
    /// The tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Since when (RFC 3339).
    pub stopped_at: String,
    /// False if it was stopped already.
    pub changed: bool,
    /// Requests, and runs of a job, that had not ended when the wait was over; each still has its
    /// `timeout`.
    pub running: u64,
}

/// A tenant is served again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartResponse {
    /// The tenant.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// False if it was not stopped.
    pub changed: bool,
}
