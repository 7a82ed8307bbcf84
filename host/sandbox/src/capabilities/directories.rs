//! Directories of the host: mounts, and a private scratch directory.
//!
//! A mount's directory is opened once for each revision and worker, when an instance first asks for
//! it; every instance then gets the same directory, whatever its path leads to by that time. Inside
//! of it the kernel resolves paths (`openat2`, beneath the directory and without magic links), so no
//! `..` and no link leads out. Scratch directories of single instances end with `Given`, those of
//! tenants with the tenant. What instances do in them is bounded by `crate::files`.

use crate::files::quota::Quota;
use insula_model::TenantName;
use insula_model::grants::mounts::{Access, Mount, Scratch, ScratchPer};
use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

/// Under a host's directory for tenants: what lasts as long as a tenant, a directory for each.
const KEPT: &str = "scratch";
/// What lasts as long as an instance: `PID-NUMBER` for each.
const PASSING: &str = "scratch-of-instances";
/// Only this user sees into scratch directories.
const MODE: u32 = 0o700;

/// A directory that was granted cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error(
        "the directory {host}, mounted at {guest}, cannot be opened: {cause}; make it, or change `mounts` in the manifest"
    )]
    Mount { host: String, guest: String, cause: String },
    #[error("no scratch directory can be made in {}: {cause}", .place.display())]
    Scratch { place: PathBuf, cause: String },
}

/// The directories of one revision.
#[derive(Debug)]
pub(crate) struct Directories {
    name: String,
    mounts: Vec<Mount>,
    scratch: Option<Scratch>,
    /// Where scratch directories are made.
    place: PathBuf,
    /// What all instances share: the mounts, and the scratch directory of a tenant.
    shared: OnceLock<Vec<Shared>>,
}

/// An open directory.
#[derive(Debug)]
struct Shared {
    dir: Arc<File>,
    guest: String,
    perms: FsPerms,
    quota: Option<Arc<Quota>>,
}

/// What one instance was given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// For each directory, in order.
    pub(crate) quotas: Vec<Option<Arc<Quota>>>,
    /// Its own, removed with this.
    _passing: Option<Passing>,
}

impl Directories {
    /// None where nothing is granted.
    pub(super) fn new(name: &str, mounts: &[Mount], scratch: Option<&Scratch>) -> Option<Self> {
        (!mounts.is_empty() || scratch.is_some()).then(|| Self {
            name: name.to_owned(),
            mounts: mounts.to_vec(),
            scratch: scratch.cloned(),
            place: std::env::temp_dir(),
            shared: OnceLock::new(),
        })
    }

    /// Scratch directories are made here and not in the system's temporary directory.
    pub(super) fn keep_in(&mut self, tenants_dir: &Path) {
        self.place = tenants_dir.to_owned();
    }

    /// Gives one instance its directories.
    pub(super) fn apply(&self, builder: &mut WasiCtxBuilder) -> Result<Given, DirectoryError> {
        let mut quotas = Vec::new();
        for shared in self.shared()? {
            preopen(builder, &shared.dir, &shared.guest, shared.perms)
                .map_err(|error| unavailable(&shared.guest, &shared.guest, error))?;
            quotas.push(shared.quota.clone());
        }
        let Some(scratch) = self.scratch.as_ref().filter(|s| s.per == ScratchPer::Request) else {
            return Ok(Given { quotas, _passing: None });
        };
        let made = Passing::new(&self.place.join(PASSING)).and_then(|passing| {
            let dir = Arc::new(open(&passing.0)?);
            preopen(builder, &dir, &scratch.guest, FsPerms::ReadWrite)?;
            quotas.push(Some(Arc::new(Quota::of_new(dir, scratch.quota_bytes))));
            Ok(passing)
        });
        let passing = made.map_err(|error| self.no_scratch(&error))?;
        Ok(Given { quotas, _passing: Some(passing) })
    }

