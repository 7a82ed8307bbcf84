//! Which worker takes a connection, and when one lets a connection go so that another may take it.
//!
//! Connections are spread by their number, which is near enough as long as requests are short. Guests that
//! compute for long are not short: with all their connections on one worker they would share its core while
//! another is idle, or serves somebody who has had more than his part. So a worker with more of those leaves
//! new connections to the others, and closes connections of tenants who are better off elsewhere once an
//! answer has gone out; their clients come back, as they do to any HTTP server that closes. How uneven the
//! numbers of connections may get by that is bounded (`Load::has_room_beside`). Where nobody computes and the numbers
//! are near enough, who keeps many more idle instances leaves: requests that come one by one would otherwise all go
//! to whoever wakes first, and have it drop instances for which the others have room.

use super::{Table, WorkerCell, tenant, worker};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// CPU time that a tenant may be behind what runs on another worker before its connections move there.
const BEHIND_NS: u64 = 10_000_000;
/// Connections that one worker expects at once: clients may not come back, and then it takes so many others in
/// their place.
pub const EXPECTED_MAX: u64 = 16;
/// Idle instances that a worker keeps before it matters that others keep fewer.
const IDLE_FEW: u64 = 64;

/// What a worker has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    /// Client connections.
    connections: u64,
    /// Guests on its second thread that could run now.
    computing: u64,
    /// Instances kept for the next request of their tenant.
    idle: u64,
}

impl Load {
    /// Whether this worker, with few guests that compute, may hold so many more connections than the other.
    fn has_room_beside(self, other: Self) -> bool {
        self.connections <= other.connections + other.connections / 4 + 8
    }

    /// Whether a worker with this load leaves the next connection to one with the other.
    fn leaves_to(self, other: Self) -> bool {
        if other.computing < self.computing && other.has_room_beside(self) {
            return true;
        }
        if other.computing > self.computing && self.has_room_beside(other) {
            return false;
        }
        // Leaving costs a wait for each connection, so where they come and go by the thousand, an eighth
        // more is near enough; among few, each counts.
        let is_near =
            |load: Self, than: Self| load.connections <= than.connections + than.connections / 8;
        !is_near(self, other)
            || is_near(other, self) && self.idle > other.idle + other.idle / 32 + IDLE_FEW
    }

    /// Whether a connection whose request has just ended on a worker with this load is better off on one
    /// with the other: where nobody computes, or two fewer do, since each move costs the client a connection.
    fn sends_to(self, other: Self) -> bool {
        let idle = other.computing == 0 && self.computing > 0;
        (idle || other.computing + 1 < self.computing) && self.leaves_to(other)
    }
}

impl Table {
    fn load(&self, index: u32) -> Load {
        let cell = self.worker(index);
        let computing = cell.0[worker::COMPUTING].load(Relaxed);
        Load { connections: cell.connections(), computing, idle: cell.idle() }
    }

    fn others(&self, index: u32) -> impl Iterator<Item = u32> {
        (0..self.workers()).filter(move |at| *at != index && self.worker(*at).serving())
    }

    /// Whether this worker leaves the next connection to the others for a moment.
    pub fn leaves(&self, index: u32) -> bool {
        if self.worker(index).0[worker::EXPECTS].load(Relaxed) > 0 {
            return false;
        }
        let own = self.load(index);
        self.others(index).any(|other| own.leaves_to(self.load(other)))
    }

    /// Whether another worker had better serve a tenant's connection whose request has computed for long here,
    /// and is answered now. If so, that worker expects it.
    pub fn send_away(&self, index: u32, slot: u32, weight: u32) -> bool {
        // The request that was answered may still be counted as the one that runs.
        let waiting = self.worker(index).0[worker::WAITING].load(Relaxed);
        let own = Load { computing: waiting, ..self.load(index) };
        let to = self.others(index).find(|other| {
            let load = self.load(*other);
            own.sends_to(load) || self.is_owed_by(*other, load, own, (slot, weight))
        });
        let Some(expects) = to.map(|to| &self.worker(to).0[worker::EXPECTS]) else { return false };
        let has_room = expects.load(Relaxed) < EXPECTED_MAX;
        if has_room {
            expects.fetch_add(1, SeqCst);
        }
        has_room
    }

