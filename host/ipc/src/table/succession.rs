//! One table after another: a host that was upgraded has a new one, beside which the old workers use theirs
//! until they have ended. So neither generation has columns that the other writes, and the layout may change.
//!
//! What is counted in the old table is added to the column of the dead in the new one, again and again, so
//! that whoever reads the new one misses nothing. Since old workers still write their columns, the old table's
//! own column of the dead is used to remember how much of them was added before.

use super::{Table, common, tenant};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

impl Table {
    /// Goes on from the table before with what tenants are allowed over all workers: quota of CPU, rate, circuit
    /// breaker. Leaves that table as it is.
    pub fn continue_from(&self, before: &Self) {
        for slot in before.active() {
            self.set_active(slot);
            let (from, to) = (before.cell(before.workers, slot), self.cell(self.workers, slot));
            for word in [common::CPU_PAID_NS, common::RATE_PAID_NS, common::BREAKER] {
                to.0[word].store(from.0[word].load(Relaxed), SeqCst);
            }
        }
    }

    /// Takes the totals of dead workers from the table before, whose column of the dead has another use from now
    /// on: see [`Table::catch_up`].
    pub fn take_totals(&self, before: &Self) {
        for slot in before.active() {
            self.set_active(slot);
            let (from, to) = (before.cell(before.workers, slot), self.cell(self.workers, slot));
            for word in tenant::counters() {
                to.0[word].fetch_add(from.0[word].swap(0, SeqCst), SeqCst);
            }
        }
    }

    /// Adds what the old workers have counted since the last call. Gauges are not counted: they are of the new
    /// workers alone.
    pub fn catch_up(&self, before: &Self) {
        for slot in before.active() {
            self.set_active(slot);
            let (added, dead) = (before.cell(before.workers, slot), self.cell(self.workers, slot));
            for word in tenant::counters() {
                let columns = (0..before.workers).map(|worker| before.cell(worker, slot));
                let values = columns.map(|cell| cell.0[word].load(Relaxed));
                if word == tenant::MEMORY_PEAK {
                    dead.0[word].fetch_max(values.max().unwrap_or(0), SeqCst);
                    continue;
                }
                let sum = values.fold(0, u64::wrapping_add);
                let more = sum.wrapping_sub(added.0[word].swap(sum, SeqCst));
                dead.0[word].fetch_add(more, SeqCst);
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
        let request = |table: &Table, worker| {
            table.set_active(4);
            table.worker(worker).know_slot(4);
            table.cell(worker, 4).record(Outcome::Response, &usage);
            table.cell(worker, 4).took(70);
        };
        for worker in 0..3 {
            request(&before, worker);
        }
        before.bury(1);
        before.pay_cpu(4, 1_000, 500, 0);
        assert!(before.breaker(4).trip(1_000, 10));
        after.continue_from(&before);
        assert_eq!(before.counters(4).requests, 3, "nothing was taken from there");
        after.take_totals(&before);
        assert_eq!(after.counters(4).requests, 1, "the dead one's");
        assert_eq!(after.cpu_paid_ns(4), 1_500);
        assert_eq!(after.breaker(4).state(), before.breaker(4).state());
        request(&after, 1);
        for more in 0..3 {
            after.catch_up(&before);
            after.catch_up(&before);
            let counters = after.counters(4);
            let requests = 4 + more;
            assert_eq!((counters.requests, counters.fuel), (requests, requests * 5));
            assert_eq!((counters.bytes_out, counters.memory_peak_bytes), (requests * 2, 7));
            let latency = after.latency(4);
            assert_eq!((latency.count(), latency.sum_us), (requests, requests * 70));
            request(&before, 2);
        }
        assert_eq!(after.counters(4).running, 0);
    }
}
