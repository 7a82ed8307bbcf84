//! A worker's cell of one tenant: what it writes as requests come, wait, run and end.

use super::{Cell, Table, tenant};
use insula_model::latency::{BUCKETS, Latency, bucket_of};
use insula_model::{Outcome, StatusClass, Usage};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

impl Table {
    /// How long a tenant's requests took, over all columns.
    pub fn latency(&self, slot: u32) -> Latency {
        let mut latency = Latency::default();
        if !self.is_active(slot) {
            return latency;
        }
        for cell in self.row(slot) {
            let counts = &cell.0[tenant::BUCKETS..tenant::BUCKETS + BUCKETS];
            for (sum, count) in latency.buckets.iter_mut().zip(counts) {
                *sum = sum.wrapping_add(count.load(Relaxed));
            }
            let duration_us = cell.0[tenant::DURATION_US].load(Relaxed);
            latency.sum_us = latency.sum_us.wrapping_add(duration_us);
        }
        latency
    }
}

impl Cell<'_> {
    /// Adds CPU time, as it passes; both threads of a worker do.
    pub fn add_cpu_ns(&self, value: u64) {
        self.0[tenant::CPU_NS].fetch_add(value, Relaxed);
    }

    /// Adds weighted CPU time; both threads of a worker do.
    pub fn add_virtual_ns(&self, value: u64) {
        self.0[tenant::VIRTUAL_NS].fetch_add(value, Relaxed);
    }

    /// A call out has sent so many bytes; both threads of a worker do.
    pub fn sent_outbound(&self, bytes: u64) {
        self.0[tenant::BYTES_OUTBOUND].fetch_add(bytes, Relaxed);
    }

    /// One more running request. Sequentially consistent, so that of two workers which both add and
    /// then sum, at least one sees the other.
    pub fn enter(&self) {
        self.0[tenant::RUNNING].fetch_add(1, SeqCst);
    }

    /// One fewer; never below none.
    pub fn leave(&self) {
        let left = self.0[tenant::RUNNING].load(SeqCst).saturating_sub(1);
        self.0[tenant::RUNNING].store(left, SeqCst);
    }

    /// How one request ended, and what it cost; its CPU time was added as it passed.
    pub fn record(&self, outcome: Outcome, usage: &Usage) {
        let kind = match outcome {
            Outcome::Shed(_) => {
                self.add(tenant::SHED, 1);
                return;
            }
            Outcome::Response => tenant::RESPONSES,
            Outcome::ClientFault(_) => tenant::CLIENT_FAULTS,
            Outcome::GuestFault(_) => tenant::GUEST_FAULTS,
            Outcome::HostFault(_) => tenant::HOST_FAULTS,
        };
        self.add(tenant::REQUESTS, 1);
        self.add(kind, 1);
        self.add(tenant::FUEL, usage.fuel);
        self.0[tenant::MEMORY_PEAK].fetch_max(usage.memory_peak_bytes, Relaxed);
        self.add(tenant::BYTES_IN, usage.bytes_in);
        self.add(tenant::BYTES_OUT, usage.bytes_out);
    }

    /// A request was answered with a status of this class.
    pub fn answered(&self, class: StatusClass) {
        let word = match class {
            StatusClass::Success => tenant::STATUS_2XX,
            StatusClass::Redirection => tenant::STATUS_3XX,
            StatusClass::ClientError => tenant::STATUS_4XX,
            StatusClass::ServerError => tenant::STATUS_5XX,
        };
        self.add(word, 1);
    }

    /// The guest's own answer has a status of 500 or above.
    pub fn answered_badly(&self) {
        self.add(tenant::RESPONSES_5XX, 1);
    }

    /// A request took this long.
    pub fn took(&self, duration_us: u64) {
        self.add(tenant::BUCKETS + bucket_of(duration_us), 1);
        self.add(tenant::DURATION_US, duration_us);
    }

    /// Requests that came into the queue, or left it.
    pub fn queue(&self, change: i64) {
        self.add(tenant::QUEUED, change.cast_unsigned());
    }

    /// A request left the queue after this long.
    pub fn waited(&self, wait_us: u64) {
        self.add(tenant::WAITED, 1);
        self.add(tenant::WAIT_US, wait_us);
    }

    /// A request had to wait this long for code that was not loaded.
    pub fn loaded_code(&self, wait_us: u64) {
        self.add(tenant::COLD_LOADS, 1);
        self.add(tenant::COLD_LOAD_US, wait_us);
    }

    /// A load and a store: the column has one writer, so no locked instruction is needed.
    fn add(&self, word: usize, value: u64) {
        let old = self.0[word].load(Relaxed);
        self.0[word].store(old.wrapping_add(value), Relaxed);
    }
}
