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
            for word in tenant::counters().chain([tenant::MEMORY_KIB_US]) {
                let value = from.0[word].swap(0, SeqCst);
                if word == tenant::MEMORY_PEAK {
                    to.0[word].fetch_max(value, SeqCst);
                } else {
                    to.0[word].fetch_add(value, SeqCst);
                }
            }
        }
    }

    /// Adds what the old workers have counted since the last call, up to this time of the monotonic clock.
    /// Gauges are not counted: they are of the new workers alone.
    pub fn catch_up(&self, before: &Self, now_ns: u64) {
        for slot in before.active() {
            self.catch_up_slot(before, slot, now_ns);
        }
    }

    /// The same for one tenant.
    pub fn catch_up_slot(&self, before: &Self, slot: u32, now_ns: u64) {
        if !before.is_active(slot) {
            return;
        }
        self.set_active(slot);
        let (added, dead) = (before.cell(before.workers, slot), self.cell(self.workers, slot));
        let columns = || (0..before.workers).map(|worker| before.cell(worker, slot));
        let add = |word: usize, sum: u64| {
            let had = added.0[word].load(SeqCst);
            // Memory over time may for once seem to be what it was before.
            if sum > had {
                added.0[word].store(sum, SeqCst);
                dead.0[word].fetch_add(sum - had, SeqCst);
            }
        };
        for word in tenant::counters() {
            let values = columns().map(|cell| cell.0[word].load(Relaxed));
            if word == tenant::MEMORY_PEAK {
                dead.0[word].fetch_max(values.max().unwrap_or(0), SeqCst);
            } else {
                add(word, values.fold(0, u64::wrapping_add));
            }
        }
        let held = columns().map(|cell| cell.memory_kib_us(now_ns));
        add(tenant::MEMORY_KIB_US, held.fold(0, u64::wrapping_add));
    }

    /// An old worker has ended, and holds nothing from this time on. What it has counted stays in its column.
    pub fn settle(&self, index: u32, now_ns: u64) {
        for slot in self.active() {
            let cell = self.cell(index, slot);
            let held = cell.0[tenant::MEMORY].load(SeqCst).cast_signed();
            if held != 0 {
                let host = cell.0[tenant::MEMORY_HOST].load(SeqCst).cast_signed();
                cell.add_memory(-held, -host, now_ns);
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
            table.cell(worker, 4).sent_outbound(3);
            table.cell(worker, 4).add_memory(1 << 20, 32 << 10, 0);
        };
        for worker in 0..3 {
            request(&before, worker);
        }
        before.bury(1, 0);
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
            after.catch_up(&before, 0);
            after.catch_up(&before, 0);
            let counters = after.counters(4);
            let requests = 4 + more;
            assert_eq!((counters.requests, counters.fuel), (requests, requests * 5));
            assert_eq!((counters.bytes_out, counters.memory_peak_bytes), (requests * 2, 7));
            assert_eq!(counters.bytes_outbound, requests * 3);
            let latency = after.latency(4);
            assert_eq!((latency.count(), latency.sum_us), (requests, requests * 70));
            request(&before, 2);
        }
        assert_eq!(after.counters(4).running, 0);
        // Four instances in three columns of the table before (the dead one holds none), one in this.
        let used = |at_ns| after.used(4, at_ns).memory_kib_us;
        after.catch_up(&before, 3_000);
        assert_eq!(used(3_000), (5 + 1) * 1_024 * 3);
        before.settle(0, 3_000);
        before.settle(2, 3_000);
        after.catch_up(&before, 9_000);
        assert_eq!(used(9_000), (5 * 3 + 9) * 1_024);
    }
}
