//! What is in force: every tenant's active revision, by name and by slot.
//!
//! Owns the view that workers are started with and that the API lists, and what the tenants of each
//! namespace have together; the state database is the truth it is loaded from. Bounded by [`SLOTS_MAX`] tenants. It is changed only by the publish step,
//! after the database has committed and before any worker is told, so a worker that starts in between
//! finds the change in its snapshot.
//!
//! A slot's life: `free → taken → (tenant removed) quarantined → free`. It is quarantined until every
//! worker has acknowledged the removal and its counters are cleared, so no new owner inherits a
//! request or a figure. Canaries have slots of their own, and so do probes, for as long as they last; one
//! that ended is still its tenant's until its last request has, for the log and for the sums.

mod kept;

use crate::rollouts::{Counted, HandedCanary};
use crate::sync::lock;
use insula_ipc::table::SLOTS_MAX;
use insula_model::api::Counters;
use insula_model::grants::schedule::Schedule;
use insula_model::packed::{Commons, Packed};
use insula_model::quota::{Share, Sums};
use insula_model::rollout::Rollout;
use insula_model::wire::TenantEntry;
use insula_model::{Latency, Namespace, TenantName};
use kept::Kept;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Slots beyond the highest that tenants have for which places are made to keep one of them.
const PLACES_AT_ONCE_MAX: u32 = 1_024;

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

/// A revision that gets a part of its tenant's requests.
#[derive(Debug)]
pub(crate) struct Canary {
    /// As workers are told: in a slot of its own, with `entry.canary` set.
    pub(crate) tenant: Arc<Tenant>,
    /// By what it is judged.
    pub(crate) rollout: Rollout,
    /// Since when (RFC 3339).
    pub(crate) since: String,
    /// What its tenant had done by then, as far as this start of the host knows.
    pub(crate) active_before: Done,
    /// What was counted of it by hosts before this one, and is not in this host's table.
    pub(crate) before: Counted,
    /// Since when this host tries it.
    pub(crate) counts_from: Instant,
}

/// What was done, as far as canaries are judged by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Requests that ended, but for those that were refused before anything ran.
    pub(crate) requests: u64,
    /// Of those, what ended by the guest's fault or with a status of 500 or above.
    pub(crate) errors: u64,
    /// How long they took.
    pub(crate) latency: Latency,
}

impl Done {
    /// What these figures say.
    pub(crate) fn of(counters: &Counters, latency: Latency) -> Self {
        let errors = counters.guest_faults + counters.responses_5xx;
        Self { requests: counters.requests, errors, latency }
    }

    /// Both together.
    pub(crate) fn with(mut self, other: &Self) -> Self {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.latency.add(&other.latency);
        self
    }

    /// The rest of it. Figures that are read one after another may be off by what ends in between.
    pub(crate) fn without(self, part: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(part.requests),
            errors: self.errors.saturating_sub(part.errors),
            latency: self.latency.since(&part.latency),
        }
    }
}

/// A slot that nobody has yet: free again when this is dropped, unless something was put into it.
#[derive(Debug)]
pub(crate) struct Reserved {
    registry: Arc<Registry>,
    slot: u32,
    taken: bool,
}

impl Reserved {
    /// The slot.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// The slot, from here on the caller's to [`Registry::free`].
    pub(crate) fn take(mut self) -> u32 {
        self.taken = true;
        self.slot
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut inner = lock(&self.registry.0);
        inner.probes.remove(&self.slot);
        if inner.by_slot.get(self.slot as usize).is_some_and(Option::is_none) {
            inner.free.insert(self.slot);
        }
    }
}

/// All deployed tenants.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Slots.
    by_name: BTreeMap<TenantName, u32>,
    /// Those that run, by the name of their tenants. They are in `by_slot`, too.
    canaries: BTreeMap<TenantName, Arc<Canary>>,
    /// Slots of canaries, and those of the tenants that they are part of, until [`Registry::free`].
    parts: BTreeMap<u32, u32>,
    /// Slots of probes: what happens there is nobody's.
    probes: BTreeSet<u32>,
    by_slot: Vec<Option<Kept>>,
    /// Of what was put into a slot last: as long as a slot's is the same, so is its tenant.
    version: u32,
    free: BTreeSet<u32>,
    /// Of every namespace that has tenants.
    sums: HashMap<Namespace, Sums>,
    commons: Commons,
}

