//! The data directory: its mode, its lock, and where the control socket is.
//!
//! Owns the lock file for as long as the host runs. One host per directory: the lock is the kernel's
//! (`flock`), so it ends with the process, however that ends. The file holds the owner's process id
//! and is blanked by a clean end, which is how the next start knows whether there was one. It is written
//! in place and never shortened, so that a full disk has room for it.

use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest content of a lock file that is read, in bytes: a process id.
const LOCK_BYTES_MAX: usize = 32;
/// What a clean end leaves in it: as long as the longest process id, and a line end.
const BLANK: &str = "           ";
/// How long a look at the lock takes at most, on any machine.
const LOOK_MAX: Duration = Duration::from_millis(20);
/// Looks at a lock that nobody alive should have: a second.
const LOOKS_MAX: u32 = 50;
/// Bytes that are kept in reserve, so that a host can start on a full disk: the logs and indexes of three
/// SQLite databases, and a change or two.
const RESERVE_BYTES: usize = 512 << 10;
/// Files whose presence shows that a directory is a host's, so that its mode may be set.
const OURS: [&str; 4] = ["lock", "state.db", "host.key", "artifacts"];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another host runs in it.
    #[error(
        "another host (process {pid}) uses the data directory {}; stop it, or give this one its own with `--data`",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who has it; 0 if it does not say.
        pid: u32,
    },
    /// A directory that others can read and that is not evidently a host's.
    #[error(
        "the data directory {} has mode {mode:o}, but it will hold keys and a control socket; \
         run `chmod 700` on it, or name a new directory with `--data`",
        dir.display()
    )]
    Exposed {
        /// The directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not the directory of the host that is upgraded.
    #[error(
        "{} is not the data directory that the host runs on; an upgrade cannot change it: restart the host for that",
        dir.display()
    )]
    Moved {
        /// What the configuration names now.
        dir: PathBuf,
    },
    /// Its path cannot be told to workers or shown by the API.
    #[error("the data directory's path {dir:?} is not UTF-8; name another with `--data`")]
    NotText {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be made or written.
    #[error("the data directory {} cannot be used: {source}; name a writable one with `--data`", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Where the control API of the host with this data directory listens: `DATA/control.sock`.
pub fn control_socket(data: &Path) -> PathBuf {
    data.join("control.sock")
}

/// A data directory that is this process's alone, until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
    /// Whose id the lock file held: that of a host that ended without saying so.
    before: Option<u32>,
}

