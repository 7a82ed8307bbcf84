//! Tenants' logs: guests' lines, on their way from workers to disk and to readers.
//!
//! ```text
//! worker ──▶ push ──queue──▶ writer thread ──▶ DATA/logs/NAME.log, NAME.access.log (and each with .1)
//!                                   └─ wakes ─▶ followers, who read the files
//! ```
//! Owns the queue, the writing thread and the files. Bounded by [`QUEUE_LINES_MAX`] lines in the queue
//! (what does not fit is dropped, counted, and the count is written to the tenant's log) and twice
//! [`Kind::file_bytes_max`] bytes of disk a tenant for each of the two logs. The access log takes at most half
//! of the queue. The event loop never waits for the disk. Ends with
//! [`Writing::close`], which writes what is queued.
//!
//! A guest's words are one JSON string on one line, whatever they hold, and the file is chosen by what
//! the worker says: nobody can write a line that looks like somebody else's.

mod cursor;
mod file;
mod filter;
mod follow;
mod tail;
mod writer;

use crate::registry::Registry;
use crate::sync::lock;
use insula_model::TenantName;
use insula_model::wire::{ACCESS_PATH_BYTES_MAX, AccessLine, LOG_LINE_BYTES_MAX, LogLine};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub(crate) use cursor::Cursor;
pub(crate) use filter::{Filter, pattern};
pub(crate) use follow::{Asked, Reading, read};

/// Bytes of one log file; beyond, it becomes the older one and the older one before it goes.
const LOG_FILE_BYTES_MAX: u64 = 1 << 20;
/// The same of an access log.
const ACCESS_FILE_BYTES_MAX: u64 = 8 << 20;
/// Lines waiting to be written: 64 MiB at the very most, when every one is as long as it may be.
const QUEUE_LINES_MAX: usize = 16_384;
/// The longest request id that is kept, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// How long the last lines may take to be written, in milliseconds.
const CLOSE_MS_MAX: u64 = 2_000;

/// One of a tenant's two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What its guests write, and what the host says.
    Lines,
    /// Its requests.
    Access,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Lines, Self::Access];

    /// Bytes of one file.
    fn file_bytes_max(self) -> u64 {
        match self {
            Self::Lines => LOG_FILE_BYTES_MAX,
            Self::Access => ACCESS_FILE_BYTES_MAX,
        }
    }

    /// What follows the tenant's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Lines => ".log",
            Self::Access => ".access.log",
        }
    }
}

/// What the writer is asked to do, in order.
enum Entry {
    Line(LogLine),
    Access(Box<AccessLine>),
    /// The tenant is gone: remove its files. No line of it is queued after this.
    Remove(TenantName),
    /// The host ends.
    Close,
}

/// Lines that were dropped for want of room, to be confessed in the log.
#[derive(Debug, Clone, Copy)]
struct Dropped {
    slot: u32,
    revision: u32,
    lines: u64,
}

/// The logs of all tenants; clones share them.
#[derive(Clone)]
pub(crate) struct Logs {
    dir: Arc<PathBuf>,
    queue: mpsc::Sender<Entry>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    dropped: Mutex<HashMap<TenantName, Dropped>>,
    /// Requests that the access log had no room for.
    dropped_access: Mutex<HashMap<TenantName, u64>>,
    /// Who is being followed. The value says nothing; its changes do.
    followed: Mutex<HashMap<TenantName, watch::Sender<()>>>,
}

/// The writing thread, to be closed at the end.
pub(crate) struct Writing(JoinHandle<()>);

impl Logs {
    /// Makes `DATA/logs` (mode 0700) and starts the writing thread.
    pub(crate) fn open(data: &Path) -> io::Result<(Self, Writing)> {
        let dir = Arc::new(data.join("logs"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&*dir)?;
        let (queue, entries) = mpsc::channel(QUEUE_LINES_MAX);
        let shared = Arc::new(Shared::default());
        let writer = writer::Writer::new(Arc::clone(&dir), Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("logs".into());
        let writing = thread.spawn(move || writer.run(entries))?;
        Ok((Self { dir, queue, shared }, Writing(writing)))
    }

    /// Queues a line of a tenant that is deployed; drops it, and counts it, if there is no room. A
    /// line of a tenant that was removed in the meantime is nobody's.
    pub(crate) fn push(&self, registry: &Registry, mut line: LogLine) {
        let owner = registry.by_slot(line.slot);
        if owner.is_none_or(|owner| owner.entry.name != line.name) {
            return;
        }
        cut(&mut line.text, LOG_LINE_BYTES_MAX);
        cut(&mut line.request, REQUEST_ID_BYTES_MAX);
        if let Err(mpsc::error::TrySendError::Full(Entry::Line(line))) =
            self.queue.try_send(Entry::Line(line))
        {
            // Bounded by the deployed tenants.
            let mut dropped = lock(&self.shared.dropped);
            let new = Dropped { slot: line.slot, revision: line.revision, lines: 0 };
            dropped.entry(line.name).or_insert(new).lines += 1;
        }
    }

    /// Queues a line of the access log; the same goes for it.
    pub(crate) fn push_access(&self, registry: &Registry, mut line: Box<AccessLine>) {
        let owner = registry.by_slot(line.slot);
        if owner.is_none_or(|owner| owner.entry.name != line.name) {
            return;
        }
        cut(&mut line.path, ACCESS_PATH_BYTES_MAX);
        cut(&mut line.request, REQUEST_ID_BYTES_MAX);
        cut(&mut line.method, REQUEST_ID_BYTES_MAX);
        cut(&mut line.protocol, REQUEST_ID_BYTES_MAX);
        let has_room = self.queue.capacity() > QUEUE_LINES_MAX / 2;
        let name = line.name.clone();
        let lost = line.dropped + 1;
        if !has_room || self.queue.try_send(Entry::Access(line)).is_err() {
            // Bounded by the deployed tenants.
            *lock(&self.shared.dropped_access).entry(name).or_default() += lost;
        }
    }

    /// Removes a tenant's log, behind every line that is queued. The tenant must have left the
    /// registry.
    pub(crate) async fn remove(&self, name: TenantName) {
        // Closed only when the host ends; the files then go with the next tenant of that name.
        let _ = self.queue.send(Entry::Remove(name)).await;
    }
}

impl Writing {
    /// Waits until everything queued is written, for at most [`CLOSE_MS_MAX`].
    pub(crate) async fn close(self, logs: &Logs) {
        // Closed already: the thread has panicked, as `join` will tell.
        let _ = logs.queue.send(Entry::Close).await;
        let joined = tokio::task::spawn_blocking(move || self.0.join().is_ok());
        let wait = Duration::from_millis(CLOSE_MS_MAX);
        if !matches!(tokio::time::timeout(wait, joined).await, Ok(Ok(true))) {
            tracing::error!("the last lines of tenants' logs may not have been written");
        }
    }
}

/// Removes the logs of tenants that are gone: a kill in the middle of a removal leaves them. To be called
/// before anything is written. What cannot be removed is tried again by the next start.
pub(crate) fn forget_all_but(data: &Path, is_deployed: impl Fn(&TenantName) -> bool) {
    for entry in std::fs::read_dir(data.join("logs")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.split_once(".log"));
        // Anything else that lies here is not ours.
        let Some((Ok(owner), "" | ".1")) = owner.map(|(name, rest)| (name.parse(), rest)) else {
            continue;
        };
        if !is_deployed(&owner) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Cuts a text to at most `bytes_max` bytes, between two characters.
fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}