/// A slot, and its tenant in few bytes.
pub(crate) type Slept = (u32, Packed<Arc<[u8]>>);

/// What a worker starts with.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Most of them.
    pub(crate) packed: Vec<Slept>,
    /// The others; every canary after the tenant that it is one of.
    pub(crate) whole: Vec<Arc<Tenant>>,
}

impl Inner {
    /// Takes a tenant in, in place of the one of that name.
    fn insert(&mut self, tenant: Tenant) {
        self.take(&tenant.entry.name);
        let (name, slot) = self.enter(tenant);
        self.by_name.insert(name, slot);
    }

    /// Takes a tenant in that its name does not lead to yet.
    fn enter(&mut self, tenant: Tenant) -> (TenantName, u32) {
        self.sums.entry(tenant.namespace.clone()).or_default().add(tenant.share());
        let (name, slot) = (tenant.entry.name.clone(), tenant.entry.slot);
        self.make_place(slot);
        let version = self.next_version();
        self.by_slot[slot as usize] = Some(Kept::new(tenant, version, &mut self.commons));
        (name, slot)
    }

    fn insert_canary(&mut self, canary: Canary) {
        let entry = &canary.tenant.entry;
        self.make_place(entry.slot);
        let kept = Kept::whole(Arc::clone(&canary.tenant), self.next_version());
        self.by_slot[entry.slot as usize] = Some(kept);
        if let Some(of) = &entry.canary {
            self.parts.insert(entry.slot, of.slot);
        }
        self.canaries.insert(entry.name.clone(), Arc::new(canary));
    }

    fn next_version(&mut self) -> u32 {
        self.version = self.version.wrapping_add(1);
        self.version
    }

    fn at(&self, slot: u32) -> Option<&Kept> {
        self.by_slot.get(slot as usize)?.as_ref()
    }

    /// Has a place for this slot, which is not free any more.
    fn make_place(&mut self, slot: u32) {
        self.free.remove(&slot);
        if self.by_slot.len() <= slot as usize {
            self.by_slot.resize(slot as usize + 1, None);
        }
    }

    fn parts_of(&self, slot: u32) -> Vec<u32> {
        self.parts.iter().filter(|(_, own)| **own == slot).map(|(part, _)| *part).collect()
    }

    fn clear_place(&mut self, slot: u32) {
        if let Some(place) = self.by_slot.get_mut(slot as usize) {
            *place = None;
        }
    }

    fn take(&mut self, name: &TenantName) -> Option<Arc<Tenant>> {
        let slot = self.by_name.remove(name)?;
        let tenant = self.at(slot)?.get(slot)?;
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
    /// The registry of the tenants that `tenants` gives, each once, and of these canaries. Slots below the
    /// highest that nobody has are free.
    pub(crate) fn load<E>(
        tenants: impl FnOnce(&mut dyn FnMut(Tenant)) -> Result<(), E>,
        canaries: Vec<Canary>,
    ) -> Result<Self, E> {
        let mut inner = Inner::default();
        let mut names = Vec::new();
        tenants(&mut |tenant| names.push(inner.enter(tenant)))?;
        // From all of them at once, its nodes are full.
        inner.by_name = names.into_iter().collect();
        for canary in canaries {
            inner.insert_canary(canary);
        }
        inner.by_slot.shrink_to_fit();
        let holes = inner.by_slot.iter().enumerate().filter(|(_, tenant)| tenant.is_none());
        inner.free = holes.filter_map(|(slot, _)| u32::try_from(slot).ok()).collect();
        Ok(Self(Mutex::new(inner)))
    }

    /// A slot that nobody has and nobody else gets meanwhile; `None` if the host is full.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Reserved> {
        let mut inner = lock(&self.0);
        let next = u32::try_from(inner.by_slot.len()).ok();
        let next = next.filter(|next| *next < SLOTS_MAX && !inner.probes.contains(next));
        let slot = inner.free.first().copied().or(next)?;
        inner.make_place(slot);
        drop(inner);
        Some(Reserved { registry: Arc::clone(self), slot, taken: false })
    }

