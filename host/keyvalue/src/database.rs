//! A process's handle on the database, and the thread behind it.

use crate::group::{self, Call};
use crate::{Error, GROUP_CALLS_MAX, QUEUE_CALLS_MAX, Space, UNDER_WAY_KIB_MAX, schema};
use rusqlite::Connection;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};

/// The database, for one process. Clones share the thread, which ends with the last of them.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    under_way: Arc<Semaphore>,
    queue: Mutex<Option<mpsc::Sender<Call>>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.dir).finish()
    }
}

impl Database {
    /// A handle; the file is opened, or created, by the first call.
    pub fn new(dir: &Path) -> Self {
        Self(Arc::new(Inner {
            dir: dir.to_path_buf(),
            under_way: Arc::new(Semaphore::new(UNDER_WAY_KIB_MAX as usize)),
            queue: Mutex::new(None),
        }))
    }

    /// The directory that it is in.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The stores of one tenant. Once `removed` is set nothing is written any more.
    pub fn space(&self, tenant: &str, quota_bytes: u64, removed: Arc<AtomicBool>) -> Space {
        Space::new(self.clone(), tenant, quota_bytes, removed)
    }

    pub(crate) fn under_way(&self) -> &Arc<Semaphore> {
        &self.0.under_way
    }

    /// The way to the thread, which is started if need be.
    pub(crate) fn queue(&self) -> Result<mpsc::Sender<Call>, Error> {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref().filter(|queue| !queue.is_closed()) {
            return Ok(queue.clone());
        }
        let (sender, calls) = mpsc::channel(QUEUE_CALLS_MAX);
        let dir = self.0.dir.clone();
        std::thread::Builder::new()
            .name("keyvalue".into())
            .spawn(move || serve(&dir, calls))
            .map_err(|error| Error::Failed(format!("no thread can be started: {error}")))?;
        *queue = Some(sender.clone());
        Ok(sender)
    }
}

/// The thread: whatever is queued makes a group.
fn serve(dir: &Path, mut calls: mpsc::Receiver<Call>) {
    let mut connection: Option<Connection> = None;
    let mut group = Vec::new();
    while calls.blocking_recv_many(&mut group, GROUP_CALLS_MAX) > 0 {
        let group = std::mem::take(&mut group);
        let opened = match &mut connection {
            Some(connection) => Ok(connection),
            // Tried again with the next group: whatever was wrong may have been mended.
            None => schema::open(dir).map(|opened| connection.insert(opened)),
        };
        match opened {
            Ok(connection) => group::run(connection, group),
            Err(error) => group.into_iter().for_each(|call| call.finish(Err(error.clone()))),
        }
    }
}
