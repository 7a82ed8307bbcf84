//! The host's side of `wasi:filesystem`: what WASI's own does, within bounds that it does not have.
//!
//! Everything that opens, makes, lists or writes passes through here on its way to WASI's own
//! functions. Bounds: [`OPEN_MAX`] files for an instance and half of what the process may have for all
//! of them, [`LISTED_MAX`] entries of a listed directory and [`LISTINGS_MAX`] listings at once, quotas
//! where they were granted. Pipes, sockets and devices cannot be opened: opening one may wait for
//! ever, on a thread that every tenant needs. Ends with the instance.

pub(crate) mod quota;
mod wasi02;
mod wasi03;
mod writing;

use crate::state::State;
use quota::{Full, Quota};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Weak};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::Descriptor;

pub(crate) use wasi02::link as link_02;
pub(crate) use wasi03::link as link_03;

/// Files and directories that one instance may have open.
const OPEN_MAX: usize = 256;
/// Entries of a directory that can be listed.
const LISTED_MAX: usize = 50_000;
/// Listings that one instance may hold: each is in the host's memory.
const LISTINGS_MAX: usize = 8;
/// Descriptors that the process is assumed to have where that cannot be found out.
const DESCRIPTORS_ASSUMED: u64 = 1_024;

/// Files that are open in all instances of this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Half of the process's descriptors: the others are clients' and the host's own.
static OPEN_ALL_MAX: LazyLock<usize> = LazyLock::new(|| {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    usize::try_from(limit.current.unwrap_or(DESCRIPTORS_ASSUMED) / 2).unwrap_or(usize::MAX)
});

/// What one instance has open.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The quota of each directory that it was given, in order.
    quotas: Vec<Option<Arc<Quota>>>,
    /// By a descriptor's place in the resource table: one more than the directory it is in.
    within: Vec<u8>,
    open: Vec<Weak<File>>,
    /// Listings, by place.
    listings: Vec<u32>,
}

/// Too many files are open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TooMany;

impl Files {
    /// For an instance that was given directories with these quotas.
    pub(crate) fn new(quotas: Vec<Option<Arc<Quota>>>) -> Self {
        Self { quotas, within: Vec::new(), open: Vec::new(), listings: Vec::new() }
    }

    fn given(&mut self, directories: &[(Resource<Descriptor>, String)]) {
        for (at, (descriptor, _)) in directories.iter().enumerate() {
            self.put(descriptor, u8::try_from(at + 1).unwrap_or(0));
        }
    }

    fn put(&mut self, descriptor: &Resource<Descriptor>, within: u8) {
        let place = descriptor.rep() as usize;
        if self.within.len() <= place {
            self.within.resize(place + 1, 0);
        }
        if let Some(at) = self.within.get_mut(place) {
            *at = within;
        }
    }

    fn within(&self, descriptor: &Resource<Descriptor>) -> u8 {
        self.within.get(descriptor.rep() as usize).copied().unwrap_or(0)
    }

    /// The quota that a descriptor is under.
    fn quota(&self, descriptor: &Resource<Descriptor>) -> Option<Arc<Quota>> {
        let at = usize::from(self.within(descriptor)).checked_sub(1)?;
        self.quotas.get(at)?.clone()
    }

    /// Whether one more file may be opened.
    fn room(&mut self) -> Result<(), TooMany> {
        let before = self.open.len();
        self.open.retain(|file| file.strong_count() > 0);
        OPEN.fetch_sub(before - self.open.len(), Relaxed);
        let full = self.open.len() >= OPEN_MAX || OPEN.load(Relaxed) >= *OPEN_ALL_MAX;
        if full { Err(TooMany) } else { Ok(()) }
    }

    /// Counts what was opened in the directory `parent`.
    fn opened(
        &mut self,
        parent: &Resource<Descriptor>,
        descriptor: &Resource<Descriptor>,
        what: &Descriptor,
    ) {
        self.put(descriptor, self.within(parent));
        let file = match what {
            Descriptor::File(file) => {
                if let Some(quota) = self.quota(descriptor) {
                    quota.watch(&file.file);
                }
                &file.file
            }
            Descriptor::Dir(dir) => &dir.dir,
        };
        OPEN.fetch_add(1, Relaxed);
        self.open.push(Arc::downgrade(file));
    }

    fn listed<T: 'static>(&mut self, listing: &Resource<T>) {
        self.listings.push(listing.rep());
    }

    /// Whether one more directory may be listed.
    fn may_list<T: Send + 'static>(&mut self, table: &ResourceTable) -> bool {
        self.listings.retain(|rep| table.get::<T>(&Resource::new_borrow(*rep)).is_ok());
        self.listings.len() < LISTINGS_MAX
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        OPEN.fetch_sub(self.open.len(), Relaxed);
    }
}

/// Reserves a new entry where there is a quota.
async fn reserve_entry(quota: Option<Arc<Quota>>, bytes: usize) -> Result<(), Full> {
    match quota {
        Some(quota) => quota.reserve(bytes as u64, 1).await,
        None => Ok(()),
    }
}

/// Whether a directory is small enough to be listed. Blocks.
fn can_be_listed(dir: &File) -> bool {
    use rustix::fs::{Dir, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = openat(dir, ".", flags, Mode::empty()).and_then(Dir::new);
    // What cannot be read fails where it is read.
    entries.is_ok_and(|entries| entries.take(LISTED_MAX + 3).count() <= LISTED_MAX + 2)
}

impl State {
    fn quota(&self, descriptor: &Resource<Descriptor>) -> Option<Arc<Quota>> {
        self.files.as_ref()?.quota(descriptor)
    }
}
