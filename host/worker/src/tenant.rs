//! One tenant as this worker sees it: its active revision, and what waits or idles for it.
//!
//! A new revision is a new `Tenant`; requests keep the one they were routed to until they end, so
//! each sees one revision from head to body.

use crate::access::Access;
use crate::breaker::Record;
use crate::canary::Canary;
use crate::outbound::Outbound;
use crate::pool::{Pool, Total};
use crate::repave::drop_slowly;
use crate::share::Account;
use crate::sharing::SharedPool;
use crate::tenant_log::TenantLog;
use insula_ipc::breaker::Probe;
use insula_ipc::table::Table;
use insula_keyvalue::Database;
use insula_model::access_log::Sample;
use insula_model::api::GuestKind;
use insula_model::wire::TenantEntry;
use insula_model::{Grants, Metering, Outcome};
use insula_sandbox::invoke::Budget;
use insula_sandbox::log::LineSink;
use insula_sandbox::{Capabilities, Loaded};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::Notify;

/// Lines about refused requests in one second, of one tenant in one worker.
pub(crate) const SHED_LINES_MAX: u32 = 50;

pub(crate) struct Tenant {
    pub(crate) entry: TenantEntry,
    /// What its guests use of the CPU; the same over all revisions.
    pub(crate) account: Rc<Account>,
    /// The loaded code, for as long as the cache keeps it.
    pub(crate) loaded: RefCell<Weak<Loaded>>,
    pub(crate) log: Arc<TenantLog>,
    /// Its access log, if it has one.
    pub(crate) access: Option<Access>,
    /// The same, as guests write to it; made once, shared by every instance.
    pub(crate) sink: LineSink,
    /// Everything that its instances may reach, shared by every instance. Made for the first one: most
    /// deployed tenants are idle, and this is as large as all the rest of them.
    capabilities: OnceCell<Arc<Capabilities>>,
    /// What its instances take their memory from; made for the first one.
    pub(crate) budget: OnceCell<Budget>,
    /// Set when the tenant is removed: its stores take no more writes. Shared by its revisions, because
    /// instances of an older one may still run; none if no revision was granted a store.
    removed: Option<Arc<AtomicBool>>,
    pub(crate) pool: Pool,
    pub(crate) shared: SharedPool,
    /// Since when the oldest of what was made for it is there: instances, connections, loaded code. None
    /// while nothing was.
    pub(crate) since: Cell<Option<Instant>>,
    /// Set when the tenant is stopped: its requests are refused, those that wait already too.
    pub(crate) stopped: Cell<bool>,
    /// Whether someone looks after the pool already.
    pub(crate) swept: Cell<bool>,
    /// Requests of this worker in the tenant's queue.
    pub(crate) waiting: Cell<u32>,
    /// Told when a running request ends.
    pub(crate) freed: Notify,
    /// How its requests end.
    record: RefCell<Record>,
    /// The second in which requests were last refused, and how many the log was told of.
    shed: Cell<(u64, u32)>,
    /// The revision that gets a part of its requests, if there is one.
    pub(crate) canary: RefCell<Option<Canary>>,
}

impl Tenant {
    /// The revision in `entry`; `kin` is another one of the same tenant, which it follows or stands beside.
    pub(crate) fn new(
        entry: TenantEntry,
        kin: Option<&Self>,
        log: TenantLog,
        access_log: Sample,
        idle_total: Rc<Total>,
    ) -> Self {
        let log = Arc::new(log);
        let to = log.clone();
        let mut removed = kin.and_then(Self::removal);
        if entry.grants.as_ref().is_some_and(|grants| grants.keyvalue.is_some()) {
            removed.get_or_insert_default();
        }
        let resources = &entry.limits.resources;
        let account = match kin.filter(|kin| kin.entry.slot == entry.slot) {
            Some(before) => before.account.clone(),
            None => Rc::new(Account::new(entry.slot, resources)),
        };
        account.update(resources);
        let sink: LineSink = Arc::new(move |id, stream, text| to.line(id, stream, text));
        Self {
            account,
            loaded: RefCell::new(Weak::new()),
            log,
            access: Access::of(entry.access_log.unwrap_or(access_log)),
            sink,
            capabilities: OnceCell::new(),
            budget: OnceCell::new(),
            removed,
            pool: Pool::new(entry.limits.reuse, idle_total),
            shared: SharedPool::new(entry.limits.reuse, entry.limits.fuel),
            since: Cell::default(),
            stopped: Cell::new(entry.stopped),
            swept: Cell::new(false),
            waiting: Cell::new(0),
            freed: Notify::new(),
            record: RefCell::default(),
            shed: Cell::default(),
            canary: RefCell::default(),
            entry,
        }
    }

