//! The thread that writes logs.
//!
//! It takes whatever is queued, up to [`BATCH_ENTRIES_MAX`], and writes each tenant's part with one
//! open and one write. Ends when the queue is closed and empty.

use super::{Dropped, Entry, Kind, Shared, file};
use crate::clock;
use crate::sync::lock;
use insula_model::TenantName;
use insula_model::api::{AccessRecord, LogRecord, LogStream};
use insula_model::wire::{AccessLine, LogLine};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Entries written together.
const BATCH_ENTRIES_MAX: usize = 1_024;
/// Least time between two complaints about a disk that does not write, in seconds.
const COMPLAINT_S_MIN: u64 = 10;

pub(super) struct Writer {
    dir: Arc<PathBuf>,
    shared: Arc<Shared>,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn new(dir: Arc<PathBuf>, shared: Arc<Shared>) -> Self {
        Self { dir, shared, complained: None }
    }

    pub(super) fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH_ENTRIES_MAX);
        while entries.blocking_recv_many(&mut batch, BATCH_ENTRIES_MAX) > 0 {
            let mut lines: BTreeMap<(TenantName, Kind), Vec<String>> = BTreeMap::new();
            for entry in batch.drain(..) {
                match entry {
                    Entry::Line(line) => {
                        let of = (line.name.clone(), Kind::Lines);
                        lines.entry(of).or_default().extend(encoded(line));
                    }
                    Entry::Access(line) => {
                        let of = (line.name.clone(), Kind::Access);
                        let dropped = lock(&self.shared.dropped_access).remove(&line.name);
                        let line = encoded_access(*line, dropped.unwrap_or(0));
                        lines.entry(of).or_default().extend(line);
                    }
                    Entry::Remove(name) => {
                        lines.retain(|(of, _), _| *of != name);
                        self.remove(&name);
                    }
                    Entry::Close => entries.close(),
                }
            }
            let dropped = std::mem::take(&mut *lock(&self.shared.dropped));
            for (name, dropped) in dropped {
                // Only of tenants with lines in this batch: others may have been removed.
                if let Some(lines) = lines.get_mut(&(name.clone(), Kind::Lines)) {
                    lines.extend(encoded(confession(&name, dropped)));
                } else {
                    let mut later = lock(&self.shared.dropped);
                    let entry = later.entry(name).or_insert(Dropped { lines: 0, ..dropped });
                    entry.lines += dropped.lines;
                }
            }
            for ((name, kind), lines) in lines {
                self.append(&name, kind, &lines);
            }
        }
    }

    fn append(&mut self, name: &TenantName, kind: Kind, lines: &[String]) {
        match file::append(&self.dir, name, kind, lines) {
            Ok(()) => self.wake(name),
            Err(error) => {
                let quiet = Duration::from_secs(COMPLAINT_S_MIN);
                if self.complained.is_none_or(|at| at.elapsed() >= quiet) {
                    self.complained = Some(Instant::now());
                    let lost = lines.len();
                    tracing::error!(tenant = %name, %error, lost, "a tenant's log could not be written");
                }
            }
        }
    }

    /// Wakes the followers of a tenant; forgets a tenant whose followers have gone.
    fn wake(&self, name: &TenantName) {
        let mut followed = lock(&self.shared.followed);
        if let Some(sender) = followed.get(name)
            && sender.send(()).is_err()
        {
            followed.remove(name);
        }
    }

    fn remove(&self, name: &TenantName) {
        lock(&self.shared.dropped).remove(name);
        lock(&self.shared.dropped_access).remove(name);
        // Dropping the sender tells the followers.
        lock(&self.shared.followed).remove(name);
        if let Err(error) = file::remove(&self.dir, name) {
            tracing::warn!(tenant = %name, %error, "a removed tenant's log is still on disk");
        }
    }
}

fn encoded(line: LogLine) -> Option<String> {
    let record = LogRecord {
        at: clock::from_millis(line.at_ms),
        stream: line.stream,
        revision: line.revision,
        request: line.request,
        trace: (line.trace != 0).then(|| format!("{:032x}", line.trace)),
        text: line.text,
    };
    whole_line(&record)
}

fn encoded_access(line: AccessLine, dropped: u64) -> Option<String> {
    let (outcome, fault) = line.outcome.in_words();
    let record = AccessRecord {
        at: clock::from_millis(line.at_ms),
        request: line.request,
        tenant: line.name.to_string(),
        revision: line.revision,
        method: line.method,
        path: line.path,
        status: line.status,
        outcome: outcome.into(),
        fault: fault.map(|fault| fault.code().to_owned()),
        duration_us: line.duration_us,
        bytes_in: line.usage.bytes_in,
        bytes_out: line.usage.bytes_out,
        fuel: line.usage.fuel,
        cpu_us: line.usage.cpu_ns / 1_000,
        peer: line.peer.map(|peer| peer.to_string()),
        protocol: line.protocol,
        dropped: line.dropped + dropped,
    };
    whole_line(&record)
}

fn whole_line(record: &impl Serialize) -> Option<String> {
    // Strings and numbers: there is nothing in it that could fail.
    let mut text = serde_json::to_string(record).ok()?;
    text.push('\n');
    Some(text)
}

fn confession(name: &TenantName, dropped: Dropped) -> LogLine {
    LogLine {
        slot: dropped.slot,
        name: name.clone(),
        revision: dropped.revision,
        at_ms: u64::MAX,
        stream: LogStream::Host,
        request: String::new(),
        trace: 0,
        text: format!(
            "{} lines were dropped: they came faster than they can be written",
            dropped.lines
        ),
    }
}
