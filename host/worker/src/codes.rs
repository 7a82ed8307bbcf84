//! Compiled code that this worker has mapped: loaded at a tenant's first request, evicted when others
//! need the place.
//!
//! Bounded by [`LOADED_MAX`] components, the least recently used of which goes first (requests that
//! run keep theirs until they end), and by what the process may map: where that runs out, a quarter
//! goes at once. Loading reads the disk but compiles nothing. Requests for code
//! that is being loaded, or compiled again, wait for it up to [`CODE_WAIT`].

use insula_model::wire::FromWorker;
use insula_model::{CodeId, Fault};
use insula_sandbox::code::{LoadError, Loaded, Loader};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Components mapped in one worker: five mappings each of the 65,530 that a process may have.
const LOADED_MAX: usize = 2_048;
/// How long a request waits for code.
const CODE_WAIT: Duration = Duration::from_secs(5);
/// Shortest time between two evictions for want of room.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);
/// Code up to this size is loaded on the event loop, in well under a millisecond; larger code on a
/// thread of its own, since hashing it takes long enough to be noticed.
const INLINE_BYTES_MAX: u64 = 2 << 20;

pub(crate) struct Codes {
    loader: Loader,
    loaded: RefCell<HashMap<CodeId, Entry>>,
    loading: RefCell<HashMap<CodeId, Rc<Loading>>>,
    loads: Cell<u64>,
    clock: Cell<u64>,
    evicted: Cell<Option<Instant>>,
    /// When code was last let go of because it was to be loaded anew.
    forgotten: Cell<u64>,
    to_supervisor: mpsc::Sender<FromWorker>,
}

struct Entry {
    loaded: Arc<Loaded>,
    used: Cell<u64>,
    /// When it was loaded, on [`Codes::now`]'s clock and on everybody's.
    at: u64,
    since: Instant,
}

/// Code that someone has set out to get.
struct Loading {
    done: Notify,
    why: String,
}

/// The code cannot be had now.
pub(crate) enum Unavailable {
    /// This worker is out of mappings, memory or descriptors.
    Full(String),
    /// It is not there, or not there yet.
    Missing(String),
}

impl Unavailable {
    /// For counters and status, and for the tenant's log.
    pub(crate) fn fault(self) -> (Fault, String) {
        match self {
            Self::Full(detail) => (Fault::WorkerFull, detail),
            Self::Missing(detail) => (Fault::CodeUnavailable, detail),
        }
    }
}

impl Codes {
    pub(crate) fn new(loader: Loader, to_supervisor: mpsc::Sender<FromWorker>) -> Self {
        Self {
            loader,
            loaded: RefCell::default(),
            loading: RefCell::default(),
            loads: Cell::new(0),
            clock: Cell::new(0),
            evicted: Cell::new(None),
            forgotten: Cell::new(0),
            to_supervisor,
        }
    }

    /// How many components are mapped.
    pub(crate) fn count(&self) -> u64 {
        self.loaded.borrow().len() as u64
    }

    /// Whether it is mapped.
    pub(crate) fn has(&self, code: &CodeId) -> bool {
        self.loaded.borrow().contains_key(code)
    }

    /// How many were ever mapped.
    pub(crate) fn loads(&self) -> u64 {
        self.loads.get()
    }

    /// Marks code as used now.
    pub(crate) fn touch(&self, code: &CodeId) {
        if let Some(entry) = self.loaded.borrow().get(code) {
            entry.used.set(self.tick());
        }
    }

    /// The time, in uses of code.
    pub(crate) fn now(&self) -> u64 {
        self.tick()
    }

    /// Since when this code is mapped, if it is.
    pub(crate) fn since(&self, code: &CodeId) -> Option<Instant> {
        self.loaded.borrow().get(code).map(|entry| entry.since)
    }

    /// Lets go of code that was loaded before `before`, so that the next who needs it loads it anew; who
    /// runs it keeps it. Whether it was mapped.
    pub(crate) fn forget(&self, code: &CodeId, before: u64) -> bool {
        // Whatever is being read now was read before, too.
        self.forgotten.set(self.tick());
        self.forget_if(code, |entry| entry.at < before)
    }

    /// The same for code that is as old as this.
    pub(crate) fn forget_older(&self, code: &CodeId, max_age: Duration) -> bool {
        self.forget_if(code, |entry| entry.since.elapsed() >= max_age)
    }

    /// The same for code that nobody runs.
    pub(crate) fn forget_unused(&self, code: &CodeId) -> bool {
        self.forget_if(code, |entry| Arc::strong_count(&entry.loaded) == 1)
    }

