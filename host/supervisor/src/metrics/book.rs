//! Which tenants have series of their own, and what the others have together.
//!
//! ```text
//!            first requests, and there is room          removed
//! (idle) ──────────────────────────────────▶ own series ────────▶ (gone)
//!    │ no room                                    ▲
//!    └──────────▶ within `_other` ────────────────┘ room again: its series begins at 0 from here,
//!                                                   what it did before stays within `_other`
//! ```
//! So no counter of any series ever falls while the host runs, and the sum over all series is what all tenants
//! did, those removed from `_other` included. Who has a series keeps it until removed. Bounded by
//! [`Book::most`] series, whatever number of tenants there are.

use super::figures::Figures;
use insula_ipc::table::Table;
use insula_model::config::MetricsBy;
use insula_model::{Namespace, TenantName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Who has which series.
#[derive(Debug)]
pub(super) struct Book {
    by: MetricsBy,
    /// Tenants with a series of their own, at most; or namespaces.
    most: usize,
    members: HashMap<u32, Member>,
    /// Tenants that were ever shown within `_other`, and are not removed.
    others: HashSet<u32>,
    /// What those did who are removed and had no series.
    gone: Figures,
    spaces: Spaces,
    /// When all counters began, in nanoseconds since 1970.
    began_unix_ns: u64,
    /// When this was looked at last.
    looked_unix_ns: u64,
}

#[derive(Debug)]
struct Member {
    name: TenantName,
    /// What it had done before it got its series.
    before: Figures,
    /// When its series began at 0.
    since_unix_ns: u64,
}

/// The same where namespaces have the series.
#[derive(Debug, Default)]
struct Spaces {
    /// What removed tenants of each did.
    gone: BTreeMap<Namespace, Figures>,
    /// Of tenants that had requests: a row is cleared after its tenant has left the registry.
    of: HashMap<u32, Namespace>,
}

/// One series of every family.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Series {
    /// None for a namespace as a whole, and for all others together.
    pub(super) tenant: Option<TenantName>,
    /// None for all others together.
    pub(super) namespace: Option<Namespace>,
    pub(super) figures: Figures,
    /// When its counters began at 0, in nanoseconds since 1970.
    pub(super) since_unix_ns: u64,
}

/// A tenant that had a request: its slot, its name and namespace unless it is removed, and what it did.
type Active = (u32, Option<(TenantName, Namespace)>, Figures);

impl Book {
    /// Counters began at `began_unix_ns`.
    pub(super) fn new(by: MetricsBy, most: usize, began_unix_ns: u64) -> Self {
        Self {
            by,
            most,
            members: HashMap::new(),
            others: HashSet::new(),
            gone: Figures::default(),
            spaces: Spaces::default(),
            began_unix_ns,
            looked_unix_ns: began_unix_ns,
        }
    }

    /// All series as they are at `now_unix_ns`. `counted_in` tells of which slot's figures a slot's are part (another one's
    /// for a canary, nobody's for a probe), `named` who has a slot.
    pub(super) fn series(
        &mut self,
        table: &Table,
        now_unix_ns: u64,
        counted_in: impl Fn(u32) -> Option<u32>,
        named: impl Fn(u32) -> Option<(TenantName, Namespace)>,
    ) -> Vec<Series> {
        match self.by {
            MetricsBy::Tenant => {
                let mut rows: BTreeMap<u32, Figures> = BTreeMap::new();
                for slot in table.active() {
                    let Some(own) = counted_in(slot) else { continue };
                    rows.entry(own).or_default().add(&Figures::of(table, slot));
                }
                let rows = rows.into_iter().map(|(slot, sum)| (slot, named(slot), sum));
                self.by_tenant(rows, now_unix_ns)
            }
            // Each slot by itself: removed with its tenant, a canary's is nobody's but still the namespace's.
            MetricsBy::Namespace => {
                let of = |slot| Some((slot, named(counted_in(slot)?), Figures::of(table, slot)));
                self.by_namespace(table.active().filter_map(of))
            }
        }
    }

