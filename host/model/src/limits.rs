//! The limits that every tenant always has, resolved to plain numbers.

use crate::manifest::{ManifestError, within};
use crate::quantity::{Count, DurationMs};
use crate::{Ceilings, Metering, Resources};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The limits of one revision. Every field is a bound; "unlimited" cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Bytes of one instance: the sum over all its linear memories and tables.
    pub memory_bytes: u64,
    /// Units of wasmtime fuel for one request (about one per executed instruction), instantiation and
    /// start functions included. 0 if computing is metered by time.
    pub fuel: u64,
    /// What computing is measured by.
    #[serde(default)]
    pub metering: Metering,
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
    /// Milliseconds after which instances serve no further request and code is loaded anew; none for as
    /// long as they are used.
    #[serde(default)]
    pub max_age_ms: Option<u64>,
    /// CPU, memory of the whole tenant, rate.
    #[serde(default)]
    pub resources: Resources,
}

impl Limits {
    /// Fuel of one request, if fuel is counted.
    pub fn fuel_counted(&self) -> Option<u64> {
        (self.metering == Metering::Fuel).then_some(self.fuel)
    }
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

/// `reuse = { requests = 1000, idle = "30s" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReuseSpec {
    /// Requests that one instance serves. Default 1000.
    #[serde(default = "ReuseSpec::default_requests")]
    #[schema(value_type = String)]
    pub requests: Count,
    /// Idle time after which an instance is retired. Default 30s.
    #[serde(default = "ReuseSpec::default_idle")]
    #[schema(value_type = String)]
    pub idle: DurationMs,
    /// Requests that one instance serves at the same time; more than one needs WASI 0.3. Default 1.
    #[serde(default = "ReuseSpec::default_concurrent")]
    pub concurrent: u32,
}

impl ReuseSpec {
    pub(crate) fn resolve(&self, c: &Ceilings) -> Result<Reuse, ManifestError> {
        let most = (c.reuse_requests, c.reuse_idle, c.concurrency);
        let requests = within("reuse.requests", "reuse_requests", self.requests, Count(1), most.0)?;
        let idle = within("reuse.idle", "reuse_idle", self.idle, DurationMs(1), most.1)?;
        Ok(Reuse {
            requests: u32::try_from(requests.0).unwrap_or(u32::MAX),
            idle_ms: idle.0,
            concurrent: within("reuse.concurrent", "concurrency", self.concurrent, 1, most.2)?,
        })
    }
    fn default_concurrent() -> u32 {
        1
    }
    fn default_requests() -> Count {
        Count(1_000)
    }
    fn default_idle() -> DurationMs {
        DurationMs(30_000)
    }
}

/// Checks `max_age`.
pub(crate) fn resolve_max_age(
    asked: Option<DurationMs>,
    c: &Ceilings,
) -> Result<Option<u64>, ManifestError> {
    let check = |age| within("max_age", "max_age", age, DurationMs(1_000), c.max_age);
    Ok(asked.map(check).transpose()?.map(|age| age.0))
}
