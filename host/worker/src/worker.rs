//! What one worker process holds, in one place.
//!
//! Everything in here is on the event loop's thread: cells instead of locks. Bounded by what each part is bounded by.

use crate::canary::Canary;
use crate::codes::Codes;
use crate::hand;
use crate::long::Long;
use crate::outbound::Outbound;
use crate::outbox::Outbox;
use crate::pool::{IDLE_OTHER_MAX, Total, idle_max};
use crate::pressure::Pressure;
use crate::repave::drop_slowly;
use crate::roll::Roll;
use crate::share::Fair;
use crate::tenant::{Tenant, is_usual};
use crate::tenant_log::TenantLog;
use crate::tracer::Tracer;
use crate::turns::Turns;
use insula_ipc::table::{Table, WorkerCell};
use insula_keyvalue::Database;
use insula_model::RequestId;
use insula_model::access_log::Sample;
use insula_model::wire::{CanaryOf, FromWorker, Sleeper, TenantEntry, WorkerConfig};
use insula_sandbox::Capabilities;
use insula_sandbox::epoch::{Epoch, monotonic_ns};
use insula_sandbox::invoke::{Budget, Change, Denied, Instance};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// How often idle instances are looked at, while there are any.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Idle instances that are dropped at once where room is needed: some milliseconds' work.
const ROOM_INSTANCES: usize = 64;

pub(crate) struct Worker {
    pub(crate) index: u32,
    pub(crate) table: Arc<Table>,
    pub(crate) epoch: Epoch,
    pub(crate) codes: Codes,
    /// Guests that compute for longer than a slice.
    pub(crate) long: Long,
    /// Whether somebody sees to it that they get on.
    pub(crate) hand: Cell<bool>,
    /// Who is turned away while the host's memory runs low.
    pub(crate) pressure: Arc<Pressure>,
    /// Whose slices are free.
    pub(crate) fair: Fair,
    /// In which order requests begin.
    pub(crate) turns: Turns,
    /// Answers that are about to leave.
    pub(crate) outbox: Outbox,
    /// Tenants' key-value stores.
    stores: Database,
    /// Everyone who is deployed.
    roll: RefCell<Roll>,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) running: Cell<u64>,
    /// The port that tenants are served at.
    pub(crate) port: Cell<u16>,
    /// Runs of jobs that the supervisor waits for.
    pub(crate) jobs: Cell<u64>,
    pub(crate) connections: Cell<u64>,
    /// All connections so far.
    pub(crate) opened: Cell<u64>,
    /// Whether it is waited for a while without any.
    pub(crate) resting: Cell<bool>,
    pub(crate) connection_closed: Notify,
    /// Connections that were let go of for another worker to take, and have not come back yet; at most
    /// [`insula_ipc::table::balance::EXPECTED_MAX`].
    pub(crate) sent_away: Cell<u64>,
    /// Nothing more is accepted; clients that have connections are answered, and told to leave.
    pub(crate) draining: Cell<bool>,
    /// Told once when draining starts.
    pub(crate) drain: Notify,
    /// Idle clients have had their time to leave: no new requests, and idle connections are closed.
    pub(crate) closing: Cell<bool>,
    /// Told once when that starts.
    pub(crate) close: Notify,
    pub(crate) to_supervisor: mpsc::Sender<FromWorker>,
    /// Which requests the access log gets of tenants that do not say so themselves.
    pub(crate) access_log: Sample,
    pub(crate) tracer: Tracer,
    /// Idle instances of tenants on the usual engine, and of the others.
    idle_totals: [Rc<Total>; 2],
    /// Tenants with idle instances; looked after while there are any.
    with_idle: RefCell<Vec<Rc<Tenant>>>,
    request_ids: RequestIds,
}

/// Request ids: a random start per worker and a count, so that they are unique without coordination.
struct RequestIds {
    start: u64,
    count: Cell<u32>,
}

