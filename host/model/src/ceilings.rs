//! What a host lets a manifest ask for at most.

use crate::quantity::{ByteSize, Count, DurationMs, MilliCpu};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Host ceilings, the `[ceilings]` table of the host's configuration file. A manifest that asks for
/// more is refused, and the refusal names the ceiling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ceilings {
    /// `memory`: bytes of one instance. Default 1Gi; at most 4Gi, the most a pooled slot can hold.
    #[schema(value_type = String)]
    pub memory: ByteSize,
    /// `memory.limit`: bytes of all instances of one tenant. Default 16Gi.
    #[schema(value_type = String)]
    pub tenant_memory: ByteSize,
    /// `cpu.request` and `cpu.limit`. Default 256 cores.
    #[schema(value_type = String)]
    pub cpu: MilliCpu,
    /// `rate.requests` and `rate.burst`. Default 1000000.
    pub rate: u32,
    /// `fuel` per request. Default 1T.
    #[schema(value_type = String)]
    pub fuel: Count,
    /// `timeout` per request. Default 10m.
    #[schema(value_type = String)]
    pub timeout: DurationMs,
    /// `concurrency`: running requests of one tenant. Default 1000.
    pub concurrency: u32,
    /// `queue`: waiting requests of one tenant in each worker. Default 1000.
    pub queue: u32,
    /// `queue_wait`. Default 30s.
    #[schema(value_type = String)]
    pub queue_wait: DurationMs,
    /// `request.body` bytes. Default 16Gi.
    #[schema(value_type = String)]
    pub request_body: ByteSize,
    /// `request.header` bytes. Default 64Ki; more than 128Ki cannot be passed to a guest.
    #[schema(value_type = String)]
    pub request_header: ByteSize,
    /// `response.body` bytes. Default 16Gi.
    #[schema(value_type = String)]
    pub response_body: ByteSize,
    /// `reuse.requests`. Default 1M.
    #[schema(value_type = String)]
    pub reuse_requests: Count,
    /// `reuse.idle`. Default 1h.
    #[schema(value_type = String)]
    pub reuse_idle: DurationMs,
    /// `max_age`. Default 8760h, a year.
    #[schema(value_type = String)]
    pub max_age: DurationMs,
    /// `breaker.faults`. Default 1000.
    pub breaker_faults: u32,
    /// `breaker.window` and `breaker.open`. Default 10m.
    #[schema(value_type = String)]
    pub breaker_time: DurationMs,
    /// Routes of one tenant. Default 64.
    pub routes: u32,
    /// Bytes of one artifact. Default 128Mi.
    #[schema(value_type = String)]
    pub artifact: ByteSize,
    /// Directories of the host under which `mounts` may lie. Default: `["/"]`, all of them; `[]` allows
    /// none.
    pub mounts: Vec<String>,
    /// `scratch.quota` and the `quota` of a mount. Default 1Gi.
    #[schema(value_type = String)]
    pub storage: ByteSize,
    /// `keyvalue.quota`. Default 1Gi.
    #[schema(value_type = String)]
    pub keyvalue: ByteSize,
    /// `outbound.concurrency`. Default 256.
    pub outbound_concurrency: u32,
    /// `outbound.request` and `outbound.response` bytes. Default 1Gi.
    #[schema(value_type = String)]
    pub outbound_body: ByteSize,
}

impl Default for Ceilings {
    fn default() -> Self {
        Self {
            memory: ByteSize(1 << 30),
            tenant_memory: ByteSize(16 << 30),
            cpu: MilliCpu(256_000),
            rate: 1_000_000,
            fuel: Count(1_000_000_000_000),
            timeout: DurationMs(600_000),
            concurrency: 1_000,
            queue: 1_000,
            queue_wait: DurationMs(30_000),
            request_body: ByteSize(16 << 30),
            request_header: ByteSize(64 << 10),
            response_body: ByteSize(16 << 30),
            reuse_requests: Count(1_000_000),
            reuse_idle: DurationMs(3_600_000),
            max_age: DurationMs(8_760 * 3_600_000),
            breaker_faults: 1_000,
            breaker_time: DurationMs(600_000),
            routes: 64,
            artifact: ByteSize(128 << 20),
            mounts: vec!["/".into()],
            storage: ByteSize(1 << 30),
            keyvalue: ByteSize(1 << 30),
            outbound_concurrency: 256,
            outbound_body: ByteSize(1 << 30),
        }
    }
}
