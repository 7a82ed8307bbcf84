//! Sees to it that guests on the second thread get on although it gives way to everything.
//!
//! Ends when there are none; one at a time in a worker.

use crate::worker::Worker;
use insula_sandbox::epoch::{SLICE_NS, monotonic_ns, thread_cpu_ns};
use std::rc::Rc;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// How often the event loop looks whether the second thread starves: whether it had less than a tenth of
/// this time.
const CHECK: Duration = Duration::from_millis(30);
/// Where the event loop itself keeps the core busy, it runs one slice after so many such looks.
const FLOOR_CHECKS: u32 = 3;
/// How long it rests if nothing may run although it helps.
const REST: Duration = Duration::from_millis(1);
/// How long it helps where others do.
/// Twice as long each time in a row, up to [`HAND_MAX`]: each look at whether they have gone may leave a
/// guest stuck in the middle of a slice for a second or two.
const HAND: Duration = Duration::from_millis(500);
const HAND_MAX: Duration = Duration::from_secs(4);

/// Sees to it that guests on the second thread get on, for as long as there are any.
///
/// The thread's CPU time decides whether it starves, and not what it has finished: one operation that
/// cannot be interrupted may take longer than any look.
pub(crate) async fn lend_a_hand(worker: Rc<Worker>) {
    let shared = worker.long.0.clone();
    let (mut starved, mut hand) = (0, HAND);
    while shared.idle.long.load(Relaxed) > 0 {
        let before = (monotonic_ns(), thread_cpu_ns(), shared.cpu_ns());
        tokio::time::sleep(CHECK).await;
        let wall_ns = monotonic_ns().saturating_sub(before.0);
        let own_ns = thread_cpu_ns().saturating_sub(before.1);
        let (Some(was_ns), Some(is_ns)) = (before.2, shared.cpu_ns()) else { continue };
        let has_time = is_ns.saturating_sub(was_ns) > wall_ns / 10;
        if has_time || !shared.has_ready(monotonic_ns(), false) {
            (starved, hand) = (0, HAND);
            continue;
        }
        starved += 1;
        if own_ns > wall_ns / 2 {
            // Short requests need the core; those that compute get a hundredth of it.
            if starved >= FLOOR_CHECKS {
                starved = 0;
                shared.raised_for(REST).await;
            }
            continue;
        }
        let helped = hand;
        hand = HAND_MAX.min(hand * 2);
        if shared.raised_for(helped).await {
            continue;
        }
        shared.aside.store(true, SeqCst);
        // From the first slice: the guest may be stuck on the thread until then.
        let mut until_ns = u64::MAX;
        while monotonic_ns() < until_ns && shared.idle.long.load(Relaxed) > 0 {
            if shared.drop_dead() {
                tokio::task::yield_now().await;
                continue;
            }
            match shared.run_one(SLICE_NS, true) {
                Ok(()) => {
                    let helped_ns = u64::try_from(helped.as_nanos()).unwrap_or(u64::MAX);
                    until_ns = until_ns.min(monotonic_ns() + helped_ns);
                    tokio::task::yield_now().await;
                }
                // Waiting for something, for its quota, or for the thread's last slice to end.
                Err(_) if !shared.has_ready(monotonic_ns(), true) => break,
                Err(_) => tokio::time::sleep(REST).await,
            }
        }
        shared.aside.store(false, SeqCst);
        shared.unpark();
    }
    worker.hand.set(false);
}
