//! What a tenant's calls send over the network, for its bill.
//!
//! Counted where it is written to a connection, before TLS: what a server gets, framing included, and nothing
//! of a call that was refused or found nobody. One relaxed addition for each write; nothing for calls from
//! tenant to tenant, which have no connection.

use insula_ipc::table::Table;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Where it is counted: this worker's cell of the tenant.
pub(crate) struct Meter {
    table: Arc<Table>,
    worker: u32,
    slot: u32,
    closed: AtomicBool,
}

impl Meter {
    pub(super) fn new(table: Arc<Table>, worker: u32, slot: u32) -> Self {
        Self { table, worker, slot, closed: AtomicBool::new(false) }
    }

    /// So many bytes were written.
    pub(super) fn sent(&self, bytes: usize) {
        if !self.closed.load(Relaxed) {
            self.table.cell(self.worker, self.slot).sent_outbound(bytes as u64);
        }
    }

    /// Nobody calls any more, and the slot may get a new owner. A connection may still say goodbye.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }
}
