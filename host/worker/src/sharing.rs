//! Shared instances of one tenant and revision, where its manifest lets one serve several requests at
//! once.
//!
//! Each is a task of this worker. Bounded by the manifest's `reuse` and, since nobody makes one without
//! a request for it, by the tenant's concurrency; idle ones go after `reuse.idle`, with their revision,
//! or as soon as others need the room.

use crate::tenant::Tenant;
use crate::worker::Worker;
use insula_model::{Fault, Reuse};
use insula_sandbox::epoch::monotonic_ns;
use insula_sandbox::shared::Driver;
use insula_sandbox::{Invocation, Loaded, Shared, Sharing};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

pub(crate) struct SharedPool {
    sharing: Option<Sharing>,
    instances: RefCell<Vec<Rc<Shared>>>,
    closed: Cell<bool>,
}

impl SharedPool {
    pub(crate) fn new(reuse: Option<Reuse>, fuel: u64) -> Self {
        let sharing = reuse.filter(|reuse| reuse.concurrent > 1).map(|reuse| Sharing {
            concurrent: reuse.concurrent,
            requests: reuse.requests,
            fuel,
            idle: Duration::from_millis(reuse.idle_ms),
        });
        Self { sharing, instances: RefCell::default(), closed: Cell::new(false) }
    }

    /// What an instance of `loaded` may take, if it is to be shared.
    pub(crate) fn sharing(&self, loaded: &Loaded) -> Option<Sharing> {
        self.sharing.filter(|_| loaded.is_concurrent())
    }

    /// The instance with the fewest requests that has room for one more.
    fn pick(&self, now: Instant) -> Option<Rc<Shared>> {
        let instances = self.instances.borrow();
        let open = instances.iter().filter_map(|shared| Some((shared.room(now)?, shared)));
        open.min_by_key(|(inside, _)| *inside).map(|(_, shared)| shared.clone())
    }

    /// Retires what has been idle or has worked for too long; whether any instance is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let mut instances = self.instances.borrow_mut();
        instances.retain(|shared| shared.is_kept(now));
        !instances.is_empty()
    }

    /// Retires all that are idle now; whether there were any.
    pub(crate) fn clear(&self) -> bool {
        let mut instances = self.instances.borrow_mut();
        let before = instances.len();
        instances.retain(|shared| {
            let idle = shared.is_idle();
            if idle {
                shared.retire();
            }
            !idle
        });
        instances.len() < before
    }

    /// The tenant has a successor: those who are inside may finish, nobody else enters. How many
    /// instances there were.
    pub(crate) fn close(&self) -> u64 {
        self.closed.set(true);
        let instances = std::mem::take(&mut *self.instances.borrow_mut());
        for shared in &instances {
            shared.retire();
        }
        instances.len() as u64
    }
}

/// The shared instance for the next request of `tenant`: the emptiest with room, or a new one.
pub(crate) fn instance(
    worker: &Rc<Worker>,
    tenant: &Rc<Tenant>,
    loaded: Arc<Loaded>,
    sharing: Sharing,
    first: &Invocation,
) -> Rc<Shared> {
    let pool = &tenant.shared;
    if let Some(shared) = pool.pick(Instant::now()) {
        return shared;
    }
    let (shared, driver) = Shared::start(loaded, first, sharing);
    let shared = Rc::new(shared);
    tokio::task::spawn_local(drive(worker.clone(), tenant.clone(), shared.clone(), driver));
    if pool.closed.get() {
        // A request that was routed before its revision ended: this instance is for it alone.
        return shared;
    }
    pool.instances.borrow_mut().push(shared.clone());
    worker.look_after(tenant);
    shared
}

/// Runs an instance until it ends: on the clock, and with the tenant's name in the shared table in case
/// the process does not survive it.
async fn drive(worker: Rc<Worker>, tenant: Rc<Tenant>, shared: Rc<Shared>, mut driver: Driver) {
    let account = &tenant.account;
    poll_fn(|cx| {
        let turn = worker.epoch.guest_runs(account.is_quick());
        worker.cell().set_current(Some(tenant.entry.slot));
        let start = Instant::now();
        let polled = catch_unwind(AssertUnwindSafe(|| driver.poll(cx)));
        let took = start.elapsed();
        shared.spend(took);
        let (took_ns, now_ns) =
            (u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), monotonic_ns());
        worker.fair.charge(account, took_ns, None, turn.ticks(), now_ns);
        account.share.borrow().charge(&worker.table, worker.index, took_ns, now_ns);
        worker.cell().set_current(None);
        drop(turn);
        polled.unwrap_or_else(|_| {
            shared.fail(Fault::Panic, "the host panicked; its own log has the details");
            Poll::Ready(())
        })
    })
    .await;
}
