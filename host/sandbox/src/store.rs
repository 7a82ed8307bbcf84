//! Artifacts and compiled code on disk.
//!
//! ```text
//! DATA/host.key                        32 random bytes, mode 0600
//! DATA/artifacts/HEX.wasm              the bytes as uploaded, named by their SHA-256
//! DATA/code/ENGINE/HEX.code, HEX.seal  machine code for this engine, and its seal
//! DATA/code/ENGINE/HEX.time.code, …    the same, without counting fuel
//! ```
//! Every file appears by rename, so a crash leaves temporary files (swept at start). Keys and artifacts
//! are synced before that. Code is synced after it is in use ([`ArtifactStore::settle`]): it can be made
//! again, its seal shows what a loss of power has torn, and a deploy does not wait for a slow disk three
//! times more. All calls block on the disk.

use crate::engine;
use crate::seal::{MARKED_BYTES_MIN, SEAL_BYTES_MAX, Seal};
use insula_model::api::GuestKind;
use insula_model::{CodeId, Digest, Metering};
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the clock of file times may take to move on: twice the longest tick of a kernel (100 Hz).
const FILE_CLOCK_STEP_MAX: Duration = Duration::from_millis(20);
/// Between two looks at that clock.
const FILE_CLOCK_CHECK: Duration = Duration::from_micros(500);

/// Bytes of an artifact that are read and hashed at a time.
const HASHED_AT_ONCE_BYTES: usize = 256 << 10;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes are not what their name says.
    #[error("the bytes have digest {actual}, but were sent as {expected}")]
    DigestMismatch {
        /// The name they came under.
        expected: Digest,
        /// The digest they have.
        actual: Digest,
    },
    /// The disk or the quota is full.
    #[error("no space left on the disk that holds {}: free some, or move `--data`", .0.display())]
    Full(PathBuf),
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The engine that names the code directory cannot be made.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// `host.key` has the wrong size.
    #[error("{}: not a host key (32 bytes); remove it, and code will be compiled again", .0.display())]
    Key(PathBuf),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(path.into()),
        _ => StoreError::Io { path: path.into(), source },
    }
}

/// Artifacts and code of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ArtifactStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    artifacts: PathBuf,
    code: PathBuf,
    engine: String,
    key: [u8; 32],
    temporaries: AtomicU64,
    /// Held while the two names of code are given or taken, so that they belong together.
    naming: Mutex<()>,
}

