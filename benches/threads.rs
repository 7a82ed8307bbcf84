//! Where the benchmarks' own threads run, and how urgently.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The cores of the server under test, and those of the load generator.
#[derive(Debug, Clone)]
pub struct Cores {
    /// For the server.
    pub server: Vec<usize>,
    /// For the generator.
    pub generator: Vec<usize>,
}

impl Cores {
    /// Divides what there is: two cores of four or more for the generator, the last of two or three; a
    /// single one is shared.
    pub fn divide() -> Self {
        let all = allowed();
        let own = match all.len() {
            0..=1 => 0,
            2..=3 => 1,
            _ => 2,
        };
        let (server, generator) = all.split_at(all.len() - own);
        let generator = if own == 0 { server } else { generator };
        Self { server: server.to_vec(), generator: generator.to_vec() }
    }

    /// All of them for both.
    pub fn shared() -> Self {
        Self { server: allowed(), generator: allowed() }
    }

    /// Whether server and generator have none in common.
    pub fn apart(&self) -> bool {
        self.server != self.generator
    }
}

/// The cores that the calling thread may run on.
pub fn allowed() -> Vec<usize> {
    sched_getaffinity(None).map_or_else(
        |_| vec![0],
        |set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
    )
}

/// Binds the calling thread, and what it starts, to these cores; says whether that worked.
pub fn bind(cores: &[usize]) -> bool {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).is_ok()
}

/// Has the calling thread go before everything ordinary (SCHED_FIFO); says whether that worked.
pub fn urgent() -> bool {
    thread_priority::ThreadPriorityValue::try_from(1u8).is_ok_and(|lowest| {
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        let priority = ThreadPriority::Crossplatform(lowest);
        set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok()
    })
}

/// A thread on each core that spins, and takes nothing that anybody wants (SCHED_IDLE); they end when this is
/// dropped.
pub struct Spinners {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Spinners {
    /// Starts them; one that cannot have that priority ends at once.
    pub fn start<'a>(cores: impl Iterator<Item = &'a usize>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let spin = |core: usize| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                let own = thread_native_id();
                let lowest = set_thread_priority_and_policy(own, ThreadPriority::Min, policy);
                if bind(&[core]) && lowest.is_ok() {
                    while !over.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            })
        };
        let threads = cores.copied().map(spin).collect();
        Self { over, threads }
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
