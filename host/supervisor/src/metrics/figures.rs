//! What one series says: a tenant's counters and latency, which can be added and taken from each other.

use insula_ipc::table::Table;
use insula_model::Latency;
use insula_model::api::Counters;

/// Everything about one tenant, or about several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) counters: Counters,
    pub(super) latency: Latency,
}

/// Every counter, but neither gauges nor the peak.
fn counters(of: &mut Counters) -> [&mut u64; 20] {
    [
        &mut of.requests,
        &mut of.responses,
        &mut of.client_faults,
        &mut of.guest_faults,
        &mut of.host_faults,
        &mut of.shed,
        &mut of.fuel,
        &mut of.cpu_us,
        &mut of.bytes_in,
        &mut of.bytes_out,
        &mut of.bytes_outbound,
        &mut of.status_2xx,
        &mut of.status_3xx,
        &mut of.status_4xx,
        &mut of.status_5xx,
        &mut of.responses_5xx,
        &mut of.waited,
        &mut of.wait_us,
        &mut of.cold_loads,
        &mut of.cold_load_us,
    ]
}

impl Figures {
    /// Of the tenant in `slot`, as they are now.
    pub(super) fn of(table: &Table, slot: u32) -> Self {
        Self { counters: table.counters(slot), latency: table.latency(slot) }
    }

    /// Both together: gauges are summed, of peaks the higher counts.
    pub(super) fn add(&mut self, other: &Self) {
        let mut more = other.counters;
        for (own, more) in counters(&mut self.counters).into_iter().zip(counters(&mut more)) {
            *own = own.saturating_add(*more);
        }
        let (own, more) = (&mut self.counters, &other.counters);
        own.running = own.running.saturating_add(more.running);
        own.queued = own.queued.saturating_add(more.queued);
        own.memory_bytes = own.memory_bytes.saturating_add(more.memory_bytes);
        own.memory_host_bytes = own.memory_host_bytes.saturating_add(more.memory_host_bytes);
        own.memory_peak_bytes = own.memory_peak_bytes.max(more.memory_peak_bytes);
        self.latency.add(&other.latency);
    }

    /// What was counted since `before`; gauges and the peak are as they are.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        let mut old = before.counters;
        for (own, old) in counters(&mut since.counters).into_iter().zip(counters(&mut old)) {
            *own = own.saturating_sub(*old);
        }
        since.latency = self.latency.since(&before.latency);
        since
    }

    /// Without gauges and the peak: what stays of somebody who is gone.
    pub(super) fn counted(mut self) -> Self {
        let own = &mut self.counters;
        (own.running, own.queued) = (0, 0);
        (own.memory_bytes, own.memory_host_bytes, own.memory_peak_bytes) = (0, 0, 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_can_be_taken_away_field_by_field() {
        // Every field of its own value, through JSON, so that a new one cannot be forgotten here.
        let mut value = serde_json::to_value(Counters::default()).unwrap_or_default();
        for (n, field) in
            (1u64..).zip(value.as_object_mut().into_iter().flat_map(|o| o.values_mut()))
        {
            *field = n.into();
        }
        let counters: Counters = serde_json::from_value(value).unwrap_or_default();
        let one = Figures { counters, latency: Latency { buckets: [3; 18], sum_us: 9 } };
        assert!(one.counters.requests > 0 && one.counters.cold_load_us > 0);
        let mut two = one;
        two.add(&one);
        assert_eq!(two.since(&one).counted(), one.counted());
        let gauges = |f: &Figures| (f.counters.running, f.counters.queued, f.counters.memory_bytes);
        assert_eq!(
            gauges(&two),
            (one.counters.running * 2, one.counters.queued * 2, one.counters.memory_bytes * 2)
        );
        assert_eq!(one.since(&one).counted(), Figures::default());
    }
}
