//! Traces on their way to a collector: OTLP over HTTP, as JSON.
//!
//! ```text
//! worker ── TraceRecords, once a second ──▶ take ──queue──▶ task ── POST /v1/traces ──▶ collector
//! ```
//! Owns the queue and the task. Bounded by [`QUEUE_MESSAGES_MAX`], and [`BATCH_MS_MAX`] for each batch; what does
//! not fit, or what the collector does not take by then, is dropped and counted, never waited for. Ends with the
//! host; what is queued then is lost.

mod encode;

use crate::otlp::{OtlpOptions, Sender, Signal};
use insula_model::trace::TraceRecord;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages of workers that wait to be sent; each holds what one worker recorded in a second.
const QUEUE_MESSAGES_MAX: usize = 64;
/// Records in one request to the collector: some 2 KiB each.
const BATCH_RECORDS_MAX: usize = 512;
/// How long one batch may take, all attempts together, in milliseconds.
const BATCH_MS_MAX: u64 = 10_000;

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
    /// Starts the task, if traces are exported.
    pub(crate) fn start(
        options: Option<&OtlpOptions>,
        resource: Value,
        counts: Arc<Counts>,
    ) -> Self {
        let options = options.and_then(|options| Some((&options.collector, options.sampled_ppm?)));
        let queue = options.map(|(collector, _)| {
            let (queue, records) = mpsc::channel(QUEUE_MESSAGES_MAX);
            let sender = Sender::new(collector.clone(), Signal::Traces);
            tokio::spawn(export(sender, resource, records, Arc::clone(&counts)));
            queue
        });
        Self { queue, sampled_ppm: options.map(|(_, sampled_ppm)| sampled_ppm), counts }
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
    mut sender: Sender,
    resource: Value,
    mut queue: mpsc::Receiver<Vec<TraceRecord>>,
    counts: Arc<Counts>,
) {
    while let Some(records) = queue.recv().await {
        for batch in records.chunks(BATCH_RECORDS_MAX) {
            let until = Instant::now() + Duration::from_millis(BATCH_MS_MAX);
            let json = encode::body(&resource, batch).to_string();
            let all = spans(batch);
            let lost = sender.send(json, until).await.map_or(all, |rejected| rejected.min(all));
            counts.exported.fetch_add(all - lost, Relaxed);
            counts.dropped.fetch_add(lost, Relaxed);
        }
    }
}
