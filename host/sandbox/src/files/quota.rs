//! How many bytes and files a directory may have.
//!
//! What counts is what is on disk, since several workers and the host's own programs may write to one
//! directory. A quota measures by walking the directory, and then hands out a lease: a share of what
//! is left that instances may use up without another look. So between two looks each worker may go
//! beyond the quota by at most [`SHARE`] of it, or [`LEASE_BYTES_MIN`] if that is more.
//!
//! Walks run on a thread for blocking work, one at a time for a quota, over at most [`ENTRIES_MAX`]
//! entries. Ends with the directory's last user.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Files, directories and links in a directory with a quota: empty ones cost something too.
pub(crate) const ENTRIES_MAX: u64 = 100_000;
/// What a file, directory or link counts at least, in bytes: the smallest piece of a disk.
const ENTRY_BYTES: u64 = 4 << 10;
/// A lease is this part of the quota …
const SHARE: u64 = 64;
/// … and at least this many bytes, so that small writes do not each make the host look.
const LEASE_BYTES_MIN: u64 = 64 << 10;
/// For how long a lease is good: others may have written meanwhile.
const LEASE: Duration = Duration::from_secs(1);
/// How often the directories of a preview 1 program are looked at while it runs.
const WATCH: Duration = Duration::from_millis(250);
/// Directories inside of each other; deeper ones count as full.
const DEPTH_MAX: usize = 64;

/// The quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl From<Full> for io::Error {
    fn from(_: Full) -> Self {
        Errno::NOSPC.into()
    }
}

/// The quota of one directory in this worker.
#[derive(Debug)]
pub(crate) struct Quota {
    dir: Arc<File>,
    bytes_max: u64,
    /// Nobody else writes there.
    alone: bool,
    lease: Mutex<Lease>,
    /// Held by who measures.
    measuring: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Lease {
    bytes: u64,
    entries: u64,
    until: Instant,
    /// Files open for writing: without a name they are not found by walking.
    open: Vec<Weak<File>>,
}

/// What is in a directory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    entries: u64,
}

impl Quota {
    pub(crate) fn new(dir: Arc<File>, bytes_max: u64) -> Self {
        let until = Instant::now();
        let lease = Mutex::new(Lease { bytes: 0, entries: 0, until, open: Vec::new() });
        Self { dir, bytes_max, alone: false, lease, measuring: tokio::sync::Mutex::new(()) }
    }

    /// For an empty directory that one instance has for itself: looked at when it seems full.
    pub(crate) fn of_new(dir: Arc<File>, bytes_max: u64) -> Self {
        let quota = Self { alone: true, ..Self::new(dir, bytes_max) };
        quota.grant(Usage::default(), 0);
        quota
    }

    fn lease(&self) -> std::sync::MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that may be written without asking.
    pub(crate) fn at_hand(&self) -> u64 {
        let lease = self.lease();
        if self.alone || Instant::now() < lease.until { lease.bytes } else { 0 }
    }

    /// Takes from what [`Quota::at_hand`] said is there.
    pub(crate) fn take(&self, bytes: u64) {
        let mut lease = self.lease();
        lease.bytes = lease.bytes.saturating_sub(bytes);
    }

    /// Gives back what was reserved and not used.
    pub(crate) fn put_back(&self, bytes: u64) {
        self.lease().bytes += bytes;
    }

    fn try_reserve(&self, bytes: u64, entries: u64) -> bool {
        let bytes = bytes + entries * ENTRY_BYTES;
        let mut lease = self.lease();
        let good = self.alone || Instant::now() < lease.until;
        if !good || lease.bytes < bytes || lease.entries < entries {
            return false;
        }
        lease.bytes -= bytes;
        lease.entries -= entries;
        true
    }

    /// Reserves room for content, after a look at the directory if need be.
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: u64, entries: u64) -> Result<(), Full> {
        if self.try_reserve(bytes, entries) {
            return Ok(());
        }
        let _alone = self.measuring.lock().await;
        if self.try_reserve(bytes, entries) {
            return Ok(());
        }
        let this = Arc::clone(self);
        let measured = tokio::task::spawn_blocking(move || this.measure()).await;
        // What cannot be measured takes nothing more.
        let usage = measured.ok().and_then(Result::ok).ok_or(Full)?;
        self.grant(usage, bytes + entries * ENTRY_BYTES);
        if self.try_reserve(bytes, entries) { Ok(()) } else { Err(Full) }
    }

    fn grant(&self, usage: Usage, wanted: u64) {
        let left = self.bytes_max.saturating_sub(usage.bytes);
        let entries_left = ENTRIES_MAX.saturating_sub(usage.entries);
        let mut lease = self.lease();
        lease.until = Instant::now() + LEASE;
        (lease.bytes, lease.entries) = if self.alone {
            (left, entries_left)
        } else {
            let share = (self.bytes_max / SHARE).max(LEASE_BYTES_MIN).max(wanted);
            (left.min(share), entries_left.min(ENTRIES_MAX / SHARE))
        };
    }

    async fn is_exceeded(self: &Arc<Self>) -> bool {
        let this = Arc::clone(self);
        let measured = tokio::task::spawn_blocking(move || this.measure()).await;
        let usage = measured.ok().and_then(Result::ok);
        usage.is_none_or(|usage| usage.bytes > self.bytes_max)
    }

    /// Counts a file that was opened for writing as long as it is open.
    pub(crate) fn watch(&self, file: &Arc<File>) {
        let mut lease = self.lease();
        if lease.open.len() == lease.open.capacity() {
            lease.open.retain(|file| file.strong_count() > 0);
        }
        lease.open.push(Arc::downgrade(file));
    }

    fn measure(&self) -> io::Result<Usage> {
        let mut walk = Walk::default();
        walk.directory(enter(self.dir.as_fd(), ".")?, 0)?;
        let open: Vec<Arc<File>> = self.lease().open.iter().filter_map(Weak::upgrade).collect();
        for file in open {
            let stat = fstat(&file)?;
            if stat.st_nlink == 0 {
                walk.usage.bytes += occupied(&stat);
            }
        }
        Ok(walk.usage)
    }
}

/// Ready when one of these is exceeded: for preview 1 programs, whose writes nothing stands before.
pub(crate) async fn exceeded(quotas: &[Option<Arc<Quota>>]) {
    let quotas: Vec<_> = quotas.iter().flatten().collect();
    if quotas.is_empty() {
        return std::future::pending().await;
    }
    loop {
        for quota in &quotas {
            if quota.is_exceeded().await {
                return;
            }
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// What a file takes: neither the holes in it, nor what the disk sets aside beyond its end.
fn occupied(stat: &Stat) -> u64 {
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    let blocks = unsigned(stat.st_blocks).saturating_mul(512);
    blocks.min(unsigned(stat.st_size).next_multiple_of(ENTRY_BYTES))
}

fn enter(dir: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

#[derive(Default)]
struct Walk {
    usage: Usage,
    /// Files with several names, which count once.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn directory(&mut self, dir: OwnedFd, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(Errno::LOOP.into());
        }
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.usage.entries += 1;
            if self.usage.entries > ENTRIES_MAX {
                return Err(Errno::NOSPC.into());
            }
            let stat = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.usage.bytes += ENTRY_BYTES;
                    match enter(&dir, name) {
                        Ok(inner) => self.directory(inner, depth + 1)?,
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                _ if stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) => {}
                _ => self.usage.bytes += occupied(&stat).max(ENTRY_BYTES),
            }
        }
        Ok(())
    }
}
