//! The table that all processes of a host share: a row (slot) per tenant, a column per worker.
//!
//! A worker writes its own column only; anyone reads. So the supervisor has every figure without
//! asking, a tenant's running requests can be summed over all workers on the request path, and what a
//! dead worker held is cleared by zeroing its column. One more column keeps the totals of dead
//! workers, so counters never go backwards.
//!
//! Bounded by [`SLOTS_MAX`] × (workers + 1) cells of 384 bytes of address space; a page costs memory
//! only once a tenant in it has had a request. Looking at a page would cost it as well, so readers ask
//! [`Table::is_active`] first.

mod active;
pub mod balance;
mod cell;
mod fold;
mod held;
mod succession;
mod worker_cell;

use crate::breaker::Breaker;
use crate::shm::Shm;
use insula_model::api::Counters;
use insula_model::latency::BUCKETS;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Tenants on one host at most.
pub const SLOTS_MAX: u32 = 131_072;
/// Workers of one host at most.
pub const WORKERS_MAX: u32 = 256;

/// "insula" and the layout's version.
const MAGIC: u64 = 0x696e_7375_6c61_0002;
/// Words of a tenant's cell: whole pairs of cache lines, so that workers do not share any. What is summed on
/// the request path is in the first.
const CELL: usize = 48;
/// Words of a worker's own cell, likewise.
const WORKER_CELL: usize = 32;
const HEADER: usize = 16;
/// Words of the set of slots that had a request: a bit each.
const ACTIVE: usize = SLOTS_MAX as usize / 64;

/// Words of the header.
mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const WORKERS: usize = 1;
    /// Bytes that all workers may hold together; 0 for no bound.
    pub(super) const MEMORY_BUDGET: usize = 2;
}

/// Words of a tenant's cell. `RUNNING` is a gauge, the peak a maximum, the rest only grow.
mod tenant {
    pub(super) const RUNNING: usize = 0;
    pub(super) const REQUESTS: usize = 1;
    pub(super) const RESPONSES: usize = 2;
    pub(super) const CLIENT_FAULTS: usize = 3;
    pub(super) const GUEST_FAULTS: usize = 4;
    pub(super) const HOST_FAULTS: usize = 5;
    pub(super) const SHED: usize = 6;
    pub(super) const FUEL: usize = 7;
    pub(super) const CPU_NS: usize = 8;
    pub(super) const MEMORY_PEAK: usize = 9;
    pub(super) const BYTES_IN: usize = 10;
    pub(super) const BYTES_OUT: usize = 11;
    /// Memory held over time (`held`), in KiB times microseconds; the last counter here.
    pub(super) const MEMORY_KIB_US: usize = 12;
    /// Weighted CPU time, for the order in which workers run long requests; not a counter.
    pub(super) const VIRTUAL_NS: usize = 13;
    /// Bytes that its instances hold now, and since when, in nanoseconds of the monotonic clock.
    pub(super) const MEMORY: usize = 14;
    pub(super) const MEMORY_SINCE_NS: usize = 15;
    /// Counts of durations, a word for each bucket of `insula_model::latency`.
    pub(super) const BUCKETS: usize = 16;
    /// From here to `MORE_USED`, counters again.
    pub(super) const DURATION_US: usize = BUCKETS + super::BUCKETS;
    pub(super) const STATUS_2XX: usize = DURATION_US + 1;
    pub(super) const STATUS_3XX: usize = STATUS_2XX + 1;
    pub(super) const STATUS_4XX: usize = STATUS_2XX + 2;
    pub(super) const STATUS_5XX: usize = STATUS_2XX + 3;
    pub(super) const WAITED: usize = STATUS_2XX + 4;
    pub(super) const WAIT_US: usize = STATUS_2XX + 5;
    pub(super) const COLD_LOADS: usize = STATUS_2XX + 6;
    pub(super) const COLD_LOAD_US: usize = STATUS_2XX + 7;
    pub(super) const RESPONSES_5XX: usize = STATUS_2XX + 8;
    pub(super) const MORE_USED: usize = STATUS_2XX + 9;
    /// Requests in the queue now: a gauge.
    pub(super) const QUEUED: usize = MORE_USED;
    /// Bytes that calls out have sent. Here, since a table of an earlier version has 0 in this place.
    pub(super) const BYTES_OUTBOUND: usize = QUEUED + 1;
    /// Of `MEMORY`, what the host holds for guests: a gauge.
    pub(super) const MEMORY_HOST: usize = BYTES_OUTBOUND + 1;

