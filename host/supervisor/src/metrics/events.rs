//! What the supervisor itself does, counted as it does it.

use crate::traces::Counts;
use insula_model::Latency;
use insula_model::latency::bucket_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How compilations and deploys ended since the host started.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(super) compiled: AtomicU64,
    pub(super) uncompiled: AtomicU64,
    pub(super) compile_times: Mutex<Latency>,
    pub(super) deployed: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) scrapes: AtomicU64,
    pub(super) exported: AtomicU64,
    pub(super) unexported: AtomicU64,
    pub(crate) traces: Arc<Counts>,
}

impl Events {
    /// A compiler took this long.
    pub(crate) fn compiled(&self, took: Duration, succeeded: bool) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut times = crate::sync::lock(&self.compile_times);
        let bucket = bucket_of(took_us);
        times.buckets[bucket] = times.buckets[bucket].saturating_add(1);
        times.sum_us = times.sum_us.saturating_add(took_us);
        let counter = if succeeded { &self.compiled } else { &self.uncompiled };
        counter.fetch_add(1, Relaxed);
    }

    /// A deploy or a rollback ended: with a change, without one, or refused.
    pub(crate) fn deployed(&self, changed: Option<bool>) {
        let counter = match changed {
            Some(true) => &self.deployed,
            Some(false) => &self.unchanged,
            None => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }
}