    /// The tenant in `slot` is removed, and its row is about to be cleared.
    pub(super) fn forget(&mut self, slot: u32, done: &Figures) {
        self.others.remove(&slot);
        let done = done.counted();
        if let Some(member) = self.members.remove(&slot) {
            self.gone.add(&member.before);
        } else {
            let space = self.spaces.of.remove(&slot);
            let gone = space.and_then(|space| self.spaces.gone.get_mut(&space));
            gone.unwrap_or(&mut self.gone).add(&done);
        }
    }

    /// What was counted in `slot` is part of another one's row from here on.
    pub(super) fn folded(&mut self, slot: u32) {
        self.others.remove(&slot);
        self.spaces.of.remove(&slot);
    }

    fn by_tenant(&mut self, active: impl Iterator<Item = Active>, now_unix_ns: u64) -> Vec<Series> {
        let looked_unix_ns = std::mem::replace(&mut self.looked_unix_ns, now_unix_ns);
        let mut other = self.gone;
        let mut series = Vec::new();
        let mut without = Vec::new();
        for (slot, named, figures) in active {
            match (self.members.get(&slot), named) {
                (Some(member), Some((name, namespace))) if member.name == name => {
                    other.add(&member.before);
                    series.push(Series {
                        tenant: Some(name),
                        namespace: Some(namespace),
                        figures: figures.since(&member.before),
                        since_unix_ns: member.since_unix_ns,
                    });
                }
                // Removed, and its row not cleared yet: its series has ended.
                (Some(member), _) => other.add(&member.before),
                (None, Some(named)) => without.push((slot, named, figures)),
                (None, None) => other.add(&figures.counted()),
            }
        }
        let room = self.most.saturating_sub(self.members.len());
        if without.len() > room {
            // Who did most first; the rest wait until somebody is removed.
            without.sort_by_key(|(_, _, figures)| {
                let c = &figures.counters;
                Reverse((c.requests.saturating_add(c.shed), c.cpu_us))
            });
        }
        let later = without.split_off(room.min(without.len()));
        for (slot, (name, namespace), figures) in without {
            let shown = self.others.remove(&slot);
            let before = if shown { figures.counted() } else { Figures::default() };
            other.add(&before);
            // Of one that was not seen before, all that there is came after the last look.
            let since_unix_ns = if shown { now_unix_ns } else { looked_unix_ns };
            series.push(Series {
                tenant: Some(name.clone()),
                namespace: Some(namespace),
                figures: figures.since(&before),
                since_unix_ns,
            });
            self.members.insert(slot, Member { name, before, since_unix_ns });
        }
        for (slot, _, figures) in later {
            self.others.insert(slot);
            other.add(&figures);
        }
        series.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        series.push(self.others(other));
        series
    }

    fn by_namespace(&mut self, active: impl Iterator<Item = Active>) -> Vec<Series> {
        let mut other = self.gone;
        let mut sums = self.spaces.gone.clone();
        for (slot, named, figures) in active {
            let figures = if named.is_some() { figures } else { figures.counted() };
            if let Some((_, namespace)) = named
                && (sums.contains_key(&namespace) || sums.len() < self.most)
                && !self.others.contains(&slot)
            {
                sums.entry(namespace.clone()).or_default();
                self.spaces.gone.entry(namespace.clone()).or_default();
                self.spaces.of.insert(slot, namespace);
            }
            match self.spaces.of.get(&slot).and_then(|space| sums.get_mut(space)) {
                Some(sum) => sum.add(&figures),
                None => {
                    self.others.insert(slot);
                    other.add(&figures);
                }
            }
        }
        let series = sums.into_iter().map(|(space, figures)| Series {
            tenant: None,
            namespace: Some(space),
            figures,
            since_unix_ns: self.began_unix_ns,
        });
        series.chain([self.others(other)]).collect()
    }

