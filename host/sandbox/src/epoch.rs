//! The clock of preemption: while a guest runs, the epoch advances every [`TICK`], and a guest that
//! crosses a tick gives the event loop a turn.
//!
//! One thread per process. It sleeps for good once no guest has run for `LINGER_TICKS`, so an idle
//! host uses no CPU; it lingers because waking a thread for each request would cost more than the
//! request.

use crate::engine::Engines;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::Thread;
use std::time::Duration;

/// Length of a slice.
pub const TICK: Duration = Duration::from_millis(1);
/// Ticks without a running guest before the clock stops.
const LINGER_TICKS: u64 = 50;

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

    /// To be called right before a guest is polled.
    pub fn guest_runs(&self) {
        let polls = self.shared.polls.load(Relaxed);
        self.shared.polls.store(polls.wrapping_add(1), SeqCst);
        if self.shared.asleep.load(SeqCst) {
            self.thread.unpark();
        }
    }
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
            let polls = self.polls.load(SeqCst);
            idle_ticks = if polls == seen { idle_ticks + 1 } else { 0 };
            seen = polls;
            // A guest that spins is polled once and then never leaves: the event loop sleeps only
            // when no guest runs, and then nothing moves the count. A long slice cannot be told from
            // idleness here, but it cannot be long either, because the last tick made it yield.
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
