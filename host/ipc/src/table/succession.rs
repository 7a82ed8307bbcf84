//! One table after another: a host that was upgraded has a new one, beside which the old workers use theirs
//! until they have ended. So neither generation has columns that the other writes, and the layout may change.

use super::{Table, common, tenant};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

impl Table {
    /// Takes over what a tenant is allowed over all workers (its quota of CPU, its rate, its circuit breaker)
    /// as it stands in the table before.
    pub fn continue_from(&self, before: &Self, slot: u32) {
        let (from, to) = (before.cell(before.workers, slot), self.cell(self.workers, slot));
        for word in [common::CPU_PAID_NS, common::RATE_PAID_NS, common::BREAKER] {
            let value = from.0[word].load(Relaxed);
            if value != 0 {
                to.0[word].store(value, SeqCst);
            }
        }
    }

    /// Adds a tenant's counters in the table before, whose workers are all gone, to those of the dead.
    pub fn absorb(&self, before: &Self, slot: u32) {
        let dead = self.cell(self.workers, slot);
        for cell in before.row(slot) {
            for word in tenant::REQUESTS..tenant::USED {
                let value = cell.0[word].load(Relaxed);
                if value == 0 {
                    continue;
                }
                if word == tenant::MEMORY_PEAK {
                    dead.0[word].fetch_max(value, SeqCst);
                } else {
                    dead.0[word].fetch_add(value, SeqCst);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use insula_model::{Outcome, Usage};

    #[test]
    fn counters_and_quotas_go_on_in_the_next_table() {
        let (before, after) = (Table::create(3).unwrap(), Table::create(2).unwrap());
        let usage = Usage { fuel: 5, cpu_ns: 0, memory_peak_bytes: 7, bytes_in: 1, bytes_out: 2 };
        for worker in 0..3 {
            before.cell(worker, 4).record(Outcome::Response, &usage);
        }
        before.pay_cpu(4, 1_000, 500, 0);
        assert!(before.breaker(4).trip(1_000, 10));
        after.cell(1, 4).record(Outcome::Response, &usage);
        after.continue_from(&before, 4);
        assert_eq!(after.cpu_paid_ns(4), 1_500);
        assert_eq!(after.breaker(4).state(), before.breaker(4).state());
        after.absorb(&before, 4);
        let counters = after.counters(4);
        assert_eq!((counters.requests, counters.fuel, counters.bytes_out), (4, 20, 8));
        assert_eq!((counters.memory_peak_bytes, counters.running), (7, 0));
    }
}
