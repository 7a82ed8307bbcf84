//! What a tenant's guests pay for the time they get: weight against others, and quota.
//!
//! One account for each tenant and worker, kept over its revisions. Every poll of a guest is charged,
//! host calls and instantiation included, wherever it ran.
//!
//! A request's first slice is free: it runs at once, on the event loop. It is not free for a tenant that
//! (a) has used up its quota, (b) spends its time in slices longer than any may be ([`OVERRUN_NS`]), which
//! only operations that cannot be interrupted do, or, while others are active, (c) is ahead of its fair
//! part by more than its part of [`BURST_NS`], the worker was never idle meanwhile, and its requests take longer than
//! a turn or keep guests on the second thread waiting, (d) has had requests lately
//! that outlived their first slices, so this one gains nothing by it, or (e) is not known yet, at a time when
//! newcomers have used up [`GIFT_NS`] with such requests. Such requests run on the second thread from their
//! first instruction; see [`crate::long`].

use crate::turns::TURN_NS;
use insula_ipc::table::Table;
use insula_model::{Qos, Resources};
use insula_sandbox::epoch::thread_cpu_ns;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longer than any slice can be: something that cannot be interrupted held the event loop.
pub(crate) const OVERRUN_NS: u64 = 4_000_000;
/// Ticks that it ignored, at least: where the clock itself is kept waiting, a long slice is no guest's fault.
const OVERRUN_TICKS: u64 = 6;
/// Time in such slices after which a tenant has no free ones, if it is also [`OVERRUN_PARTS`] of all its
/// time since [`SUSPICION_NS`] ago at most: on a virtual machine, time that the kernel counts to a thread may
/// have gone to another machine, so a single one proves nothing.
const OVERRUN_SUM_NS: u64 = 20_000_000;
/// A tenth.
const OVERRUN_PARTS: u64 = 10;
/// How long a tenant that may have overrun is measured.
const SUSPICION_NS: u64 = 10_000_000_000;
/// How long a tenant that overran has no free slices.
const EXILE_NS: u64 = 30_000_000_000;
/// CPU time that all active tenants together may be ahead of their fair parts before slices are no longer
/// free, each by its part of that: or the more there are, the longer all of them together would be served
/// before others.
const BURST_NS: u64 = 4_000_000;
/// What each may be ahead at least: a request or two.
const BURST_MIN_NS: u64 = 200_000;
/// Over how many slices, roughly, the typical one is taken.
const TYPICAL_OF: u64 = 8;
/// How long the event loop's CPU time is taken for known: it is a system call, and a suspect's slices are many.
const CPU_KNOWN_NS: u64 = 1_000_000;
/// What a short request takes, roughly: it decides among tenants that are level.
const REQUEST_NS: u64 = 40_000;
/// Of a tenant that asks for no CPU, as of a cgroup.
const WEIGHT_MIN: u64 = 2;
/// Time of first slices that were not enough, of tenants whose requests are not known yet: so much at once, and
/// a part in [`GIFT_PARTS`] of all time.
const GIFT_NS: u64 = 4_000_000;
const GIFT_PARTS: u64 = 20;
/// The part of requests that outlive a first slice from which the next one is expected to.
const OFTEN: f32 = 0.5;
/// The same from which its connections may move: two in a row do not suffice.
const ALWAYS: f32 = 0.8;
/// A tenant without a request for this long takes no part in what is fair.
const ACTIVE_NS: u64 = 50_000_000;
/// The window of a quota, as `cpu.max`'s period: what was not used longer ago is lost.
const QUOTA_WINDOW_NS: u64 = 100_000_000;

/// What the second thread needs to know of a tenant.
#[derive(Clone)]
pub(crate) struct Share {
    pub(crate) slot: u32,
    weight: u32,
    limit_m: Option<u32>,
    pub(crate) qos: Qos,
    /// CPU time on the second thread, in nanoseconds.
    long_ns: Arc<AtomicU64>,
    overruns: Arc<Overruns>,
}

/// Slices that were too long, lately; either thread counts them.
#[derive(Default)]
struct Overruns {
    since_ns: AtomicU64,
    sum_ns: AtomicU64,
    /// CPU time of the tenant on this worker, and what it was at `since_ns`.
    cpu_ns: AtomicU64,
    cpu_before_ns: AtomicU64,
    /// Until when it has no free slices and never runs on the event loop.
    exiled_until_ns: AtomicU64,
}

