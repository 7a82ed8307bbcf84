//! Guests that compute for longer than a slice: the worker's second thread, and the order they run in.
//!
//! ```text
//! event loop ──preempted, or no free slice──▶ waiting ──least weighted time first──▶ runs a slice
//!      ▲                                        ▲  └ quota used up: until it is paid for     │
//!      └── finished, or waits for something ────┴──────────── still computing ◀──────────────┘
//! ```
//! The thread has the lowest kernel priority (`SCHED_IDLE`) and, where there is a worker for each core, the
//! core of the event loop. So the kernel runs it when the loop has nothing to do and takes it away as soon as it has, in the middle of
//! whatever the guest does; and one core never interrupts another's address space. Among the tenants
//! that wait, the one with the least weighted CPU time over all workers is next (start-time fair queueing,
//! Goyal, Vin and Cheng 1996); among a tenant's requests, turn by turn.
//!
//! Where other processes keep the core busy, a thread of that priority starves, in the middle of a guest
//! if it comes to that. Then it is raised to an ordinary one for a while ([`crate::hand`]). Where the
//! kernel does not allow that, it is a nice one from the start, and the event loop runs these guests itself
//! while it starves, a slice between two of its turns. Bounded by the permits of the requests that are in here, and cancelled ones by
//! [`Long::zombies`]; ends with the process.

use crate::cores::{Lowest, share_a_core};
use crate::errand::{BoxFuture, Errand, Return, Task, Work, lock};
use crate::pressure::Pressure;
use crate::share::{Idle, Share};
use insula_ipc::table::Table;
use insula_sandbox::epoch::{Epoch, monotonic_ns, thread_cpu_ns};
use insula_sandbox::invoke::Gauge;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// How long a guest runs on the second thread before the next tenant's turn. Longer than on the event
/// loop, which the kernel lets in at any time.
const LONG_SLICE_NS: u64 = 1_000_000;
/// Weighted time by which a tenant that comes back may be behind those that wait: what it did not use
/// while it was away is not saved up.
const LAG_NS: u64 = 1_000_000;

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
    /// Those that nobody waits for any more, to be dropped on the second thread: giving back what a guest
    /// holds may take milliseconds.
    dead: Vec<Job>,
    /// Those that run at this moment, one on each thread at most, and whether they were cancelled.
    running: Vec<(u64, bool)>,
    next_id: u64,
    /// Weighted time of the tenant that was run last, and never less than before: who comes back starts
    /// from here.
    now: u64,
}

/// The second thread's side, and what both threads share.
pub(crate) struct Shared {
    table: Arc<Table>,
    index: u32,
    epoch: Epoch,
    queue: Mutex<Queue>,
    /// Counts the guests in here.
    pub(crate) idle: Arc<Idle>,
    pressure: Arc<Pressure>,
    /// Of them, those that nobody waits for any more.
    zombies: AtomicU64,
    /// The event loop runs these guests; the thread stands aside, or it would take up the very guest that
    /// it starves.
    pub(crate) aside: AtomicBool,
    lowest: OnceLock<Lowest>,
    thread: OnceLock<Thread>,
    /// Where the kernel tells what CPU time the thread has had.
    schedstat: OnceLock<String>,
}

/// The event loop's side.
pub(crate) struct Long(pub(crate) Arc<Shared>);