    /// Whether the other worker runs guests of tenants who have had more for their weight than this one, and
    /// none of this tenant's, which would go before them.
    fn is_owed_by(&self, index: u32, load: Load, own: Load, (slot, weight): (u32, u32)) -> bool {
        let behind = BEHIND_NS.saturating_mul(1_024) / u64::from(weight.max(1));
        let now = self.worker(index).0[worker::VIRTUAL_NOW_NS].load(Relaxed);
        own.computing > 0
            && load.computing > 0
            && load.has_room_beside(own)
            && now > self.virtual_ns(slot).saturating_add(behind)
            && self.cell(index, slot).0[tenant::RUNNING].load(Relaxed) == 0
    }
}

impl WorkerCell<'_> {
    /// By the worker itself: guests on its second thread that run, and that wait for their turn.
    pub fn set_computing(&self, running: u64, waiting: u64) {
        self.0[worker::COMPUTING].store(running + waiting, Relaxed);
        self.0[worker::WAITING].store(waiting, Relaxed);
    }

    /// By the worker itself: what the tenant that it runs now has used, as [`Table::virtual_ns`].
    pub fn set_virtual_now_ns(&self, value: u64) {
        self.0[worker::VIRTUAL_NOW_NS].store(value, Relaxed);
    }

    /// By the worker itself: it took a connection, perhaps one that was sent to it.
    pub fn took_connection(&self) {
        self.count(worker::ACCEPTED);
        let expects = &self.0[worker::EXPECTS];
        if expects.load(Relaxed) > 0 {
            expects.fetch_sub(1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(connections: u64, computing: u64) -> Load {
        Load { connections, computing, idle: 0 }
    }

    #[test]
    fn who_keeps_many_more_idle_instances_leaves_the_next_one() {
        let keeps = |idle| Load { idle, ..load(1, 0) };
        assert!(keeps(200).leaves_to(keeps(0)));
        assert!(!keeps(200).leaves_to(keeps(190)));
        assert!(!keeps(200).leaves_to(Load { connections: 4, ..keeps(0) }), "it has more to do");
        assert!(!keeps(200).leaves_to(Load { computing: 1, ..keeps(0) }));
    }

    #[test]
    fn who_computes_less_takes_the_next_one() {
        assert!(load(6, 5).leaves_to(load(6, 0)));
        assert!(!load(6, 0).leaves_to(load(6, 5)));
        assert!(load(6, 5).leaves_to(load(12, 0)));
        assert!(!load(500, 5).leaves_to(load(1_000, 0)), "not beyond its room");
        assert!(load(4, 0).leaves_to(load(3, 0)));
        assert!(!load(104, 0).leaves_to(load(100, 0)));
    }

    #[test]
    fn a_connection_moves_where_that_helps() {
        assert!(load(6, 5).sends_to(load(0, 0)));
        assert!(load(2, 1).sends_to(load(0, 0)), "a core is idle");
        assert!(!load(1, 0).sends_to(load(0, 0)), "it is the only one");
        assert!(!load(3, 3).sends_to(load(3, 2)));
        assert!(load(3, 4).sends_to(load(3, 2)));
    }

    proptest! {
        /// Or a connection would be left by all, and wait for nothing.
        #[test]
        fn two_never_leave_one_to_each_other(
            a in (0u64..2_000, 0u64..8, 0u64..300), b in (0u64..2_000, 0u64..8, 0u64..300),
        ) {
            let (a, b) = [a, b].map(|(connections, computing, idle)| Load { connections, computing, idle }).into();
            prop_assert!(!(a.leaves_to(b) && b.leaves_to(a)));
            prop_assert!(!(a.sends_to(b) && b.sends_to(a)));
        }
    }
}
