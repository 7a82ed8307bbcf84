//! What tenants have used, for bills.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Days that usage is kept for.
pub const USAGE_DAYS_MAX: u64 = 400;

/// What is added up into one row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UsageBy {
    /// A row for each tenant.
    #[default]
    Tenant,
    /// A row for each namespace.
    Namespace,
}

/// What was used within a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// The first hour (RFC 3339): what was asked for, or the beginning of what is kept, down to an hour.
    pub since: String,
    /// The end: the hour before which all counts.
    pub until: String,
    /// By name. Tenants that were removed are there under the name they had.
    pub rows: Vec<UsageRow>,
}

/// What one tenant, or the tenants of one namespace, used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageRow {
    /// The tenant; none for a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// Requests that ended, in any way but `shed`.
    pub requests: u64,
    /// … with the guest's whole response.
    pub responses: u64,
    /// … by the client's doing.
    pub client_faults: u64,
    /// … by the guest's doing: traps and limits.
    pub guest_faults: u64,
    /// … by the host's doing.
    pub host_faults: u64,
    /// Requests refused before anything ran; they cost nothing.
    pub shed: u64,
    /// Fuel consumed.
    pub fuel: u64,
    /// Microseconds during which guests held a thread.
    pub cpu_us: u64,
    /// Bytes of memory and tables that instances held, and the host for them, times the seconds they held them.
    pub memory_byte_seconds: u64,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Response body bytes.
    pub bytes_out: u64,
    /// Bytes that calls over the network sent, heads and bodies, before TLS. Calls to tenants of this host
    /// send none.
    #[serde(default)]
    pub bytes_outbound: u64,
}