impl ArtifactStore {
    /// Opens the store under `data`, making what is missing.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let engine = engine::compatibility()?;
        let artifacts = data.join("artifacts");
        let code = data.join("code").join(&engine);
        for dir in [&artifacts, &code] {
            fs::create_dir_all(dir).map_err(failed(dir))?;
        }
        let key = host_key(&data.join("host.key"))?;
        let (temporaries, naming) = Default::default();
        Ok(Self(Arc::new(Inner { artifacts, code, engine, key, temporaries, naming })))
    }

    /// Where sealed code for this engine lies.
    pub fn code_dir(&self) -> &Path {
        &self.0.code
    }

    /// The key that seals code.
    pub fn code_key(&self) -> [u8; 32] {
        self.0.key
    }

    /// Where an artifact lies, or would.
    pub fn artifact_path(&self, digest: &Digest) -> PathBuf {
        self.0.artifacts.join(format!("{}.wasm", digest.hex()))
    }

    /// Whether an artifact was uploaded. None is empty: such a file is what a broken disk has left.
    pub fn has_artifact(&self, digest: &Digest) -> bool {
        fs::metadata(self.artifact_path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
    }

    /// Whether an artifact's bytes are those that it is named by. Reads all of them.
    pub fn artifact_is_whole(&self, digest: &Digest) -> io::Result<bool> {
        is_whole(&self.artifact_path(digest), digest)
    }

    /// Removes an artifact whose bytes are damaged, so that it counts as missing. Its code stays: that
    /// was made of the right ones.
    pub fn remove_damaged(&self, digest: &Digest) {
        // Uploaded anew in the meantime: then it is the right one.
        if !self.artifact_is_whole(digest).unwrap_or(true) {
            let _ = fs::remove_file(self.artifact_path(digest));
        }
    }

    /// Its size in bytes.
    pub fn artifact_bytes(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.artifact_path(digest)).ok().map(|meta| meta.len()).filter(|len| *len > 0)
    }

    fn temporary(&self, dir: &Path) -> Temporary {
        let n = self.0.temporaries.fetch_add(1, Ordering::Relaxed);
        Temporary(dir.join(format!("{}-{n}.tmp", std::process::id())))
    }

    /// Starts an upload; dropping it leaves nothing behind.
    pub fn upload(&self) -> Result<Upload, StoreError> {
        let tmp = self.temporary(&self.0.artifacts);
        let file =
            OpenOptions::new().write(true).create_new(true).open(&tmp.0).map_err(failed(&tmp.0))?;
        Ok(Upload { store: self.clone(), tmp, file, hasher: Sha256::new() })
    }

    /// Bytes of code, if code and a seal that fits its size are on disk.
    pub fn code_bytes(&self, id: &CodeId) -> Option<u64> {
        let length = fs::metadata(code_path(&self.0.code, id)).ok()?.len();
        let seal = read_seal(&self.0.code, id)?;
        (seal.length == length).then_some(length)
    }

    /// What kind of guest sealed code is. The seal itself is checked when the code is loaded.
    pub fn code_kind(&self, id: &CodeId) -> Option<GuestKind> {
        read_seal(&self.0.code, id).map(|seal| seal.kind)
    }

    /// Whether code is on disk and its seal holds. Reads the whole file.
    pub fn code_is_sound(&self, id: &CodeId) -> bool {
        let Some(seal) = read_seal(&self.0.code, id) else { return false };
        fs::read(code_path(&self.0.code, id))
            .is_ok_and(|code| seal.holds(&self.0.key, id, &self.0.engine, &code))
    }

    /// Whether there is nothing for [`ArtifactStore::settle`] to do: code that is there has its mark.
    pub fn is_settled(&self, id: &CodeId) -> bool {
        read_seal(&self.0.code, id).is_none_or(|seal| seal.has_its_mark())
    }

    /// A fresh place for a compiler's output.
    pub fn code_tmp(&self) -> Temporary {
        self.temporary(&self.0.code)
    }

    /// Seals a compiler's output and puts it in place; its size in bytes. It can be used from then on, and
    /// is to be followed by [`ArtifactStore::settle`].
    pub fn seal(&self, id: &CodeId, kind: GuestKind, tmp: &Path) -> Result<u64, StoreError> {
        let dir = &self.0.code;
        let (code_path, seal_path) = (code_path(dir, id), seal_path(dir, id));
        let code = fs::read(tmp).map_err(failed(tmp))?;
        let seal = Seal::new(&self.0.key, id, &self.0.engine, kind, &code);
        let seal_tmp = self.temporary(dir);
        write(&seal_tmp.0, seal.to_line().as_bytes(), 0o600)?;
        let _naming = self.naming();
        // Between the two renames the seal does not fit the code: as good as no code at all.
        fs::rename(tmp, &code_path).map_err(failed(&code_path))?;
        fs::rename(&seal_tmp.0, &seal_path).map_err(failed(&seal_path))?;
        Ok(seal.length)
    }

    /// Has code that was sealed outlast a loss of power, and marks it unless it is tiny, so that it is not
    /// hashed at each load. Does nothing if it is gone, or not what was sealed. The mark must come after
    /// the sync: it says of a file that its bytes were right once, which a loss of power could undo
    /// without a trace in the file's times.
    pub fn settle(&self, id: &CodeId) -> Result<(), StoreError> {
        let dir = &self.0.code;
        let (code_path, seal_path) = (code_path(dir, id), seal_path(dir, id));
        let file = match File::open(&code_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed(&code_path))?,
        };
        file.sync_all().map_err(failed(&code_path))?;
        let Some(seal) = self.marked(id, &file).map_err(failed(&code_path))? else {
            return Ok(());
        };
        let seal_tmp = self.temporary(dir);
        write_synced(&seal_tmp.0, seal.to_line().as_bytes(), 0o600)?;
        {
            let _naming = self.naming();
            let named = fs::metadata(&code_path).map(|named| (named.dev(), named.ino()));
            let settled = file.metadata().map(|file| (file.dev(), file.ino()));
            if !matches!((named, settled), (Ok(named), Ok(settled)) if named == settled) {
                // Removed meanwhile, or made again; whoever did that settles the new one.
                return Ok(());
            }
            fs::rename(&seal_tmp.0, &seal_path).map_err(failed(&seal_path))?;
        }
        sync_dir(dir)
    }

    /// The seal of code that is in its place, with a mark unless it is tiny; none if it does not hold.
    fn marked(&self, id: &CodeId, mut file: &File) -> io::Result<Option<Seal>> {
        let before = file.metadata()?;
        if before.len() >= MARKED_BYTES_MIN {
            // The rename was a change. Once the clock of file times has moved on, any further change
            // shows, so what is read from here on is what the mark will stand for.
            wait_for_file_clock(&before);
        }
        let mut code = Vec::new();
        file.read_to_end(&mut code)?;
        let Some(mut seal) = try_read_seal(&self.0.code, id)? else { return Ok(None) };
        if !seal.holds(&self.0.key, id, &self.0.engine, &code) {
            return Ok(None);
        }
        let after = file.metadata()?;
        let is_unchanged =
            (before.ctime(), before.ctime_nsec()) == (after.ctime(), after.ctime_nsec());
        if seal.length >= MARKED_BYTES_MIN && is_unchanged {
            seal.mark(&self.0.key, &after);
        }
        Ok(Some(seal))
    }

    fn naming(&self) -> MutexGuard<'_, ()> {
        self.0.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the code of an artifact, whatever its metering.
    pub fn remove_code(&self, artifact: &Digest) {
        let _naming = self.naming();
        for metering in Metering::ALL {
            let id = CodeId { artifact: *artifact, metering };
            let _ = fs::remove_file(code_path(&self.0.code, &id));
            let _ = fs::remove_file(seal_path(&self.0.code, &id));
        }
    }

    /// Forgets an artifact and its code.
    pub fn remove_artifact(&self, digest: &Digest) {
        let _ = fs::remove_file(self.artifact_path(digest));
        self.remove_code(digest);
    }

    /// Removes what a crash left behind. Only while no other host uses the directory, and before this one
    /// takes anything in.
    pub fn sweep(&self) {
        for dir in [&self.0.artifacts, &self.0.code] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|ending| ending == "tmp") {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Removes code of other engines. Only while nobody runs it.
    pub fn sweep_engines(&self) {
        let engines = self.0.code.parent().map(fs::read_dir);
        for entry in engines.into_iter().flatten().flatten().flatten() {
            if entry.path() != self.0.code {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Whether a file has this digest. Reads all of it.
pub fn is_whole(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; HASHED_AT_ONCE_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Digest(hasher.finalize().into()) == *digest),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// The place of a file that is removed if it does not get its name.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Where it lies until then, if it has been made.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

/// An upload in progress.
pub struct Upload {
    store: ArtifactStore,
    tmp: Temporary,
    file: File,
    hasher: Sha256,
}

impl Upload {
    /// Appends bytes.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(chunk);
        self.file.write_all(chunk).map_err(failed(&self.tmp.0))
    }

    /// Checks the digest and keeps the artifact; whether it is new.
    pub fn finish(self, expected: &Digest) -> Result<bool, StoreError> {
        let actual = Digest(self.hasher.finalize().into());
        if actual != *expected {
            return Err(StoreError::DigestMismatch { expected: *expected, actual });
        }
        // What is there may have been damaged since: then these bytes take its place.
        if self.store.has_artifact(expected)
            && self.store.artifact_is_whole(expected).unwrap_or(false)
        {
            return Ok(false);
        }
        self.file.sync_all().map_err(failed(&self.tmp.0))?;
        let place = self.store.artifact_path(expected);
        fs::rename(&self.tmp.0, &place).map_err(failed(&place))?;
        sync_dir(&self.store.0.artifacts)?;
        Ok(true)
    }
}

/// Waits until a change of the file would get another time than its last one has. The kernel takes that
/// time from its coarse clock, which moves with the tick; where it has finer ones for files that are
/// looked at (Linux 6.13), those are never behind the coarse one.
fn wait_for_file_clock(file: &fs::Metadata) {
    let changed = (file.ctime(), file.ctime_nsec());
    let since = Instant::now();
    while since.elapsed() < FILE_CLOCK_STEP_MAX {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec) > changed {
            return;
        }
        std::thread::sleep(FILE_CLOCK_CHECK);
    }
}

pub(crate) fn code_path(dir: &Path, id: &CodeId) -> PathBuf {
    dir.join(format!("{}.code", stem(id)))
}

fn seal_path(dir: &Path, id: &CodeId) -> PathBuf {
    dir.join(format!("{}.seal", stem(id)))
}

fn stem(id: &CodeId) -> String {
    match id.metering {
        Metering::Fuel => id.artifact.hex(),
        Metering::Time => format!("{}.time", id.artifact.hex()),
    }
}

pub(crate) fn read_seal(dir: &Path, id: &CodeId) -> Option<Seal> {
    try_read_seal(dir, id).ok().flatten()
}

/// None if there is no seal, or nothing that is one; an error if the system keeps that from being
/// known.
pub(crate) fn try_read_seal(dir: &Path, id: &CodeId) -> io::Result<Option<Seal>> {
    let file = match File::open(seal_path(dir, id)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // In one call: each load waits for it, and a file so small never comes in pieces.
    let mut line = [0; SEAL_BYTES_MAX];
    let length = file.read_at(&mut line, 0)?;
    let line = line.get(..length).and_then(|line| std::str::from_utf8(line).ok());
    Ok(line.and_then(Seal::parse))
}

fn host_key(path: &Path) -> Result<[u8; 32], StoreError> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| StoreError::Key(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0u8; 32];
            let random = Path::new("/dev/urandom");
            File::open(random)
                .and_then(|mut file| file.read_exact(&mut key))
                .map_err(failed(random))?;
            // Never a half-written key under the real name; the first of two makers wins.
            let tmp = path.with_extension(format!("{}.tmp", std::process::id()));
            write_synced(&tmp, &key, 0o600)?;
            let linked = fs::hard_link(&tmp, path);
            let _ = fs::remove_file(&tmp);
            match linked {
                Ok(()) => Ok(key),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => host_key(path),
                Err(error) => Err(failed(path)(error)),
            }
        }
        Err(error) => Err(failed(path)(error)),
    }
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    write(path, bytes, mode)?.sync_all().map_err(failed(path))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<File, StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).map(|()| file))
        .map_err(failed(path))
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

#[cfg(test)]
mod tests;
