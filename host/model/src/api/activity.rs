//! What tenants do: everything that a live view needs, in one answer.

use super::{Counters, HostInfo};
use crate::breaker::BreakerState;
use crate::{Latency, Namespace, TenantName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The host, and every tenant that had a request since it started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// Microseconds of the host's clock, which never goes back; two answers are as far apart as these.
    pub at_us: u64,
    /// The host.
    pub host: HostInfo,
    /// Tenants that had a request, by slot; all the others have nothing but zeros.
    pub tenants: Vec<TenantActivity>,
}

/// What one tenant did since the host started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TenantActivity {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The active revision.
    pub revision: u32,
    /// Bytes that all of its instances may hold together.
    pub memory_limit_bytes: u64,
    /// What it did.
    pub counters: Counters,
    /// How long its requests took.
    pub latency: Latency,
    /// What its circuit breaker says now.
    pub breaker: BreakerState,
}