impl DataDir {
    /// Makes the directory if need be (mode 0700) and takes its lock.
    pub(crate) fn claim(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io { dir: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        // Absolute, so that children and the API name the same place whatever their directory is.
        let path = &fs::canonicalize(path).map_err(io)?;
        if path.to_str().is_none() {
            return Err(DataError::NotText { dir: path.clone() });
        }
        close_to_others(path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join("lock")).map_err(io)?;
        let taken = || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        let mut locked = taken();
        for look in 0..LOOKS_MAX {
            // Whoever only looks ([`holder`]) has it for an instant; and a host that was killed while it
            // started a child leaves it to that child, until the child is another program.
            let is_held = locked == Err(rustix::io::Errno::WOULDBLOCK);
            let by_a_host = || written_in(&lock).is_some_and(is_alive);
            if !is_held || (look > 0 && by_a_host()) {
                break;
            }
            std::thread::sleep(LOOK_MAX);
            locked = taken();
        }
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = written_in(&lock).unwrap_or(0);
                return Err(DataError::InUse { dir: path.clone(), pid });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        let before = written_in(&lock);
        lock.write_all_at(padded(std::process::id()).as_bytes(), 0).map_err(io)?;
        Ok(Self { path: path.clone(), lock, before })
    }

    /// The directory of a host that is upgraded, with its lock, which goes with the open file. Fails if
    /// `path` is another directory.
    pub(crate) fn adopt(path: &Path, lock: File) -> Result<Self, DataError> {
        let io = |source| DataError::Io { dir: path.to_path_buf(), source };
        let path = &fs::canonicalize(path).map_err(io)?;
        let (held, named) =
            (lock.metadata().map_err(io)?, fs::metadata(path.join("lock")).map_err(io)?);
        if (held.dev(), held.ino()) != (named.dev(), named.ino()) {
            return Err(DataError::Moved { dir: path.clone() });
        }
        // The same as before, unless another process had to take over.
        lock.write_all_at(padded(std::process::id()).as_bytes(), 0).map_err(io)?;
        Ok(Self { path: path.clone(), lock, before: None })
    }

    /// The lock, for the host that comes after.
    pub(crate) fn lock(&self) -> &File {
        &self.lock
    }

    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the host before this one ended without saying so (killed, or the machine failed).
    pub(crate) fn unclean(&self) -> bool {
        self.before.is_some()
    }

    /// Gives up the lock and leaves everything as it was found, for whoever is not a host.
    pub(crate) fn unclaim(self) {
        let before = self.before.map_or_else(|| BLANK.into(), padded);
        if let Err(error) = self.lock.write_all_at(before.as_bytes(), 0) {
            tracing::warn!(%error, "the lock file could not be put back");
        }
    }

    /// Notes a clean end and gives up the lock.
    pub(crate) fn release(self) {
        if let Err(error) = self.lock.write_all_at(BLANK.as_bytes(), 0) {
            tracing::warn!(%error, "the lock file could not be blanked");
        }
    }
}

/// The process id that a lock file holds. Unreadable content is only a worse message, not a reason to fail.
fn written_in(lock: &File) -> Option<u32> {
    let mut bytes = [0; LOCK_BYTES_MAX];
    let read = lock.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes[..read]).ok()?.trim().parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn padded(pid: u32) -> String {
    format!("{pid:<width$}\n", width = BLANK.len())
}

fn reserve(data: &Path) -> PathBuf {
    data.join("reserve")
}

/// Sets some space aside for a start on a full disk; whether it is there. Blocks.
pub(crate) fn keep_reserve(data: &Path) -> bool {
    let path = reserve(data);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == RESERVE_BYTES as u64) {
        return true;
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    let kept = file.and_then(|file| file.write_all_at(&vec![0; RESERVE_BYTES], 0));
    if kept.is_err() {
        // What is left is for others.
        let _ = fs::remove_file(&path);
    }
    kept.is_ok()
}

/// Gives the space back if there is hardly any other; whether it did. Blocks.
pub(crate) fn use_reserve(data: &Path) -> bool {
    let free = rustix::fs::statvfs(data).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    free.is_ok_and(|bytes| bytes < RESERVE_BYTES as u64) && fs::remove_file(reserve(data)).is_ok()
}

/// Who holds a data directory at this moment: a process id, or 0 if it does not say. None if nobody
/// does, or if there is no such directory. Changes nothing, and blocks nobody for longer than a look.
pub fn holder(data: &Path) -> io::Result<Option<u32>> {
    let lock = match File::open(data.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(written_in(&lock).unwrap_or(0))),
        Err(errno) => Err(errno.into()),
    }
}

/// Puts the last good copy of the state database in its place, while no host runs. The damaged one is
/// kept under the name that is returned; none if there was none.
pub fn restore(path: &Path) -> Result<Option<PathBuf>, RestoreError> {
    let data = DataDir::claim(path)?;
    let suffix = crate::clock::now().replace(':', "");
    let kept = crate::state::restore(data.path(), &suffix)?;
    // The log of what was replaced is not missed by the next start.
    data.release();
    Ok(kept)
}

/// Why the copy was not put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory is in use, or cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is no copy, or it is damaged too.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
}

/// Makes sure that nobody else can look into the directory. Its mode is changed only if it is empty or
/// a host's already: `--data /tmp` must not close `/tmp` to everyone.
fn close_to_others(path: &Path) -> Result<(), DataError> {
    let io = |source| DataError::Io { dir: path.to_path_buf(), source };
    let metadata = fs::metadata(path).map_err(io)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    let empty = fs::read_dir(path).map_err(io)?.next().is_none();
    if !own || !(empty || OURS.iter().any(|name| path.join(name).exists())) {
        return Err(DataError::Exposed { dir: path.to_path_buf(), mode });
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)
}
