//! Traces on their way to a collector: OTLP over HTTP, as JSON.
//!
//! ```text
//! worker ── TraceRecords, once a second ──▶ take ──queue──▶ task ── POST /v1/traces ──▶ collector
//! ```
//! Owns the queue and the task. Bounded by [`QUEUE_MESSAGES_MAX`]; what does not fit, or what the collector
//! does not take, is dropped and counted, never waited for. Ends with the host; what is queued then is lost.

mod encode;
mod send;

use insula_model::trace::TraceRecord;
pub use send::{Collector, CollectorError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Messages of workers that wait to be sent; each holds what one worker recorded in a second.
const QUEUE_MESSAGES_MAX: usize = 64;
/// Records in one request to the collector: some 2 KiB each.
const BATCH_RECORDS_MAX: usize = 512;
/// Between two lines in the host's log about a collector that fails, in seconds.
const COMPLAINT_S: u64 = 60;

/// What a host is told about traces.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// Where they are sent.
    pub collector: Collector,
    /// Of a million traces that begin here, so many are recorded.
    pub sampled_ppm: u32,
}

/// Where workers' records go.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    queue: Option<mpsc::Sender<Vec<TraceRecord>>>,
    sampled_ppm: Option<u32>,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exported: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

impl Traces {
    /// Starts the task, if there is a collector.
    pub(crate) fn start(options: Option<&TraceOptions>, counts: Arc<Counts>) -> Self {
        let queue = options.map(|options| {
            let (queue, records) = mpsc::channel(QUEUE_MESSAGES_MAX);
            tokio::spawn(export(options.collector.clone(), records, Arc::clone(&counts)));
            queue
        });
        Self { queue, sampled_ppm: options.map(|options| options.sampled_ppm), counts }
    }

    /// Of a million traces that begin here, so many are recorded; none if nothing is.
    pub(crate) fn sampled_ppm(&self) -> Option<u32> {
        self.sampled_ppm
    }

    /// Takes what a worker has recorded, and how many records it had no room for.
    pub(crate) fn take(&self, records: Vec<TraceRecord>, dropped: u64) {
        self.counts.dropped.fetch_add(dropped, Relaxed);
        let Some(queue) = &self.queue else { return };
        if let Err(error) = queue.try_send(records) {
            let lost = match error {
                mpsc::error::TrySendError::Full(lost) | mpsc::error::TrySendError::Closed(lost) => {
                    lost
                }
            };
            self.counts.dropped.fetch_add(spans(&lost), Relaxed);
        }
    }
}

fn spans(records: &[TraceRecord]) -> u64 {
    records.iter().map(encode::spans_in).sum()
}

/// Sends until the host ends.
async fn export(
    collector: Collector,
    mut queue: mpsc::Receiver<Vec<TraceRecord>>,
    counts: Arc<Counts>,
) {
    let mut complained: Option<Instant> = None;
    while let Some(records) = queue.recv().await {
        for batch in records.chunks(BATCH_RECORDS_MAX) {
            let sent = collector.post(encode::body(batch).to_string()).await;
            let counter = if sent.is_ok() { &counts.exported } else { &counts.dropped };
            counter.fetch_add(spans(batch), Relaxed);
            let Err(error) = sent else { continue };
            let quiet = Duration::from_secs(COMPLAINT_S);
            if complained.is_none_or(|at| at.elapsed() >= quiet) {
                complained = Some(Instant::now());
                tracing::warn!(%collector, %error, "traces are dropped: the collector does not take them");
            }
        }
    }
}
