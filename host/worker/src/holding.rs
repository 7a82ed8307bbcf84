//! Bodies that wait in the host, on their tenant's account.
//!
//! A frame that is here already is not refused, since each body's are bounded; but with them the tenant reaches its
//! `memory.limit` sooner, and then gets no more instances and its instances no more memory. What little a body
//! holds is in what every instance is charged for already (`sandbox/src/limiter.rs`). Ends with the body.

use insula_ipc::table::Table;
use insula_sandbox::epoch::monotonic_ns;
use std::sync::Arc;

/// Less than this is not counted by itself.
const HELD_BYTES_MIN: u64 = 16 << 10;

pub(crate) struct Holding {
    table: Arc<Table>,
    worker: u32,
    slot: u32,
    bytes: u64,
}

impl Holding {
    /// Nothing yet, for the tenant in this slot.
    pub(crate) fn new(table: Arc<Table>, worker: u32, slot: u32) -> Self {
        Self { table, worker, slot, bytes: 0 }
    }

    /// So many bytes wait from now on.
    pub(crate) fn set(&mut self, bytes: u64) {
        let bytes = if bytes < HELD_BYTES_MIN { 0 } else { bytes };
        if bytes != self.bytes {
            let change = bytes.cast_signed() - self.bytes.cast_signed();
            self.bytes = bytes;
            self.table.cell(self.worker, self.slot).add_memory(change, change, monotonic_ns());
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}
