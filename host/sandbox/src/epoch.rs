//! The clock of preemption: while a guest runs, the epoch advances every [`TICK`], and a guest that
//! crosses a tick gives the event loop a turn.
//!
//! One thread per process, which waits for a timer of the kernel's. The timer stands still from the first tick on at
//! which no guest runs, so a host with a request now and then pays for one tick each, and an idle one for none. The
//! next guest sets it going again, which is one system call: the thread is not woken for it, which would keep that
//! guest waiting, but by the first tick, and most guests have ended by then.
//!
//! While only guests run that are known to end long before a tick, the ticks are [`CALM_TICK`] apart: on a busy worker
//! each is a timer's interrupt and two changes of thread, together a twentieth of its CPU time. The first other
//! guest brings the usual ones back.

use crate::engine::Engines;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// How often a guest that computes looks whether its slice is over.
pub const TICK: Duration = Duration::from_micros(500);
/// How often, if it is known to be quick, and so was every guest for a while.
pub const CALM_TICK: Duration = Duration::from_millis(2);
/// Usual ticks without a guest that may be long, before they are further apart.
const CALM_AFTER: u32 = 64;
/// How long a guest may compute on a worker's event loop at once, in nanoseconds; up to one [`TICK`] more, or
/// [`CALM_TICK`].
pub const SLICE_NS: u64 = 500_000;

/// The running clock.
#[derive(Clone)]
pub struct Epoch {
    shared: Arc<Shared>,
}

struct Shared {
    /// What the clock's thread waits for.
    timer: OwnedFd,
    /// Guests that run at this moment, at most one in each of the worker's threads. One in a long
    /// operation of the host's polls nothing meanwhile, and needs the clock afterwards.
    running: AtomicU32,
    /// How often the epoch has advanced.
    ticks: AtomicU64,
    /// The timer stands still.
    asleep: AtomicBool,
    /// It goes at the slower pace, or will.
    calm: AtomicBool,
    /// Since the last tick, a guest ran that is not known to be quick.
    hurried: AtomicBool,
}

impl Epoch {
    /// Starts the clock's thread.
    ///
    /// # Errors
    /// The system's, if no timer can be made or no thread be started.
    pub fn start(engines: Arc<Engines>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?,
            running: AtomicU32::new(0),
            ticks: AtomicU64::new(0),
            asleep: AtomicBool::new(true),
            calm: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        });
        let clock = shared.clone();
        std::thread::Builder::new()
            .name("epoch".into())
            .stack_size(64 << 10)
            .spawn(move || clock.run(&engines))?;
        Ok(Self { shared })
    }

    /// To be called right before a guest is polled; the guest runs until the result is dropped. `quick`: it is
    /// known to end within a fraction of a slice, and it does little harm if once it does not.
    pub fn guest_runs(&self, quick: bool) -> Turn<'_> {
        self.shared.running.fetch_add(1, SeqCst);
        if !quick {
            self.shared.hurry();
        }
        if self.shared.asleep.load(SeqCst) {
            self.shared.wake();
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
    /// Has the timer tick from now on; or stand still, if this is zero.
    fn set(&self, every: Duration) {
        let every = Timespec { tv_sec: 0, tv_nsec: i64::from(every.subsec_nanos()) };
        let setting = Itimerspec { it_interval: every, it_value: every };
        // Fails only for what is no timer, or no time.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting);
    }

    /// Sets the timer going, if it stands still.
    fn wake(&self) {
        if !self.asleep.swap(false, SeqCst) {
            return;
        }
        if self.calm.load(SeqCst) {
            self.set(CALM_TICK);
            if self.calm.load(SeqCst) {
                return;
            }
            // Another thread's guest came in between.
        }
        self.set(TICK);
    }

    /// Has the ticks come as often as usual for a while.
    fn hurry(&self) {
        if !self.hurried.load(SeqCst) {
            self.hurried.store(true, SeqCst);
        }
        if self.calm.load(SeqCst) && self.calm.swap(false, SeqCst) && !self.asleep.load(SeqCst) {
            self.set(TICK);
        }
    }

    fn run(&self, engines: &Engines) {
        let mut quiet = 0u32;
        loop {
            // Ends with the next tick, however long that is; several that were missed are one.
            if rustix::io::read(&self.timer, &mut [0u8; 8]).is_err() {
                continue;
            }
            for engine in engines.running() {
                engine.increment_epoch();
            }
            self.ticks.fetch_add(1, SeqCst);
            quiet = if self.hurried.swap(false, SeqCst) { 0 } else { quiet.saturating_add(1) };
            let calms = quiet >= CALM_AFTER && !self.calm.swap(true, SeqCst);
            if self.running.load(SeqCst) == 0 {
                self.set(Duration::ZERO);
                self.asleep.store(true, SeqCst);
                // A guest that began before it could see that.
                if self.running.load(SeqCst) > 0 {
                    self.wake();
                }
            } else if calms {
                self.set(CALM_TICK);
            }
            // One that came before it could see that the pace has changed.
            if calms && self.hurried.load(SeqCst) {
                self.hurry();
            }
        }
    }
}
