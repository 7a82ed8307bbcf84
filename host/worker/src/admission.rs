//! Admission: the right to run, before anything is instantiated.
//!
//! The tenant's concurrency is counted over all workers, in the shared table: add one, then sum the
//! row. Of two workers that do so at once, at least one sees the other, so the limit is never
//! passed. Beyond it a request waits in this worker's queue for the tenant: bounded in length by
//! `queue`, in time by `queue_wait`, in order of arrival.

use crate::tenant::Tenant;
use crate::ticket::Ticket;
use crate::worker::Worker;
use insula_ipc::breaker::{Pass, Verdict};
use insula_ipc::table::Cell;
use insula_model::Fault;
use insula_model::resources::Rate;
use insula_sandbox::epoch::monotonic_ns;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Requests running in one worker. Where idle instances have all the slots, they make room.
const RUNNING_MAX: u64 = 3_072;
const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;
/// How often a waiting request looks at the other workers, which cannot wake it.
const RECHECK: Duration = Duration::from_millis(2);

/// The permit to run one request of `tenant`, or why there is none. `hops` is 0 for a client's; a
/// request that came over other tenants is part of one that runs already, so draining lets it in.
pub(crate) async fn admit(
    worker: &Rc<Worker>,
    tenant: &Rc<Tenant>,
    hops: u32,
) -> Result<Ticket, Fault> {
    // Stopped is stopped, however often it is called.
    if !tenant.stopped.get() {
        check_rate(worker, tenant)?;
    }
    match try_enter(worker, tenant, hops) {
        Err(full @ (Fault::Concurrency | Fault::TenantMemory)) => {
            wait(worker, tenant, hops, full).await
        }
        decided => decided,
    }
}

fn try_enter(worker: &Rc<Worker>, tenant: &Rc<Tenant>, hops: u32) -> Result<Ticket, Fault> {
    if tenant.stopped.get() {
        return Err(Fault::TenantStopped);
    }
    if worker.closing.get() && hops == 0 {
        return Err(Fault::Draining);
    }
    if worker.running.get() + worker.long.zombies() >= RUNNING_MAX {
        return Err(Fault::WorkerFull);
    }
    let slot = tenant.entry.slot;
    let limits = &tenant.entry.limits;
    let now_ns = monotonic_ns();
    worker.pressure.look(now_ns);
    if worker.pressure.evicts(now_ns) {
        worker.let_go_of_idle();
    }
    if worker.pressure.refuses(limits.resources.qos) {
        return Err(Fault::HostMemory);
    }
    let breaker = worker.table.breaker(slot);
    let now_ms = now_ns / MS_NS;
    let probe = match breaker.pass(now_ms, limits.timeout_ms) {
        Pass::Free => None,
        Pass::Probe(probe) => Some(probe),
        Pass::Refused => return Err(Fault::CircuitOpen),
    };
    let entered = enter(worker, tenant);
    if let (Err(_), Some(probe)) = (entered, probe) {
        breaker.decide(probe, Verdict::Unknown, now_ms, limits.resources.breaker.open_ms);
    }
    entered?;
    Ok(Ticket::entered(worker.clone(), tenant.clone(), probe))
}

/// Counts one more request in, if that is within the tenant's bounds.
fn enter(worker: &Worker, tenant: &Tenant) -> Result<(), Fault> {
    let slot = tenant.entry.slot;
    worker.table.cell(worker.index, slot).enter();
    if worker.table.running(slot) > u64::from(tenant.entry.limits.concurrency) {
        worker.table.cell(worker.index, slot).leave();
        return Err(Fault::Concurrency);
    }
    // An instance that could not grow at all would only fail.
    if worker.table.memory(slot) >= tenant.entry.limits.resources.memory_limit_bytes {
        worker.table.cell(worker.index, slot).leave();
        return Err(Fault::TenantMemory);
    }
    Ok(())
}

/// Whether the tenant's rate lets one more request in. A refused one counts for nothing, so a client that
/// hammers does not keep others out for longer.
fn check_rate(worker: &Worker, tenant: &Tenant) -> Result<(), Fault> {
    let Some(Rate { requests, burst }) = tenant.entry.limits.resources.rate else { return Ok(()) };
    let interval_ns = SECOND_NS / u64::from(requests.max(1));
    let burst_ns = interval_ns.saturating_mul(u64::from(burst.max(1)));
    let passes = worker.table.pass_rate(tenant.entry.slot, monotonic_ns(), interval_ns, burst_ns);
    if passes { Ok(()) } else { Err(Fault::RateLimit) }
}

/// One place in the queue, given back however the wait ends.
struct Place<'a> {
    tenant: &'a Tenant,
    cell: Cell<'a>,
    since_ns: u64,
}

impl<'a> Place<'a> {
    fn take(worker: &'a Worker, tenant: &'a Tenant) -> Self {
        tenant.waiting.set(tenant.waiting.get() + 1);
        let cell = worker.table.cell(worker.index, tenant.entry.slot);
        cell.queue(1);
        Self { tenant, cell, since_ns: monotonic_ns() }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.tenant.waiting.set(self.tenant.waiting.get() - 1);
        self.cell.queue(-1);
        self.cell.waited(monotonic_ns().saturating_sub(self.since_ns) / 1_000);
    }
}

async fn wait(
    worker: &Rc<Worker>,
    tenant: &Rc<Tenant>,
    hops: u32,
    full: Fault,
) -> Result<Ticket, Fault> {
    let limits = &tenant.entry.limits;
    if tenant.waiting.get() >= limits.queue {
        return Err(full);
    }
    let _place = Place::take(worker, tenant);
    let until = Instant::now() + Duration::from_millis(limits.queue_wait_ms);
    loop {
        let _ = tokio::time::timeout(RECHECK, tenant.freed.notified()).await;
        match try_enter(worker, tenant, hops) {
            Err(Fault::Concurrency | Fault::TenantMemory) if Instant::now() < until => {}
            decided => return decided,
        }
    }
}
