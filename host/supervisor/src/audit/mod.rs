//! The audit log: who changed or read what through the control API, in `DATA/audit`.
//!
//! ```text
//! a change:  began, written ──▶ the handler ──▶ ended, synced ──▶ the answer goes out
//! a read:                       the handler ──▶ read, written ──▶ the answer goes out
//! ```
//! What the host changes by itself (it promotes canaries and rolls them back) is a change like any other.
//! A change that cannot be recorded is not begun, and one whose end cannot be recorded is not
//! acknowledged. What a power failure may lose is what nobody was told of: the begin of a change is
//! written to the kernel, its end is on the disk. Records are chained by their hashes (see `chain`), so
//! that one which was changed or taken out is noticed.
//!
//! Bounded by [`chain::FILES_MAX`] files of [`chain::FILE_BYTES_MAX`] bytes; the oldest is dropped, and
//! what the chain began with is noted. The same process that reads the same thing again within
//! [`REPEAT_MS_MAX`] is recorded once, so that a page which refreshes itself does not drive out what matters.

mod chain;
mod read;
mod verify;

use crate::clock;
use crate::sync::lock;
use chain::{Book, Bounds};
use insula_model::api::{AuditActor, AuditCheck, AuditEvent, AuditStage};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub(crate) use read::{Filter, Reading};

/// How long the same read by the same process is not recorded again, in milliseconds.
const REPEAT_MS_MAX: u64 = 60_000;
/// Reads that are remembered for that; beyond, all are recorded again.
const REPEATS_MAX: usize = 1_024;

/// A handle on the audit log; clones share it.
#[derive(Clone)]
pub(crate) struct Audit(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    book: Mutex<Book>,
    /// Number of the newest record.
    newest: watch::Sender<u64>,
    /// When which process last read what.
    repeats: Mutex<HashMap<String, u64>>,
}

/// The words of what the host itself did.
fn of_host(action: &str, result: &str) -> AuditEvent {
    let result = Some(result.into());
    AuditEvent { stage: AuditStage::Ended, result, ..by_host(action) }
}

/// The begin of a change that the host makes by itself.
pub(crate) fn by_host(action: &str) -> AuditEvent {
    AuditEvent {
        stage: AuditStage::Began,
        action: action.into(),
        call: "-".into(),
        tenant: None,
        namespace: None,
        target: None,
        revision_before: None,
        revision_after: None,
        artifact: None,
        result: None,
        reason: None,
        of: None,
        actor: AuditActor {
            pid: Some(std::process::id()),
            from: "host".into(),
            ..AuditActor::default()
        },
    }
}

impl Audit {
    /// Opens or begins the log in `DATA/audit` (mode 0700). After an unclean end, changes that had begun
    /// and not ended are closed as `host-died`. Blocks.
    pub(crate) fn open(data: &Path, unclean: bool) -> io::Result<Self> {
        let dir = data.join("audit");
        let mut book = Book::open(&dir, Bounds::default())?;
        if unclean {
            for (seq, event) in read::unended(&dir)? {
                let ended = AuditStage::Ended;
                let result = Some("host-died".into());
                book.append(&AuditEvent { stage: ended, result, of: Some(seq), ..event })?;
            }
        }
        book.append(&of_host("host-start", "ok"))?;
        let newest = watch::Sender::new(book.seq());
        Ok(Self(Arc::new(Inner { dir, book: Mutex::new(book), newest, repeats: Mutex::default() })))
    }

    /// Records the clean end of the host, and how far the chain has come.
    pub(crate) async fn close(&self) {
        let inner = Arc::clone(&self.0);
        let closed = blocking(move || {
            let mut book = lock(&inner.book);
            let written = book.append(&of_host("host-stop", "ok"))?;
            written.file.sync_data()?;
            book.note_end()?;
            Ok((book.seq(), book.hash().to_owned()))
        });
        match closed.await {
            Ok((last, hash)) => tracing::info!(last, hash, "the audit log ends here"),
            Err(error) => tracing::warn!(%error, "the end of the host could not be recorded"),
        }
    }

    /// Records that a change is about to be tried; its number. `of` the actor, whatever costs a look
    /// into the system is found out where it may block.
    pub(crate) async fn began(
        &self,
        event: impl FnOnce() -> AuditEvent + Send + 'static,
    ) -> io::Result<(u64, AuditEvent)> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let event = event();
            let written = lock(&inner.book).append(&event)?;
            inner.newest.send_replace(written.seq);
            Ok((written.seq, event))
        })
        .await
    }

    /// Records how a change ended. When this returns, it is on the disk.
    pub(crate) async fn ended(&self, event: AuditEvent) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let written = lock(&inner.book).append(&event)?;
            // Outside the lock: those that come together share one trip to the disk.
            written.file.sync_data()?;
            inner.newest.send_replace(written.seq);
            Ok(())
        })
        .await
    }

    /// Records a read, unless the same process has just done the same.
    pub(crate) async fn read_by(
        &self,
        event: impl FnOnce() -> AuditEvent + Send + 'static,
    ) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let event = event();
            if inner.is_repeated(&event) {
                return Ok(());
            }
            let written = lock(&inner.book).append(&event)?;
            inner.newest.send_replace(written.seq);
            Ok(())
        })
        .await
    }

    /// Checks every record that is kept against the chain.
    pub(crate) async fn verify(&self) -> io::Result<AuditCheck> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let (seq, hash) = {
                let book = lock(&inner.book);
                (book.seq(), book.hash().to_owned())
            };
            verify::verify(&inner.dir, seq, &hash)
        })
        .await
    }

    /// Begins to read: the last `tail` records that pass, or all; with `follow`, then what comes.
    pub(crate) async fn read(
        &self,
        filter: Filter,
        tail: Option<usize>,
        follow: bool,
    ) -> io::Result<Reading> {
        let wakes = follow.then(|| self.0.newest.subscribe());
        let dir = self.0.dir.clone();
        blocking(move || Reading::new(dir, filter, tail, wakes)).await
    }
}

impl Inner {
    fn is_repeated(&self, event: &AuditEvent) -> bool {
        let AuditEvent { actor, action, tenant, namespace, target, result, .. } = event;
        let what = (actor.uid, actor.pid, action, tenant, namespace, target, result);
        let now_ms = clock::now_ms();
        let mut repeats = lock(&self.repeats);
        let key = format!("{what:?}");
        let recent = |at: &u64| now_ms.abs_diff(*at) < REPEAT_MS_MAX;
        if repeats.get(&key).is_some_and(recent) {
            return true;
        }
        if repeats.len() >= REPEATS_MAX {
            repeats.retain(|_, at| recent(at));
        }
        if repeats.len() >= REPEATS_MAX {
            repeats.clear();
        }
        repeats.insert(key, now_ms);
        false
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(io::Error::other)?
}
