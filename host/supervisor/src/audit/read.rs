//! Reading the log, and waiting for what comes.
//!
//! A reader holds a place (a file and an offset), nothing else; it reads a file at a time, when its
//! client takes it.

use super::blocking;
use super::chain::{FILE_BYTES_MAX, files, path_of};
use insula_model::api::{AuditEvent, AuditRecord, AuditStage};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// About this tenant.
    pub(crate) tenant: Option<String>,
    /// Not before this (RFC 3339 with milliseconds, UTC, as records have it).
    pub(crate) since: Option<String>,
    /// Before this.
    pub(crate) until: Option<String>,
    /// Of these actions, or of those that begin with one of them and a hyphen; all, if there is none.
    pub(crate) actions: Vec<String>,
    /// Begins of changes too, and not their ends alone.
    pub(crate) begins: bool,
    /// After this number; 0 for all.
    pub(crate) after: u64,
}

impl Filter {
    fn passes(&self, line: &[u8]) -> bool {
        // What cannot be read is shown rather than hidden.
        let Ok(record) = serde_json::from_slice::<AuditRecord>(line) else { return true };
        let action = &record.event.action;
        let of_kind = |kind: &String| {
            action
                .strip_prefix(kind.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        record.seq > self.after
            && (self.begins || record.event.stage != AuditStage::Began)
            && self.tenant.as_ref().is_none_or(|name| record.event.tenant.as_ref() == Some(name))
            && self.since.as_ref().is_none_or(|since| record.at >= *since)
            && self.until.as_ref().is_none_or(|until| record.at < *until)
            && (self.actions.is_empty() || self.actions.iter().any(of_kind))
    }
}

/// A log that is being read.
pub(crate) struct Reading {
    dir: PathBuf,
    filter: Filter,
    /// The file (number of its first record) and the bytes of it that were read.
    at: Option<(u64, u64)>,
    first: Vec<u8>,
    wakes: Option<watch::Receiver<u64>>,
}

impl Reading {
    pub(super) fn new(
        dir: PathBuf,
        filter: Filter,
        tail: Option<usize>,
        wakes: Option<watch::Receiver<u64>>,
    ) -> io::Result<Self> {
        let mut reading = Self { dir, filter, at: None, first: Vec::new(), wakes };
        if let Some(tail) = tail {
            let mut last: VecDeque<Vec<u8>> = VecDeque::new();
            while let Some(chunk) = reading.read_on()? {
                for line in chunk.split_inclusive(|byte| *byte == b'\n') {
                    last.push_back(line.to_vec());
                    if last.len() > tail {
                        last.pop_front();
                    }
                }
            }
            reading.first = last.into_iter().flatten().collect();
        }
        Ok(reading)
    }

    /// The next records, whole lines; `None` at the end, which never comes while following.
    pub(crate) async fn next(mut self) -> io::Result<Option<(Vec<u8>, Self)>> {
        if !self.first.is_empty() {
            return Ok(Some((std::mem::take(&mut self.first), self)));
        }
        loop {
            if let Some(wakes) = &mut self.wakes {
                wakes.borrow_and_update();
            }
            let (chunk, reading) = blocking(move || Ok((self.read_on()?, self))).await?;
            self = reading;
            if let Some(chunk) = chunk {
                return Ok(Some((chunk, self)));
            }
            let Some(wakes) = &mut self.wakes else { return Ok(None) };
            if wakes.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// What passes of what is new; none if nothing is left to read. Blocks.
    fn read_on(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let files = files(&self.dir)?;
            let (first, offset) = match self.at {
                Some(at) => at,
                None => match files.first() {
                    Some((first, _)) => (*first, 0),
                    None => return Ok(None),
                },
            };
            let bytes = read_from(&path_of(&self.dir, first), offset)?;
            // A line that is being written at this moment is not there yet.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.at = Some((first, offset + whole as u64));
            if whole == 0 {
                let Some((next, _)) = files.iter().find(|(number, _)| *number > first) else {
                    return Ok(None);
                };
                self.at = Some((*next, 0));
                continue;
            }
            let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
            let passing: Vec<u8> =
                lines.filter(|line| self.filter.passes(line)).flatten().copied().collect();
            if !passing.is_empty() {
                return Ok(Some(passing));
            }
        }
    }
}

/// The rest of a file; nothing of one that was dropped.
fn read_from(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Changes that have begun and not ended, as far as the last two files say. Blocks.
pub(super) fn unended(dir: &Path) -> io::Result<BTreeMap<u64, AuditEvent>> {
    let mut open = BTreeMap::new();
    let files = files(dir)?;
    for (_, path) in files.iter().skip(files.len().saturating_sub(2)) {
        for line in read_from(path, 0)?.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<AuditRecord>(line) else { continue };
            match (record.event.stage, record.event.of) {
                (AuditStage::Began, _) => drop(open.insert(record.seq, record.event)),
                (AuditStage::Ended, Some(of)) => drop(open.remove(&of)),
                _ => {}
            }
        }
    }
    Ok(open)
}