    fn forget_if(&self, code: &CodeId, is_old: impl Fn(&Entry) -> bool) -> bool {
        let mut all = self.loaded.borrow_mut();
        let old = all.get(code).is_some_and(is_old);
        old && all.remove(code).is_some()
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// The code of an artifact, loaded if it is not.
    pub(crate) async fn get(&self, code: &CodeId) -> Result<Arc<Loaded>, Unavailable> {
        match tokio::time::timeout(CODE_WAIT, self.get_or_wait(code)).await {
            Ok(found) => found,
            Err(_) => {
                // The next request asks again: this compilation may have failed for good or for now.
                let why = self.loading.borrow().get(code).map(|loading| loading.why.clone());
                self.ready(code);
                let why = why.unwrap_or_else(|| "others were quicker".into());
                let why = format!("the compiled code was not there in time: {why}");
                Err(Unavailable::Missing(why))
            }
        }
    }

    async fn get_or_wait(&self, code: &CodeId) -> Result<Arc<Loaded>, Unavailable> {
        loop {
            if let Some(entry) = self.loaded.borrow().get(code) {
                entry.used.set(self.tick());
                return Ok(entry.loaded.clone());
            }
            let other = self.loading.borrow().get(code).cloned();
            if let Some(other) = other {
                other.done.notified().await;
                continue;
            }
            match self.load(code).await {
                Ok(loaded) => return Ok(loaded),
                Err(error) if error.is_mended_by_compiling() => self.ask_for(code, &error)?,
                Err(error @ LoadError::Full(_)) => {
                    return Err(Unavailable::Full(error.to_string()));
                }
                Err(error) => return Err(Unavailable::Missing(error.to_string())),
            }
        }
    }

    async fn load(&self, code: &CodeId) -> Result<Arc<Loaded>, LoadError> {
        let (at, since) = (self.tick(), Instant::now());
        let found = self.loader.find(code)?;
        let loaded = if found.bytes() <= INLINE_BYTES_MAX {
            self.loader.load(&found)?
        } else {
            self.set_out(code, "it is being loaded".into());
            // Dropped with this future too: those who wait then try for themselves.
            let _done = Done { codes: self, code };
            let loader = self.loader.clone();
            tokio::task::spawn_blocking(move || loader.load(&found))
                .await
                .map_err(|error| LoadError::System(error.to_string()))??
        };
        let loaded = Arc::new(loaded);
        self.loads.set(self.loads.get() + 1);
        if self.forgotten.get() > at {
            // Good for whoever asked before; those who come now read it themselves.
            return Ok(loaded);
        }
        let mut all = self.loaded.borrow_mut();
        if all.len() >= LOADED_MAX {
            drop_oldest(&mut all, 1);
        }
        all.insert(
            *code,
            Entry { loaded: loaded.clone(), used: Cell::new(self.tick()), at, since },
        );
        Ok(loaded)
    }

    /// Lets go of the least recently used quarter of the code, at most once in [`EVICTION_INTERVAL`]:
    /// where that does not help, doing it for every request would only slow the others down. Whether
    /// there was any.
    pub(crate) fn evict(&self) -> bool {
        let now = Instant::now();
        let soon = self.evicted.get().is_some_and(|at| now.duration_since(at) < EVICTION_INTERVAL);
        let mut all = self.loaded.borrow_mut();
        if soon || all.is_empty() {
            return false;
        }
        self.evicted.set(Some(now));
        let count = all.len().div_ceil(4);
        drop_oldest(&mut all, count);
        true
    }

    /// Has the artifact compiled again; those who want it wait until [`Codes::ready`].
    fn ask_for(&self, code: &CodeId, error: &LoadError) -> Result<(), Unavailable> {
        let message = FromWorker::CodeNeeded { code: *code, reason: error.to_string() };
        self.to_supervisor
            .try_send(message)
            .map_err(|_| Unavailable::Missing("the supervisor does not take messages".into()))?;
        self.set_out(code, error.to_string());
        Ok(())
    }

    fn set_out(&self, code: &CodeId, why: String) {
        let loading = Rc::new(Loading { done: Notify::new(), why });
        self.loading.borrow_mut().insert(*code, loading);
    }

    /// Code may be there now: compiled again, or loaded by another request.
    pub(crate) fn ready(&self, code: &CodeId) {
        if let Some(waiting) = self.loading.borrow_mut().remove(code) {
            waiting.done.notify_waiters();
        }
    }
}

fn drop_oldest(all: &mut HashMap<CodeId, Entry>, count: usize) {
    let mut used: Vec<u64> = all.values().map(|entry| entry.used.get()).collect();
    let at = count.min(used.len()).saturating_sub(1);
    let (_, newest, _) = used.select_nth_unstable(at);
    let newest = *newest;
    all.retain(|_, entry| entry.used.get() > newest);
}

struct Done<'a> {
    codes: &'a Codes,
    code: &'a CodeId,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.codes.ready(self.code);
    }
}