impl Long {
    /// Starts the thread. It shares a core with the calling thread if there is one for each worker.
    pub(crate) fn start(
        table: Arc<Table>,
        index: u32,
        epoch: Epoch,
        idle: Arc<Idle>,
    ) -> std::io::Result<Self> {
        share_a_core(index, table.workers());
        let pressure = Arc::new(Pressure::new(table.clone(), index));
        let shared = Arc::new(Shared {
            table,
            index,
            epoch,
            queue: Mutex::default(),
            idle,
            pressure,
            zombies: AtomicU64::new(0),
            aside: AtomicBool::new(false),
            lowest: OnceLock::new(),
            thread: OnceLock::new(),
            schedstat: OnceLock::new(),
        });
        let own = shared.clone();
        let runtime = tokio::runtime::Handle::current();
        let handle = std::thread::Builder::new().name("long".into()).spawn(move || {
            // Guests make timers.
            let _context = runtime.enter();
            let _first = own.lowest.set(Lowest::own());
            let tid = rustix::thread::gettid().as_raw_nonzero();
            let _first = own.schedstat.set(format!("/proc/self/task/{tid}/schedstat"));
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
        let back = Arc::new(Return::default());
        let work = Box::new(Task { future, back: back.clone() });
        let id = self.0.enter(work, share, gauge.clone(), stays);
        Errand::new(back, gauge, id, self.0.clone())
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

    pub(crate) fn pressure(&self) -> Arc<Pressure> {
        self.0.pressure.clone()
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
            let floor = queue.now.saturating_sub(LAG_NS);
            let own = self.table.virtual_ns(slot);
            if own < floor {
                self.table.cell(self.index, slot).add_virtual_ns(floor - own);
            }
        }
        queue.ready.entry(slot).or_default().push_back(job);
        self.count(queue, monotonic_ns());
    }

    /// Tells the other workers how many guests could run here.
    fn count(&self, queue: &Queue, now_ns: u64) {
        let could_run = |jobs: &&VecDeque<Job>| {
            jobs.front().is_some_and(|job| job.share.paid_ns(&self.table) <= now_ns)
        };
        let ready: usize = queue.ready.values().filter(could_run).map(VecDeque::len).sum();
        let running = queue.running.len() as u64;
        self.table.worker(self.index).set_computing(running, ready as u64);
    }

    pub(crate) fn unpark(&self) {
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

    pub(crate) fn cancel(&self, id: u64) {
        let mut queue = lock(&self.queue);
        let mut gone = queue.waiting.remove(&id);
        if gone.is_none() {
            gone = queue.ready.values_mut().find_map(|jobs| {
                let at = jobs.iter().position(|job| job.id == id)?;
                jobs.remove(at)
            });
        }
        // One that is nowhere has finished, and nobody looked.
        if let Some(running) = queue.running.iter_mut().find(|running| running.0 == id) {
            running.1 = true;
            self.zombies.fetch_add(1, Relaxed);
        }
        if let Some(job) = gone {
            self.zombies.fetch_add(1, Relaxed);
            queue.dead.push(job);
            drop(queue);
            self.unpark();
        }
    }

    /// Lets go of one that was cancelled; whether there was any.
    pub(crate) fn drop_dead(&self) -> bool {
        let dead = lock(&self.queue).dead.pop();
        let any = dead.is_some();
        if any {
            // As anywhere, a bug of the host's is the guest's end only.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(dead)));
            self.bury(true);
        }
        any
    }

    /// A guest is no longer in here.
    fn bury(&self, was_cancelled: bool) {
        self.idle.long.fetch_sub(1, Relaxed);
        if was_cancelled {
            self.zombies.fetch_sub(1, Relaxed);
        }
    }

    /// The next guest to run; or when to look again. The event loop leaves out who must not run there.
    fn pick(&self, now_ns: u64, on_loop: bool) -> Result<Job, Option<u64>> {
        let mut queue = lock(&self.queue);
        queue.ready.retain(|_, jobs| !jobs.is_empty());
        let mut soonest: Option<u64> = None;
        let mut best: Option<(u64, u32)> = None;
        for (slot, jobs) in &queue.ready {
            let Some(front) = jobs.front() else { continue };
            if on_loop && front.share.is_exiled(now_ns) {
                continue;
            }
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
        let job = best.and_then(|(used, slot)| {
            let job = queue.ready.get_mut(&slot).and_then(VecDeque::pop_front)?;
            queue.now = queue.now.max(used);
            self.table.worker(self.index).set_virtual_now_ns(used);
            queue.running.push((job.id, false));
            Some(job)
        });
        self.count(&queue, now_ns);
        job.ok_or(soonest)
    }

    /// Runs one guest for a slice; none if no guest may run, with the time at which one may.
    pub(crate) fn run_one(&self, slice_ns: u64, on_loop: bool) -> Result<(), Option<u64>> {
        let now_ns = monotonic_ns();
        let mut job = self.pick(now_ns, on_loop)?;
        job.gauge.slice_until_ns.store(now_ns + slice_ns, Relaxed);
        job.gauge.preempted.store(false, Relaxed);
        job.waker.woken.store(false, SeqCst);
        let waker = Waker::from(job.waker.clone());
        let mut cx = Context::from_waker(&waker);
        let cell = self.table.worker(self.index);
        let turn = self.epoch.guest_runs(false);
        let name =
            |slot| if on_loop { cell.set_current(slot) } else { cell.set_current_long(slot) };
        name(Some(job.share.slot));
        let before = thread_cpu_ns();
        let stepped = catch_unwind(AssertUnwindSafe(|| job.work.step(&mut cx)));
        let cpu_ns = thread_cpu_ns().saturating_sub(before);
        name(None);
        let ticks = turn.ticks();
        drop(turn);
        job.gauge.cpu_ns.fetch_add(cpu_ns, Relaxed);
        let end_ns = monotonic_ns();
        job.share.charge(&self.table, self.index, cpu_ns, end_ns);
        job.share.ran_long(cpu_ns, ticks, end_ns);
        self.idle.long_ns.fetch_add(cpu_ns, Relaxed);
        self.pressure.look(end_ns);
        if self.pressure.ends(job.share.qos) {
            job.gauge.evicted.store(true, Relaxed);
        }
        self.put_back(job, stepped.ok());
        Ok(())
    }

    /// `stepped` is whether the guest has finished; none if the host panicked.
    fn put_back(&self, job: Job, stepped: Option<bool>) {
        let mut queue = lock(&self.queue);
        let at = queue.running.iter().position(|running| running.0 == job.id);
        let cancelled = at.is_some_and(|at| queue.running.swap_remove(at).1);
        match stepped {
            Some(false) if !cancelled => {
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
                self.bury(cancelled);
                if stepped.is_none() {
                    job.work.panicked();
                }
            }
        }
    }

    fn run(&self) {
        loop {
            if self.aside.load(SeqCst) {
                std::thread::park();
                continue;
            }
            if self.drop_dead() {
                continue;
            }
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

    /// Whether any guest runs or could, on the event loop if that is asked.
    pub(crate) fn has_ready(&self, now_ns: u64, on_loop: bool) -> bool {
        let queue = lock(&self.queue);
        let may_run = |job: &Job| {
            let barred = on_loop && job.share.is_exiled(now_ns);
            !barred && job.share.paid_ns(&self.table) <= now_ns
        };
        !queue.running.is_empty()
            || !queue.dead.is_empty()
            || queue.ready.values().filter_map(VecDeque::front).any(may_run)
    }

    /// Has the thread compete like any other for a while; whether the kernel allows that.
    pub(crate) async fn raised_for(&self, time: Duration) -> bool {
        let Some(lowest) = self.lowest.get().filter(|lowest| lowest.raise()) else { return false };
        tokio::time::sleep(time).await;
        lowest.lower();
        true
    }

    /// CPU time that the thread has had, up to this moment; none if the kernel does not say.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(self.schedstat.get()?).ok()?;
        stat.split_whitespace().next()?.parse().ok()
    }
}