    /// What only grows, and the peak; but for memory over time, which is more than a word.
    pub(super) fn counters() -> impl Iterator<Item = usize> {
        (REQUESTS..MEMORY_KIB_US).chain(BUCKETS..MORE_USED).chain([BYTES_OUTBOUND])
    }
}
const _: () = assert!(tenant::MEMORY_HOST < CELL);

/// Words of the last column's cell (that of dead workers) which all workers write: what a tenant is
/// allowed over all of them.
mod common {
    /// When the CPU used so far is paid for, in nanoseconds of the monotonic clock.
    pub(super) const CPU_PAID_NS: usize = 13;
    /// When the requests so far are paid for, likewise.
    pub(super) const RATE_PAID_NS: usize = 14;
    pub(super) const BREAKER: usize = 15;
}

/// Words of a worker's own cell.
mod worker {
    pub(super) const CONNECTIONS: usize = 0;
    pub(super) const RUNNING: usize = 1;
    pub(super) const LOADED: usize = 2;
    pub(super) const CURRENT: usize = 3;
    pub(super) const SERVING: usize = 4;
    /// One more than the highest slot the worker has known.
    pub(super) const SLOTS: usize = 5;
    /// As CURRENT, of the worker's second thread.
    pub(super) const CURRENT_LONG: usize = 6;
    /// Bytes of memory that it alone holds, and the same with what it has given and nobody touched yet.
    pub(super) const RESIDENT: usize = 7;
    pub(super) const EXPECTED: usize = 8;
    /// Guests on the second thread that could run now.
    pub(super) const COMPUTING: usize = 9;
    /// Weighted time of the tenant that ran there last.
    pub(super) const VIRTUAL_NOW_NS: usize = 10;
    /// Connections that other workers have sent to this one, and that have not come yet.
    pub(super) const EXPECTS: usize = 11;
    /// Of COMPUTING, those that wait for their turn.
    pub(super) const WAITING: usize = 12;
    /// Connections ever taken, and requests for which there is no tenant: counters.
    pub(super) const ACCEPTED: usize = 13;
    pub(super) const UNROUTED: usize = 14;
    /// Instances kept for a next request.
    pub(super) const IDLE: usize = 16;
    /// Components ever loaded.
    pub(super) const LOADS: usize = 15;
}

/// Why a table could not be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel refused the memory.
    #[error("the shared table of {bytes} bytes cannot be mapped: {source}")]
    Map {
        /// Its size.
        bytes: u64,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// Not a table, or another version's.
    #[error("the inherited memory is not this version's shared table")]
    Foreign,
    /// More workers than columns can be named.
    #[error("{0} workers asked for; a host has 1 to {WORKERS_MAX}")]
    Workers(u32),
}

/// The shared table.
#[derive(Debug)]
pub struct Table {
    shm: Shm,
    workers: u32,
}

/// What a worker tells about itself.
#[derive(Clone, Copy)]
pub struct WorkerCell<'a>(&'a [AtomicU64]);

/// A worker's own cell of one tenant.
#[derive(Clone, Copy)]
pub struct Cell<'a>(&'a [AtomicU64]);

impl Table {
    /// A new table for this many workers.
    pub fn create(workers: u32) -> Result<Self, TableError> {
        if workers == 0 || workers > WORKERS_MAX {
            return Err(TableError::Workers(workers));
        }
        let words = Self::size(workers);
        let map = |source| TableError::Map { bytes: words as u64 * 8, source };
        let shm = Shm::create(words).map_err(map)?;
        shm.words()[header::MAGIC].store(MAGIC, SeqCst);
        shm.words()[header::WORKERS].store(u64::from(workers), SeqCst);
        Ok(Self { shm, workers })
    }

