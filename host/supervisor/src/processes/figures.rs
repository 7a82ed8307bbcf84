//! What was counted in the slots of the shared table: a tenant's are its own and those of its canaries.

use super::Workers;
use crate::registry::Done;
use insula_ipc::breaker::State;
use insula_ipc::table::Table;
use insula_model::Latency;
use insula_model::api::Counters;
use insula_model::breaker::BreakerState;
use insula_model::usage::Used;

impl Workers {
    /// Clears the figures of a slot. Every worker must have acknowledged that its tenant is gone.
    pub(crate) fn clear_slot(&self, slot: u32) {
        if let Some(before) = self.0.old_table() {
            before.clear_slot(slot);
        }
        match self.0.registry.is_probe(slot) {
            true => self.0.metrics.drop_slot(slot),
            false => self.0.metrics.clear_slot(slot),
        }
    }

    /// Adds the figures of a slot to those of another one, and clears it. Nothing may run in it any more.
    pub(crate) fn fold_slot(&self, from: u32, to: u32) {
        self.0.catch_up_slot(from);
        self.0.metrics.fold_slot(from, to);
        if let Some(before) = self.0.old_table() {
            before.clear_slot(from);
        }
    }

    /// Whether anything runs in a slot, or is held by an instance: in workers from before an upgrade, too.
    pub(crate) fn is_in_use(&self, slot: u32) -> bool {
        let of = |table: &Table| {
            table.is_active(slot) && (table.running(slot) > 0 || table.memory(slot) > 0)
        };
        of(&self.0.table) || self.0.old_table().is_some_and(|before| of(&before))
    }

    /// What was counted in a slot, over all workers.
    pub(crate) fn counters(&self, slot: u32) -> Counters {
        self.0.table.counters(slot)
    }

    /// What the tenant of a slot has done, its canary included.
    pub(crate) fn counters_of(&self, slot: u32) -> Counters {
        let parts = self.0.registry.parts(slot).into_iter();
        parts.fold(self.counters(slot), |sum, part| sum.with(self.counters(part)))
    }

    /// The slots that had a request.
    pub(crate) fn active(&self) -> Vec<u32> {
        self.0.table.active().collect()
    }

    /// Whether a slot had a request.
    pub(crate) fn is_active(&self, slot: u32) -> bool {
        self.0.table.is_active(slot)
    }

    /// How long the requests of a slot took since it is in use.
    pub(crate) fn latency(&self, slot: u32) -> Latency {
        self.0.table.latency(slot)
    }

    /// How long the requests of a slot's tenant took since the host started, those of its canary included.
    pub(crate) fn latency_of(&self, slot: u32) -> Latency {
        let mut all = self.latency(slot);
        for part in self.0.registry.parts(slot) {
            all.add(&self.latency(part));
        }
        all
    }

    /// What was done in a slot.
    pub(crate) fn done(&self, slot: u32) -> Done {
        Done::of(&self.counters(slot), self.latency(slot))
    }

    /// What the tenant of a slot has done since the host started, its canary included.
    pub(crate) fn done_by(&self, slot: u32) -> Done {
        Done::of(&self.counters_of(slot), self.latency_of(slot))
    }

    /// Everything that a tenant has used, over all workers.
    pub(crate) fn used(&self, slot: u32) -> Used {
        self.0.catch_up_slot(slot);
        self.0.table.used(slot, insula_sandbox::epoch::monotonic_ns())
    }

    /// What a tenant's circuit breaker says.
    pub(crate) fn breaker(&self, slot: u32) -> BreakerState {
        // What had no request has no faults either, and looking would cost memory.
        if !self.0.table.is_active(slot) {
            return BreakerState::Closed;
        }
        let now_ms = insula_sandbox::epoch::monotonic_ns() / 1_000_000;
        match self.0.table.breaker(slot).state() {
            State::Closed => BreakerState::Closed,
            State::Open(until_ms) => {
                BreakerState::Open { retry_ms: until_ms.saturating_sub(now_ms) }
            }
            State::HalfOpen(_) => BreakerState::HalfOpen,
        }
    }
}
