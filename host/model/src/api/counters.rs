//! What tenants have done, as figures.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a tenant has done since the host started, over all workers, dead ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Requests running now.
    pub running: u64,
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
    /// Requests refused before anything ran.
    pub shed: u64,
    /// Fuel consumed.
    pub fuel: u64,
    /// Microseconds during which its guests held a worker's thread.
    pub cpu_us: u64,
    /// Bytes of memory and tables that all of its instances hold now, and of what the host holds for them.
    pub memory_bytes: u64,
    /// Of these, what the host holds: the instances' own structures, resources, header fields, bodies that wait.
    #[serde(default)]
    pub memory_host_bytes: u64,
    /// Most bytes of memory and tables one instance held.
    pub memory_peak_bytes: u64,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Response body bytes.
    pub bytes_out: u64,
    /// Bytes that its calls over the network sent, before TLS; calls to tenants of this host send none.
    #[serde(default)]
    pub bytes_outbound: u64,
    /// Requests that were answered with a status of 200 to 299, by the guest or by the host.
    #[serde(default)]
    pub status_2xx: u64,
    /// … of 300 to 399.
    #[serde(default)]
    pub status_3xx: u64,
    /// … of 400 to 499; those that were shed included.
    #[serde(default)]
    pub status_4xx: u64,
    /// … of 500 to 599; those that were shed included.
    #[serde(default)]
    pub status_5xx: u64,
    /// Of `responses`, those with a status of 500 or above: the guest says itself that it failed.
    #[serde(default)]
    pub responses_5xx: u64,
    /// Requests waiting in its queue now.
    #[serde(default)]
    pub queued: u64,
    /// Requests that had to wait in its queue.
    #[serde(default)]
    pub waited: u64,
    /// Microseconds that these waited, together.
    #[serde(default)]
    pub wait_us: u64,
    /// Requests whose worker had to load the code first.
    #[serde(default)]
    pub cold_loads: u64,
    /// Microseconds that these waited for it, together.
    #[serde(default)]
    pub cold_load_us: u64,
}

impl Counters {
    /// The sums of both; of the peaks, the higher one.
    pub fn with(self, other: Self) -> Self {
        Self {
            running: self.running + other.running,
            requests: self.requests + other.requests,
            responses: self.responses + other.responses,
            client_faults: self.client_faults + other.client_faults,
            guest_faults: self.guest_faults + other.guest_faults,
            host_faults: self.host_faults + other.host_faults,
            shed: self.shed + other.shed,
            fuel: self.fuel + other.fuel,
            cpu_us: self.cpu_us + other.cpu_us,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            memory_host_bytes: self.memory_host_bytes + other.memory_host_bytes,
            memory_peak_bytes: self.memory_peak_bytes.max(other.memory_peak_bytes),
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            bytes_outbound: self.bytes_outbound + other.bytes_outbound,
            status_2xx: self.status_2xx + other.status_2xx,
            status_3xx: self.status_3xx + other.status_3xx,
            status_4xx: self.status_4xx + other.status_4xx,
            status_5xx: self.status_5xx + other.status_5xx,
            responses_5xx: self.responses_5xx + other.responses_5xx,
            queued: self.queued + other.queued,
            waited: self.waited + other.waited,
            wait_us: self.wait_us + other.wait_us,
            cold_loads: self.cold_loads + other.cold_loads,
            cold_load_us: self.cold_load_us + other.cold_load_us,
        }
    }
}