    /// The same for a probe: what happens in the slot is nobody's. It is the last that is free, always the same
    /// where one probe comes after another, because a row of the shared table that was ever used takes memory.
    pub(crate) fn reserve_for_probe(self: &Arc<Self>) -> Option<Reserved> {
        let slot = {
            let mut inner = lock(&self.0);
            let first = u32::try_from(inner.by_slot.len()).unwrap_or(SLOTS_MAX);
            let last = (first..SLOTS_MAX).rev().find(|slot| !inner.probes.contains(slot));
            last.inspect(|slot| {
                inner.probes.insert(*slot);
            })
        };
        match slot {
            Some(slot) => Some(Reserved { registry: Arc::clone(self), slot, taken: false }),
            None => self.reserve().inspect(|reserved| {
                lock(&self.0).probes.insert(reserved.slot);
            }),
        }
    }

    /// Puts a tenant's revision in force.
    pub(crate) fn put(&self, tenant: Tenant) {
        lock(&self.0).insert(tenant);
    }

    /// Gives a revision a part of its tenant's requests.
    pub(crate) fn put_canary(&self, canary: Canary) {
        lock(&self.0).insert_canary(canary);
    }

    /// Canaries go on from what was counted before the table that this host goes on from: it has the rest.
    pub(crate) fn go_on_from(&self, handed: Vec<HandedCanary>) {
        let mut inner = lock(&self.0);
        for HandedCanary { tenant, revision, before } in handed {
            let Some(canary) = inner.canaries.get_mut(&tenant) else { continue };
            if canary.tenant.entry.revision == revision {
                *canary = Arc::new(Canary {
                    tenant: Arc::clone(&canary.tenant),
                    rollout: canary.rollout.clone(),
                    since: canary.since.clone(),
                    active_before: canary.active_before,
                    before,
                    counts_from: Instant::now(),
                });
            }
        }
    }

    /// Ends a canary; its slot is quarantined until [`Registry::free`], and its tenant's until then.
    pub(crate) fn end_canary(&self, name: &TenantName) -> Option<Arc<Canary>> {
        lock(&self.0).canaries.remove(name)
    }

    /// Takes a tenant out, with its canary; the slots are quarantined until [`Registry::free`].
    pub(crate) fn remove(&self, name: &TenantName) -> Option<(Arc<Tenant>, Option<Arc<Canary>>)> {
        let mut inner = lock(&self.0);
        let tenant = inner.take(name)?;
        let canary = inner.canaries.remove(name);
        let slot = tenant.entry.slot;
        for slot in inner.parts_of(slot).into_iter().chain([slot]) {
            inner.clear_place(slot);
        }
        Some((tenant, canary))
    }

    /// Keeps a slot from being given to anybody, if nobody has it, until [`Registry::free`]; whether it does.
    pub(crate) fn hold(&self, slot: u32) -> bool {
        let mut inner = lock(&self.0);
        let is_nobodys = inner.by_slot.get(slot as usize).is_none_or(Option::is_none);
        let next = u32::try_from(inner.by_slot.len()).unwrap_or(slot);
        if is_nobodys && slot > next.saturating_add(PLACES_AT_ONCE_MAX) {
            // A probe's, out of the last ones: places for all in between would take memory.
            inner.probes.insert(slot);
        } else if is_nobodys {
            // Those between the highest so far and this one are nobody's either.
            inner.free.extend(next..slot);
            inner.make_place(slot);
        }
        is_nobodys
    }

    /// Ends a slot's quarantine.
    pub(crate) fn free(&self, slot: u32) {
        let mut inner = lock(&self.0);
        inner.parts.remove(&slot);
        inner.probes.remove(&slot);
        inner.clear_place(slot);
        if (slot as usize) < inner.by_slot.len() {
            inner.free.insert(slot);
        }
    }

    /// The slot of the tenant that the canary in this slot is, or was, part of.
    pub(crate) fn part_of(&self, slot: u32) -> Option<u32> {
        lock(&self.0).parts.get(&slot).copied()
    }

