//! The host's memory budget: who is turned away when it runs low.
//!
//! Each worker looks at what it holds itself, while it has something to do and no more often than
//! [`LOOK_NS`], and tells the others in the shared table; an idle worker does not grow. The nearer the sum is
//! to the budget, the more is given up, the least missed first: what nobody uses now, then best-effort
//! tenants, then burstable ones, then everybody. Instances of who is turned away get no more memory a step
//! later. What they were given lately counts as if they had touched it. Who touches it much later may still
//! pass the budget; then guests that compute are ended at their next tick, but for guaranteed ones.

use insula_ipc::memory::Resident;
use insula_ipc::table::Table;
use insula_model::Qos;
use insula_model::api::MemoryPressure;
use insula_sandbox::epoch::monotonic_ns;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};

/// Shortest time between two looks: what a worker can touch meanwhile is some tens of megabytes.
const LOOK_NS: u64 = 10_000_000;
/// How long memory that was given may stay untouched before it is left to the next looks; one to two such
/// times.
const FRESH_NS: u64 = 50_000_000;
/// What is given at once and not left to the next look.
const LARGE_BYTES: i64 = 1 << 20;
/// Shortest time between two lines of a worker's log that say so: where load comes and goes, memory is low
/// and not low many times in a second.
const TELL_NS: u64 = 10_000_000_000;
/// Shortest time between two calls to give up what nobody uses.
const EVICT_NS: u64 = 250_000_000;

pub(crate) struct Pressure {
    table: Arc<Table>,
    index: u32,
    /// None where the kernel does not tell; then there is no budget.
    own: Option<Resident>,
    /// What was seen at the last look, as a number.
    level: AtomicU8,
    looked_ns: AtomicU64,
    evicted_ns: AtomicU64,
    told_ns: AtomicU64,
    /// Bytes held at the last look.
    resident: AtomicU64,
    /// Bytes that instances were given, less what was given back, in this half of the time that they are
    /// held to be untouched, and in the half before.
    fresh: [AtomicI64; 2],
    /// Bytes held when each half began.
    held: [AtomicU64; 2],
    half_ns: AtomicU64,
}

impl Pressure {
    pub(crate) fn new(table: Arc<Table>, index: u32) -> Self {
        let own = Resident::own().ok();
        Self {
            table,
            index,
            own,
            level: AtomicU8::default(),
            looked_ns: AtomicU64::default(),
            evicted_ns: AtomicU64::default(),
            told_ns: AtomicU64::default(),
            resident: AtomicU64::default(),
            fresh: Default::default(),
            held: Default::default(),
            half_ns: AtomicU64::default(),
        }
    }

    /// Looks, if it is time to.
    pub(crate) fn look(&self, now_ns: u64) {
        if now_ns.saturating_sub(self.looked_ns.load(Relaxed)) < LOOK_NS {
            return;
        }
        self.looked_ns.store(now_ns, Relaxed);
        let Some(own) = &self.own else { return };
        let resident = own.bytes();
        self.resident.store(resident, Relaxed);
        if now_ns.saturating_sub(self.half_ns.load(Relaxed)) >= FRESH_NS {
            self.half_ns.store(now_ns, Relaxed);
            self.fresh[1].store(self.fresh[0].swap(0, Relaxed), Relaxed);
            self.held[1].store(self.held[0].swap(resident, Relaxed), Relaxed);
        }
        self.count();
    }

    /// An instance is given memory, or gives some back: until it has had time to touch it, it counts as if it
    /// had.
    pub(crate) fn given(&self, change: i64) {
        self.fresh[0].fetch_add(change, Relaxed);
        if change.abs() >= LARGE_BYTES {
            self.count();
        }
    }

    fn count(&self) {
        let fresh = self.fresh.iter().map(|half| half.load(Relaxed).max(0).cast_unsigned());
        let resident = self.resident.load(Relaxed);
        let touched = resident.saturating_sub(self.held[1].load(Relaxed));
        let expected = resident + fresh.sum::<u64>().saturating_sub(touched);
        self.table.worker(self.index).set_resident(resident, expected);
        let ((held, expected), budget) = (self.table.resident(), self.table.memory_budget());
        // Nobody is ended, and no guaranteed tenant refused, for what may yet come.
        let foreseen = MemoryPressure::of(expected, budget).min(MemoryPressure::Burstable);
        let level = MemoryPressure::of(held, budget).max(foreseen);
        let before = self.level.swap(level as u8, Relaxed);
        if level >= MemoryPressure::BestEffort && before < MemoryPressure::BestEffort as u8 {
            self.tell(held, budget);
        }
    }

    fn tell(&self, held: u64, budget: u64) {
        let (now_ns, told_ns) = (monotonic_ns(), self.told_ns.load(Relaxed));
        if told_ns != 0 && now_ns.saturating_sub(told_ns) < TELL_NS {
            return;
        }
        self.told_ns.store(now_ns, Relaxed);
        tracing::warn!(
            held_mib = held >> 20,
            budget_mib = budget >> 20,
            "memory runs low: best-effort tenants are refused, then burstable ones; lower what \
             tenants may hold, or raise the host's `--memory`"
        );
    }

    /// Whether what nobody uses is to be given up now.
    pub(crate) fn evicts(&self, now_ns: u64) -> bool {
        let soon = now_ns.saturating_sub(self.evicted_ns.load(Relaxed)) < EVICT_NS;
        if soon || !self.reached(MemoryPressure::Evict) {
            return false;
        }
        self.evicted_ns.store(now_ns, Relaxed);
        true
    }

    /// Whether a request of this class is turned away.
    pub(crate) fn refuses(&self, qos: Qos) -> bool {
        self.reached(match qos {
            Qos::BestEffort => MemoryPressure::BestEffort,
            Qos::Burstable => MemoryPressure::Burstable,
            Qos::Guaranteed => MemoryPressure::All,
        })
    }

    /// Whether an instance of this class gets no more memory.
    pub(crate) fn denies(&self, qos: Qos) -> bool {
        match qos {
            Qos::BestEffort => self.reached(MemoryPressure::Burstable),
            Qos::Burstable => self.reached(MemoryPressure::Running),
            // It was let in with a request for as much as it may ever hold.
            Qos::Guaranteed => false,
        }
    }

    /// Whether a guest of this class that computes is ended.
    pub(crate) fn ends(&self, qos: Qos) -> bool {
        qos != Qos::Guaranteed && self.reached(MemoryPressure::Running)
    }

    fn reached(&self, level: MemoryPressure) -> bool {
        self.level.load(Relaxed) >= level as u8
    }
}
