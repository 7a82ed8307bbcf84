//! Reading a log, and waiting for what comes.
//!
//! A follower holds an open file and a place in it, nothing else: it is woken when the writer has
//! written, and reads from the file what is new, a chunk of [`CHUNK_BYTES`] at a time, when its client
//! takes it. A slow follower therefore costs no memory; one that is slower than two whole files misses
//! what has been rotated away.

use super::cursor::Kept;
use super::tail::{inode, open, tail};
use super::{Cursor, Filter, Kind, Logs, file};
use crate::sync::lock;
use insula_model::TenantName;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Bytes handed to a client at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A log that is being read.
pub(crate) struct Reading {
    dir: Arc<PathBuf>,
    name: TenantName,
    kind: Kind,
    filter: Option<Filter>,
    /// Whether the reader is told how far it has come.
    cursors: bool,
    /// The begin of a line that is to be looked at when it is whole; at most as long as a line.
    part: Vec<u8>,
    first: Vec<u8>,
    file: Option<File>,
    wakes: Option<watch::Receiver<()>>,
}

/// What is to be read.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) kind: Kind,
    /// So many of the last lines that pass; none for all.
    pub(crate) lines: Option<usize>,
    /// Then what comes after.
    pub(crate) follow: bool,
    /// With cursors in between.
    pub(crate) cursors: bool,
    /// From here on, in place of so many lines.
    pub(crate) after: Option<Cursor>,
    pub(crate) filter: Filter,
}

/// Begins to read.
pub(crate) async fn read(logs: &Logs, name: TenantName, asked: Asked) -> io::Result<Reading> {
    let Asked { kind, lines, follow, cursors, after, filter } = asked;
    let filter = Some(filter).filter(|filter| !filter.is_all());
    // Before the files are read, so that nothing falls in between.
    let wakes = follow.then(|| {
        let mut followed = lock(&logs.shared.followed);
        followed.entry(name.clone()).or_insert_with(|| watch::Sender::new(())).subscribe()
    });
    let dir = Arc::clone(&logs.dir);
    blocking(move || {
        if cursors || after.is_some() {
            let kept = Kept::read(&dir, &name, kind, after)?;
            let lines = lines.filter(|_| after.is_none());
            let (first, part) = kept.marked(filter.as_ref(), lines);
            let file = kept.file;
            return Ok(Reading {
                dir,
                name,
                kind,
                filter,
                cursors: true,
                part,
                first,
                file,
                wakes,
            });
        }
        let mut tail = tail(&dir, &name, kind, lines.filter(|_| filter.is_none()))?;
        if !follow {
            // A line that is being written at this moment is not there yet.
            let whole = tail.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            tail.bytes.truncate(whole);
        }
        let (first, part) = match &filter {
            Some(filter) => filter.split(&tail.bytes, lines),
            None => (tail.bytes, Vec::new()),
        };
        let file = tail.file;
        Ok(Reading { dir, name, kind, filter, cursors, part, first, file, wakes })
    })
    .await
}

impl Reading {
    /// The next lines, whole ones or parts; `None` at the end, which comes, when following, with the
    /// tenant's removal.
    pub(crate) async fn next(mut self) -> io::Result<Option<(Vec<u8>, Self)>> {
        if !self.first.is_empty() {
            let rest = self.first.split_off(self.first.len().min(CHUNK_BYTES));
            let chunk = std::mem::replace(&mut self.first, rest);
            return Ok(Some((chunk, self)));
        }
        // Without `follow` the tail was all.
        let Some(mut wakes) = self.wakes.take() else { return Ok(None) };
        loop {
            wakes.borrow_and_update();
            let (chunk, reading) = blocking(move || {
                let chunk = self.read_on()?;
                Ok((chunk, self))
            })
            .await?;
            self = reading;
            if !chunk.is_empty() {
                self.wakes = Some(wakes);
                return Ok(Some((chunk, self)));
            }
            if wakes.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// What is new, if anything. Blocks.
    fn read_on(&mut self) -> io::Result<Vec<u8>> {
        loop {
            // Looked up before reading: a file that has lost its name by now is complete, so what is
            // read below is all there will be of it.
            let named = open(&file::current(&self.dir, &self.name, self.kind))?;
            let mut chunk = Vec::new();
            if let Some(file) = &mut self.file {
                file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
            }
            if !chunk.is_empty() {
                if self.filter.is_none() && !self.cursors {
                    return Ok(chunk);
                }
                self.part.append(&mut chunk);
                // What a crash cut short passes no filter, not even this one.
                let all = Filter::default();
                let filter = self.filter.as_ref().unwrap_or(&all);
                let (mut passing, part) = filter.split(&self.part, None);
                self.part = part;
                if !passing.is_empty() {
                    if let Some(file) = self.file.as_mut().filter(|_| self.cursors) {
                        passing.extend(Cursor::of(file, self.part.len())?.line());
                    }
                    return Ok(passing);
                }
                continue;
            }
            let Some(named) = named else { return Ok(chunk) };
            let same = match &self.file {
                Some(file) => inode(file)? == inode(&named)?,
                None => false,
            };
            if same {
                return Ok(chunk);
            }
            self.file = Some(named);
        }
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(io::Error::other)?
}
