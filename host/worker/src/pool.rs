//! Idle instances of one tenant and revision, where its manifest allows reuse.
//!
//! Bounded by the manifest's `reuse` (an instance leaves after `requests` requests, after `idle`
//! without one, or with its revision) and, over all tenants of this worker that run on the same engine, by
//! [`idle_max`] or [`IDLE_OTHER_MAX`]. Where all the slots are taken, some of those that are idle make room.

use insula_model::Reuse;
use insula_sandbox::invoke::Instance;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Idle instances in one worker of all tenants that do not run on the usual engine: theirs have fewer slots, or
/// slots that are seldom used.
pub(crate) const IDLE_OTHER_MAX: u32 = 768;

/// Idle instances in one worker of all tenants whose guests are of WASI 0.2 or preview 1 and metered by fuel, where
/// there is room for so many live ones: a twentieth is for those that run, and no more than 200.
pub(crate) fn idle_max(live: u32) -> u32 {
    live - (live / 20).min(200)
}

pub(crate) struct Pool {
    reuse: Option<Reuse>,
    idle: RefCell<Vec<Idle>>,
    closed: Cell<bool>,
    total: Rc<Total>,
}

/// Idle instances of all pools of an engine's.
pub(crate) struct Total {
    count: Cell<u32>,
    most: u32,
}

impl Total {
    pub(crate) fn new(most: u32) -> Rc<Self> {
        Rc::new(Self { count: Cell::new(0), most })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.get()
    }
}

/// An instance that waits for a request, or to be dropped.
pub(crate) struct Idle {
    instance: Instance,
    served: u32,
    since: Instant,
    _counted: Counted,
}

/// Counts an idle instance for as long as it holds its slot.
struct Counted(Rc<Total>);

impl Counted {
    fn new(total: &Rc<Total>) -> Self {
        total.count.set(total.count.get() + 1);
        Self(total.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get().saturating_sub(1));
    }
}

impl Pool {
    /// `total` counts the idle instances of all pools.
    pub(crate) fn new(reuse: Option<Reuse>, total: Rc<Total>) -> Self {
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
            && self.total.count.get() < self.total.most;
        if keep {
            let (since, counted) = (Instant::now(), Counted::new(&self.total));
            self.idle.borrow_mut().push(Idle { instance, served, since, _counted: counted });
        }
        keep
    }

    /// Retires what has been idle for too long, which is the caller's to drop; whether any instance is left.
    pub(crate) fn sweep(&self, now: Instant, retired: &mut Vec<Idle>) -> bool {
        let idle_max = Duration::from_millis(self.reuse.map_or(0, |reuse| reuse.idle_ms));
        let mut idle = self.idle.borrow_mut();
        retired.extend(idle.extract_if(.., |idle| now.duration_since(idle.since) >= idle_max));
        !idle.is_empty()
    }

    /// Retires up to `most` that are idle now, the longest first; how many.
    pub(crate) fn clear(&self, most: usize) -> usize {
        let mut idle = self.idle.borrow_mut();
        let count = most.min(idle.len());
        idle.drain(..count);
        count
    }

    /// Retires all that are idle now, which are the caller's to drop.
    pub(crate) fn take_all(&self, retired: &mut Vec<Idle>) {
        retired.append(&mut self.idle.borrow_mut());
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
