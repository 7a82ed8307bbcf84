//! What tenants have used, durably: for bills.
//!
//! ```text
//! workers ─▶ shared table ──differences, every 10 s──▶ DATA/usage.db (hour, tenant, namespace)
//!                              and: asked for · tenant removed · host stops
//! ```
//! Owns what was written of each slot, and the database. The table's figures only grow, and what was written
//! is remembered only when the transaction has committed, so nothing is counted twice and a disk that is full
//! loses nothing while the host lives. What a worker's death leaves stays in the table. The death of the
//! supervisor itself loses what was used since the last time: at most [`FOLD_S`] seconds, or
//! [`FOLD_SHARE`] times what a write takes, whichever is longer.
//!
//! Bounded by a remembered set of figures for each tenant that has used anything, and by
//! [`USAGE_DAYS_MAX`] days in the database. Only tenants that ever had a request are looked at, and nothing is written
//! if nobody has used anything.

mod ledger;

use crate::clock;
use crate::processes::Workers;
use crate::registry::Registry;
use insula_ipc::heap::give_back;
use insula_model::api::{USAGE_DAYS_MAX, UsageBy, UsageRow};
use insula_model::usage::{FIGURES, Used};
use insula_model::{Namespace, TenantName};
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use ledger::LedgerError;

/// Seconds between two looks at the table.
const FOLD_S: u64 = 10;
/// The same as a multiple of what the last one took: writing takes at most a hundredth of the time.
const FOLD_SHARE: u32 = 100;
/// Slots that are looked at before others of the supervisor's tasks get a turn.
const SLOTS_AT_ONCE: usize = 1_024;
/// Figures that every version hands over.
const HANDED: usize = 11;
/// Milliseconds of an hour.
pub(crate) const HOUR_MS: u64 = 3_600_000;
/// Milliseconds between two removals of what is too old.
const FORGET_MS: u64 = 24 * HOUR_MS;

/// Who used something, and in which hour (since 1970).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    hour: u64,
    tenant: TenantName,
    namespace: Namespace,
}

/// Whose slot it is, and what was written of it.
struct Seen {
    tenant: TenantName,
    namespace: Namespace,
    used: Used,
}

/// A handle on the usage of all tenants; clones share it.
#[derive(Clone)]
pub(crate) struct Usage(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    registry: Arc<Registry>,
    workers: Workers,
    /// One writes at a time.
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    seen: HashMap<u32, Seen>,
    /// What removed tenants used and nobody could write yet.
    rest: HashMap<Key, Used>,
    forgot_at_ms: u64,
}

/// What was written of a slot's usage: for the supervisor that goes on from this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Billed {
    slot: u32,
    tenant: TenantName,
    namespace: Namespace,
    figures: [u64; HANDED],
    /// A figure that an earlier version does not know.
    #[serde(default)]
    outbound: u64,
}

impl Billed {
    fn used(&self) -> Used {
        let mut figures = [0; FIGURES];
        figures[..HANDED].copy_from_slice(&self.figures);
        Used { bytes_outbound: self.outbound, ..Used::from_figures(figures) }
    }
}

/// What is to be added up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    /// The first hour (since 1970).
    pub(crate) from: u64,
    /// The hour after the last.
    pub(crate) until: u64,
    pub(crate) by: UsageBy,
    /// Only these tenants; all, if there is none.
    pub(crate) tenants: Vec<TenantName>,
}

/// The database of a host, before its workers run.
pub(crate) struct Opened(Ledger);

impl Opened {
    /// Opens or makes `DATA/usage.db` (mode 0600). Blocks.
    pub(crate) fn open(data: &Path) -> Result<Self, LedgerError> {
        Ledger::open(&data.join("usage.db")).map(Self)
    }

    /// For the tenants of this registry in these workers, of whose figures so much was written before.
    pub(crate) fn of(
        self,
        registry: Arc<Registry>,
        workers: Workers,
        billed: Vec<Billed>,
    ) -> Usage {
        let seen = billed.into_iter().map(|billed| {
            let used = billed.used();
            let Billed { slot, tenant, namespace, .. } = billed;
            (slot, Seen { tenant, namespace, used })
        });
        let book = Mutex::new(Book { seen: seen.collect(), ..Book::default() });
        Usage(Arc::new(Inner { ledger: self.0, registry, workers, book }))
    }
}

