//! What a worker tells about itself.

use super::{WorkerCell, worker};
use std::sync::atomic::Ordering::Relaxed;

impl WorkerCell<'_> {
    /// Open client connections.
    pub fn connections(&self) -> u64 {
        self.0[worker::CONNECTIONS].load(Relaxed)
    }
    /// Whether the worker takes connections.
    pub fn serving(&self) -> bool {
        self.0[worker::SERVING].load(Relaxed) == 1
    }
    /// Requests running.
    pub fn running(&self) -> u64 {
        self.0[worker::RUNNING].load(Relaxed)
    }
    /// Components loaded.
    pub fn loaded(&self) -> u64 {
        self.0[worker::LOADED].load(Relaxed)
    }
    /// The tenant whose guest runs at this moment.
    pub fn current_slot(&self) -> Option<u32> {
        let slot = self.0[worker::CURRENT].load(Relaxed);
        slot.checked_sub(1).and_then(|slot| u32::try_from(slot).ok())
    }
    /// The same of its second thread.
    pub fn current_long_slot(&self) -> Option<u32> {
        let slot = self.0[worker::CURRENT_LONG].load(Relaxed);
        slot.checked_sub(1).and_then(|slot| u32::try_from(slot).ok())
    }
    /// By the worker's second thread: whose guest is about to run, or none.
    pub fn set_current_long(&self, slot: Option<u32>) {
        self.0[worker::CURRENT_LONG].store(slot.map_or(0, |slot| u64::from(slot) + 1), Relaxed);
    }
    /// By the worker itself: open connections.
    pub fn set_connections(&self, value: u64) {
        self.0[worker::CONNECTIONS].store(value, Relaxed);
    }
    /// By the worker itself: requests running.
    pub fn set_running(&self, value: u64) {
        self.0[worker::RUNNING].store(value, Relaxed);
    }
    /// By the worker itself: components loaded now, and ever.
    pub fn set_loaded(&self, now: u64, ever: u64) {
        self.0[worker::LOADED].store(now, Relaxed);
        self.0[worker::LOADS].store(ever, Relaxed);
    }
    /// By the worker itself: whose guest is about to run, or none.
    pub fn set_current(&self, slot: Option<u32>) {
        self.0[worker::CURRENT].store(slot.map_or(0, |slot| u64::from(slot) + 1), Relaxed);
    }
    /// By the worker itself: bytes of memory that it alone holds, and will if guests touch what they were
    /// given.
    pub fn set_resident(&self, bytes: u64, expected: u64) {
        self.0[worker::RESIDENT].store(bytes, Relaxed);
        self.0[worker::EXPECTED].store(expected, Relaxed);
    }
    /// By the worker itself: it may use this slot from now on.
    pub fn know_slot(&self, slot: u32) {
        self.0[worker::SLOTS].fetch_max(u64::from(slot) + 1, Relaxed);
    }
    /// Connections that it ever took.
    pub fn accepted(&self) -> u64 {
        self.0[worker::ACCEPTED].load(Relaxed)
    }
    /// Requests that it ever had for which there is no tenant.
    pub fn unrouted(&self) -> u64 {
        self.0[worker::UNROUTED].load(Relaxed)
    }
    /// Instances kept for the next request of their tenant.
    pub fn idle(&self) -> u64 {
        self.0[worker::IDLE].load(Relaxed)
    }
    /// Guests on the second thread that could run now.
    pub fn computing(&self) -> u64 {
        self.0[worker::COMPUTING].load(Relaxed)
    }
    /// Of those, the ones that wait for their turn.
    pub fn waiting(&self) -> u64 {
        self.0[worker::WAITING].load(Relaxed)
    }
    /// By the worker itself: instances that it keeps.
    pub fn set_idle(&self, value: u64) {
        self.0[worker::IDLE].store(value, Relaxed);
    }
    /// Components that it ever loaded.
    pub fn loads(&self) -> u64 {
        self.0[worker::LOADS].load(Relaxed)
    }
    /// By the worker itself: a request for which there is no tenant.
    pub fn add_unrouted(&self) {
        self.count(worker::UNROUTED);
    }
    /// A load and a store: the cell has one writer.
    pub(super) fn count(&self, word: usize) {
        self.0[word].store(self.0[word].load(Relaxed).wrapping_add(1), Relaxed);
    }
    /// By the worker itself: whether it accepts connections.
    pub fn set_serving(&self, serving: bool) {
        self.0[worker::SERVING].store(u64::from(serving), Relaxed);
    }
}