    /// The table behind an inherited descriptor.
    pub fn attach(fd: OwnedFd) -> Result<Self, TableError> {
        let shm = Shm::attach(fd).map_err(|source| TableError::Map { bytes: 0, source })?;
        let words = shm.words();
        let foreign = words.len() < HEADER || words[header::MAGIC].load(SeqCst) != MAGIC;
        let workers = if foreign { 0 } else { words[header::WORKERS].load(SeqCst) };
        let workers = u32::try_from(workers).map_err(|_| TableError::Foreign)?;
        if workers == 0 || workers > WORKERS_MAX || words.len() != Self::size(workers) {
            return Err(TableError::Foreign);
        }
        Ok(Self { shm, workers })
    }

    fn size(workers: u32) -> usize {
        let columns = workers as usize + 1;
        HEADER + workers as usize * WORKER_CELL + ACTIVE + columns * SLOTS_MAX as usize * CELL
    }

    /// To be inherited by a worker.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shm.fd()
    }

    /// Columns, without the one of the dead.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Sets how many bytes all workers may hold together; 0 for no bound.
    pub fn set_memory_budget(&self, bytes: u64) {
        self.shm.words()[header::MEMORY_BUDGET].store(bytes, SeqCst);
    }

    /// How many bytes all workers may hold together; 0 for no bound.
    pub fn memory_budget(&self) -> u64 {
        self.shm.words()[header::MEMORY_BUDGET].load(Relaxed)
    }

    /// Bytes that all workers hold, by what each said last; and the same with what they have given to guests
    /// that have not touched it yet.
    pub fn resident(&self) -> (u64, u64) {
        let sum =
            |word: usize| (0..self.workers).map(|w| self.worker(w).0[word].load(Relaxed)).sum();
        (sum(worker::RESIDENT), sum(worker::EXPECTED))
    }

    /// Weighted CPU time of a tenant over all workers: who has least is run next.
    pub fn virtual_ns(&self, slot: u32) -> u64 {
        self.row(slot)
            .map(|cell| cell.0[tenant::VIRTUAL_NS].load(Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// When the CPU that a tenant has used is paid for by its quota, in nanoseconds of the monotonic
    /// clock; in the past if it may run.
    pub fn cpu_paid_ns(&self, slot: u32) -> u64 {
        self.cell(self.workers, slot).0[common::CPU_PAID_NS].load(Relaxed)
    }

    /// Has a tenant pay for `cost_ns` of its quota: a leaky bucket as a meter, kept as the one time at
    /// which all of it is paid for, so all workers can share it without a lock. What was not used up to
    /// `burst_ns` ago is lost.
    pub fn pay_cpu(&self, slot: u32, now_ns: u64, cost_ns: u64, burst_ns: u64) {
        let paid = &self.cell(self.workers, slot).0[common::CPU_PAID_NS];
        let from = now_ns.saturating_sub(burst_ns);
        let _ = paid
            .fetch_update(Relaxed, Relaxed, |paid| Some(paid.max(from).saturating_add(cost_ns)));
    }

    /// Bytes that a tenant's instances hold now, over all workers, and the host for them.
    pub fn memory(&self, slot: u32) -> u64 {
        self.held(slot, tenant::MEMORY)
    }

    /// Of these, what the host holds.
    pub fn memory_host(&self, slot: u32) -> u64 {
        self.held(slot, tenant::MEMORY_HOST)
    }

    fn held(&self, slot: u32, word: usize) -> u64 {
        let held = (0..self.workers).map(|w| self.cell(w, slot).0[word].load(Relaxed));
        // An instance that outlived its slot's clearing has given back what nobody counts any more.
        held.map(u64::cast_signed).sum::<i64>().max(0).cast_unsigned()
    }

    /// A tenant's circuit breaker.
    pub fn breaker(&self, slot: u32) -> Breaker<'_> {
        Breaker::new(&self.cell(self.workers, slot).0[common::BREAKER])
    }

    /// Lets one request of a tenant pass if its rate allows it: one each `interval_ns`, and as many at
    /// once after a pause as fit into `burst_ns`. The generic cell rate algorithm (ITU-T I.371) on one
    /// atomic, over all workers.
    pub fn pass_rate(&self, slot: u32, now_ns: u64, interval_ns: u64, burst_ns: u64) -> bool {
        let paid = &self.cell(self.workers, slot).0[common::RATE_PAID_NS];
        paid.fetch_update(Relaxed, Relaxed, |paid| {
            let next = paid.max(now_ns).saturating_add(interval_ns);
            (next <= now_ns.saturating_add(burst_ns)).then_some(next)
        })
        .is_ok()
    }

    /// The cell of a worker; an index out of range is the last one's.
    pub fn worker(&self, index: u32) -> WorkerCell<'_> {
        let at = HEADER + index.min(self.workers - 1) as usize * WORKER_CELL;
        WorkerCell(&self.shm.words()[at..at + WORKER_CELL])
    }

    /// One worker's cell of one tenant; `worker == workers()` is the column of the dead.
    ///
    /// Cells of one slot lie side by side, so that summing a row touches one page.
    pub fn cell(&self, worker: u32, slot: u32) -> Cell<'_> {
        let columns = self.workers as usize + 1;
        let row = slot.min(SLOTS_MAX - 1) as usize * columns;
        let column = worker.min(self.workers) as usize;
        let rows = HEADER + self.workers as usize * WORKER_CELL + ACTIVE;
        let at = rows + (row + column) * CELL;
        Cell(&self.shm.words()[at..at + CELL])
    }

    fn row(&self, slot: u32) -> impl Iterator<Item = Cell<'_>> {
        (0..=self.workers).map(move |w| self.cell(w, slot))
    }

    /// Requests of a tenant that run now, over all workers.
    pub fn running(&self, slot: u32) -> u64 {
        self.row(slot).map(|cell| cell.0[tenant::RUNNING].load(SeqCst)).sum()
    }

    /// Everything about a tenant, summed over all columns.
    pub fn counters(&self, slot: u32) -> Counters {
        if !self.is_active(slot) {
            return Counters::default();
        }
        let sum = |word: usize| self.row(slot).map(|cell| cell.0[word].load(Relaxed)).sum::<u64>();
        let peak = self.row(slot).map(|cell| cell.0[tenant::MEMORY_PEAK].load(Relaxed)).max();
        Counters {
            running: sum(tenant::RUNNING),
            requests: sum(tenant::REQUESTS),
            responses: sum(tenant::RESPONSES),
            client_faults: sum(tenant::CLIENT_FAULTS),
            guest_faults: sum(tenant::GUEST_FAULTS),
            host_faults: sum(tenant::HOST_FAULTS),
            shed: sum(tenant::SHED),
            fuel: sum(tenant::FUEL),
            cpu_us: sum(tenant::CPU_NS) / 1_000,
            memory_bytes: self.memory(slot),
            memory_host_bytes: self.memory_host(slot),
            memory_peak_bytes: peak.unwrap_or(0),
            bytes_in: sum(tenant::BYTES_IN),
            bytes_out: sum(tenant::BYTES_OUT),
            bytes_outbound: sum(tenant::BYTES_OUTBOUND),
            status_2xx: sum(tenant::STATUS_2XX),
            status_3xx: sum(tenant::STATUS_3XX),
            status_4xx: sum(tenant::STATUS_4XX),
            status_5xx: sum(tenant::STATUS_5XX),
            responses_5xx: sum(tenant::RESPONSES_5XX),
            queued: sum(tenant::QUEUED),
            waited: sum(tenant::WAITED),
            wait_us: sum(tenant::WAIT_US),
            cold_loads: sum(tenant::COLD_LOADS),
            cold_load_us: sum(tenant::COLD_LOAD_US),
        }
    }

    /// After a worker died: adds its counters to those of the dead, clears its column, and returns
    /// the slot whose guest was running when it died. Its process must be gone. `now_ns` is of the monotonic
    /// clock.
    pub fn bury(&self, index: u32, now_ns: u64) -> Option<u32> {
        let own = self.worker(index);
        let current = own.current_slot().or_else(|| own.current_long_slot());
        // Looking at a row that was never used would cost a page of memory.
        let slots = u32::try_from(own.0[worker::SLOTS].load(Relaxed)).unwrap_or(SLOTS_MAX);
        for word in own.0 {
            word.store(0, SeqCst);
        }
        for slot in 0..slots.min(SLOTS_MAX) {
            if !self.is_active(slot) {
                continue;
            }
            let cell = self.cell(index, slot);
            if cell.0.iter().all(|word| word.load(Relaxed) == 0) {
                continue;
            }
            let dead = self.cell(self.workers, slot);
            cell.0[tenant::RUNNING].store(0, SeqCst);
            cell.0[tenant::VIRTUAL_NS].store(0, SeqCst);
            cell.bury_memory(dead, now_ns);
            cell.0[tenant::QUEUED].store(0, SeqCst);
            for word in tenant::counters() {
                let value = cell.0[word].swap(0, SeqCst);
                if word == tenant::MEMORY_PEAK {
                    dead.0[word].fetch_max(value, SeqCst);
                } else {
                    dead.0[word].fetch_add(value, SeqCst);
                }
            }
        }
        current
    }

    /// Clears a slot in all columns, before it gets a new owner.
    pub fn clear_slot(&self, slot: u32) {
        // A row that nothing was written to is zero, and writing to it would cost memory.
        if !self.is_active(slot) {
            return;
        }
        for cell in self.row(slot) {
            for word in cell.0 {
                word.store(0, SeqCst);
            }
        }
        self.set_idle(slot);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use insula_model::{Fault, Outcome, StatusClass, Usage};

    fn usage(fuel: u64) -> Usage {
        Usage { fuel, cpu_ns: 2_000, memory_peak_bytes: fuel, bytes_in: 3, bytes_out: 4 }
    }

    #[test]
    fn a_dead_worker_leaves_its_counters_and_takes_its_gauges() {
        let table = Table::create(2).unwrap();
        for worker in [0, 1] {
            table.worker(worker).know_slot(9);
            table.set_active(9);
            table.cell(worker, 9).enter();
            table.cell(worker, 9).add_cpu_ns(2_000);
            table.cell(worker, 9).record(Outcome::Response, &usage(10 + u64::from(worker)));
        }
        table.cell(1, 9).record(Outcome::Shed(Fault::Concurrency), &usage(0));
        table.cell(0, 9).answered(StatusClass::Success);
        table.cell(1, 9).answered(StatusClass::ServerError);
        table.cell(0, 9).took(70);
        table.cell(1, 9).took(3_000_000);
        table.cell(1, 9).queue(1);
        table.worker(1).set_current(Some(9));
        table.worker(1).set_connections(5);
        assert_eq!(table.running(9), 2);

        assert_eq!(table.bury(1, 0), Some(9));
        assert_eq!(table.running(9), 1);
        assert_eq!(table.worker(1).connections(), 0);
        assert_eq!(table.bury(1, 0), None);
        let counters = table.counters(9);
        assert_eq!((counters.requests, counters.responses, counters.shed), (2, 2, 1));
        assert_eq!((counters.fuel, counters.cpu_us, counters.memory_peak_bytes), (21, 4, 11));
        assert_eq!((counters.status_2xx, counters.status_5xx, counters.queued), (1, 1, 0));
        let latency = table.latency(9);
        assert_eq!((latency.count(), latency.sum_us), (2, 3_000_070));
        assert_eq!(latency.buckets[1], 1);

        table.clear_slot(9);
        assert_eq!(table.counters(9), Counters::default());
        assert!(!table.is_active(9));
        table.set_active(9);
        assert_eq!(table.counters(9), Counters::default());
        assert_eq!(table.latency(9).count(), 0);
    }

    #[test]
    fn both_sides_see_the_same_memory_and_foreign_memory_is_refused() {
        let table = Table::create(3).unwrap();
        let other = Table::attach(table.fd().try_clone_to_owned().unwrap()).unwrap();
        table.cell(2, SLOTS_MAX - 1).enter();
        assert_eq!(other.running(SLOTS_MAX - 1), 1);
        assert_eq!(other.workers(), 3);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Table::attach(file.into()).is_err());
        assert!(Table::create(0).is_err());
    }
}