    /// The slots of a tenant's canaries, those included that have ended and whose requests have not.
    pub(crate) fn parts(&self, slot: u32) -> Vec<u32> {
        lock(&self.0).parts_of(slot)
    }

    /// The slots of the tenants that have such.
    pub(crate) fn parted(&self) -> BTreeSet<u32> {
        lock(&self.0).parts.values().copied().collect()
    }

    /// Whether what happens in this slot is a probe.
    pub(crate) fn is_probe(&self, slot: u32) -> bool {
        lock(&self.0).probes.contains(&slot)
    }

    /// The canary of the tenant of this name.
    pub(crate) fn canary(&self, name: &TenantName) -> Option<Arc<Canary>> {
        lock(&self.0).canaries.get(name).cloned()
    }

    /// Every canary.
    pub(crate) fn canaries(&self) -> Vec<Arc<Canary>> {
        lock(&self.0).canaries.values().cloned().collect()
    }

    /// The slot of the tenant that this slot's figures are part of: another one for a canary's.
    pub(crate) fn counted_in(&self, slot: u32) -> u32 {
        self.part_of(slot).unwrap_or(slot)
    }

    /// The tenant of this name.
    pub(crate) fn get(&self, name: &TenantName) -> Option<Arc<Tenant>> {
        let inner = lock(&self.0);
        let slot = *inner.by_name.get(name)?;
        inner.at(slot)?.get(slot)
    }

    /// Whether there is a tenant of this name.
    pub(crate) fn has(&self, name: &TenantName) -> bool {
        lock(&self.0).by_name.contains_key(name)
    }

    /// The tenant that has this slot now.
    pub(crate) fn by_slot(&self, slot: u32) -> Option<Arc<Tenant>> {
        lock(&self.0).at(slot)?.get(slot)
    }

    /// What tells whether the tenant in this slot is another one than before, or has changed.
    pub(crate) fn version(&self, slot: u32) -> Option<u32> {
        lock(&self.0).at(slot).map(Kept::version)
    }

    /// The slot of every tenant and its [`Registry::version`], by name.
    pub(crate) fn versions(&self) -> Vec<(u32, u32)> {
        let inner = lock(&self.0);
        let slots = inner.by_name.values();
        slots.filter_map(|slot| Some((*slot, inner.at(*slot)?.version()))).collect()
    }

    /// What the tenants of a namespace have together.
    pub(crate) fn sums(&self, namespace: &Namespace) -> Sums {
        lock(&self.0).sums.get(namespace).copied().unwrap_or_default()
    }

    /// The name of every tenant, in order.
    pub(crate) fn names(&self) -> Vec<TenantName> {
        lock(&self.0).by_name.keys().cloned().collect()
    }

    /// Every tenant, by name. One that is changed meanwhile is given as it was or as it is, and one that is
    /// removed meanwhile may be left out.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Tenant>> + '_ {
        let slots: Vec<u32> = lock(&self.0).by_name.values().copied().collect();
        // One at a time: all of them unpacked are ten times what they are here.
        slots.into_iter().filter_map(|slot| self.by_slot(slot))
    }

    /// Every tenant with a schedule.
    pub(crate) fn jobs(&self) -> Vec<Arc<Tenant>> {
        let inner = lock(&self.0);
        let whole = inner.by_slot.iter().flatten().filter_map(Kept::as_whole);
        let jobs =
            whole.filter(|tenant| tenant.schedule.is_some() && tenant.entry.canary.is_none());
        jobs.cloned().collect()
    }

    /// What a worker starts with, as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = lock(&self.0);
        let slots = inner.by_name.values().copied();
        let canaries = inner.canaries.values().map(|canary| canary.tenant.entry.slot);
        let mut snapshot = Snapshot::default();
        for slot in slots.chain(canaries) {
            match inner.at(slot) {
                Some(Kept::Packed { packed, .. }) => snapshot.packed.push((slot, packed.clone())),
                Some(Kept::Whole { tenant, .. }) => snapshot.whole.push(Arc::clone(tenant)),
                None => {}
            }
        }
        snapshot
    }

    /// How many tenants are deployed.
    pub(crate) fn len(&self) -> u64 {
        lock(&self.0).by_name.len() as u64
    }
}
