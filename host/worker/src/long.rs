//! Guests that compute for longer than a slice: the worker's second thread, and the order they run in.
//!
//! ```text
//! event loop ──preempted, or no free slice──▶ waiting ──least weighted time first──▶ runs a slice
//!      ▲                                        ▲  └ quota used up: until it is paid for     │
//!      └── finished, or waits for something ────┴──────────── still computing ◀──────────────┘
//! ```
//! The thread has the lowest kernel priority (`SCHED_IDLE`) and the same core as the event loop, so the
//! kernel runs it when the loop has nothing to do and takes it away as soon as it has, in the middle of
//! whatever the guest does; and one core never interrupts another's address space. Among the tenants
//! that wait, the one with the least weighted CPU time over all workers is next (start-time fair queueing,
//! Goyal, Vin and Cheng 1996); among a tenant's requests, turn by turn.
//!
//! Where other processes keep the core busy, a thread of that priority starves. Then the event loop runs
//! these guests itself, a slice between two of its turns ([`lend_a_hand`]), as if there were no second
//! thread. Bounded by the permits of the requests that are in here, and cancelled ones by
//! [`Long::zombies`]; ends with the process.

use crate::cores::{share_a_core, yield_to_everybody};
use crate::share::{Idle, SLICE_NS, Share};
use crate::worker::Worker;
use insula_ipc::table::Table;
use insula_sandbox::epoch::{Epoch, monotonic_ns, thread_cpu_ns};
use insula_sandbox::invoke::Gauge;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// How long a guest runs on the second thread before the next tenant's turn. Longer than on the event
/// loop, which the kernel lets in at any time.
const LONG_SLICE_NS: u64 = 1_000_000;
/// Weighted time by which a tenant that comes back may be behind those that wait: what it did not use
/// while it was away is not saved up.
const LAG_NS: u64 = 1_000_000;
/// How often the event loop looks whether the second thread starves.
const CHECK: Duration = Duration::from_millis(10);
/// Looks in a row without progress after which the event loop helps.
const STARVED_CHECKS: u32 = 3;
/// How long it then helps.
const HAND: Duration = Duration::from_millis(500);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What becomes of a guest that ran in here.
pub(crate) enum Back<T> {
    /// It has finished.
    Finished(T),
    /// It waits for something: it goes on where it came from.
    Home(BoxFuture<T>),
    /// The host panicked.
    Panicked,
}

struct Return<T> {
    back: Mutex<(Option<Back<T>>, Option<Waker>)>,
}