impl Usage {
    /// Writes down what is new, again and again. Never ends.
    pub(crate) async fn run(self) {
        loop {
            let begun = Instant::now();
            if let Err(error) = self.fold().await {
                tracing::warn!(%error, "usage could not be written; it is kept and tried again");
            }
            let pause = Duration::from_secs(FOLD_S).max(begun.elapsed() * FOLD_SHARE);
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes down what was used up to now.
    pub(crate) async fn fold(&self) -> Result<(), LedgerError> {
        let mut book = self.0.book.lock().await;
        let hour = clock::now_ms() / HOUR_MS;
        let mut grown: HashMap<Key, Used> = HashMap::new();
        let mut reached: Vec<(u32, Used)> = Vec::new();
        for slots in self.0.workers.active().chunks(SLOTS_AT_ONCE) {
            for slot in slots {
                let Some((key, now, more)) = self.look(&mut book, *slot, hour) else { continue };
                add(&mut grown, key, &more);
                reached.push((*slot, now));
            }
            tokio::task::yield_now().await;
        }
        for (key, used) in &book.rest {
            add(&mut grown, key.clone(), used);
        }
        if !grown.is_empty() {
            let much = grown.len() >= SLOTS_AT_ONCE;
            self.0.ledger.add(grown).await?;
            book.rest.clear();
            for (slot, now) in reached {
                if let Some(seen) = book.seen.get_mut(&slot) {
                    seen.used = now;
                }
            }
            if much {
                give_back();
            }
        }
        self.forget_old(&mut book).await
    }

    /// What is new in a slot: for whom, up to which figures.
    fn look(&self, book: &mut Book, slot: u32, hour: u64) -> Option<(Key, Used, Used)> {
        let key = |tenant: &TenantName, namespace: &Namespace| Key {
            hour,
            tenant: tenant.clone(),
            namespace: namespace.clone(),
        };
        let now = self.0.workers.used(slot);
        if let Some(seen) = book.seen.get(&slot) {
            let more = now.since(&seen.used);
            let reached = seen.used.plus(&more);
            return (!more.is_none()).then(|| (key(&seen.tenant, &seen.namespace), reached, more));
        }
        if now.is_none() {
            return None;
        }
        let owner = self.0.registry.by_slot(slot)?;
        let (tenant, namespace) = (owner.entry.name.clone(), owner.namespace.clone());
        let key = key(&tenant, &namespace);
        book.seen.insert(slot, Seen { tenant, namespace, used: Used::default() });
        let more = now.since(&Used::default());
        Some((key, more, more))
    }

    /// A tenant was removed; requests of it may still run in its slot, and are its own.
    pub(crate) async fn leaving(&self, slot: u32, tenant: &TenantName, namespace: &Namespace) {
        let (tenant, namespace) = (tenant.clone(), namespace.clone());
        let mut book = self.0.book.lock().await;
        book.seen.entry(slot).or_insert(Seen { tenant, namespace, used: Used::default() });
    }

    /// Nothing runs in a removed tenant's slot any more: takes down the last of it. The slot may be cleared
    /// when this returns, and not before.
    pub(crate) async fn left(&self, slot: u32) {
        let mut book = self.0.book.lock().await;
        if let Some((key, _, more)) = self.look(&mut book, slot, clock::now_ms() / HOUR_MS) {
            add(&mut book.rest, key, &more);
        }
        book.seen.remove(&slot);
    }

    /// What was counted in a slot is added to another one of the same tenant by `fold`, which clears the
    /// slot: a canary's to its tenant's. What was written of it already is not written again.
    pub(crate) async fn moves(&self, from: u32, to: u32, fold: impl FnOnce()) {
        let mut book = self.0.book.lock().await;
        fold();
        if let Some(Seen { tenant, namespace, used }) = book.seen.remove(&from) {
            let new = Seen { tenant, namespace, used: Used::default() };
            let seen = book.seen.entry(to).or_insert(new);
            seen.used = seen.used.plus(&used);
        }
    }

    /// What was used, up to this moment.
    pub(crate) async fn report(&self, query: Query) -> Result<Vec<UsageRow>, LedgerError> {
        self.fold().await?;
        self.0.ledger.sums(query).await
    }

    /// The first hour that is kept.
    pub(crate) async fn first_hour(&self) -> Result<Option<u64>, LedgerError> {
        self.0.ledger.first_hour().await
    }

    /// Writes down the last of it. Every worker must be gone.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.fold().await {
            tracing::error!(%error, "what was used since the last write is lost");
        }
        if let Err(error) = self.0.ledger.close().await {
            tracing::warn!(%error, "the usage database keeps its log; nothing is lost");
        }
    }

    /// What was written of each slot.
    pub(crate) async fn billed(&self) -> Vec<Billed> {
        let book = self.0.book.lock().await;
        let billed = |(slot, seen): (&u32, &Seen)| {
            let [figures @ .., outbound] = seen.used.figures();
            let (tenant, namespace) = (seen.tenant.clone(), seen.namespace.clone());
            Billed { slot: *slot, tenant, namespace, figures, outbound }
        };
        book.seen.iter().map(billed).collect()
    }

    async fn forget_old(&self, book: &mut Book) -> Result<(), LedgerError> {
        let now_ms = clock::now_ms();
        if now_ms.abs_diff(book.forgot_at_ms) < FORGET_MS {
            return Ok(());
        }
        let kept_ms = USAGE_DAYS_MAX * 24 * HOUR_MS;
        self.0.ledger.forget_before(now_ms.saturating_sub(kept_ms) / HOUR_MS).await?;
        book.forgot_at_ms = now_ms;
        Ok(())
    }
}

fn add(sums: &mut HashMap<Key, Used>, key: Key, more: &Used) {
    let sum = sums.entry(key).or_default();
    *sum = sum.plus(more);
}
