//! The chain of records, and the files it is in.
//!
//! A record is one line of JSON. It holds the hash of the line before and ends with its own, so a line
//! that was changed does not fit its hash, and one that is missing does not fit the next. Files are named
//! by the number of their first record. `head.json` says what the oldest kept record follows, once an
//! older file was dropped, and what the last record was at the last clean end.
//!
//! Blocks of the disk are reserved for a whole file when it is begun, where the file system can: then a
//! full disk stops neither what makes room on it nor the record of it.

use crate::clock;
use insula_model::api::AuditEvent;
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of one file.
pub(super) const FILE_BYTES_MAX: u64 = 2 << 20;
/// Files that are kept: 128 MiB, some 250,000 records.
pub(super) const FILES_MAX: usize = 64;
/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) file_bytes: u64,
    pub(super) files: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { file_bytes: FILE_BYTES_MAX, files: FILES_MAX }
    }
}

/// What the first record of all follows.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What stands before and after a line's own hash.
const HASH_KEY: &str = ",\"hash\":\"";
const HASH_END: &str = "\"}";
/// What `head.json` is called until it is whole.
const NEW_HEAD: &str = "head.new";
const HEAD: &str = "head.json";

/// A place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) hash: String,
}

/// What is known of the chain besides its records.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Head {
    /// The last record that was dropped.
    pub(super) dropped: Option<Link>,
    /// The last record at the last clean end.
    pub(super) ended: Option<Link>,
}

impl Head {
    pub(super) fn load(dir: &Path) -> io::Result<Self> {
        match fs::read(dir.join(HEAD)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn save(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join(NEW_HEAD);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        file.sync_data()?;
        fs::rename(new, dir.join(HEAD))
    }
}

/// Where a record went.
pub(super) struct Written {
    pub(super) seq: u64,
    /// To be synced.
    pub(super) file: Arc<File>,
}

/// The end of the chain, where records are added.
pub(super) struct Book {
    dir: PathBuf,
    file: Arc<File>,
    length: u64,
    last: Link,
    bounds: Bounds,
}

/// What is hashed, in this order.
#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    at: String,
    prev: &'a str,
    #[serde(flatten)]
    event: &'a AuditEvent,
}

pub(super) fn hash_of(body: &str) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(body.as_bytes()) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A line as the body that was hashed, and the hash it claims.
pub(super) fn split(line: &str) -> Option<(String, &str)> {
    let (body, hash) = line.strip_suffix(HASH_END)?.rsplit_once(HASH_KEY)?;
    Some((format!("{body}}}"), hash))
}

/// The files of the chain, oldest first: the number of the first record, and the path.
pub(super) fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let first = name.and_then(|name| name.strip_suffix(".jsonl")?.parse().ok());
        if let Some(first) = first {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.jsonl"))
}

/// The last whole line of a file, and how long the file is with it.
fn last_line(file: &mut File) -> io::Result<(Option<String>, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let length = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let from = bytes[..length.saturating_sub(1)].iter().rposition(|byte| *byte == b'\n');
    let line = bytes.get(from.map_or(0, |at| at + 1)..length.saturating_sub(1));
    let line = line.filter(|line| !line.is_empty());
    Ok((line.map(|line| String::from_utf8_lossy(line).into_owned()), length as u64))
}

fn open(path: &Path, bounds: Bounds) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
    // Not every file system can; then a full disk stops changes, as it stops them elsewhere.
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bounds.file_bytes);
    Ok(file)
}

impl Book {
    pub(super) fn open(dir: &Path, bounds: Bounds) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let Some((first, path)) = files(dir)?.pop() else {
            let dropped = Head::load(dir)?.dropped;
            let last = dropped.unwrap_or(Link { seq: 0, hash: GENESIS.into() });
            let file = Arc::new(open(&path_of(dir, last.seq + 1), bounds)?);
            return Ok(Self { dir: dir.to_path_buf(), file, length: 0, last, bounds });
        };
        let mut file = open(&path, bounds)?;
        let (line, length) = last_line(&mut file)?;
        if file.metadata()?.len() > length {
            // Cut short by a crash: nobody was told that it was recorded.
            tracing::warn!("the last record of the audit log was cut short; it is dropped");
            file.set_len(length)?;
        }
        let last = match line {
            Some(line) => link_of(&line).unwrap_or_else(|| {
                tracing::error!(
                    "the last record of the audit log cannot be read: `insula audit --verify`"
                );
                Link { seq: first, hash: hash_of(&line) }
            }),
            // Begun, and nothing written: it follows the file before.
            None => match files(dir)?.iter().rev().nth(1) {
                Some((_, before)) => {
                    let line = last_line(&mut File::open(before)?)?.0;
                    line.as_deref().and_then(link_of)
                }
                None => Head::load(dir)?.dropped,
            }
            .unwrap_or(Link { seq: first.saturating_sub(1), hash: GENESIS.into() }),
        };
        Ok(Self { dir: dir.to_path_buf(), file: Arc::new(file), length, last, bounds })
    }

    /// Number of the last record.
    pub(super) fn seq(&self) -> u64 {
        self.last.seq
    }

    /// Its hash.
    pub(super) fn hash(&self) -> &str {
        &self.last.hash
    }

    /// Adds a record; all of it is written, or nothing.
    pub(super) fn append(&mut self, event: &AuditEvent) -> io::Result<Written> {
        let seq = self.last.seq + 1;
        let at = clock::from_millis(clock::now_ms());
        let body = Body { seq, at, prev: &self.last.hash, event };
        let body = serde_json::to_string(&body).map_err(io::Error::other)?;
        let hash = hash_of(&body);
        let open = body.strip_suffix('}').unwrap_or(&body);
        let line = format!("{open}{HASH_KEY}{hash}{HASH_END}\n");
        if self.length > 0 && self.length + line.len() as u64 > self.bounds.file_bytes {
            self.rotate()?;
        }
        (&*self.file).write_all(line.as_bytes()).inspect_err(|_| {
            // If even this fails, the next start cuts the half line off.
            let _ = self.file.set_len(self.length);
        })?;
        self.length += line.len() as u64;
        self.last = Link { seq, hash };
        Ok(Written { seq, file: Arc::clone(&self.file) })
    }

    /// Begins a new file, and drops the oldest ones beyond the bound.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.file = Arc::new(open(&path_of(&self.dir, self.last.seq + 1), self.bounds)?);
        self.length = 0;
        tracing::info!(
            last = self.last.seq,
            hash = self.last.hash,
            "the audit log begins a new file"
        );
        let kept = files(&self.dir)?;
        let beyond = kept.len().saturating_sub(self.bounds.files);
        for (_, path) in &kept[..beyond] {
            let line = last_line(&mut File::open(path)?)?.0;
            let dropped = line.as_deref().and_then(link_of);
            Head { dropped, ..Head::load(&self.dir)? }.save(&self.dir)?;
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Notes that the chain has come so far.
    pub(super) fn note_end(&self) -> io::Result<()> {
        Head { ended: Some(self.last.clone()), ..Head::load(&self.dir)? }.save(&self.dir)
    }
}

/// Number and hash of a line.
pub(super) fn link_of(line: &str) -> Option<Link> {
    serde_json::from_str(line).ok()
}
