//! The roll of tenants: everyone who is deployed, by slot, by name and by route.
//!
//! Most of those who are deployed are never asked anything by this worker, so one sleeps as few bytes
//! ([`insula_model::packed`]), until the first request, run or call for it wakes it; from then on it is a
//! [`Tenant`]. Names and hosts are found by their hashes, and compared with what stands in the record itself. A
//! tenant that sleeps takes some hundred bytes here in all.
//!
//! A route is one hash look-up and, where tenants share a host, a scan of its prefixes, longest first; no lock and,
//! for who is awake, no allocation. Changed in place between two requests: the worker has one thread, so
//! no request ever sees half a change, and a deploy among 100,000 tenants does not copy a table. Bounded by the
//! slots of the shared table.

use crate::tenant::Tenant;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use insula_model::packed::{Commons, Packed};
use insula_model::route::{Route, prefix_matches};
use insula_model::wire::{Sleeper, TenantEntry};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

#[derive(Default)]
enum Place {
    #[default]
    Free,
    Asleep(Packed<Box<[u8]>>),
    Awake(Rc<Tenant>),
}

impl Place {
    fn name_is(&self, name: &str) -> bool {
        match self {
            Self::Free => false,
            Self::Asleep(packed) => packed.name() == name,
            Self::Awake(tenant) => tenant.entry.name.as_str() == name,
        }
    }

    /// Whether `is` holds of this one of its routes.
    fn route_is(&self, route: u16, is: impl FnOnce(&Route) -> bool) -> bool {
        match self {
            Self::Free => false,
            Self::Asleep(packed) => packed.routes().get(usize::from(route)).is_some_and(is),
            Self::Awake(tenant) => tenant.entry.routes.get(usize::from(route)).is_some_and(is),
        }
    }

    fn name_and_routes(&self) -> Option<(Box<str>, Vec<Route>)> {
        match self {
            Self::Free => None,
            Self::Asleep(packed) => Some((packed.name().into(), packed.routes())),
            Self::Awake(tenant) => {
                Some((tenant.entry.name.as_str().into(), tenant.entry.routes.clone()))
            }
        }
    }
}

/// A tenant's name, which stands in its record.
struct Name {
    hash: u32,
    slot: u32,
}

/// Where a host leads.
enum Host {
    /// One route of one tenant, as nearly all do; it stands in the tenant's record.
    One {
        hash: u32,
        slot: u32,
        route: u16,
    },
    Many(Box<Shared>),
}

/// A host with several prefixes.
struct Shared {
    hash: u32,
    host: Box<str>,
    /// Longest first, and whose each is.
    prefixes: Vec<(Box<str>, u32)>,
}

impl Shared {
    fn put(&mut self, prefix: &str, slot: u32) {
        self.prefixes.retain(|(other, _)| **other != *prefix);
        let at = self.prefixes.partition_point(|(other, _)| other.len() >= prefix.len());
        self.prefixes.insert(at, (prefix.into(), slot));
    }
}

impl Host {
    fn hash(&self) -> u32 {
        match self {
            Self::One { hash, .. } => *hash,
            Self::Many(shared) => shared.hash,
        }
    }

    fn is(&self, hash: u32, host: &str, places: &[Place]) -> bool {
        match self {
            Self::One { hash: own, slot, route } => {
                *own == hash && at(places, *slot).route_is(*route, |route| route.host() == host)
            }
            Self::Many(shared) => *shared.host == *host,
        }
    }
}

fn at(places: &[Place], slot: u32) -> &Place {
    places.get(slot as usize).unwrap_or(&Place::Free)
}

/// The tables take the place in a table from one end of a hash and compare the other.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[derive(Default)]
pub(crate) struct Roll {
    places: Vec<Place>,
    names: HashTable<Name>,
    hosts: HashTable<Host>,
    hasher: RandomState,
    commons: Commons,
}

impl Roll {
    fn hash(&self, text: &str) -> u32 {
        // Half of it is enough to tell a hundred thousand apart.
        u32::try_from(self.hasher.hash_one(text) >> 32).unwrap_or_default()
    }