impl Overruns {
    fn add(&self, cpu_ns: u64, now_ns: u64) {
        let all_ns = self.cpu_ns.load(Relaxed);
        if now_ns.saturating_sub(self.since_ns.load(Relaxed)) > SUSPICION_NS {
            self.since_ns.store(now_ns, Relaxed);
            self.sum_ns.store(0, Relaxed);
            self.cpu_before_ns.store(all_ns, Relaxed);
        }
        let sum_ns = self.sum_ns.fetch_add(cpu_ns, Relaxed) + cpu_ns;
        let all_ns = all_ns.saturating_sub(self.cpu_before_ns.load(Relaxed));
        if sum_ns >= OVERRUN_SUM_NS && sum_ns.saturating_mul(OVERRUN_PARTS) >= all_ns {
            self.exiled_until_ns.store(now_ns + EXILE_NS, Relaxed);
        }
    }
}

impl Share {
    /// Charges CPU time: to the order among tenants, and to the quota.
    pub(crate) fn charge(&self, table: &Table, worker: u32, cpu_ns: u64, now_ns: u64) {
        let weighted = cpu_ns.saturating_mul(1_024) / u64::from(self.weight.max(1));
        let cell = table.cell(worker, self.slot);
        cell.add_cpu_ns(cpu_ns);
        cell.add_virtual_ns(weighted);
        self.overruns.cpu_ns.fetch_add(cpu_ns, Relaxed);
        if let Some(limit_m) = self.limit_m {
            let cost = cpu_ns.saturating_mul(1_000) / u64::from(limit_m.max(1));
            table.pay_cpu(self.slot, now_ns, cost, QUOTA_WINDOW_NS);
        }
    }

    /// When its quota lets it run; in the past if now.
    pub(crate) fn paid_ns(&self, table: &Table) -> u64 {
        if self.limit_m.is_some() { table.cpu_paid_ns(self.slot) } else { 0 }
    }

    /// It ran as a long guest for so long.
    pub(crate) fn ran_long(&self, cpu_ns: u64, ticks: u64, now_ns: u64) {
        self.long_ns.fetch_add(cpu_ns, Relaxed);
        self.judge(cpu_ns, ticks, now_ns);
    }

    /// Takes note of a slice that cannot have been one.
    fn judge(&self, cpu_ns: u64, ticks: u64, now_ns: u64) {
        if cpu_ns > OVERRUN_NS && ticks >= OVERRUN_TICKS {
            self.overruns.add(cpu_ns, now_ns);
        }
    }

    /// Whether it must not run on the event loop.
    pub(crate) fn is_exiled(&self, now_ns: u64) -> bool {
        self.overruns.exiled_until_ns.load(Relaxed) > now_ns
    }
}

/// A tenant's account in this worker.
pub(crate) struct Account {
    pub(crate) share: RefCell<Share>,
    /// Weighted time used, on the clock of [`Fair`].
    used: Cell<f64>,
    /// Of [`Share::long_ns`], how much is in `used`.
    long_seen_ns: Cell<u64>,
    last_ns: Cell<u64>,
    active: Cell<bool>,
    suspect_until_ns: Cell<u64>,
    /// The part of its last requests that outlived a first slice, the later the more they count; none yet.
    outlived: Cell<Option<f32>>,
    /// What its last slices on the event loop took, the later the more they count.
    typical_ns: Cell<u64>,
}

impl Account {
    pub(crate) fn new(slot: u32, resources: &Resources) -> Self {
        let share = Share {
            slot,
            weight: resources.weight(),
            limit_m: resources.cpu_limit_m,
            qos: resources.qos,
            long_ns: Arc::default(),
            overruns: Arc::default(),
        };
        Self {
            share: RefCell::new(share),
            used: Cell::new(0.0),
            long_seen_ns: Cell::new(0),
            last_ns: Cell::new(0),
            active: Cell::new(false),
            suspect_until_ns: Cell::new(0),
            outlived: Cell::new(None),
            typical_ns: Cell::new(0),
        }
    }

    /// A request has ended, after one slice or more.
    pub(crate) fn learn(&self, outlived: bool) {
        let now = f32::from(u8::from(outlived));
        self.outlived.set(Some(self.outlived.get().unwrap_or(0.0).midpoint(now)));
    }

    /// Whether the last request outlived its first slice, or most of late.
    pub(crate) fn is_often_long(&self) -> bool {
        self.outlived.get().is_some_and(|part| part >= OFTEN)
    }

    /// Whether it is known to need less than a turn for a request.
    pub(crate) fn is_quick(&self) -> bool {
        self.outlived.get().is_some() && self.typical_ns.get() <= TURN_NS && !self.is_often_long()
    }

