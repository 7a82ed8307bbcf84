//! Metrics: in Prometheus' text format by `GET /metrics` on the control socket and on an address of its own, and
//! sent to a collector ([`export`]).
//!
//! Owns which tenants have series of their own ([`book`]) and what the supervisor counts itself ([`events`]);
//! everything else is read from the shared table and from /proc when it is asked for. Bounded by
//! [`MetricsOptions::series_max`] series in each family. Nothing is read of tenants that never had a request.

mod book;
mod events;
mod export;
mod figures;
mod host;
mod page;
mod points;
mod process;
mod tenants;
mod text;

use crate::processes::Workers;
use crate::registry::Registry;
use crate::sync::lock;
use book::{Book, Series};
pub(crate) use events::Events;
pub(crate) use export::Exporter;
use figures::Figures;
use insula_ipc::table::Table;
use insula_model::config::MetricsBy;
use page::Page;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

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
    /// When the supervisor's own counters began, in nanoseconds since 1970.
    began_unix_ns: u64,
}

impl Metrics {
    /// What is in `table` was counted from `counted_unix_ms` on, in milliseconds since 1970.
    pub(crate) fn new(table: Arc<Table>, options: &MetricsOptions, counted_unix_ms: u64) -> Self {
        let counted_unix_ns = counted_unix_ms.saturating_mul(1_000_000);
        let book = Mutex::new(Book::new(options.by, options.series_max, counted_unix_ns));
        Self { table, book, events: Arc::default(), began_unix_ns: unix_ns() }
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
        let series = self.series(registry, unix_ns());
        let mut page = Page::text();
        self.write_host(&mut page, workers, registry, series.len());
        tenants::write(&mut page, &series);
        page.finish()
    }

    /// All series as they are now.
    fn series(&self, registry: &Registry, now_unix_ns: u64) -> Vec<Series> {
        let named = |slot| {
            let tenant = registry.by_slot(slot)?;
            Some((tenant.entry.name.clone(), tenant.namespace.clone()))
        };
        let counted_in = |slot| (!registry.is_probe(slot)).then(|| registry.counted_in(slot));
        lock(&self.book).series(&self.table, now_unix_ns, counted_in, named)
    }

    /// The families that are not of tenants.
    fn write_host(&self, page: &mut Page, workers: &Workers, registry: &Registry, series: usize) {
        let infos = workers.infos();
        let host = host::Host {
            tenants: registry.len(),
            workers: &infos,
            instances: workers.instances(),
            memory: workers.memory(),
            events: &self.events,
            series,
        };
        host::write(page, &self.table, &host);
    }
}

/// Now, in nanoseconds since 1970.
fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