impl<T> Return<T> {
    fn send(&self, back: Back<T>) {
        let waker = {
            let mut slot = lock(&self.back);
            slot.0 = Some(back);
            slot.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest that is in here; dropping it ends the guest.
pub(crate) struct Errand<T> {
    back: Arc<Return<T>>,
    gauge: Arc<Gauge>,
    id: u64,
    long: Arc<Shared>,
    over: bool,
}

impl<T> Errand<T> {
    /// Ready once, with what became of it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Back<T>> {
        let mut slot = lock(&self.back.back);
        match slot.0.take() {
            Some(back) => {
                self.over = true;
                Poll::Ready(back)
            }
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        if !self.over {
            self.gauge.cancelled.store(true, Relaxed);
            self.long.cancel(self.id);
        }
    }
}

/// What the thread needs of a guest, whatever it returns.
trait Work: Send {
    /// Runs it for a slice; whether it has finished.
    fn step(&mut self, cx: &mut Context<'_>) -> bool;
    /// Gives it back unfinished.
    fn go_home(self: Box<Self>);
    fn panicked(self: Box<Self>);
}

struct Task<T> {
    future: BoxFuture<T>,
    back: Arc<Return<T>>,
}

impl<T: Send> Work for Task<T> {
    fn step(&mut self, cx: &mut Context<'_>) -> bool {
        match self.future.as_mut().poll(cx) {
            Poll::Pending => false,
            Poll::Ready(finished) => {
                self.back.send(Back::Finished(finished));
                true
            }
        }
    }

    fn go_home(self: Box<Self>) {
        self.back.send(Back::Home(self.future));
    }

    fn panicked(self: Box<Self>) {
        self.back.send(Back::Panicked);
    }
}

struct Job {
    id: u64,
    work: Box<dyn Work>,
    share: Share,
    gauge: Arc<Gauge>,
    /// It has no free slices: it stays in here when it waits.
    stays: bool,
    waker: Arc<JobWaker>,
}

struct JobWaker {
    id: u64,
    woken: AtomicBool,
    long: Arc<Shared>,
}

impl Wake for JobWaker {
    fn wake(self: Arc<Self>) {
        if !self.woken.swap(true, SeqCst) {
            self.long.wake(self.id);
        }
    }
}

#[derive(Default)]
struct Queue {
    /// Those that compute, by tenant.
    ready: HashMap<u32, VecDeque<Job>>,
    /// Those that wait for something.
    waiting: HashMap<u64, Job>,
    next_id: u64,
    /// Wakes and cancellations of jobs that run at this moment.
    cancelled: Vec<u64>,
}

/// The second thread's side, and what both threads share.
pub(crate) struct Shared {
    table: Arc<Table>,
    index: u32,
    epoch: Epoch,
    queue: Mutex<Queue>,
    /// Counts the guests in here.
    idle: Arc<Idle>,
    /// Of them, those that nobody waits for any more.
    zombies: AtomicU64,
    /// Slices run so far, to tell whether the thread gets any time.
    slices: AtomicU64,
    thread: OnceLock<Thread>,
}

/// The event loop's side.
pub(crate) struct Long(Arc<Shared>);

impl Long {
    /// Starts the thread. It shares a core with the calling thread if there is one for each worker.
    pub(crate) fn start(
        table: Arc<Table>,
        index: u32,
        epoch: Epoch,
        idle: Arc<Idle>,
    ) -> std::io::Result<Self> {
        share_a_core(index, table.workers());
        let shared = Arc::new(Shared {
            table,
            index,
            epoch,
            queue: Mutex::default(),
            idle,
            zombies: AtomicU64::new(0),
            slices: AtomicU64::new(0),
            thread: OnceLock::new(),
        });
        let own = shared.clone();
        let runtime = tokio::runtime::Handle::current();
        let handle = std::thread::Builder::new().name("long".into()).spawn(move || {
            // Guests make timers.
            let _context = runtime.enter();
            yield_to_everybody();
            own.run();
        })?;
        let _first = shared.thread.set(handle.thread().clone());
        Ok(Self(shared))
    }

    /// Takes a guest in; `stays` if it may not go on elsewhere.
    pub(crate) fn take<T: Send + 'static>(
        &self,
        future: BoxFuture<T>,
        share: Share,
        gauge: Arc<Gauge>,
        stays: bool,
    ) -> Errand<T> {
        let back = Arc::new(Return { back: Mutex::new((None, None)) });
        let work = Box::new(Task { future, back: back.clone() });
        let id = self.0.enter(work, share, gauge.clone(), stays);
        Errand { back, gauge, id, long: self.0.clone(), over: false }
    }

    /// The worker's column in the shared table.
    pub(crate) fn index(&self) -> u32 {
        self.0.index
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.0.table.clone()
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.0.epoch.clone()
    }

    pub(crate) fn idle(&self) -> Arc<Idle> {
        self.0.idle.clone()
    }

    /// Guests that still end although their requests are gone.
    pub(crate) fn zombies(&self) -> u64 {
        self.0.zombies.load(Relaxed)
    }
}

impl Shared {
    fn enter(
        self: &Arc<Self>,
        work: Box<dyn Work>,
        share: Share,
        gauge: Arc<Gauge>,
        stays: bool,
    ) -> u64 {
        let mut queue = lock(&self.queue);
        let id = queue.next_id;
        queue.next_id += 1;
        let waker = Arc::new(JobWaker { id, woken: AtomicBool::new(true), long: self.clone() });
        self.idle.long.fetch_add(1, Relaxed);
        self.make_ready(&mut queue, Job { id, work, share, gauge, stays, waker });
        drop(queue);
        self.unpark();
        id
    }

    /// A tenant that had nothing to run has saved nothing up.
    fn make_ready(&self, queue: &mut Queue, job: Job) {
        let slot = job.share.slot;
        let is_new = queue.ready.get(&slot).is_none_or(VecDeque::is_empty);
        if is_new {
            let others = queue.ready.iter().filter(|(_, jobs)| !jobs.is_empty());
            let least = others.map(|(slot, _)| self.table.virtual_ns(*slot)).min();
            let floor = least.unwrap_or(0).saturating_sub(LAG_NS);
            let own = self.table.virtual_ns(slot);
            if own < floor {
                self.table.cell(self.index, slot).add_virtual_ns(floor - own);
            }
        }
        queue.ready.entry(slot).or_default().push_back(job);
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn wake(&self, id: u64) {
        let mut queue = lock(&self.queue);
        // One that runs at this moment sees the flag.
        let Some(job) = queue.waiting.remove(&id) else { return };
        self.make_ready(&mut queue, job);
        drop(queue);
        self.unpark();
    }

    fn cancel(&self, id: u64) {
        self.zombies.fetch_add(1, Relaxed);
        let mut queue = lock(&self.queue);
        let mut gone = queue.waiting.remove(&id);
        if gone.is_none() {
            gone = queue.ready.values_mut().find_map(|jobs| {
                let at = jobs.iter().position(|job| job.id == id)?;
                jobs.remove(at)
            });
        }
        if gone.is_none() {
            queue.cancelled.push(id);
        }
        drop(queue);
        if let Some(job) = gone {
            self.bury(true);
            drop(job);
        }
    }

    /// A guest is no longer in here.
    fn bury(&self, was_cancelled: bool) {
        self.idle.long.fetch_sub(1, Relaxed);
        if was_cancelled {
            self.zombies.fetch_sub(1, Relaxed);
        }
    }

    /// The next guest to run; or when to look again.
    fn pick(&self, now_ns: u64) -> Result<Job, Option<u64>> {
        let mut queue = lock(&self.queue);
        queue.ready.retain(|_, jobs| !jobs.is_empty());
        let mut soonest: Option<u64> = None;
        let mut best: Option<(u64, u32)> = None;
        for (slot, jobs) in &queue.ready {
            let Some(front) = jobs.front() else { continue };
            let paid = front.share.paid_ns(&self.table);
            if paid > now_ns {
                soonest = Some(soonest.map_or(paid, |soonest| soonest.min(paid)));
                continue;
            }
            let used = self.table.virtual_ns(*slot);
            if best.is_none_or(|(least, _)| used < least) {
                best = Some((used, *slot));
            }
        }
        best.and_then(|(_, slot)| queue.ready.get_mut(&slot)?.pop_front()).ok_or(soonest)
    }

    /// Runs one guest for a slice; none if no guest may run, with the time at which one may.
    fn run_one(&self, slice_ns: u64, on_loop: bool) -> Result<(), Option<u64>> {
        let now_ns = monotonic_ns();
        let mut job = self.pick(now_ns)?;
        job.gauge.slice_until_ns.store(now_ns + slice_ns, Relaxed);
        job.gauge.preempted.store(false, Relaxed);
        job.waker.woken.store(false, SeqCst);
        let waker = Waker::from(job.waker.clone());
        let mut cx = Context::from_waker(&waker);
        let cell = self.table.worker(self.index);
        let turn = self.epoch.guest_runs();
        let name =
            |slot| if on_loop { cell.set_current(slot) } else { cell.set_current_long(slot) };
        name(Some(job.share.slot));
        let before = thread_cpu_ns();
        let stepped = catch_unwind(AssertUnwindSafe(|| job.work.step(&mut cx)));
        let cpu_ns = thread_cpu_ns().saturating_sub(before);
        name(None);
        drop(turn);
        job.gauge.cpu_ns.fetch_add(cpu_ns, Relaxed);
        job.share.charge(&self.table, self.index, cpu_ns, monotonic_ns());
        job.share.ran_long(cpu_ns);
        self.slices.fetch_add(1, Relaxed);
        self.put_back(job, stepped.ok());
        Ok(())
    }

    /// `stepped` is whether the guest has finished; none if the host panicked.
    fn put_back(&self, job: Job, stepped: Option<bool>) {
        let mut queue = lock(&self.queue);
        let at = queue.cancelled.iter().position(|id| *id == job.id);
        if let Some(at) = at {
            queue.cancelled.swap_remove(at);
        }
        match stepped {
            Some(false) if at.is_none() => {
                if job.waker.woken.load(SeqCst) {
                    // Not a newcomer: its tenant keeps its place in the order.
                    queue.ready.entry(job.share.slot).or_default().push_back(job);
                } else if job.stays {
                    let (id, waker) = (job.id, job.waker.clone());
                    queue.waiting.insert(id, job);
                    // Woken before it was in its place.
                    if waker.woken.load(SeqCst)
                        && let Some(job) = queue.waiting.remove(&id)
                    {
                        self.make_ready(&mut queue, job);
                    }
                } else {
                    drop(queue);
                    self.bury(false);
                    job.work.go_home();
                }
            }
            _ => {
                drop(queue);
                self.bury(at.is_some());
                if stepped.is_none() {
                    job.work.panicked();
                }
            }
        }
    }

    fn run(&self) {
        loop {
            match self.run_one(LONG_SLICE_NS, false) {
                Ok(()) => {}
                Err(None) => std::thread::park(),
                Err(Some(at_ns)) => {
                    let rest = at_ns.saturating_sub(monotonic_ns());
                    std::thread::park_timeout(Duration::from_nanos(rest));
                }
            }
        }
    }

    fn has_ready(&self, now_ns: u64) -> bool {
        let queue = lock(&self.queue);
        queue
            .ready
            .values()
            .filter_map(VecDeque::front)
            .any(|job| job.share.paid_ns(&self.table) <= now_ns)
    }
}

/// Sees to it that guests on the second thread get on, for as long as there are any.
pub(crate) async fn lend_a_hand(worker: Rc<Worker>) {
    let shared = worker.long.0.clone();
    let (mut seen, mut starved) = (0, 0);
    while shared.idle.long.load(Relaxed) > 0 {
        tokio::time::sleep(CHECK).await;
        let slices = shared.slices.load(Relaxed);
        let stuck = slices == seen && shared.has_ready(monotonic_ns());
        seen = slices;
        starved = if stuck { starved + 1 } else { 0 };
        if starved < STARVED_CHECKS {
            continue;
        }
        starved = 0;
        let until = monotonic_ns() + u64::try_from(HAND.as_nanos()).unwrap_or(u64::MAX);
        while monotonic_ns() < until && shared.run_one(SLICE_NS, true).is_ok() {
            tokio::task::yield_now().await;
        }
    }
    worker.hand.set(false);
}
