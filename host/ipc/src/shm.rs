//! A piece of shared memory seen as an array of atomics: the one unsafe step of the table.
//!
//! Owns the mapping; bounded by the size given at creation, which a seal keeps from ever shrinking
//! (a shorter file under a mapping would be a SIGBUS); ends when dropped.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

#[derive(Debug)]
pub(crate) struct Shm {
    fd: OwnedFd,
    map: MmapRaw,
    words: usize,
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

impl Shm {
    /// New zeroed memory of `words` times 8 bytes; pages are taken only when first written.
    pub(crate) fn create(words: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("insula-table", flags)?;
        rustix::fs::ftruncate(&fd, words as u64 * 8)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        Self::attach(fd)
    }

    /// Memory that another process created.
    pub(crate) fn attach(fd: OwnedFd) -> io::Result<Self> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SEALS) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the table's size is not sealed",
            ));
        }
        let bytes = usize::try_from(rustix::fs::fstat(&fd)?.st_size).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(bytes).map_raw(&fd)?;
        Ok(Self { fd, map, words: bytes / 8 })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    #[allow(unsafe_code)]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, readable and writable, `words * 8` bytes long and can
        // not shrink (sealed; checked in `attach`); it lives as long as `self`. Every process goes
        // through this function, so all access is atomic, and any bit pattern is a valid u64.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.words) }
    }
}
