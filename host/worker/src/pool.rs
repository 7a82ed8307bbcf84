//! Idle instances of one tenant and revision, where its manifest allows reuse.
//!
//! Bounded by the manifest's `reuse` (an instance leaves after `requests` requests, after `idle`
//! without one, or with its revision) and, over all tenants of this worker, by [`IDLE_MAX`]: idle
//! instances of some must not take the slots that others need to run at all.

use insula_model::Reuse;
use insula_sandbox::invoke::Instance;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Idle instances in one worker, of all tenants.
pub(crate) const IDLE_MAX: u32 = 1_024;

pub(crate) struct Pool {
    reuse: Option<Reuse>,
    idle: RefCell<Vec<Idle>>,
    closed: Cell<bool>,
    total: Rc<Cell<u32>>,
}

/// An instance that waits for a request, or to be dropped.
pub(crate) struct Idle {
    instance: Instance,
    served: u32,
    since: Instant,
    _counted: Counted,
}

/// Counts an idle instance for as long as it holds its slot.
struct Counted(Rc<Cell<u32>>);

impl Counted {
    fn new(total: &Rc<Cell<u32>>) -> Self {
        total.set(total.get() + 1);
        Self(total.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pool {
    /// `total` counts the idle instances of all pools.
    pub(crate) fn new(reuse: Option<Reuse>, total: Rc<Cell<u32>>) -> Self {
        Self { reuse, idle: RefCell::default(), closed: Cell::new(false), total }
    }

    /// The most recently used instance, whose pages are the warmest, and how many requests it served.
    pub(crate) fn take(&self) -> Option<(Instance, u32)> {
        self.reuse?;
        let idle = self.idle.borrow_mut().pop()?;
        Some((idle.instance, idle.served))
    }

    /// Keeps an instance that ended a request well, if it may serve another. Whether it was kept.
    pub(crate) fn put(&self, instance: Instance, served: u32) -> bool {
        let keep = self.reuse.is_some_and(|reuse| served < reuse.requests)
            && !self.closed.get()
            && self.total.get() < IDLE_MAX;
        if keep {
            let (since, counted) = (Instant::now(), Counted::new(&self.total));
            self.idle.borrow_mut().push(Idle { instance, served, since, _counted: counted });
        }
        keep
    }

    /// Retires what has been idle for too long; whether any instance is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let idle_max = Duration::from_millis(self.reuse.map_or(0, |reuse| reuse.idle_ms));
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| now.duration_since(idle.since) < idle_max);
        !idle.is_empty()
    }

    /// Retires all that are idle now; whether there were any.
    pub(crate) fn clear(&self) -> bool {
        !std::mem::take(&mut *self.idle.borrow_mut()).is_empty()
    }

    /// The tenant has a successor: nothing is kept any more. What was is the caller's to drop.
    pub(crate) fn close(&self) -> Vec<Idle> {
        self.closed.set(true);
        std::mem::take(&mut *self.idle.borrow_mut())
    }

    /// Whether the tenant has a successor, or is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }
}