impl Worker {
    pub(crate) fn new(
        long: Long,
        codes: Codes,
        outbound: Arc<Outbound>,
        stores: Database,
        to_supervisor: mpsc::Sender<FromWorker>,
        tracer: Tracer,
        config: &WorkerConfig,
    ) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self {
            index: long.index(),
            table: long.table(),
            epoch: long.epoch(),
            codes,
            hand: Cell::new(false),
            pressure: long.pressure(),
            fair: Fair::new(long.idle()),
            turns: Turns::default(),
            outbox: Outbox::new(long.idle()),
            long,
            stores,
            roll: RefCell::default(),
            outbound,
            running: Cell::new(0),
            port: Cell::new(0),
            jobs: Cell::new(0),
            connections: Cell::new(0),
            opened: Cell::new(0),
            resting: Cell::new(false),
            connection_closed: Notify::new(),
            sent_away: Cell::new(0),
            draining: Cell::new(false),
            drain: Notify::new(),
            closing: Cell::new(false),
            close: Notify::new(),
            to_supervisor,
            access_log: config.access_log,
            tracer,
            idle_totals: [Total::new(idle_max(config.instances)), Total::new(IDLE_OTHER_MAX)],
            with_idle: RefCell::default(),
            request_ids: RequestIds {
                start: RandomState::new().hash_one(std::process::id()),
                count: Cell::new(0),
            },
        }
    }

    /// This worker's own cell of the shared table.
    pub(crate) fn cell(&self) -> WorkerCell<'_> {
        self.table.worker(self.index)
    }

    /// A new id.
    pub(crate) fn request_id(&self) -> RequestId {
        let count = self.request_ids.count.get();
        self.request_ids.count.set(count.wrapping_add(1));
        RequestId::new(self.request_ids.start, count)
    }

    /// Puts a tenant's new state in force: every request from now on sees it.
    pub(crate) fn publish(&self, entry: TenantEntry) {
        let slot = entry.slot;
        self.cell().know_slot(slot);
        if let Some(of) = entry.canary.clone() {
            return self.publish_canary(entry, &of);
        }
        let (known, before) = {
            let roll = self.roll.borrow();
            (roll.has(slot), roll.awake(slot).cloned())
        };
        // A circuit that was never touched is closed, and touching it takes memory.
        if known && self.table.is_active(slot) {
            self.table.breaker(slot).reset();
        }
        let Some(before) = before else {
            // Nothing of it was ever made here.
            let awake = self.roll.borrow_mut().put_asleep(entry);
            if let Err(entry) = awake {
                let tenant = self.made(*entry, None);
                self.roll.borrow_mut().put_awake(&tenant);
            }
            return;
        };
        let tenant = self.made(entry, Some(&before));
        {
            let mut canary = before.canary.borrow_mut();
            // One that is promoted is what is published here.
            let goes_on = |canary: &Canary| canary.tenant.entry.revision != tenant.entry.revision;
            *tenant.canary.borrow_mut() = canary.take().filter(goes_on);
        }
        self.supplant(&before, &tenant);
        if tenant.entry.stopped {
            // Those that wait for a place have the old one.
            before.stopped.set(true);
            if before.since.get().is_some() {
                self.codes.forget(&before.entry.code(), self.codes.now());
                self.cell().set_loaded(self.codes.count(), self.codes.loads());
            }
        }
        before.close();
        if tenant.entry.stopped {
            self.stop_canary(&tenant);
        }
    }

    /// Takes in tenants of whom nothing is known yet.
    pub(crate) fn put_sleepers(&self, commons: &[Vec<u8>], tenants: Vec<Sleeper>) {
        for sleeper in &tenants {
            self.cell().know_slot(sleeper.slot);
        }
        self.roll.borrow_mut().put_sleepers(commons, tenants);
    }

    /// A tenant that is awake.
    pub(crate) fn made(&self, entry: TenantEntry, kin: Option<&Tenant>) -> Rc<Tenant> {
        let (slot, name) = (entry.slot, entry.name.clone());
        let log = TenantLog::new(slot, name, entry.revision, self.to_supervisor.clone());
        let total = self.idle_total(&entry);
        Rc::new(Tenant::new(entry, kin, log, self.access_log, total))
    }

    fn idle_total(&self, entry: &TenantEntry) -> Rc<Total> {
        let [usual, others] = &self.idle_totals;
        if is_usual(entry) { usual.clone() } else { others.clone() }
    }

    /// Puts `after` where `before` is, for every request from now on.
    pub(crate) fn supplant(&self, before: &Rc<Tenant>, after: &Rc<Tenant>) {
        let Some(of) = &after.entry.canary else {
            return self.roll.borrow_mut().put_awake(after);
        };
        self.roll.borrow_mut().put_in_place(after);
        // It has no routes, and hangs on the tenant whose requests it shares.
        let Some(stable) = self.tenant(of.slot) else { return };
        if let Some(canary) = &mut *stable.canary.borrow_mut()
            && Rc::ptr_eq(&canary.tenant, before)
        {
            canary.tenant = after.clone();
        }
    }

    /// Gives a revision its part of the tenant's requests, from now on.
    fn publish_canary(&self, entry: TenantEntry, of: &CanaryOf) {
        // The supervisor never tells of a canary before its tenant, nor of one without.
        let Some(stable) = self.tenant(of.slot) else { return };
        let before = self.awake(entry.slot);
        let tenant = self.made(entry, Some(&stable));
        self.roll.borrow_mut().put_in_place(&tenant);
        *stable.canary.borrow_mut() = Some(Canary::new(tenant, of));
        if let Some(before) = before {
            before.close();
        }
    }

    /// A revision that is not in force, for its probe; what it writes goes to `log`.
    pub(crate) fn probed(&self, entry: TenantEntry, log: TenantLog) -> Rc<Tenant> {
        self.cell().know_slot(entry.slot);
        // Its stores end with the tenant's; otherwise there is no reason to wake it.
        let stores = entry.grants.as_ref().is_some_and(|grants| grants.keyvalue.is_some());
        let slot = self.roll.borrow().named(entry.name.as_str());
        let kin = slot.and_then(|slot| if stores { self.tenant(slot) } else { self.awake(slot) });
        let total = self.idle_total(&entry);
        Rc::new(Tenant::new(entry, kin.as_deref(), log, self.access_log, total))
    }

    /// The tenant of this name.
    pub(crate) fn tenant_named(&self, name: &str) -> Option<Rc<Tenant>> {
        let slot = self.roll.borrow().named(name)?;
        self.tenant(slot)
    }

    /// The tenant that this host and path lead to; `host` in normal form.
    pub(crate) fn routed(&self, host: &str, path: &str) -> Option<Rc<Tenant>> {
        let roll = self.roll.borrow();
        let slot = roll.find(host, path)?;
        if let Some(tenant) = roll.awake(slot) {
            return Some(tenant.clone());
        }
        drop(roll);
        self.tenant(slot)
    }

    /// The tenant in this slot, if anything was ever made of it here.
    pub(crate) fn awake(&self, slot: u32) -> Option<Rc<Tenant>> {
        self.roll.borrow().awake(slot).cloned()
    }

    /// The tenant in this slot; from now on it is awake.
    pub(crate) fn tenant(&self, slot: u32) -> Option<Rc<Tenant>> {
        if let Some(tenant) = self.awake(slot) {
            return Some(tenant);
        }
        let entry = self.roll.borrow().asleep(slot)?;
        let tenant = self.made(entry, None);
        self.roll.borrow_mut().put_in_place(&tenant);
        Some(tenant)
    }

    /// Takes a tenant out of service.
    pub(crate) fn remove(&self, slot: u32) {
        let before = self.awake(slot);
        self.roll.borrow_mut().remove(slot);
        let Some(before) = before else { return };
        if let Some(of) = &before.entry.canary {
            if let Some(stable) = self.awake(of.slot) {
                stable.canary.borrow_mut().take_if(|canary| Rc::ptr_eq(&canary.tenant, &before));
            }
        } else {
            before.end();
        }
        before.close();
    }

    /// What a tenant's instances may reach.
    pub(crate) fn capabilities<'a>(&self, tenant: &'a Tenant) -> &'a Arc<Capabilities> {
        tenant.capabilities(&self.outbound, &self.stores)
    }

    /// What all instances of a tenant take their memory from, over all workers.
    pub(crate) fn budget(&self, tenant: &Tenant) -> Budget {
        let made = tenant.budget.get_or_init(|| {
            let (table, index) = (self.table.clone(), self.index);
            let slot = tenant.entry.slot;
            let limit = tenant.entry.limits.resources.memory_limit_bytes;
            let (pressure, qos) = (self.pressure.clone(), tenant.entry.limits.resources.qos);
            Arc::new(move |change: Change| {
                let cell = table.cell(index, slot);
                let now_ns = monotonic_ns();
                cell.add_memory(change.all(), change.host, now_ns);
                // The host's part is touched as soon as it is there.
                pressure.given(change.guest);
                if change.all() <= 0 {
                    return Ok(());
                }
                let denied = if table.memory(slot) > limit {
                    Denied::Tenant
                } else if pressure.denies(qos) {
                    Denied::Host
                } else {
                    return Ok(());
                };
                cell.add_memory(-change.all(), -change.host, now_ns);
                pressure.given(-change.guest);
                Err(denied)
            })
        });
        made.clone()
    }

    /// A guest runs on the second thread: somebody is to see to it that it gets on.
    pub(crate) fn look_after_long(self: &Rc<Self>) {
        if !self.hand.replace(true) {
            tokio::task::spawn_local(hand::lend_a_hand(self.clone()));
        }
    }

    /// Keeps an instance for the tenant's next request, if its manifest allows that.
    pub(crate) fn keep(self: &Rc<Self>, tenant: &Rc<Tenant>, instance: Instance, served: u32) {
        if tenant.pool.put(instance, served) {
            self.look_after(tenant);
        }
    }

    /// Says how many idle instances there are.
    pub(crate) fn tell_idle(&self) {
        let idle = self.idle_totals.iter().map(|total| u64::from(total.count()));
        self.cell().set_idle(idle.sum());
    }

    /// Has the tenant's idle instances retired in time.
    pub(crate) fn look_after(self: &Rc<Self>, tenant: &Rc<Tenant>) {
        if tenant.swept.replace(true) {
            return;
        }
        let mut with_idle = self.with_idle.borrow_mut();
        with_idle.push(tenant.clone());
        if with_idle.len() == 1 {
            tokio::task::spawn_local(self.clone().sweep());
        }
    }

    /// This process is out of slots, mappings, memory or descriptors: lets go of what nobody uses now,
    /// idle instances first, since they hold the code that is least needed: some of them, those that somebody began
    /// to look after first. If it is for a tenant, those on the same engine. Whether there was any.
    pub(crate) fn make_room(&self, whose: Option<&Tenant>) -> bool {
        let (mut cleared, mut any) = (0, false);
        for tenant in self.with_idle.borrow().iter() {
            if whose.is_some_and(|whose| whose.is_usual() != tenant.is_usual()) {
                continue;
            }
            cleared += tenant.pool.clear(ROOM_INSTANCES - cleared);
            any |= tenant.shared.clear();
            if cleared >= ROOM_INSTANCES {
                break;
            }
        }
        let evicted = self.codes.evict();
        self.cell().set_loaded(self.codes.count(), self.codes.loads());
        any || cleared > 0 || evicted
    }

    /// The host's memory runs low: lets go of everything that nobody uses now, between turns of the event loop
    /// where that is much.
    pub(crate) fn let_go_of_idle(&self) {
        let mut retired = Vec::new();
        for tenant in self.with_idle.borrow().iter() {
            tenant.pool.take_all(&mut retired);
            tenant.shared.clear();
        }
        drop_slowly(retired);
        self.codes.evict();
        self.cell().set_loaded(self.codes.count(), self.codes.loads());
    }

    /// Retires idle instances in time. Ends when none are left, so that an idle worker sleeps.
    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let now = Instant::now();
            let mut retired = Vec::new();
            let mut with_idle = self.with_idle.borrow_mut();
            with_idle.retain(|tenant| {
                self.sweep_by_age(tenant, now);
                let any = tenant.pool.sweep(now, &mut retired) | tenant.shared.sweep(now);
                tenant.swept.set(any);
                any
            });
            let ends = with_idle.is_empty();
            drop(with_idle);
            drop_slowly(retired);
            self.tell_idle();
            if ends {
                return;
            }
        }
    }
}
