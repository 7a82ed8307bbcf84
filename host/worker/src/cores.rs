//! Which core a worker's threads run on, and which of them gives way. None of it is worth failing for.

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadId, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Binds the calling thread, and those it starts, to the worker's own core.
pub(crate) fn share_a_core(index: u32, workers: u32) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    // With more workers the kernel knows better; with fewer, other hosts would all choose the same cores.
    if workers as usize == cores.len()
        && let Some(core) = cores.get(index as usize)
    {
        let mut own = CpuSet::new();
        own.set(*core);
        if let Err(error) = sched_setaffinity(None, &own) {
            tracing::debug!(%error, "this worker has no core of its own");
        }
    }
}

/// A thread that gives way to every other.
#[derive(Clone, Copy)]
pub(crate) enum Lowest {
    /// It runs only when nobody else of its core wants to (`SCHED_IDLE`), and can be raised from there.
    Idle(ThreadId),
    /// The kernel would not let it be raised again (that takes CAP_SYS_NICE, or `ulimit -e 20`), and a
    /// thread of `SCHED_IDLE` may starve for ever in the middle of a guest, as one of nice 19 may for
    /// seconds: so it is an ordinary thread of a third of the weight (nice 5).
    Nice,
}

impl Lowest {
    /// The calling thread, from here on.
    pub(crate) fn own() -> Self {
        // Tried on a thread that ends: this one might not come back.
        let raised =
            std::thread::spawn(|| set_idle(thread_native_id()) && set_ordinary(thread_native_id()));
        if raised.join().unwrap_or(false) && set_idle(thread_native_id()) {
            return Self::Idle(thread_native_id());
        }
        let own = thread_native_id();
        let set = ThreadPriorityValue::try_from(NICE)
            .is_ok_and(|priority| set(own, ThreadPriority::Crossplatform(priority), BATCH));
        if !set {
            tracing::warn!("long requests run at normal priority beside short ones");
        }
        Self::Nice
    }

    /// Gives it the weight of an ordinary thread; whether that was possible.
    pub(crate) fn raise(self) -> bool {
        matches!(self, Self::Idle(thread) if set_ordinary(thread))
    }

    /// Back to where it was before [`Lowest::raise`].
    pub(crate) fn lower(self) {
        if let Self::Idle(thread) = self {
            set_idle(thread);
        }
    }
}

/// On the library's scale from 0 to 99 what the kernel calls niceness 0, where its range is 19 to -20.
const ORDINARY: u8 = 47;
/// The same for niceness 5.
const NICE: u8 = 34;
const BATCH: NormalThreadSchedulePolicy = NormalThreadSchedulePolicy::Batch;

fn set_idle(thread: ThreadId) -> bool {
    set(thread, ThreadPriority::Min, NormalThreadSchedulePolicy::Idle)
}

fn set_ordinary(thread: ThreadId) -> bool {
    ThreadPriorityValue::try_from(ORDINARY).is_ok_and(|ordinary| {
        let priority = ThreadPriority::Crossplatform(ordinary);
        set(thread, priority, NormalThreadSchedulePolicy::Other)
    })
}

/// Niceness is set for the calling thread, and not for `thread`: what is set from elsewhere comes with 0,
/// which is nobody's change.
fn set(thread: ThreadId, priority: ThreadPriority, policy: NormalThreadSchedulePolicy) -> bool {
    let policy = ThreadSchedulePolicy::Normal(policy);
    set_thread_priority_and_policy(thread, priority, policy).is_ok()
}
