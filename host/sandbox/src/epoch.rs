//! The clock of preemption: while a guest runs, the epoch advances every [`TICK`], and a guest that
//! crosses a tick gives the event loop a turn.
//!
//! One thread per process. It sleeps for good once no guest has run for `LINGER_TICKS`, so an idle
//! host uses no CPU; it lingers because waking a thread for each request would cost more than the
//! request.

use crate::engine::Engines;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::Thread;
use std::time::Duration;

/// How often a guest that computes looks whether its slice is over.
pub const TICK: Duration = Duration::from_micros(500);
/// How long a guest may compute on a worker's event loop at once, in nanoseconds; up to one [`TICK`] more.
pub const SLICE_NS: u64 = 500_000;
/// Ticks without a running guest before the clock stops.
const LINGER_TICKS: u64 = 10;

/// The running clock.
#[derive(Clone)]
pub struct Epoch {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// Counts polls of guests; unchanged since the last tick means nothing ran.
    polls: AtomicU64,
    /// Guests that run at this moment, at most one in each of the worker's threads. One in a long
    /// operation of the host's polls nothing meanwhile, and needs the clock afterwards.
    running: AtomicU32,
    /// How often the epoch has advanced.
    ticks: AtomicU64,
    asleep: AtomicBool,
}

impl Epoch {
    /// Starts the clock's thread.
    ///
    /// # Errors
    /// The system's, if no thread can be started.
    pub fn start(engines: Arc<Engines>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let clock = shared.clone();
        let handle = std::thread::Builder::new()
            .name("epoch".into())
            .stack_size(64 << 10)
            .spawn(move || clock.run(&engines))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// To be called right before a guest is polled; the guest runs until the result is dropped.
    pub fn guest_runs(&self) -> Turn<'_> {
        self.shared.running.fetch_add(1, SeqCst);
        self.shared.polls.fetch_add(1, SeqCst);
        if self.shared.asleep.load(SeqCst) {
            self.thread.unpark();
        }
        Turn { shared: &self.shared, since: self.shared.ticks.load(SeqCst) }
    }
}

/// A guest runs.
pub struct Turn<'a> {
    shared: &'a Shared,
    since: u64,
}

impl Turn<'_> {
    /// Ticks since it began to run: so often could it have been interrupted, if anything could.
    pub fn ticks(&self) -> u64 {
        self.shared.ticks.load(SeqCst).wrapping_sub(self.since)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, SeqCst);
    }
}

/// Nanoseconds of the system's monotonic clock, the same in every process of the machine.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    nanoseconds(now)
}

/// Processor time of the calling thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime))
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

impl Shared {
    fn run(&self, engines: &Engines) {
        let mut seen = 0;
        let mut idle_ticks = 0;
        loop {
            std::thread::sleep(TICK);
            for engine in engines.running() {
                engine.increment_epoch();
            }
            self.ticks.fetch_add(1, SeqCst);
            let polls = self.polls.load(SeqCst);
            let idle = polls == seen && self.running.load(SeqCst) == 0;
            idle_ticks = if idle { idle_ticks + 1 } else { 0 };
            seen = polls;
            if idle_ticks >= LINGER_TICKS {
                self.asleep.store(true, SeqCst);
                while self.polls.load(SeqCst) == seen {
                    std::thread::park();
                }
                self.asleep.store(false, SeqCst);
                idle_ticks = 0;
            }
        }
    }
}
