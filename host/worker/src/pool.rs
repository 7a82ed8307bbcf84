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

struct Idle {
    instance: Instance,
    served: u32,
    since: Instant,
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
        self.total.set(self.total.get() - 1);
        Some((idle.instance, idle.served))
    }

    /// Keeps an instance that ended a request well, if it may serve another. Whether it was kept.
    pub(crate) fn put(&self, instance: Instance, served: u32) -> bool {
        let keep = self.reuse.is_some_and(|reuse| served < reuse.requests)
            && !self.closed.get()
            && self.total.get() < IDLE_MAX;
        if keep {
            self.idle.borrow_mut().push(Idle { instance, served, since: Instant::now() });
            self.total.set(self.total.get() + 1);
        }
        keep
    }

    /// Retires what has been idle for too long; whether any instance is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let idle_max = Duration::from_millis(self.reuse.map_or(0, |reuse| reuse.idle_ms));
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| now.duration_since(idle.since) < idle_max);
        self.forget(before - idle.len());
        !idle.is_empty()
    }

    /// Retires all that are idle now; whether there were any.
    pub(crate) fn clear(&self) -> bool {
        let gone = std::mem::take(&mut *self.idle.borrow_mut());
        self.forget(gone.len());
        !gone.is_empty()
    }

    /// The revision is no longer active: nothing is kept any more.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.clear();
    }

    fn forget(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.total.set(self.total.get().saturating_sub(count));
    }
}
