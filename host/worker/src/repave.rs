//! Repave: a tenant's instances, connections and loaded code are replaced, in the middle of its requests.
//!
//! The tenant gets a successor of the same revision, as if it had been published again, and the code that
//! it has mapped is let go of. What runs keeps the old one until it ends. Nothing is made anew here: the
//! next request does that, with the seal of the code checked again.
//!
//! Asked for by the supervisor, for [`insula_model::wire::REPAVE_SLOTS_MAX`] tenants at a time; or due
//! because of the tenant's `max_age`, which is looked at when a request comes, and while somebody looks
//! after idle instances anyway, so that it never wakes an idle worker.

use crate::pool::Idle;
use crate::tenant::Tenant;
use crate::worker::Worker;
use insula_model::wire::Retired;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Instances, or pieces of code, that are dropped between two turns of the event loop: some tens of
/// microseconds each.
const DROPPED_AT_ONCE: usize = 16;
/// Tenants that are looked at between two turns of the event loop.
const LOOKED_AT_ONCE: usize = 256;

/// What was done since the event loop's last turn, in tenants that were looked at.
#[derive(Default)]
struct Work(usize);

impl Work {
    async fn did(&mut self, looked: usize, dropped: usize) {
        self.0 += looked + dropped * (LOOKED_AT_ONCE / DROPPED_AT_ONCE);
        if self.0 >= LOOKED_AT_ONCE {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

impl Worker {
    /// Repaves these tenants; done when nothing of theirs is kept that was there before.
    pub(crate) async fn repave(&self, slots: &[u32]) -> Retired {
        let since = self.codes.now();
        let mut retired = Retired::default();
        let mut work = Work::default();
        for slot in slots {
            work.did(1, 0).await;
            let Some((before, idle)) = self.renew(*slot) else { continue };
            // Once for all tenants that run it: what others have loaded meanwhile is new already.
            let forgotten = self.codes.forget(&before.entry.code(), since);
            retired.code += u64::from(forgotten);
            retired.instances += before.shared.close() + idle.len() as u64;
            drop(before);
            work.did(0, usize::from(forgotten)).await;
            for instance in idle {
                drop(instance);
                work.did(0, 1).await;
            }
        }
        self.cell().set_loaded(self.codes.count(), self.codes.loads());
        retired
    }

    /// The tenant, or its successor if its `max_age` has passed.
    #[inline]
    pub(crate) fn in_time(&self, tenant: Rc<Tenant>) -> Rc<Tenant> {
        match tenant.entry.limits.max_age_ms {
            None => tenant,
            Some(ms) => self.in_time_of(tenant, Duration::from_millis(ms)),
        }
    }

    fn in_time_of(&self, tenant: Rc<Tenant>, max_age: Duration) -> Rc<Tenant> {
        let is_due = tenant.since.get().is_some_and(|since| since.elapsed() >= max_age)
            && tenant.is_active();
        if !is_due {
            return tenant;
        }
        self.retire_by_age(&tenant, max_age);
        self.tenant(tenant.entry.slot).unwrap_or(tenant)
    }

    /// For the sweep: retires a tenant's instances if they are due.
    pub(crate) fn sweep_by_age(&self, tenant: &Rc<Tenant>, now: Instant) {
        let Some(ms) = tenant.entry.limits.max_age_ms else { return };
        let (max_age, since) = (Duration::from_millis(ms), tenant.since.get());
        if since.is_some_and(|since| now.duration_since(since) >= max_age) && tenant.is_active() {
            self.retire_by_age(tenant, max_age);
        }
    }

    fn retire_by_age(&self, tenant: &Rc<Tenant>, max_age: Duration) {
        let slot = tenant.entry.slot;
        let Some((before, idle)) = self.renew(slot) else { return };
        self.codes.forget_older(&before.entry.code(), max_age);
        before.shared.close();
        drop_slowly(idle);
    }

    /// A tenant is stopped: nothing of its canary is kept, and nobody waits for it any more.
    pub(crate) fn stop_canary(&self, tenant: &Tenant) {
        let slot = tenant.canary.borrow().as_ref().map(|canary| canary.tenant.entry.slot);
        let Some((before, idle)) = slot.and_then(|slot| self.renew(slot)) else { return };
        before.stopped.set(true);
        before.shared.close();
        self.codes.forget(&before.entry.code(), self.codes.now());
        drop_slowly(idle);
    }

    /// Puts a successor in a tenant's place, if anything was made of it here; the old one, and the
    /// instances that it kept. Its shared instances are still to be closed.
    fn renew(&self, slot: u32) -> Option<(Rc<Tenant>, Vec<Idle>)> {
        let before = self.awake(slot)?;
        before.since.get()?;
        let tenant = self.made(before.entry.clone(), Some(&before));
        *tenant.canary.borrow_mut() = before.canary.take();
        self.supplant(&before, &tenant);
        let idle = before.pool.close();
        Some((before, idle))
    }
}

/// Drops instances, between turns of the event loop where they are many.
pub(crate) fn drop_slowly(idle: Vec<Idle>) {
    if idle.len() <= DROPPED_AT_ONCE {
        return;
    }
    tokio::task::spawn_local(async move {
        let mut idle = idle;
        while !idle.is_empty() {
            let left = idle.len().saturating_sub(DROPPED_AT_ONCE);
            idle.truncate(left);
            tokio::task::yield_now().await;
        }
    });
}