    fn others(&self, figures: Figures) -> Series {
        Series { tenant: None, namespace: None, figures, since_unix_ns: self.began_unix_ns }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use insula_model::api::Counters;
    use proptest::prelude::*;

    fn did(requests: u64) -> Figures {
        let counters = Counters { requests, running: 1, ..Counters::default() };
        Figures { counters, ..Figures::default() }
    }

    /// What a host goes through.
    #[derive(Debug, Clone)]
    enum Step {
        Requests(u32, u64),
        Remove(u32),
        Clear,
        Scrape,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u32..6, 1u64..9).prop_map(|(slot, n)| Step::Requests(slot, n)),
            1 => (0u32..6).prop_map(Step::Remove),
            1 => Just(Step::Clear),
            3 => Just(Step::Scrape),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: nothing falls, nothing is lost, nothing is too many.
        #[test]
        fn counters_never_fall_and_sums_are_right(
            steps in prop::collection::vec(step(), 1..80), by_tenant in any::<bool>(), most in 0usize..4,
        ) {
            let by = if by_tenant { MetricsBy::Tenant } else { MetricsBy::Namespace };
            let mut book = Book::new(by, most, 1);
            let mut clock = 1;
            // By slot: the generation of its tenant, and what it did; removed ones keep the row until cleared.
            let mut rows: BTreeMap<u32, (bool, u64)> = BTreeMap::new();
            let mut generation: HashMap<u32, u32> = HashMap::new();
            let mut last: HashMap<(Option<TenantName>, Option<Namespace>), u64> = HashMap::new();
            let mut began: HashMap<(Option<TenantName>, Option<Namespace>), u64> = HashMap::new();
            let (mut all, mut ended) = (0, 0);
            for step in steps {
                match step {
                    Step::Requests(slot, n) => {
                        let row = rows.entry(slot).or_insert((true, 0));
                        if row.0 {
                            row.1 += n;
                            all += n;
                        }
                    }
                    Step::Remove(slot) => {
                        if let Some(row) = rows.get_mut(&slot) {
                            row.0 = false;
                        }
                    }
                    Step::Clear => {
                        let removed: Vec<u32> =
                            rows.iter().filter(|(_, row)| !row.0).map(|(slot, _)| *slot).collect();
                        for slot in removed {
                            let (_, n) = rows.remove(&slot).unwrap();
                            if let Some(member) = book.members.get(&slot) {
                                ended += n - member.before.counters.requests;
                            }
                            book.forget(slot, &did(n));
                            *generation.entry(slot).or_default() += 1;
                        }
                    }
                    Step::Scrape => {
                        clock += 1;
                        let name = |slot: u32| {
                            let generation = generation.get(&slot).copied().unwrap_or(0);
                            let tenant = format!("t{slot}-{generation}").parse().unwrap();
                            (tenant, format!("ns{}", slot % 3).parse().unwrap())
                        };
                        let active = rows.iter().map(|(slot, (alive, n))| {
                            (*slot, alive.then(|| name(*slot)), did(*n))
                        });
                        let series = match by {
                            MetricsBy::Tenant => book.by_tenant(active, clock),
                            MetricsBy::Namespace => book.by_namespace(active),
                        };
                        prop_assert!(series.len() <= most + 1);
                        // Series that ended with a removed tenant took theirs with them.
                        let ending: u64 = rows.iter().filter(|(_, row)| !row.0).filter_map(|(slot, row)| {
                            Some(row.1 - book.members.get(slot)?.before.counters.requests)
                        }).sum();
                        let sum: u64 = series.iter().map(|s| s.figures.counters.requests).sum();
                        prop_assert_eq!(sum + ended + ending, all);
                        for one in series {
                            prop_assert!((1..=clock).contains(&one.since_unix_ns));
                            // A series begins once: another tenant of the slot has another name here.
                            let key = (one.tenant, one.namespace);
                            let known = began.entry(key.clone()).or_insert(one.since_unix_ns);
                            prop_assert_eq!(*known, one.since_unix_ns);
                            let now = one.figures.counters.requests;
                            let before = last.insert(key.clone(), now).unwrap_or(0);
                            prop_assert!(now >= before, "{:?} fell from {} to {}", key, before, now);
                        }
                    }
                }
            }
        }
    }
}
