//! Which core a worker's threads run on, and which of them gives way. Neither is worth failing for.

use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

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

/// The calling thread runs only when nobody else of this core wants to.
pub(crate) fn yield_to_everybody() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let own = thread_priority::thread_native_id();
    if let Err(error) =
        thread_priority::set_thread_priority_and_policy(own, ThreadPriority::Min, policy)
    {
        tracing::warn!(?error, "long requests run at normal priority beside short ones");
    }
}