    /// What tells its instances, and those of its canary, that the tenant was removed.
    fn removal(&self) -> Option<Arc<AtomicBool>> {
        let canary = self.canary.borrow();
        let canary = canary.as_ref().and_then(|canary| canary.tenant.removed.clone());
        self.removed.clone().or(canary)
    }

    /// What its instances may reach.
    pub(crate) fn capabilities(
        &self,
        outbound: &Arc<Outbound>,
        stores: &Database,
    ) -> &Arc<Capabilities> {
        self.capabilities.get_or_init(|| {
            let none = Grants::default();
            let grants = self.entry.grants.as_deref().unwrap_or(&none);
            let name = &self.entry.name;
            let mut capabilities =
                Capabilities::new(name.as_str(), grants, &self.entry.secrets).keep_in(stores.dir());
            if let Some(policy) = &grants.outbound {
                capabilities = capabilities.with_outbound(outbound.grant(name, policy, &self.log));
            }
            if let (Some(granted), Some(removed)) = (&grants.keyvalue, &self.removed) {
                let space = stores.space(name.as_str(), granted.quota_bytes, removed.clone());
                capabilities = capabilities.with_keyvalue(space);
            }
            Arc::new(capabilities)
        })
    }

    /// Whether its guests run on the engine that most do: WASI 0.2, metered by fuel.
    pub(crate) fn is_usual(&self) -> bool {
        is_usual(&self.entry)
    }

    /// Whether it has no successor yet, and was not removed.
    pub(crate) fn is_active(&self) -> bool {
        !self.pool.is_closed()
    }

    /// Whether the log is told of one more request that was refused.
    pub(crate) fn may_tell_of_shed(&self, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        let (since, told) = self.shed.get();
        let told = if since == second { told } else { 0 };
        self.shed.set((second, (told + 1).min(SHED_LINES_MAX)));
        told < SHED_LINES_MAX
    }

    /// Whether so many requests are refused now that answers wait for a moment.
    pub(crate) fn is_flooded(&self) -> bool {
        self.shed.get().1 >= SHED_LINES_MAX
    }

    /// A request ended: its circuit breaker may open or close for it.
    pub(crate) fn note(&self, table: &Table, outcome: Outcome, probe: Option<Probe>, now_ns: u64) {
        let (breaker, rule) =
            (table.breaker(self.entry.slot), &self.entry.limits.resources.breaker);
        let now_ms = now_ns / 1_000_000;
        let mut record = self.record.borrow_mut();
        if record.note(breaker, rule, outcome, probe, now_ms) {
            tracing::warn!(
                tenant = self.entry.name.as_str(),
                last = ?outcome,
                faults = rule.faults,
                window_ms = rule.window_ms,
                open_ms = rule.open_ms,
                "circuit open: it keeps failing; its log has the faults"
            );
        }
    }

    /// The tenant is removed, as opposed to having a new revision.
    pub(crate) fn end(&self) {
        if let Some(removed) = &self.removed {
            removed.store(true, Ordering::SeqCst);
        }
        if let Some(canary) = &*self.canary.borrow() {
            canary.tenant.end();
        }
    }

    /// Keeps no instance any more; those that run end as they would.
    pub(crate) fn close(&self) {
        drop_slowly(self.pool.close());
        self.shared.close();
    }
}

/// Whether such a tenant's guests run on the engine that most do.
pub(crate) fn is_usual(entry: &TenantEntry) -> bool {
    let is_02 = !matches!(entry.kind, GuestKind::Http03 | GuestKind::Command03);
    is_02 && entry.limits.metering == Metering::Fuel
}
