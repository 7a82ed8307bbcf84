//! What tenants have used, memory over time included.
//!
//! Memory over time is an integral that each worker keeps: whenever what a tenant's instances hold changes,
//! what they held before is multiplied with the time that they did. Three atomic additions on a line that the
//! worker has at hand, and one look at the clock; twice for an ordinary request.

use super::{Cell, Table, tenant};
use insula_model::usage::Used;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Times that a row which changes while it is read is read again.
const READS_MAX: u32 = 8;

/// The product of KiB and microseconds between two times in nanoseconds.
fn kib_us(bytes: u64, from_ns: u64, to_ns: u64) -> u64 {
    // Each end is cut to a microsecond by itself, so adjacent times add up. An instance that outlived its
    // slot's clearing leaves less than nothing behind: that counts as nothing.
    let bytes = u64::try_from(bytes.cast_signed()).unwrap_or(0);
    (bytes >> 10).wrapping_mul((to_ns / 1_000).wrapping_sub(from_ns / 1_000))
}

impl Cell<'_> {
    /// Adds or takes away bytes that instances hold, at this time of the monotonic clock; both threads of a
    /// worker do. So many of them are what the host holds for guests.
    pub fn add_memory(&self, change: i64, host: i64, now_ns: u64) {
        if host != 0 {
            self.0[tenant::MEMORY_HOST].fetch_add(host.cast_unsigned(), SeqCst);
        }
        // The time first: whoever reads the integral then never sees one and the same time twice.
        let since_ns = self.0[tenant::MEMORY_SINCE_NS].swap(now_ns, SeqCst);
        let held = self.0[tenant::MEMORY].fetch_add(change.cast_unsigned(), SeqCst);
        self.0[tenant::MEMORY_KIB_US].fetch_add(kib_us(held, since_ns, now_ns), SeqCst);
    }

    /// Memory over time up to now. While a worker changes it, it may be what it was before.
    pub(super) fn memory_kib_us(&self, now_ns: u64) -> u64 {
        let word = |word: usize| self.0[word].load(SeqCst);
        let mut since_ns = word(tenant::MEMORY_SINCE_NS);
        for _ in 0..READS_MAX {
            let (held, sum) = (word(tenant::MEMORY), word(tenant::MEMORY_KIB_US));
            let again_ns = word(tenant::MEMORY_SINCE_NS);
            if since_ns == again_ns {
                return sum.wrapping_add(kib_us(held, since_ns, now_ns.max(since_ns)));
            }
            since_ns = again_ns;
        }
        word(tenant::MEMORY_KIB_US)
    }

    /// A worker is gone, and with it what it held: into the sums of the dead.
    pub(super) fn bury_memory(&self, dead: Cell<'_>, now_ns: u64) {
        let sum = self.memory_kib_us(now_ns);
        self.0[tenant::MEMORY].store(0, SeqCst);
        self.0[tenant::MEMORY_HOST].store(0, SeqCst);
        self.0[tenant::MEMORY_SINCE_NS].store(0, SeqCst);
        self.0[tenant::MEMORY_KIB_US].store(0, SeqCst);
        dead.0[tenant::MEMORY_KIB_US].fetch_add(sum, SeqCst);
    }
}

impl Table {
    /// Everything that a tenant has used up to this time of the monotonic clock, by all workers.
    pub fn used(&self, slot: u32, now_ns: u64) -> Used {
        if !self.is_active(slot) {
            return Used::default();
        }
        let sum = |word: usize| {
            self.row(slot).map(|cell| cell.0[word].load(Relaxed)).fold(0, u64::wrapping_add)
        };
        let dead = self.cell(self.workers, slot).0[tenant::MEMORY_KIB_US].load(SeqCst);
        let living = (0..self.workers).map(|worker| self.cell(worker, slot).memory_kib_us(now_ns));
        Used {
            requests: sum(tenant::REQUESTS),
            responses: sum(tenant::RESPONSES),
            client_faults: sum(tenant::CLIENT_FAULTS),
            guest_faults: sum(tenant::GUEST_FAULTS),
            host_faults: sum(tenant::HOST_FAULTS),
            shed: sum(tenant::SHED),
            fuel: sum(tenant::FUEL),
            cpu_ns: sum(tenant::CPU_NS),
            memory_kib_us: living.fold(dead, u64::wrapping_add),
            bytes_in: sum(tenant::BYTES_IN),
            bytes_out: sum(tenant::BYTES_OUT),
            bytes_outbound: sum(tenant::BYTES_OUTBOUND),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn memory_over_time_is_exact_and_outlives_its_worker() {
        let table = Table::create(2).unwrap();
        let used = |at_ms: u64| table.used(7, at_ms * MS).memory_kib_us;
        table.set_active(7);
        for worker in [0, 1] {
            table.worker(worker).know_slot(7);
        }
        table.cell(0, 7).add_memory(64 << 10, 0, 100 * MS);
        assert_eq!(used(103), 64 * 3_000);
        table.cell(0, 7).add_memory(64 << 10, 0, 110 * MS);
        table.cell(1, 7).add_memory(1 << 20, 0, 120 * MS);
        table.cell(0, 7).add_memory(-(128 << 10), 0, 130 * MS);
        let both = 64 * 10_000 + 128 * 20_000 + 1_024 * 10_000;
        assert_eq!(used(130), both);
        assert_eq!(used(140), both + 1_024 * 10_000);
        table.bury(1, 150 * MS);
        assert_eq!(used(150), both + 1_024 * 20_000);
        assert_eq!(used(500), both + 1_024 * 20_000, "the dead hold nothing");
        table.clear_slot(7);
        assert!(table.used(7, 600 * MS).is_none());
    }
}
