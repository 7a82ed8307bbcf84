//! What was counted in a slot that is given up becomes part of another one's figures.

use super::{Table, tenant};
use std::sync::atomic::Ordering::SeqCst;

impl Table {
    /// Adds the counters of a slot to those of another one, in the column of the dead, then clears the
    /// slot. Nothing may run in it any more.
    pub fn fold_slot(&self, from: u32, to: u32) {
        if !self.is_active(from) {
            return;
        }
        self.set_active(to);
        let dead = self.cell(self.workers, to);
        for cell in self.row(from) {
            for word in tenant::counters().chain([tenant::MEMORY_KIB_US]) {
                let value = cell.0[word].swap(0, SeqCst);
                if word == tenant::MEMORY_PEAK {
                    dead.0[word].fetch_max(value, SeqCst);
                } else {
                    dead.0[word].fetch_add(value, SeqCst);
                }
            }
        }
        self.clear_slot(from);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use insula_model::api::Counters;
    use insula_model::{Fault, Outcome, StatusClass, Usage};

    #[test]
    fn a_slot_that_is_given_up_leaves_its_counters_to_another() {
        let table = Table::create(2).unwrap();
        let usage = |fuel| Usage { fuel, memory_peak_bytes: fuel, ..Usage::default() };
        for (worker, slot, fuel) in [(0, 3, 10), (1, 3, 20), (1, 4, 5)] {
            table.cell(worker, slot).record(Outcome::Response, &usage(fuel));
        }
        table.cell(0, 3).record(Outcome::GuestFault(Fault::Trap), &usage(0));
        table.cell(0, 3).answered(StatusClass::ServerError);
        table.cell(1, 3).took(70);
        table.cell(1, 3).sent_outbound(9);
        table.set_active(3);
        table.breaker(3).reset();
        table.fold_slot(3, 4);
        assert_eq!(table.counters(3), Counters::default());
        let sum = table.counters(4);
        assert_eq!((sum.requests, sum.responses, sum.guest_faults, sum.fuel), (4, 3, 1, 35));
        assert_eq!((sum.memory_peak_bytes, sum.status_5xx, sum.bytes_outbound), (20, 1, 9));
        assert_eq!((table.latency(4).count(), table.is_active(3)), (1, false));
    }
}
