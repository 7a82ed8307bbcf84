//! Metrics in Prometheus' text format: `GET /metrics` on the control socket, and on an address of its own.
//!
//! Owns which tenants have series of their own ([`book`]) and what the supervisor counts itself ([`events`]);
//! everything else is read from the shared table and from /proc when it is asked for. Bounded by
//! [`MetricsOptions::series_max`] series in each family. Nothing is read of tenants that never had a request.

mod book;
mod events;
mod figures;
mod host;
mod process;
mod tenants;
mod text;

use crate::processes::Workers;
use crate::registry::Registry;
use crate::sync::lock;
use book::Book;
pub(crate) use events::Events;
use figures::Figures;
use insula_ipc::table::Table;
use insula_model::config::MetricsBy;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

/// What of all there is to tell.
#[derive(Debug, Clone)]
pub struct MetricsOptions {
    /// Where `/metrics` is served besides the control socket.
    pub listen: Option<SocketAddr>,
    /// Tenants, or namespaces, with series of their own.
    pub series_max: usize,
    /// What has series of its own.
    pub by: MetricsBy,
}

/// The metrics of one host.
pub(crate) struct Metrics {
    table: Arc<Table>,
    book: Mutex<Book>,
    pub(crate) events: Arc<Events>,
}

impl Metrics {
    pub(crate) fn new(table: Arc<Table>, options: &MetricsOptions) -> Self {
        let book = Mutex::new(Book::new(options.by, options.series_max));
        Self { table, book, events: Arc::default() }
    }

    /// Clears the row of a removed tenant; what it did is not lost to the sums.
    pub(crate) fn clear_slot(&self, slot: u32) {
        let mut book = lock(&self.book);
        book.forget(slot, &Figures::of(&self.table, slot));
        self.table.clear_slot(slot);
    }

    /// Adds the row of a canary that has ended to that of its tenant, with which it was shown before.
    pub(crate) fn fold_slot(&self, from: u32, to: u32) {
        let mut book = lock(&self.book);
        book.folded(from);
        self.table.fold_slot(from, to);
    }

    /// The slot of a probe is given up: nobody's figures were in it.
    pub(crate) fn drop_slot(&self, slot: u32) {
        let _book = lock(&self.book);
        self.table.clear_slot(slot);
    }

    /// The page. Takes some 10 µs for each series, and reads /proc: not for an event loop.
    pub(crate) fn page(&self, workers: &Workers, registry: &Registry) -> String {
        self.events.scrapes.fetch_add(1, Relaxed);
        let named = |slot| {
            let tenant = registry.by_slot(slot)?;
            Some((tenant.entry.name.clone(), tenant.namespace.clone()))
        };
        let counted_in = |slot| (!registry.is_probe(slot)).then(|| registry.counted_in(slot));
        let series = lock(&self.book).series(&self.table, counted_in, named);
        let mut page = text::Page::default();
        let infos = workers.infos();
        let host = host::Host {
            tenants: registry.len(),
            workers: &infos,
            memory: workers.memory(),
            events: &self.events,
            series: series.len(),
        };
        host::write(&mut page, &self.table, &host);
        tenants::write(&mut page, &series);
        page.into_text()
    }
}
