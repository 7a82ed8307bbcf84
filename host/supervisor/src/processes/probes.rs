//! Probes that workers were asked for, until they answer or are gone.
//!
//! Bounded by the deploys under way. Ends with the worker's answer, its death, or the wait of whoever
//! asked: whatever comes first.

use super::Workers;
use crate::sync::lock;
use bytes::Bytes;
use insula_ipc::channel::{ChannelError, encode};
use insula_model::wire::{ProbeReport, TenantEntry, ToWorker};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a probe waits for a worker that serves, in milliseconds.
const WORKER_WAIT_MS_MAX: u64 = 10_000;
/// How much longer than it was allowed a worker may take to answer, in milliseconds: it ends probes itself.
const ANSWER_GRACE_MS: u64 = 5_000;
/// Workers that are asked one after another, when they die of something else.
const TRIES_MAX: u32 = 3;

/// Probes under way.
#[derive(Default)]
pub(super) struct Probes {
    ids: AtomicU64,
    asked: Mutex<HashMap<u64, Asked>>,
}

struct Asked {
    /// Which process, among all that there ever were.
    life: u64,
    slot: u32,
    answer: oneshot::Sender<Result<ProbeReport, Death>>,
}

/// The worker of a probe died.
struct Death {
    cause: String,
    /// While it ran this very guest.
    of_it: bool,
}

/// What a worker is asked.
#[derive(Debug, Clone)]
pub(crate) struct ProbeAsked {
    /// The revision, in a slot that nobody else has.
    pub(crate) entry: TenantEntry,
    /// What to ask it with GET; none to make sure only that it can be loaded and instantiated.
    pub(crate) path: Option<String>,
    /// Milliseconds that this may take.
    pub(crate) timeout_ms: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unprobed {
    /// The message cannot be formed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Nobody could be asked.
    #[error("no worker serves")]
    NoWorker,
    /// It did not survive the probe.
    #[error("the worker that tried it died: {0}")]
    Died(String),
    /// It was silent.
    #[error("the worker that tried it did not answer within {0} ms")]
    Silent(u64),
}

impl Probes {
    /// A worker has answered. Whoever waited may have given up.
    pub(super) fn ended(&self, life: u64, id: u64, report: ProbeReport) {
        let mut asked = lock(&self.asked);
        if asked.get(&id).is_some_and(|asked| asked.life == life)
            && let Some(asked) = asked.remove(&id)
        {
            let _ = asked.answer.send(Ok(report));
        }
    }

    /// A worker process is gone, and every probe with it; `current` is the slot whose guest ran then.
    pub(super) fn worker_gone(&self, life: u64, current: Option<u32>, cause: &str) {
        let mut asked = lock(&self.asked);
        let lost: Vec<u64> =
            asked.iter().filter(|(_, asked)| asked.life == life).map(|(id, _)| *id).collect();
        for lost in lost.into_iter().filter_map(|id| asked.remove(&id)) {
            let death = Death { cause: cause.into(), of_it: current == Some(lost.slot) };
            let _ = lost.answer.send(Err(death));
        }
    }
}

impl Workers {
    /// Has the least busy worker try a revision. One that dies while it runs another tenant's guest, or none,
    /// says nothing about this one: another worker is asked.
    pub(crate) async fn probe(&self, asked: ProbeAsked) -> Result<ProbeReport, Unprobed> {
        let ProbeAsked { entry, path, timeout_ms } = asked;
        let slot = entry.slot;
        let id = self.0.probes.ids.fetch_add(1, Ordering::Relaxed);
        let message = ToWorker::Probe { id, entry: Box::new(entry), path, timeout_ms };
        let frame = Bytes::from(encode(&message)?);
        let mut tries = 1;
        loop {
            let answered = self.ask(id, slot, frame.clone()).await?;
            let within_ms = timeout_ms.saturating_add(ANSWER_GRACE_MS);
            let answer = tokio::time::timeout(Duration::from_millis(within_ms), answered).await;
            match answer {
                Ok(Ok(Ok(report))) => return Ok(report),
                Ok(Ok(Err(Death { of_it: false, .. }))) if tries < TRIES_MAX => tries += 1,
                Ok(Ok(Err(Death { cause, .. }))) => return Err(Unprobed::Died(cause)),
                // The sender is dropped only with its answer given.
                Ok(Err(_)) => return Err(Unprobed::NoWorker),
                Err(_) => {
                    lock(&self.0.probes.asked).remove(&id);
                    return Err(Unprobed::Silent(within_ms));
                }
            }
        }
    }

    /// Sends a probe to the least busy worker, as soon as there is one.
    async fn ask(
        &self,
        id: u64,
        slot: u32,
        frame: Bytes,
    ) -> Result<oneshot::Receiver<Result<ProbeReport, Death>>, Unprobed> {
        let until = Instant::now() + Duration::from_millis(WORKER_WAIT_MS_MAX);
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(place) = self.places().into_iter().min_by_key(|place| place.running) {
                let (answer, answered) = oneshot::channel();
                // Registered first: the answer, or the death, may come at once.
                let asked = Asked { life: place.life, slot, answer };
                lock(&self.0.probes.asked).insert(id, asked);
                if self.send(place.life, frame.clone()) {
                    return Ok(answered);
                }
                lock(&self.0.probes.asked).remove(&id);
            }
            let left = until.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed).await.is_err() {
                return Err(Unprobed::NoWorker);
            }
        }
    }
}
