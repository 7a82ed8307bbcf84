//! What a data directory holds, for whoever only looks (`insula doctor`): with and without a host that
//! uses it. Changes nothing but in [`remove_stale`].

use crate::data::{DataDir, DataError};
use crate::state::{StateError, copy_path, database_path, survey};
use crate::vault::{SecretsKey, Vault, VaultError};
use insula_model::Digest;
use insula_sandbox::inventory::CodeInventory;
use insula_sandbox::store::is_whole;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The state database.
#[derive(Debug)]
pub enum Database {
    /// There is none, and nothing that needs one.
    New,
    /// It is gone or empty, although there are artifacts or a copy.
    Gone,
    /// It cannot be opened or read, or is damaged: the reason.
    Unusable(String),
    /// Written by a later version: its number, and the latest that is known.
    Newer(u32, u32),
    /// It is sound.
    Sound(Contents),
}

/// What a sound database says.
#[derive(Debug, Default)]
pub struct Contents {
    /// Version of the schema.
    pub version: u32,
    /// Deployed tenants.
    pub tenants: u64,
    /// Artifacts that revisions refer to, and one tenant that has each.
    pub artifacts: BTreeMap<Digest, String>,
    /// The newest time in it (RFC 3339); none if it is empty.
    pub newest: Option<String>,
    /// Secrets that are set.
    pub secrets: u64,
    /// Why they cannot be read.
    pub unreadable: Option<String>,
}

/// Looks at the state database, all of it. `key` is what the host would be given.
pub fn database(data: &Path, key: Option<SecretsKey>) -> Database {
    let path = database_path(data);
    let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if bytes == 0 {
        let has_copy = copy_path(data).exists();
        let is_new = !has_copy && artifacts(data).is_empty();
        return if is_new { Database::New } else { Database::Gone };
    }
    let vault = Vault::open(data, key);
    match survey(&path, vault.as_ref().ok()) {
        Err(StateError::Newer { found, known }) => Database::Newer(found, known),
        Err(StateError::Corrupt { what, .. }) => Database::Unusable(what),
        Err(error) => Database::Unusable(error.to_string()),
        Ok(mut contents) => {
            if let Err(error @ (VaultError::Key(_) | VaultError::Io { .. })) = vault
                && contents.secrets > 0
            {
                contents.unreadable = Some(error.to_string());
            }
            Database::Sound(contents)
        }
    }
}

/// The copy of the state database: how old it is, and what is wrong with it; none if there is none.
pub fn copy(data: &Path) -> Option<(SystemTime, Option<String>)> {
    let path = copy_path(data);
    let made = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
    Some((
        made,
        crate::state::check_database(&path).unwrap_or_else(|error| Some(error.to_string())),
    ))
}

/// Databases beside that of the state: each that is there, and what is wrong with it.
pub fn beside(data: &Path) -> Vec<(&'static str, Option<String>)> {
    let all = ["usage.db", "tenants/keyvalue.db"].into_iter();
    all.filter(|name| data.join(name).is_file())
        .map(|name| {
            let found = crate::state::check_database(&data.join(name));
            (name, found.unwrap_or_else(|error| Some(error.to_string())))
        })
        .collect()
}

/// Artifacts on disk, held against those that are referred to.
#[derive(Debug, Default)]
pub struct Artifacts {
    /// Referred to, and not there.
    pub missing: Vec<Digest>,
    /// Referred to, and not what was uploaded.
    pub damaged: Vec<Digest>,
    /// Nobody refers to them: bytes. Uploads that wait for their deploy are among them.
    pub orphans: Vec<(PathBuf, u64)>,
}

/// Looks at artifacts. `deep` hashes all of them; without, only empty ones are seen to be damaged.
pub fn artifacts_against(data: &Path, known: &BTreeSet<Digest>, deep: bool) -> Artifacts {
    let there = artifacts(data);
    let mut found = Artifacts::default();
    for digest in known {
        match there.get(digest) {
            None => found.missing.push(*digest),
            Some((_, 0)) => found.damaged.push(*digest),
            Some((path, _)) => {
                if deep && !is_whole(path, digest).unwrap_or(false) {
                    found.damaged.push(*digest);
                }
            }
        }
    }
    let orphans = there.into_iter().filter(|(digest, _)| !known.contains(digest));
    found.orphans = orphans.map(|(_, file)| file).collect();
    found
}

fn artifacts(data: &Path) -> BTreeMap<Digest, (PathBuf, u64)> {
    let entries = fs::read_dir(data.join("artifacts")).into_iter().flatten().flatten();
    let artifact = |path: PathBuf| {
        let hex = path.file_name()?.to_str()?.strip_suffix(".wasm")?.to_owned();
        let bytes = path.metadata().ok()?.len();
        Some((format!("sha256:{hex}").parse().ok()?, (path, bytes)))
    };
    entries.filter_map(|entry| artifact(entry.path())).collect()
}

/// Removes compiled code that is of no use, while no host runs; the bytes that were freed.
pub fn remove_stale(data: &Path) -> Result<u64, StaleError> {
    let data = DataDir::claim(data)?;
    let found = CodeInventory::of(data.path(), true)?;
    let removed = found.remove().map_err(StaleError::Io);
    // Put back as it was found: a kill before this is not forgotten.
    data.unclaim();
    removed.map(|()| found.removable_bytes)
}

/// Why stale code is still there.
#[derive(Debug, thiserror::Error)]
pub enum StaleError {
    /// The directory is in use, or cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The engine that names the directory of code cannot be made.
    #[error(transparent)]
    Engine(#[from] insula_sandbox::engine::EngineError),
    /// A file cannot be removed.
    #[error("stale code cannot be removed: {0}")]
    Io(#[source] io::Error),
}
