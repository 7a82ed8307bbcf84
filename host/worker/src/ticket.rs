//! The permit of one request, and its one outcome and usage.
//!
//! A ticket lives from admission until the response body has ended, is dropped with it, and then
//! records how the request ended: if nobody said, the client went away.

use crate::tenant::Tenant;
use crate::worker::Worker;
use insula_model::{Fault, Outcome, Usage};
use insula_sandbox::Running;
use insula_sandbox::invoke::{Finished, Gauge};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub(crate) struct Ticket {
    pub(crate) worker: Rc<Worker>,
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) deadline: Instant,
    pub(crate) gauge: Arc<Gauge>,
    /// Bytes of the request body that the guest was given; set where there is a body.
    pub(crate) bytes_in: Option<Arc<AtomicU64>>,
    pub(crate) bytes_out: u64,
    cpu: Duration,
    outcome: Option<Outcome>,
}

impl Ticket {
    /// For a request that was counted into the table already.
    pub(crate) fn entered(worker: Rc<Worker>, tenant: Rc<Tenant>) -> Self {
        worker.running.set(worker.running.get() + 1);
        worker.cell().set_running(worker.running.get());
        let timeout = Duration::from_millis(tenant.entry.limits.timeout_ms);
        Self {
            worker,
            tenant,
            deadline: Instant::now() + timeout,
            gauge: Arc::default(),
            bytes_in: None,
            bytes_out: 0,
            cpu: Duration::ZERO,
            outcome: None,
        }
    }

    /// Says how the request ended; the first word stands.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    /// Runs a guest for one slice, or asks after one that runs elsewhere; none if the host panicked.
    pub(crate) fn poll_guest(
        &mut self,
        cx: &mut Context<'_>,
        running: &mut Running,
    ) -> Option<Poll<Finished>> {
        if running.is_shared() {
            return Some(running.poll_guest(cx));
        }
        catch_unwind(AssertUnwindSafe(|| self.poll(cx, |cx| running.poll_guest(cx)))).ok()
    }

    /// Runs a guest for one slice: on the clock, on the tenant's account, and with its name in the
    /// shared table in case the process does not survive it.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.worker.epoch.guest_runs();
        self.worker.cell().set_current(Some(self.tenant.entry.slot));
        let start = Instant::now();
        let polled = poll(cx);
        self.cpu += start.elapsed();
        self.worker.cell().set_current(None);
        polled
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let usage = Usage {
            fuel: self.gauge.fuel.load(Relaxed),
            cpu_ns: u64::try_from(self.cpu.as_nanos())
                .unwrap_or(u64::MAX)
                .saturating_add(self.gauge.cpu_ns.load(Relaxed)),
            memory_peak_bytes: self.gauge.memory_peak_bytes.load(Relaxed),
            bytes_in: self.bytes_in.as_ref().map_or(0, |bytes| bytes.load(Relaxed)),
            bytes_out: self.bytes_out,
        };
        let outcome = self.outcome.unwrap_or(Outcome::ClientFault(Fault::ClientGone));
        let cell = self.worker.table.cell(self.worker.index, self.tenant.entry.slot);
        cell.record(outcome, &usage);
        cell.leave();
        self.worker.running.set(self.worker.running.get() - 1);
        self.worker.cell().set_running(self.worker.running.get());
        if self.tenant.waiting.get() > 0 {
            self.tenant.freed.notify_one();
        }
    }
}
