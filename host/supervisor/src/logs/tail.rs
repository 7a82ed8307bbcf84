//! The last lines of a log that is on disk. Blocks; reads at most both files.

use super::{Kind, file};
use insula_model::TenantName;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The end of a log, and where to read on.
pub(super) struct Tail {
    /// Whole lines, oldest first.
    pub(super) bytes: Vec<u8>,
    /// The current file, if there is one, positioned behind `bytes`.
    pub(super) file: Option<File>,
}

/// The last `lines` lines, or all of them.
pub(super) fn tail(
    dir: &Path,
    name: &TenantName,
    kind: Kind,
    lines: Option<usize>,
) -> io::Result<Tail> {
    let (older, mut current) = open_both(dir, name, kind)?;
    let mut bytes = Vec::new();
    if let Some(older) = older {
        older.take(kind.file_bytes_max()).read_to_end(&mut bytes)?;
    }
    if let Some(current) = &mut current {
        current.take(kind.file_bytes_max()).read_to_end(&mut bytes)?;
    }
    if let Some(lines) = lines {
        let ends = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        // The end of the line before the first one wanted.
        let from = ends.map(|(at, _)| at + 1).nth(lines);
        bytes.drain(..from.unwrap_or(0));
    }
    Ok(Tail { bytes, file: current })
}

/// The older file and the current one, each if it is there.
pub(super) fn open_both(
    dir: &Path,
    name: &TenantName,
    kind: Kind,
) -> io::Result<(Option<File>, Option<File>)> {
    // The current file first: if it is rotated in between, it is both, and the follower finds the new
    // one; the other way round, a whole file would be missed.
    let current = open(&file::current(dir, name, kind))?;
    let older = open(&file::older(dir, name, kind))?;
    let same = match (&current, &older) {
        (Some(a), Some(b)) => inode(a)? == inode(b)?,
        _ => false,
    };
    Ok((older.filter(|_| !same), current))
}

/// Opens a file that may not be there.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What tells a file from the one that took its name.
pub(super) fn inode(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
