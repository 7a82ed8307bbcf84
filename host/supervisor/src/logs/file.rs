//! One tenant's log files: the current one and an older one.
//!
//! Invariant: the current file is at most [`Kind::file_bytes_max`] bytes long and consists of whole
//! lines, except that a crash may leave a last line cut short; the next append ends it.

use super::Kind;
use insula_model::TenantName;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The current file. Tenant names have no dot, so no name of a file is another tenant's.
pub(super) fn current(dir: &Path, name: &TenantName, kind: Kind) -> PathBuf {
    dir.join(format!("{name}{}", kind.suffix()))
}

/// The file before.
pub(super) fn older(dir: &Path, name: &TenantName, kind: Kind) -> PathBuf {
    dir.join(format!("{name}{}.1", kind.suffix()))
}

/// Appends lines, each with its end; begins a new file where the next line does not fit.
pub(super) fn append(
    dir: &Path,
    name: &TenantName,
    kind: Kind,
    lines: &[String],
) -> io::Result<()> {
    let path = current(dir, name, kind);
    let (mut file, mut length) = open(&path)?;
    let mut pending = Vec::new();
    for line in lines {
        let bytes = (pending.len() + line.len()) as u64;
        if length + bytes > kind.file_bytes_max() && length + pending.len() as u64 > 0 {
            write_whole(&mut file, length, &pending)?;
            pending.clear();
            fs::rename(&path, older(dir, name, kind))?;
            (file, length) = open(&path)?;
        }
        pending.extend_from_slice(line.as_bytes());
    }
    write_whole(&mut file, length, &pending)
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).read(true).create(true).mode(0o600).open(path)?;
    let mut length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
        length += 1;
    }
    Ok((file, length))
}

/// Writes all or, if the disk is full half-way, nothing.
fn write_whole(file: &mut File, length: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes).inspect_err(|_| {
        // If even this fails, the next append ends the half line.
        let _ = file.set_len(length);
    })
}

/// Removes all files.
pub(super) fn remove(dir: &Path, name: &TenantName) -> io::Result<()> {
    for path in Kind::ALL.map(|kind| [current(dir, name, kind), older(dir, name, kind)]).concat() {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
