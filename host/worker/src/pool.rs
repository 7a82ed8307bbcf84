//! Idle instances of one tenant and revision, where its manifest allows reuse.
//!
//! Bounded by the requests that may run at once (an instance is put here only by a request that
//! ends) and by the manifest's `reuse`; an instance leaves after `requests` requests, after `idle`
//! without one, or with its revision.

use insula_model::Reuse;
use insula_sandbox::invoke::Instance;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

pub(crate) struct Pool {
    reuse: Option<Reuse>,
    idle: RefCell<Vec<Idle>>,
    closed: Cell<bool>,
}

struct Idle {
    instance: Instance,
    served: u32,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(reuse: Option<Reuse>) -> Self {
        Self { reuse, idle: RefCell::default(), closed: Cell::new(false) }
    }

    /// The most recently used instance, whose pages are the warmest, and how many requests it served.
    pub(crate) fn take(&self) -> Option<(Instance, u32)> {
        self.reuse?;
        let idle = self.idle.borrow_mut().pop()?;
        Some((idle.instance, idle.served))
    }

    /// Keeps an instance that ended a request well, if it may serve another. Whether it was kept.
    pub(crate) fn put(&self, instance: Instance, served: u32) -> bool {
        let keep = self.reuse.is_some_and(|reuse| served < reuse.requests) && !self.closed.get();
        if keep {
            self.idle.borrow_mut().push(Idle { instance, served, since: Instant::now() });
        }
        keep
    }

    /// Retires what has been idle for too long; whether any instance is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let Some(reuse) = self.reuse else { return false };
        let idle_max = Duration::from_millis(reuse.idle_ms);
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| now.duration_since(idle.since) < idle_max);
        !idle.is_empty()
    }

    /// The revision is no longer active: nothing is kept any more.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }
}
