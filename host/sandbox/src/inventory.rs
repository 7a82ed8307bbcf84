//! What compiled code a data directory holds, for whoever only looks: what of it is of use, and what may
//! go because it is made again when it is wanted. Reads; removes when asked to.

use crate::engine::{EngineError, compatibility};
use crate::seal::{SEAL_BYTES_MAX, Seal};
use crate::store::code_path;
use insula_model::{CodeId, Digest, Metering};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Compiled code on disk.
#[derive(Debug, Default)]
pub struct CodeInventory {
    /// Sound code of this engine: files and bytes.
    pub sound: (u64, u64),
    /// Directories of other engines; a start of this one removes them.
    pub stale: Vec<PathBuf>,
    /// Files of this engine that no worker would load: without a seal, with one that does not fit or was
    /// not made with this host's key, or half-written.
    pub unsound: Vec<PathBuf>,
    /// Bytes of the last two.
    pub removable_bytes: u64,
}

impl CodeInventory {
    /// Looks at `data`. `deep` hashes all code; without, its seal's length is held against it.
    pub fn of(data: &Path, deep: bool) -> Result<Self, EngineError> {
        let engine = compatibility()?;
        let key = host_key(data).unwrap_or_default();
        let mut found = Self::default();
        for dir in entries(&data.join("code")) {
            if dir.file_name().is_some_and(|name| *name == *engine) {
                found.look(&dir, &engine, key.as_ref().filter(|_| deep));
            } else {
                found.removable_bytes += bytes_below(&dir);
                found.stale.push(dir);
            }
        }
        Ok(found)
    }

    fn look(&mut self, dir: &Path, engine: &str, key: Option<&[u8; 32]>) {
        for path in entries(dir) {
            let bytes = path.metadata().map_or(0, |metadata| metadata.len());
            match code_of(&path) {
                // A seal is looked at with its code.
                Some((id, "seal")) if code_path(dir, &id).is_file() => {}
                Some((id, "code")) if is_sound(&path, &id, engine, bytes, key) => {
                    self.sound = (self.sound.0 + 1, self.sound.1 + bytes);
                }
                _ => {
                    self.removable_bytes += bytes;
                    self.unsound.push(path);
                }
            }
        }
    }

    /// Removes what is of no use. To be called while no host uses the directory. Fails at the first file
    /// that cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        for dir in &self.stale {
            if dir.is_dir() { fs::remove_dir_all(dir)? } else { fs::remove_file(dir)? }
        }
        for file in &self.unsound {
            fs::remove_file(file)?;
            // Without its code a seal is worth nothing; it may not be there.
            let _ = fs::remove_file(file.with_extension("seal"));
        }
        Ok(())
    }
}

/// The host's key; none if it was never made or is not a key.
fn host_key(data: &Path) -> io::Result<Option<[u8; 32]>> {
    Ok(fs::read(data.join("host.key"))?.try_into().ok())
}

/// Which code a file holds or seals: `HEX.code`, `HEX.time.code`, and the same with `seal`.
fn code_of(path: &Path) -> Option<(CodeId, &str)> {
    let ending = path.extension()?.to_str().filter(|ending| matches!(*ending, "code" | "seal"))?;
    let stem = path.file_stem()?.to_str()?;
    let (hex, metering) = match stem.strip_suffix(".time") {
        Some(hex) => (hex, Metering::Time),
        None => (stem, Metering::Fuel),
    };
    let artifact: Digest = format!("sha256:{hex}").parse().ok()?;
    Some((CodeId { artifact, metering }, ending))
}

fn is_sound(path: &Path, id: &CodeId, engine: &str, bytes: u64, key: Option<&[u8; 32]>) -> bool {
    let mut line = Vec::new();
    let read = File::open(path.with_extension("seal"))
        .and_then(|file| file.take(SEAL_BYTES_MAX as u64).read_to_end(&mut line));
    let seal = read.ok().and_then(|_| Seal::parse(std::str::from_utf8(&line).ok()?));
    let Some(seal) = seal.filter(|seal| seal.length == bytes) else { return false };
    key.is_none_or(|key| fs::read(path).is_ok_and(|code| seal.holds(key, id, engine, &code)))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn bytes_below(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            entries(path).iter().map(|entry| bytes_below(entry)).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}
