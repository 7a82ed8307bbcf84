//! Requests that are refused before anything runs: all are counted, and the tenant's log says why, of so many
//! in a second ([`crate::tenant::SHED_LINES_MAX`]): a flood must not cost more than refusing it.

use crate::respond;
use crate::tenant::Tenant;
use crate::worker::Worker;
use insula_ipc::breaker::State;
use insula_model::api::LogStream;
use insula_model::resources::Rate;
use insula_model::{ByteSize, DurationMs, Fault, RequestId, StatusClass, Usage};
use insula_sandbox::epoch::monotonic_ns;

/// Records a request that got no permit, and says why.
pub(crate) fn refuse(
    worker: &Worker,
    tenant: &Tenant,
    id: RequestId,
    fault: Fault,
    detail: impl FnOnce() -> String,
) -> Fault {
    if tenant.may_tell_of_shed(monotonic_ns()) {
        let text = format!("{}: {}", fault.code(), detail());
        tenant.log.line(id, LogStream::Host, &text);
    }
    let cell = worker.table.cell(worker.index, tenant.entry.slot);
    cell.record(respond::outcome(fault), &Usage::default());
    fault
}

/// The same of a request that was not let in.
pub(crate) fn shed(worker: &Worker, tenant: &Tenant, id: RequestId, fault: Fault) -> Fault {
    refuse(worker, tenant, id, fault, || why(tenant, fault))
}

/// Counts the answer to a client's request that got no permit.
pub(crate) fn answered(worker: &Worker, tenant: &Tenant, fault: Fault) -> Fault {
    if let Some(class) = StatusClass::of(respond::status(fault).as_u16()) {
        worker.table.cell(worker.index, tenant.entry.slot).answered(class);
    }
    fault
}

/// After how many seconds the client may come back, if that is known.
pub(crate) fn retry_after_s(worker: &Worker, tenant: &Tenant, fault: Fault) -> Option<u64> {
    if fault != Fault::CircuitOpen {
        return None;
    }
    let State::Open(until_ms) = worker.table.breaker(tenant.entry.slot).state() else {
        return None;
    };
    let left_ms = until_ms.saturating_sub(monotonic_ns() / 1_000_000);
    Some(left_ms.div_ceil(1_000).max(1))
}

fn why(tenant: &Tenant, fault: Fault) -> String {
    let limits = &tenant.entry.limits;
    match (fault, limits.resources.rate) {
        (Fault::RateLimit, Some(Rate { requests, burst })) => {
            return format!(
                "refused before it ran; the tenant may be called {requests} times a second, {burst} \
                 times at once; raise `rate`, or call it less often"
            );
        }
        (Fault::TenantStopped, _) => {
            let name = &tenant.entry.name;
            return format!(
                "refused before it ran; the tenant is stopped: `insula start {name}` serves it again"
            );
        }
        (Fault::HostMemory, _) => {
            return format!(
                "refused before it ran; the host's memory runs low, and {} tenants are refused for \
                 it; give the tenant requests and limits of CPU and memory, or the host more memory",
                limits.resources.qos.as_str()
            );
        }
        (Fault::CircuitOpen, _) => {
            let rule = limits.resources.breaker;
            return format!(
                "refused before it ran; {} requests, at least half of all, failed within {} in one \
                 worker, and so did any that tried since; the lines above say how; deploy a revision \
                 that works, or raise `breaker.faults`",
                rule.faults,
                DurationMs(rule.window_ms)
            );
        }
        (Fault::TenantMemory, _) => {
            return format!(
                "refused before it ran; the tenant's instances hold all of the {} that they may \
                 together; raise `memory.limit`, or lower `concurrency`",
                ByteSize(limits.resources.memory_limit_bytes)
            );
        }
        _ => {}
    }
    format!(
        "refused before it ran; the tenant may run {} at once, queue {} in each worker, and keep them \
         waiting for {} ms",
        limits.concurrency, limits.queue, limits.queue_wait_ms
    )
}
