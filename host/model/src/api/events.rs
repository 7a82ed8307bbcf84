//! What the control API streams while somebody watches: `GET /v1/events`.
//!
//! Tenants and their figures are arrays, not objects: a host has 100,000 of them, and their keys would be
//! most of what is sent.

use super::{HostMemory, WorkerInfo};
use crate::rollout::Percent;
use crate::{LatencyQuantiles, Namespace, Qos, TenantName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event. The first is named `snapshot` and replaces all that is known; those after it, one a second,
/// are named `changes` and hold what has changed. A client that does not keep up gets another snapshot in
/// place of what it missed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When it was taken, in Unix milliseconds.
    pub at_ms: u64,
    /// Tenants that are new here, or whose revision is: [slot, name, namespace, revision, class, bytes of
    /// memory that it may hold, thousandths of a core that it may use or null].
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    pub tenants: Vec<EventTenant>,
    /// Figures that have changed: [slot, state, requests/s, faults/s, refusals/s, thousandths of a core,
    /// bytes of memory, running requests, microseconds that half of the requests and 99 of 100 of this second
    /// stayed within or null]. A tenant without any is idle.
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    pub figures: Vec<EventFigures>,
    /// Every canary that runs: [slot of its tenant, revision, part of the requests]. Left out while they are
    /// the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<serde_json::Value>>>)]
    pub canaries: Option<Vec<EventCanary>>,
    /// Slots whose tenants are gone.
    pub gone: Vec<u32>,
    /// The host as a whole.
    pub host: EventHost,
}

/// A tenant, as far as it stays the same for a revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "TenantArray", from = "TenantArray")]
pub struct EventTenant {
    /// Its number, its own for as long as it is deployed.
    pub slot: u32,
    /// Its name.
    pub name: TenantName,
    /// Its namespace.
    pub namespace: Namespace,
    /// The active revision.
    pub revision: u32,
    /// Its class of service.
    pub qos: Qos,
    /// Bytes that its instances may hold together.
    pub memory_limit_bytes: u64,
    /// Thousandths of a core that it may use; none for the whole machine.
    pub cpu_limit_m: Option<u32>,
}

type TenantArray = (u32, TenantName, Namespace, u32, Qos, u64, Option<u32>);

impl From<EventTenant> for TenantArray {
    fn from(t: EventTenant) -> Self {
        (t.slot, t.name, t.namespace, t.revision, t.qos, t.memory_limit_bytes, t.cpu_limit_m)
    }
}

impl From<TenantArray> for EventTenant {
    fn from(array: TenantArray) -> Self {
        let (slot, name, namespace, revision, qos, memory_limit_bytes, cpu_limit_m) = array;
        Self { slot, name, namespace, revision, qos, memory_limit_bytes, cpu_limit_m }
    }
}

/// A revision that gets a part of its tenant's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CanaryArray", from = "CanaryArray")]
pub struct EventCanary {
    /// The tenant.
    pub slot: u32,
    /// The canary's revision.
    pub revision: u32,
    /// Its part of the requests.
    pub share: Percent,
}

type CanaryArray = (u32, u32, Percent);

impl From<EventCanary> for CanaryArray {
    fn from(EventCanary { slot, revision, share }: EventCanary) -> Self {
        (slot, revision, share)
    }
}

impl From<CanaryArray> for EventCanary {
    fn from((slot, revision, share): CanaryArray) -> Self {
        Self { slot, revision, share }
    }
}

/// How a tenant fares at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "FiguresArray", from = "FiguresArray")]
pub struct EventFigures {
    /// The tenant.
    pub slot: u32,
    /// What that amounts to.
    pub state: LiveState,
    /// Requests in a second that ended in any way but a refusal.
    pub requests: f64,
    /// Of these, those that guest or host failed.
    pub faults: f64,
    /// Requests in a second that were refused before anything ran.
    pub shed: f64,
    /// CPU, in thousandths of a core.
    pub cpu_m: u64,
    /// Bytes that its instances hold.
    pub memory_bytes: u64,
    /// Requests running.
    pub running: u64,
    /// Microseconds that half of the requests of this second stayed within.
    pub p50_us: Option<u64>,
    /// … that 99 of 100 stayed within.
    pub p99_us: Option<u64>,
}

type FiguresArray = (u32, LiveState, f64, f64, f64, u64, u64, u64, Option<u64>, Option<u64>);

impl From<EventFigures> for FiguresArray {
    fn from(f: EventFigures) -> Self {
        let EventFigures { slot, state, requests, faults, shed, .. } = f;
        let EventFigures { cpu_m, memory_bytes, running, p50_us, p99_us, .. } = f;
        (slot, state, requests, faults, shed, cpu_m, memory_bytes, running, p50_us, p99_us)
    }
}

impl From<FiguresArray> for EventFigures {
    fn from(array: FiguresArray) -> Self {
        let (slot, state, requests, faults, shed, cpu_m, memory_bytes, running, p50_us, p99_us) =
            array;
        Self { slot, state, requests, faults, shed, cpu_m, memory_bytes, running, p50_us, p99_us }
    }
}

/// What a tenant does. Of several that apply, the last.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// Nothing for some seconds.
    #[default]
    Idle,
    /// It answers requests.
    Serving,
    /// Some of its requests were refused in the last seconds.
    Shedding,
    /// Some of its requests failed in the last seconds.
    Failing,
    /// Its circuit breaker keeps requests away.
    Open,
    /// Somebody has stopped it.
    Stopped,
}

/// The host at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventHost {
    /// Requests in a second that ended in any way but a refusal.
    pub requests: f64,
    /// Of these, those that guest or host failed.
    pub faults: f64,
    /// Refusals in a second.
    pub shed: f64,
    /// CPU of all guests, in thousandths of a core.
    pub cpu_m: u64,
    /// Requests running.
    pub running: u64,
    /// How long the requests of this second took.
    pub latency: LatencyQuantiles,
    /// Tenants that hold memory for instances.
    pub live: u64,
    /// Bytes that tenants' instances hold, touched or not.
    pub instances_bytes: u64,
    /// What all workers hold, and may hold.
    pub memory: HostMemory,
    /// The same and the rest, by kind.
    pub kinds: MemoryKinds,
    /// The workers, by index.
    pub workers: Vec<WorkerInfo>,
}

/// Resident memory of the host's processes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryKinds {
    /// Workers' own: instances, loaded code's data, connections. What the budget is for.
    pub workers: u64,
    /// The supervisor's own.
    pub supervisor: u64,
    /// The table of counters that all processes share.
    pub table: u64,
    /// Pages of files, the program and compiled code, that could be read again; those of the worker that
    /// has mapped most, since workers share them.
    pub files: u64,
}
