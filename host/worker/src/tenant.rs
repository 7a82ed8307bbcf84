//! One tenant as this worker sees it: its active revision, and what waits or idles for it.
//!
//! A new revision is a new `Tenant`; requests keep the one they were routed to until they end, so
//! each sees one revision from head to body.

use crate::outbound::Outbound;
use crate::pool::Pool;
use crate::tenant_log::TenantLog;
use insula_model::Grants;
use insula_model::wire::TenantEntry;
use insula_sandbox::log::LineSink;
use insula_sandbox::{Capabilities, Loaded};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

pub(crate) struct Tenant {
    pub(crate) entry: TenantEntry,
    /// The loaded code, for as long as the cache keeps it.
    pub(crate) loaded: RefCell<Weak<Loaded>>,
    pub(crate) log: Arc<TenantLog>,
    /// The same, as guests write to it; made once, shared by every instance.
    pub(crate) sink: LineSink,
    /// Everything that its instances may reach; made once, shared by every instance.
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) pool: Pool,
    /// Whether someone looks after the pool already.
    pub(crate) swept: Cell<bool>,
    /// Requests of this worker in the tenant's queue.
    pub(crate) waiting: Cell<u32>,
    /// Told when a running request ends.
    pub(crate) freed: Notify,
}

impl Tenant {
    pub(crate) fn new(
        entry: TenantEntry,
        log: TenantLog,
        idle_total: Rc<Cell<u32>>,
        outbound: &Arc<Outbound>,
    ) -> Self {
        let log = Arc::new(log);
        let to = log.clone();
        let none = Grants::default();
        let grants = entry.grants.as_deref().unwrap_or(&none);
        let mut capabilities = Capabilities::new(entry.name.as_str(), grants, &entry.secrets);
        if let Some(policy) = &grants.outbound {
            capabilities = capabilities.with_outbound(outbound.grant(&entry.name, policy, &log));
        }
        let sink: LineSink = Arc::new(move |id, stream, text| to.line(id, stream, text));
        Self {
            loaded: RefCell::new(Weak::new()),
            log,
            sink,
            capabilities: Arc::new(capabilities),
            pool: Pool::new(entry.limits.reuse, idle_total),
            swept: Cell::new(false),
            waiting: Cell::new(0),
            freed: Notify::new(),
            entry,
        }
    }
}