    /// Whether nearly all of late did.
    pub(crate) fn is_always_long(&self) -> bool {
        self.outlived.get().is_some_and(|part| part >= ALWAYS)
    }

    /// What tells other workers how this tenant fares.
    pub(crate) fn slot_and_weight(&self) -> (u32, u32) {
        let share = self.share.borrow();
        (share.slot, share.weight)
    }

    fn weight(&self) -> u64 {
        u64::from(self.share.borrow().weight)
    }

    /// Whether its slices are to be measured in CPU time.
    pub(crate) fn is_suspect(&self, now_ns: u64) -> bool {
        self.suspect_until_ns.get() > now_ns
    }

    /// A new revision may have another weight or quota.
    pub(crate) fn update(&self, resources: &Resources) {
        let mut share = self.share.borrow_mut();
        share.weight = resources.weight();
        share.limit_m = resources.cpu_limit_m;
        share.qos = resources.qos;
    }
}

/// The clock of fair parts in one worker: it advances by the time that guests use, divided by the weight
/// of all active tenants, so whoever gets exactly its part stays level with it (Parekh and Gallager's
/// generalised processor sharing).
#[derive(Default)]
pub(crate) struct Fair {
    clock: Cell<f64>,
    weights: Cell<u64>,
    active: RefCell<Vec<Rc<Account>>>,
    swept_ns: Cell<u64>,
    /// When the event loop's CPU time was last read, and what it was.
    cpu_known: Cell<(u64, u64)>,
    /// What newcomers have used of [`GIFT_NS`], and when that was.
    gifts_ns: Cell<(u64, u64)>,
    idle: Arc<Idle>,
    idles_seen: Cell<u64>,
    /// Of [`Idle::long_ns`], how much is in the clock.
    long_seen_ns: Cell<u64>,
}

/// Whether the worker has nothing to do.
#[derive(Default)]
pub(crate) struct Idle {
    /// Turns of the event loop: times at which it had nothing to do but to look at its sockets.
    turns: AtomicU64,
    /// Those at which no guest computed elsewhere.
    moments: AtomicU64,
    /// Guests on the second thread.
    pub(crate) long: AtomicU64,
    /// CPU time that these have had, all together, in nanoseconds.
    pub(crate) long_ns: AtomicU64,
}

impl Idle {
    /// Turns of the event loop so far.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// The event loop goes to sleep.
    pub(crate) fn event_loop_sleeps(&self) {
        self.turns.fetch_add(1, Relaxed);
        if self.long.load(Relaxed) == 0 {
            self.moments.fetch_add(1, Relaxed);
        }
    }
}

impl Fair {
    /// For a worker whose idle moments are counted in `idle`.
    pub(crate) fn new(idle: Arc<Idle>) -> Self {
        Self { idle, ..Self::default() }
    }

    /// The worker had nothing to do: nobody was kept waiting by what others had used.
    fn forgive(&self) {
        let active = self.active.borrow();
        let most = active.iter().map(|account| account.used.get());
        self.clock.set(most.fold(self.clock.get(), f64::max));
        self.gifts_ns.set((0, 0));
    }

    /// CPU time of the event loop's thread, at most: it is read once in [`CPU_KNOWN_NS`], and taken to have run
    /// ever since.
    pub(crate) fn cpu_at(&self, now_ns: u64) -> u64 {
        let (mut then_ns, mut cpu_ns) = self.cpu_known.get();
        if now_ns.saturating_sub(then_ns) > CPU_KNOWN_NS {
            (then_ns, cpu_ns) = (now_ns, thread_cpu_ns());
            self.cpu_known.set((then_ns, cpu_ns));
        }
        cpu_ns + now_ns.saturating_sub(then_ns)
    }

    /// A first slice of so long was not enough.
    pub(crate) fn spent(&self, ns: u64) {
        self.gifts_ns.set((self.gifts_ns.get().0.saturating_add(ns), self.gifts_ns.get().1));
    }

    fn has_gifts(&self, now_ns: u64) -> bool {
        let (used_ns, then_ns) = self.gifts_ns.get();
        let used_ns = used_ns.saturating_sub(now_ns.saturating_sub(then_ns) / GIFT_PARTS);
        self.gifts_ns.set((used_ns, now_ns));
        used_ns < GIFT_NS
    }

    /// Whether others than this tenant are active; none is a tenant that is not known yet.
    pub(crate) fn is_shared(&self, account: Option<&Account>) -> bool {
        let own = account.filter(|account| account.active.get()).map_or(0, Account::weight);
        self.weights.get() > own
    }

