//! What is in force: every tenant's active revision, by name and by slot.
//!
//! Owns the view that workers are started with and that the API lists, and what the tenants of each
//! namespace have together; the state database is the truth it is loaded from. Bounded by [`SLOTS_MAX`] tenants. It is changed only by the publish step,
//! after the database has committed and before any worker is told, so a worker that starts in between
//! finds the change in its snapshot.
//!
//! A slot's life: `free → taken → (tenant removed) quarantined → free`. It is quarantined until every
//! worker has acknowledged the removal and its counters are cleared, so no new owner inherits a
//! request or a figure.

use crate::sync::lock;
use insula_ipc::table::SLOTS_MAX;
use insula_model::grants::schedule::Schedule;
use insula_model::quota::{Share, Sums};
use insula_model::wire::TenantEntry;
use insula_model::{Namespace, TenantName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// A deployed tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// What workers are told.
    pub(crate) entry: TenantEntry,
    /// When it runs, if it is a job.
    pub(crate) schedule: Option<Schedule>,
    /// The namespace whose quota it counts against.
    pub(crate) namespace: Namespace,
    /// When the active revision was published (RFC 3339).
    pub(crate) deployed_at: String,
    /// When it was stopped (RFC 3339); none while it may run.
    pub(crate) stopped_at: Option<String>,
}

impl Tenant {
    /// What it counts for in its namespace.
    pub(crate) fn share(&self) -> Share {
        Share::of(&self.entry.limits, self.entry.grants.as_deref())
    }
}

/// All deployed tenants.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_name: BTreeMap<TenantName, Arc<Tenant>>,
    by_slot: Vec<Option<Arc<Tenant>>>,
    free: BTreeSet<u32>,
    /// Of every namespace that has tenants.
    sums: HashMap<Namespace, Sums>,
}

impl Inner {
    /// Takes a tenant in, in place of the one of that name.
    fn insert(&mut self, tenant: Arc<Tenant>) {
        self.take(&tenant.entry.name);
        self.sums.entry(tenant.namespace.clone()).or_default().add(tenant.share());
        self.by_slot[tenant.entry.slot as usize] = Some(Arc::clone(&tenant));
        self.by_name.insert(tenant.entry.name.clone(), tenant);
    }

    fn take(&mut self, name: &TenantName) -> Option<Arc<Tenant>> {
        let tenant = self.by_name.remove(name)?;
        if let Some(sums) = self.sums.get_mut(&tenant.namespace) {
            sums.remove(tenant.share());
            if sums.is_empty() {
                self.sums.remove(&tenant.namespace);
            }
        }
        Some(tenant)
    }
}

impl Registry {
    /// The registry of these tenants. Slots below the highest that nobody has are free.
    pub(crate) fn load(tenants: Vec<Tenant>) -> Self {
        let slots = tenants.iter().map(|t| t.entry.slot as usize + 1).max().unwrap_or(0);
        let mut inner = Inner { by_slot: vec![None; slots], ..Inner::default() };
        for tenant in tenants.into_iter().map(Arc::new) {
            inner.insert(tenant);
        }
        let holes = inner.by_slot.iter().enumerate().filter(|(_, tenant)| tenant.is_none());
        inner.free = holes.filter_map(|(slot, _)| u32::try_from(slot).ok()).collect();
        Self(Mutex::new(inner))
    }

    /// The slot of this tenant, or the one that it would get; `None` if the host is full. Stable until
    /// the next change, and changes are made one at a time.
    pub(crate) fn slot_for(&self, name: &TenantName) -> Option<u32> {
        let inner = lock(&self.0);
        if let Some(tenant) = inner.by_name.get(name) {
            return Some(tenant.entry.slot);
        }
        let next = u32::try_from(inner.by_slot.len()).ok().filter(|next| *next < SLOTS_MAX);
        inner.free.first().copied().or(next)
    }

    /// Puts a tenant's revision in force.
    pub(crate) fn put(&self, tenant: Tenant) {
        let mut inner = lock(&self.0);
        let (slot, tenant) = (tenant.entry.slot, Arc::new(tenant));
        inner.free.remove(&slot);
        if inner.by_slot.len() <= slot as usize {
            inner.by_slot.resize(slot as usize + 1, None);
        }
        inner.insert(tenant);
    }

    /// Takes a tenant out; its slot is quarantined until [`Registry::free`].
    pub(crate) fn remove(&self, name: &TenantName) -> Option<Arc<Tenant>> {
        let mut inner = lock(&self.0);
        let tenant = inner.take(name)?;
        if let Some(place) = inner.by_slot.get_mut(tenant.entry.slot as usize) {
            *place = None;
        }
        Some(tenant)
    }

    /// Ends a slot's quarantine.
    pub(crate) fn free(&self, slot: u32) {
        lock(&self.0).free.insert(slot);
    }

    /// The tenant of this name.
    pub(crate) fn get(&self, name: &TenantName) -> Option<Arc<Tenant>> {
        lock(&self.0).by_name.get(name).cloned()
    }

    /// The tenant that has this slot now.
    pub(crate) fn by_slot(&self, slot: u32) -> Option<Arc<Tenant>> {
        lock(&self.0).by_slot.get(slot as usize)?.clone()
    }

    /// What the tenants of a namespace have together.
    pub(crate) fn sums(&self, namespace: &Namespace) -> Sums {
        lock(&self.0).sums.get(namespace).copied().unwrap_or_default()
    }

    /// Every tenant, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        lock(&self.0).by_name.values().cloned().collect()
    }

    /// How many tenants are deployed.
    pub(crate) fn len(&self) -> u64 {
        lock(&self.0).by_name.len() as u64
    }
}
