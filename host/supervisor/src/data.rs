//! The data directory: its mode, its lock, and where the control socket is.
//!
//! Owns the lock file for as long as the host runs. One host per directory: the lock is the kernel's
//! (`flock`), so it ends with the process, however that ends. The file holds the owner's process id
//! and is emptied by a clean end, which is how the next start knows whether there was one.

use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The longest content of a lock file that is read, in bytes: a process id.
const LOCK_BYTES_MAX: u64 = 32;
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
    unclean: bool,
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
        let mut lock = options.open(path.join("lock")).map_err(io)?;
        let mut written = String::new();
        let holder = |lock: &File, written: &mut String| {
            // Unreadable content is only a worse message, not a reason to fail.
            let _ = lock.take(LOCK_BYTES_MAX).read_to_string(written);
            written.trim().parse::<u32>().ok()
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = holder(&lock, &mut written).unwrap_or(0);
                return Err(DataError::InUse { dir: path.clone(), pid });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        let unclean = holder(&lock, &mut written).is_some();
        lock.set_len(0).map_err(io)?;
        lock.rewind().map_err(io)?;
        writeln!(lock, "{}", std::process::id()).map_err(io)?;
        Ok(Self { path: path.clone(), lock, unclean })
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
        Ok(Self { path: path.clone(), lock, unclean: false })
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
        self.unclean
    }

    /// Notes a clean end and gives up the lock.
    pub(crate) fn release(self) {
        if let Err(error) = self.lock.set_len(0) {
            tracing::warn!(%error, "the lock file could not be emptied");
        }
    }
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
