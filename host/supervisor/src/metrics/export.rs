//! Metrics on their way to a collector, every interval: the same figures as on the page, from the same book.
//!
//! ```text
//! every interval ─▶ look (a blocking thread) ─▶ batch ─▶ POST /v1/metrics ─▶ batch ─▶ …
//! ```
//! Counters are cumulative, so an export that is lost costs a look at that moment and nothing else: what was not
//! taken until the next one is due is dropped. Owns nothing between two exports. Bounded by [`BATCH_SERIES_MAX`]
//! series in memory as JSON at a time. Ends with the host, after one last export.

use super::book::Series;
use super::page::Page;
use super::points::Points;
use super::{Metrics, tenants, unix_ns};
use crate::otlp::Sender;
use crate::processes::Workers;
use crate::registry::Registry;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Series of tenants in one request to the collector: some 8 KiB each.
const BATCH_SERIES_MAX: usize = 500;
/// How long the last export may take, in milliseconds: the host's end waits for it.
const LAST_MS_MAX: u64 = 2_000;

/// What exports the metrics of one host.
pub(crate) struct Exporter {
    pub(crate) sender: Sender,
    pub(crate) interval: Duration,
    pub(crate) resource: Value,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) workers: Workers,
    pub(crate) registry: Arc<Registry>,
}

/// What was found at one moment.
struct Look {
    at_unix_ns: u64,
    /// The host's families, as OTLP has them.
    host: String,
    series: Vec<Series>,
}

impl Exporter {
    /// Exports until `ending` says so, and then once more.
    pub(crate) async fn run(mut self, mut ending: watch::Receiver<bool>) {
        let mut due = Instant::now() + self.interval;
        loop {
            let export = async {
                tokio::time::sleep_until(due).await;
                // What takes longer than to the next one is worth nothing any more.
                due = Instant::now() + self.interval;
                self.export(due).await;
            };
            tokio::select! {
                biased;
                // The sender lives as long as the host: an error means that it ends, too.
                _ = ending.wait_for(|ending| *ending) => break,
                () = export => {}
            }
        }
        let last = Duration::from_millis(LAST_MS_MAX);
        if tokio::time::timeout(last, self.export(Instant::now() + last)).await.is_err() {
            tracing::warn!("the collector did not take the last metrics within {LAST_MS_MAX} ms");
        }
    }

    /// One export, all attempts of which end by `until`.
    async fn export(&mut self, until: Instant) {
        let (metrics, workers) = (Arc::clone(&self.metrics), self.workers.clone());
        let registry = Arc::clone(&self.registry);
        let look = blocking(move || metrics.look(&workers, &registry)).await;
        let ended = match look {
            Ok(look) => self.send(look, until).await,
            Err(error) => Err(error),
        };
        let events = &self.metrics.events;
        match ended {
            Ok(true) => drop(events.exported.fetch_add(1, Relaxed)),
            Ok(false) => drop(events.unexported.fetch_add(1, Relaxed)),
            Err(error) => tracing::error!(%error, "metrics could not be exported"),
        }
    }

    /// Sends one batch after the other; whether the collector took all of them.
    async fn send(&mut self, mut look: Look, until: Instant) -> io::Result<bool> {
        for batch in 0..look.batches() {
            let resource = self.resource.clone();
            let (json, back) = blocking(move || (look.body(&resource, batch), look)).await?;
            look = back;
            if self.sender.send(json, until).await.is_none_or(|rejected| rejected > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

impl Metrics {
    /// What the page would say now. Reads /proc: not for an event loop.
    fn look(&self, workers: &Workers, registry: &Registry) -> Look {
        let at_unix_ns = unix_ns();
        let series = self.series(registry, at_unix_ns);
        let mut page = Page::Points(Points::at(at_unix_ns, self.began_unix_ns));
        self.write_host(&mut page, workers, registry, series.len());
        Look { at_unix_ns, host: page.finish(), series }
    }
}

impl Look {
    /// There is always one, and a series for all others.
    fn batches(&self) -> usize {
        self.series.len().div_ceil(BATCH_SERIES_MAX).max(1)
    }

    /// The body of one request: the first one has the host's families.
    fn body(&self, resource: &Value, batch: usize) -> String {
        let from = batch * BATCH_SERIES_MAX;
        let to = self.series.len().min(from + BATCH_SERIES_MAX);
        let mut page = Page::Points(Points::at(self.at_unix_ns, self.at_unix_ns));
        tenants::write(&mut page, self.series.get(from..to).unwrap_or_default());
        let (host, comma) = if batch == 0 { (self.host.as_str(), ",") } else { ("", "") };
        let scope = json!({"name": "insula", "version": env!("CARGO_PKG_VERSION")});
        format!(
            "{{\"resourceMetrics\":[{{\"resource\":{resource},\"scopeMetrics\":[\
             {{\"scope\":{scope},\"metrics\":[{host}{comma}{}]}}]}}]}}",
            page.finish()
        )
    }
}