    /// The slot of the tenant with the longest prefix that matches; `host` in normal form.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<u32> {
        let hash = self.hash(host);
        match self.hosts.find(spread(hash), |other| other.is(hash, host, &self.places))? {
            Host::One { slot, route, .. } => {
                let matches = |route: &Route| prefix_matches(route.prefix(), path);
                at(&self.places, *slot).route_is(*route, matches).then_some(*slot)
            }
            Host::Many(shared) => {
                let mut prefixes = shared.prefixes.iter();
                prefixes.find(|(prefix, _)| prefix_matches(prefix, path)).map(|(_, slot)| *slot)
            }
        }
    }

    /// The slot of the tenant of this name.
    pub(crate) fn named(&self, name: &str) -> Option<u32> {
        let is_it = |other: &Name| at(&self.places, other.slot).name_is(name);
        self.names.find(spread(self.hash(name)), is_it).map(|name| name.slot)
    }

    /// The tenant in this slot, if it is awake.
    pub(crate) fn awake(&self, slot: u32) -> Option<&Rc<Tenant>> {
        match at(&self.places, slot) {
            Place::Awake(tenant) => Some(tenant),
            Place::Free | Place::Asleep(_) => None,
        }
    }

    /// The tenant in this slot, if it sleeps.
    pub(crate) fn asleep(&self, slot: u32) -> Option<TenantEntry> {
        match at(&self.places, slot) {
            // The supervisor's own words: they are what they were.
            Place::Asleep(packed) => packed.unpack(slot).map(|(entry, _)| entry),
            Place::Free | Place::Awake(_) => None,
        }
    }

    /// Whether there is a tenant in this slot.
    pub(crate) fn has(&self, slot: u32) -> bool {
        !matches!(at(&self.places, slot), Place::Free)
    }

    /// Puts a tenant into its slot, to sleep; gives it back if it has to be awake.
    pub(crate) fn put_asleep(&mut self, entry: TenantEntry) -> Result<(), Box<TenantEntry>> {
        match Packed::new(&entry, &[], &mut self.commons) {
            Some(packed) => {
                self.put(entry.slot, Place::Asleep(packed));
                Ok(())
            }
            None => Err(Box::new(entry)),
        }
    }

    /// Puts tenants of whom nothing is known yet into their slots, to sleep.
    pub(crate) fn put_sleepers(&mut self, commons: &[Vec<u8>], tenants: Vec<Sleeper>) {
        let commons: Vec<_> = commons.iter().map(|bytes| self.commons.share(bytes)).collect();
        for Sleeper { slot, common, own } in tenants {
            let Some(common) = commons.get(common as usize) else { continue };
            self.put(slot, Place::Asleep(Packed::received(own, Arc::clone(common))));
        }
    }

    /// Puts a tenant into its slot, awake. From now on its name and its routes, and no others, lead to it.
    pub(crate) fn put_awake(&mut self, tenant: &Rc<Tenant>) {
        self.put(tenant.entry.slot, Place::Awake(tenant.clone()));
    }

    /// The same for one that no name and no route leads to, or that is only woken.
    pub(crate) fn put_in_place(&mut self, tenant: &Rc<Tenant>) {
        *self.place(tenant.entry.slot) = Place::Awake(tenant.clone());
    }

    /// Empties a slot. Routes that another tenant has taken over since stay with it.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.strike(slot);
        *self.place(slot) = Place::Free;
    }

    fn place(&mut self, slot: u32) -> &mut Place {
        let slot = slot as usize;
        if self.places.len() <= slot {
            self.places.resize_with(slot + 1, Place::default);
        }
        &mut self.places[slot]
    }

    fn put(&mut self, slot: u32, place: Place) {
        self.strike(slot);
        let head = place.name_and_routes();
        *self.place(slot) = place;
        let Some((name, routes)) = head else { return };
        self.enter_name(&name, slot);
        for (number, route) in (0u16..).zip(&routes) {
            self.enter_route(route, slot, number);
        }
    }

    /// Has nothing lead to this slot any more.
    fn strike(&mut self, slot: u32) {
        let Some((name, routes)) = at(&self.places, slot).name_and_routes() else { return };
        let hash = self.hash(&name);
        if let Ok(entry) = self.names.find_entry(spread(hash), |other| other.slot == slot) {
            entry.remove();
        }
        for route in &routes {
            self.strike_route(route, slot);
        }
    }

    fn enter_name(&mut self, name: &str, slot: u32) {
        let (hash, places) = (self.hash(name), &self.places);
        let is_it = |other: &Name| at(places, other.slot).name_is(name);
        let entered = Name { hash, slot };
        match self.names.entry(spread(hash), is_it, |other| spread(other.hash)) {
            Entry::Occupied(mut there) => *there.get_mut() = entered,
            Entry::Vacant(place) => {
                place.insert(entered);
            }
        }
    }

    fn enter_route(&mut self, route: &Route, slot: u32, number: u16) {
        let (hash, places) = (self.hash(route.host()), &self.places);
        let is_it = |other: &Host| other.is(hash, route.host(), places);
        let alone = Host::One { hash, slot, route: number };
        let mut there = match self.hosts.entry(spread(hash), is_it, |other| spread(other.hash())) {
            Entry::Occupied(there) => there,
            Entry::Vacant(place) => {
                place.insert(alone);
                return;
            }
        };
        let (other, its) = match there.get_mut() {
            Host::Many(shared) => return shared.put(route.prefix(), slot),
            Host::One { slot, route, .. } => (*slot, *route),
        };
        let mut prefix: Box<str> = Box::default();
        at(places, other).route_is(its, |route| {
            prefix = route.prefix().into();
            true
        });
        *there.get_mut() = if *prefix == *route.prefix() {
            alone
        } else {
            let prefixes = vec![(prefix, other)];
            let mut shared = Shared { hash, host: route.host().into(), prefixes };
            shared.put(route.prefix(), slot);
            Host::Many(Box::new(shared))
        };
    }

    fn strike_route(&mut self, route: &Route, slot: u32) {
        let (hash, places) = (self.hash(route.host()), &self.places);
        let is_it = |other: &Host| other.is(hash, route.host(), places);
        let Ok(mut there) = self.hosts.find_entry(spread(hash), is_it) else { return };
        let goes = match there.get_mut() {
            Host::One { slot: own, route: its, .. } => {
                let same = |its: &Route| its.prefix() == route.prefix();
                *own == slot && at(places, slot).route_is(*its, same)
            }
            Host::Many(shared) => {
                let prefixes = &mut shared.prefixes;
                prefixes.retain(|(prefix, to)| **prefix != *route.prefix() || *to != slot);
                prefixes.is_empty()
            }
        };
        if goes {
            there.remove();
        }
    }
}

#[cfg(test)]
mod tests;
