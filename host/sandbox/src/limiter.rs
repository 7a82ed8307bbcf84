//! Memory of one instance, all linear memories and tables together, and what the host holds for it.
//!
//! wasmtime's own `StoreLimits` checks each memory by itself, so a guest with eight memories would
//! get eight times its limit. Bounded by the tenant's `memory`; ends with the store. The host's part counts
//! for the tenant and not for the instance: it is known a tick later, and no guest can be told of it.

use crate::epoch::monotonic_ns;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use wasmtime::ResourceLimiter;

/// Bytes that one table element counts.
const TABLE_ELEMENT_BYTES: usize = 8;
/// Core instances in one store, a component's own included.
const INSTANCES_MAX: usize = crate::engine::CORE_INSTANCES_MAX as usize;

/// What the host can read about a guest at any moment, also after it was dropped half-way.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Fuel consumed; exact at the end, at most one slice old before. 0 where it is not counted.
    pub fuel: AtomicU64,
    /// The guest was seen in the midst of its code. Where fuel is not counted, that is as soon as it runs.
    pub entered: AtomicBool,
    /// Processor time in a shared instance, in nanoseconds: this request's part of it.
    pub cpu_ns: AtomicU64,
    /// Most bytes of memories and tables so far.
    pub memory_peak_bytes: AtomicU64,
    /// Whether growth was ever denied.
    pub denied: AtomicBool,
    /// Until when the guest may compute before it gives its turn back, in nanoseconds of
    /// [`crate::epoch::monotonic_ns`].
    pub slice_until_ns: AtomicU64,
    /// It was still computing then. Reset by whoever runs it.
    pub preempted: AtomicBool,
    /// Nobody waits for it any more: it ends at the next tick.
    pub cancelled: AtomicBool,
    /// The host needs its memory: likewise.
    pub evicted: AtomicBool,
    /// Somebody wants to know when the instance was ready.
    pub timed: AtomicBool,
    /// When it was, in nanoseconds of [`crate::epoch::monotonic_ns`]; 0 if it was not, or nobody wants to know.
    pub ready_ns: AtomicU64,
}

impl Gauge {
    /// The instance is there, and the guest is about to run in it.
    pub(crate) fn ready(&self) {
        if self.timed.load(Relaxed) {
            self.ready_ns.store(monotonic_ns(), Relaxed);
        }
    }

    /// Whether any of the guest's code has run.
    pub(crate) fn has_run(&self) -> bool {
        self.entered.load(Relaxed) || self.fuel.load(Relaxed) > 0
    }
}

/// What the host holds for an instance in any case: its store, its tables of resources, the first pages of its
/// stacks. `insula bench density` measures live instances of `hello` at 55 to 61 KiB, of which about 20 are the
/// guest's own pages and those that map them.
pub(crate) const INSTANCE_BYTES: u32 = 32 << 10;
/// A smaller change of what the host holds is not worth the tenant's account.
const HOLD_STEP_BYTES: usize = 8 << 10;

/// Takes bytes from what all instances of a tenant may hold together (negative numbers give them
/// back). If it is denied, nothing was taken.
pub type Budget = Arc<dyn Fn(Change) -> Result<(), Denied> + Send + Sync>;

/// By how many bytes what is held changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Memories and tables.
    pub guest: i64,
    /// What the host holds for the guest.
    pub host: i64,
}

impl Change {
    /// Of both together.
    pub fn all(self) -> i64 {
        self.guest.saturating_add(self.host)
    }
}

impl std::ops::Neg for Change {
    type Output = Self;

    fn neg(self) -> Self {
        Self { guest: -self.guest, host: -self.host }
    }
}

/// Who has no memory left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The tenant's instances hold all that they may.
    Tenant,
    /// The host needs the rest for others: the guest is ended.
    Host,
}

pub(crate) struct MemoryLimiter {
    limit: usize,
    held: usize,
    /// What the host holds for the instance, as far as its tenant was charged for it.
    host: usize,
    /// The last growth that was allowed, to be taken back if it fails all the same.
    last: usize,
    budget: Option<Budget>,
    pub(crate) gauge: Arc<Gauge>,
}