    /// On the clock: where a short request of the tenant's would leave it.
    pub(crate) fn place(&self, account: Option<&Account>) -> f64 {
        let level = self.clock.get();
        let (used, weight) = account.map_or((level, WEIGHT_MIN), |account| {
            (account.used.get().max(level - self.burst()), account.weight().max(1))
        });
        used + REQUEST_NS as f64 / weight as f64
    }

    /// Whether the tenant's next slice is free.
    pub(crate) fn is_free(&self, account: &Rc<Account>, table: &Table, now_ns: u64) -> bool {
        // As it is used, and not when its tenant asks again: until then, everybody else would seem ahead.
        let long_ns = self.idle.long_ns.load(Relaxed);
        self.advance(long_ns.saturating_sub(self.long_seen_ns.replace(long_ns)));
        let idles = self.idle.moments.load(Relaxed);
        if self.idles_seen.replace(idles) != idles {
            self.forgive();
        }
        self.settle(account, now_ns);
        let share = account.share.borrow();
        if share.paid_ns(table) > now_ns || share.is_exiled(now_ns) {
            return false;
        }
        if self.weights.get() <= u64::from(share.weight) {
            return true;
        }
        let ahead = (account.used.get() - self.clock.get()) * f64::from(share.weight);
        let burst = self.burst() * f64::from(share.weight);
        // Others' requests wait no longer for such a one than for its turn ([`crate::turns`]), and sending it to
        // the second thread would cost about as much as it takes; but there, guests wait for their parts.
        let in_turn = self.idle.long.load(Relaxed) == 0 && account.typical_ns.get() <= TURN_NS;
        let likely_short = match account.outlived.get() {
            None => self.has_gifts(now_ns),
            Some(_) => !account.is_often_long(),
        };
        likely_short && (in_turn || ahead <= burst.max(BURST_MIN_NS as f64))
    }

    /// Charges a slice on the event loop; `cpu_ns` is known of a tenant under suspicion.
    pub(crate) fn charge(
        &self,
        account: &Rc<Account>,
        wall_ns: u64,
        cpu_ns: Option<u64>,
        ticks: u64,
        now_ns: u64,
    ) {
        let typical_ns = account.typical_ns.get();
        account.typical_ns.set(typical_ns - typical_ns / TYPICAL_OF + wall_ns / TYPICAL_OF);
        // Of a slice that was not measured, what is longer than any may be is not the guest's for certain.
        let used_ns = cpu_ns.unwrap_or(wall_ns.min(OVERRUN_NS));
        Self::add(account, used_ns);
        self.advance(used_ns);
        if wall_ns > OVERRUN_NS {
            // Wall time may be another process's doing, so the first time only has its next slices
            // measured, which costs system calls.
            account.share.borrow().judge(cpu_ns.unwrap_or(0), ticks, now_ns);
            account.suspect_until_ns.set(now_ns + SUSPICION_NS);
        }
    }

    /// On the clock: what each may be ahead, or behind.
    fn burst(&self) -> f64 {
        BURST_NS as f64 / self.weights.get().max(1) as f64
    }

    fn add(account: &Account, ns: u64) {
        let weight = f64::from(account.share.borrow().weight.max(1));
        account.used.set(account.used.get() + ns as f64 / weight);
    }

    fn advance(&self, ns: u64) {
        self.clock.set(self.clock.get() + ns as f64 / (self.weights.get().max(1) as f64));
    }

    /// Marks the tenant as active, takes in what it used elsewhere, and forgets who is not active.
    fn settle(&self, account: &Rc<Account>, now_ns: u64) {
        account.last_ns.set(now_ns);
        if !account.active.replace(true) {
            self.active.borrow_mut().push(account.clone());
            let weight = u64::from(account.share.borrow().weight);
            self.weights.set(self.weights.get() + weight);
            account.used.set(account.used.get().max(self.clock.get()));
        }
        // What it did not use while it was active is not saved up for a flood.
        account.used.set(account.used.get().max(self.clock.get() - self.burst()));
        let long = account.share.borrow().long_ns.load(Relaxed);
        let new = long.saturating_sub(account.long_seen_ns.replace(long));
        if new > 0 {
            Self::add(account, new);
        }
        if now_ns.saturating_sub(self.swept_ns.get()) > ACTIVE_NS {
            self.swept_ns.set(now_ns);
            let mut active = self.active.borrow_mut();
            active.retain(|account| {
                let keep = now_ns.saturating_sub(account.last_ns.get()) <= ACTIVE_NS;
                account.active.set(keep);
                keep
            });
            self.weights.set(active.iter().map(|account| account.weight()).sum());
        }
    }
}