    /// A failure is not kept: the next instance tries again.
    fn shared(&self) -> Result<&[Shared], DirectoryError> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        let mut shared = Vec::new();
        for mount in &self.mounts {
            let dir = open(Path::new(&mount.host));
            let dir = Arc::new(dir.map_err(|error| unavailable(&mount.host, &mount.guest, error))?);
            let perms = match mount.access {
                Access::Ro => FsPerms::ReadOnly,
                Access::Rw => FsPerms::ReadWrite,
            };
            let quota = mount.quota_bytes.map(|bytes| Arc::new(Quota::new(dir.clone(), bytes)));
            shared.push(Shared { dir, guest: mount.guest.clone(), perms, quota });
        }
        if let Some(scratch) = self.scratch.as_ref().filter(|s| s.per == ScratchPer::Tenant) {
            let path = self.place.join(KEPT).join(&self.name);
            let made = DirBuilder::new().recursive(true).mode(MODE).create(&path);
            let dir = made.and_then(|()| open(&path)).map_err(|error| self.no_scratch(&error))?;
            let dir = Arc::new(dir);
            let quota = Some(Arc::new(Quota::new(dir.clone(), scratch.quota_bytes)));
            let (guest, perms) = (scratch.guest.clone(), FsPerms::ReadWrite);
            shared.push(Shared { dir, guest, perms, quota });
        }
        Ok(self.shared.get_or_init(|| shared))
    }

    fn no_scratch(&self, cause: &io::Error) -> DirectoryError {
        DirectoryError::Scratch { place: self.place.clone(), cause: cause.to_string() }
    }
}

/// For finding what is in it, and nothing else.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::PATH;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Through the descriptor, so that it is the directory that was opened, whatever its path leads to.
fn preopen(
    builder: &mut WasiCtxBuilder,
    dir: &File,
    guest: &str,
    perms: FsPerms,
) -> io::Result<()> {
    builder
        .preopened_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()), guest, perms)
        .map(drop)
        .map_err(|error| error.downcast().unwrap_or_else(io::Error::other))
}

fn unavailable(host: &str, guest: &str, cause: io::Error) -> DirectoryError {
    DirectoryError::Mount { host: host.into(), guest: guest.into(), cause: cause.to_string() }
}

/// A directory that is removed when its instance ends.
#[derive(Debug)]
struct Passing(PathBuf);

impl Passing {
    fn new(place: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Relaxed);
            let path = place.join(format!("{}-{number}", std::process::id()));
            match DirBuilder::new().mode(MODE).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    DirBuilder::new().recursive(true).mode(MODE).create(place)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Most are empty, or were never written to.
        if fs::remove_dir(&self.0).is_ok() {
            return;
        }
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "a scratch directory is left behind");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes what instances of dead processes left behind. Blocks.
pub fn sweep(tenants_dir: &Path) {
    for entry in fs::read_dir(tenants_dir.join(PASSING)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes what a tenant kept in its scratch directory. Blocks.
///
/// # Errors
/// Something cannot be removed.
pub fn forget(tenants_dir: &Path, name: &TenantName) -> io::Result<()> {
    match fs::remove_dir_all(tenants_dir.join(KEPT).join(name.as_str())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same for every tenant that is no longer one: a request that was still running when its tenant
/// was removed may have made the directory again. Blocks.
pub fn forget_all_but(tenants_dir: &Path, is_tenant: impl Fn(&TenantName) -> bool) {
    for entry in fs::read_dir(tenants_dir.join(KEPT)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if !name.is_some_and(|name| is_tenant(&name)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where a tenant's scratch directory is, or would be.
pub fn kept(tenants_dir: &Path, name: &TenantName) -> PathBuf {
    tenants_dir.join(KEPT).join(name.as_str())
}

/// Makes an empty directory of this name, which is no tenant's, beside the tenants' own, in place of one
/// that is there. Blocks.
///
/// # Errors
/// It cannot be made.
pub fn stage(tenants_dir: &Path, staged: &str) -> io::Result<PathBuf> {
    let path = tenants_dir.join(KEPT).join(staged);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => DirBuilder::new().recursive(true).mode(MODE).create(&path)?,
    }
    Ok(path)
}

/// Makes what was staged a tenant's scratch directory, in place of the one it had; nothing if nothing is
/// there, so that it can be done again. Blocks.
///
/// # Errors
/// Something cannot be removed or renamed.
pub fn adopt(tenants_dir: &Path, staged: &str, name: &TenantName) -> io::Result<()> {
    let path = tenants_dir.join(KEPT).join(staged);
    if !path.exists() {
        return Ok(());
    }
    forget(tenants_dir, name)?;
    fs::rename(&path, kept(tenants_dir, name))
}

/// Removes what was staged and is not wanted. Blocks.
pub fn unstage(tenants_dir: &Path, staged: &str) {
    let _ = fs::remove_dir_all(tenants_dir.join(KEPT).join(staged));
}