impl MemoryLimiter {
    pub(crate) fn new(limit_bytes: u64, budget: Option<Budget>, gauge: Arc<Gauge>) -> Self {
        let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Self { limit, held: 0, host: 0, last: 0, budget, gauge }
    }

    /// Bytes that the instance may hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A reused instance counts for its next request.
    pub(crate) fn rebind(&mut self, gauge: Arc<Gauge>) {
        gauge.memory_peak_bytes.store(self.held as u64, Relaxed);
        self.gauge = gauge;
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let Some(held) = self.held.checked_add(bytes).filter(|held| *held <= self.limit) else {
            self.last = 0;
            self.gauge.denied.store(true, Relaxed);
            return false;
        };
        // With the first memory, so that it costs no account of its own.
        let host = if self.host == 0 { INSTANCE_BYTES as usize } else { 0 };
        if !self.take(Change { guest: signed(bytes), host: signed(host) }) {
            self.last = 0;
            return false;
        }
        self.host += host;
        self.held = held;
        self.last = bytes;
        self.gauge.memory_peak_bytes.fetch_max(held as u64, Relaxed);
        true
    }

    /// The host holds so many bytes for the instance beside [`INSTANCE_BYTES`]; whether its tenant may have that.
    pub(crate) fn hold(&mut self, beside: usize) -> bool {
        let bytes = beside.saturating_add(INSTANCE_BYTES as usize);
        if bytes.abs_diff(self.host) < HOLD_STEP_BYTES {
            return true;
        }
        let taken = self.take(Change { guest: 0, host: signed(bytes) - signed(self.host) });
        if taken {
            self.host = bytes;
        }
        taken
    }

    fn take(&self, change: Change) -> bool {
        let Some(budget) = self.budget.as_ref().filter(|_| change != Change::default()) else {
            return true;
        };
        let taken = budget(change);
        if let Err(denied) = taken {
            self.gauge.denied.store(true, Relaxed);
            self.gauge.evicted.fetch_or(denied == Denied::Host, Relaxed);
        }
        taken.is_ok()
    }

    /// Giving back is never denied.
    fn give_back(&self, guest: usize, host: usize) {
        self.take(-Change { guest: signed(guest), host: signed(host) });
    }

    fn failed(&mut self) {
        self.give_back(self.last, 0);
        self.held -= self.last;
        self.last = 0;
        self.gauge.denied.store(true, Relaxed);
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.give_back(self.held, self.host);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = desired.saturating_sub(current);
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
        Ok(())
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        crate::engine::TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        crate::engine::MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::engine::{Engines, Flavour};
    use crate::invoke::{limited_store, note_fuel};
    use crate::state::State;
    use insula_model::{Grants, Metering, RequestId};
    use std::time::{Duration, Instant};

    /// A request whose instance finds no room is tried again if this says that nothing ran.
    #[tokio::test]
    async fn what_ran_leaves_a_mark_whether_it_is_counted_or_not() {
        let engines = Engines::new(1).unwrap();
        for (metering, fuel) in [(Metering::Fuel, Some(10_000)), (Metering::Time, None)] {
            let engine = &engines.runtime(Flavour::Wasi02, metering).unwrap().engine;
            for (text, ran) in [
                ("(module (memory 1) (data (i32.const 0) \"a\") (func))", false),
                ("(module (memory 1) (func $start) (start $start))", true),
            ] {
                let gauge = Arc::new(Gauge::default());
                gauge.slice_until_ns.store(u64::MAX, Relaxed);
                let state = State::serving(
                    MemoryLimiter::new(1 << 20, None, gauge.clone()),
                    fuel,
                    Instant::now() + Duration::from_secs(60),
                    Arc::new(|_, _, _| ()),
                    RequestId::new(0, 0),
                    0,
                    Arc::new(Capabilities::new("a", &Grants::default(), &[])),
                );
                let mut store = limited_store(engine, state).unwrap();
                let module = wasmtime::Module::new(engine, wat::parse_str(text).unwrap()).unwrap();
                wasmtime::Instance::new_async(&mut store, &module, &[]).await.unwrap();
                note_fuel(&store);
                assert_eq!(gauge.has_run(), ran, "{metering:?}: {text}");
            }
        }
    }
}
