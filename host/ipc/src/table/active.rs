//! Which tenants ever had a request: a bit each, 16 KiB for all, so that who reads figures neither looks at the
//! rows of 100,000 idle tenants nor makes them cost memory by looking.
//!
//! A worker sets the bit before it writes to the row: what is not in the set has nothing but zeros there.

use super::{ACTIVE, HEADER, Table, WORKER_CELL};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

impl Table {
    fn active_words(&self) -> &[AtomicU64] {
        let at = HEADER + self.workers as usize * WORKER_CELL;
        &self.shm.words()[at..at + ACTIVE]
    }

    /// The word and the bit of a slot; one out of range is the last one's.
    fn bit(&self, slot: u32) -> (&AtomicU64, u64) {
        let slot = slot.min(super::SLOTS_MAX - 1);
        (&self.active_words()[slot as usize / 64], 1 << (slot % 64))
    }

    /// A request for this tenant came. One load and a branch, but for the first.
    pub fn set_active(&self, slot: u32) {
        let (word, bit) = self.bit(slot);
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, SeqCst);
        }
    }

    /// Whether this tenant ever had a request since the slot is its own.
    pub fn is_active(&self, slot: u32) -> bool {
        let (word, bit) = self.bit(slot);
        word.load(Relaxed) & bit != 0
    }

    pub(super) fn set_idle(&self, slot: u32) {
        let (word, bit) = self.bit(slot);
        word.fetch_and(!bit, SeqCst);
    }

    /// The slots of all tenants that ever had a request, in ascending order.
    pub fn active(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(self.active_words()).flat_map(|(index, word)| {
            let mut left = word.load(Relaxed);
            std::iter::from_fn(move || {
                let at = left.trailing_zeros();
                (left != 0).then(|| {
                    left &= left - 1;
                    index * 64 + at
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::SLOTS_MAX;
    use super::*;

    #[test]
    fn the_set_holds_what_was_put_in() {
        let table = Table::create(2).unwrap();
        assert_eq!(table.active().count(), 0);
        let slots = [0, 1, 63, 64, 4_000, SLOTS_MAX - 1];
        for slot in slots {
            table.set_active(slot);
            table.set_active(slot);
            assert!(table.is_active(slot));
        }
        assert_eq!(table.active().collect::<Vec<_>>(), slots);
        table.clear_slot(63);
        assert!(!table.is_active(63) && table.is_active(64));
        assert_eq!(table.active().count(), slots.len() - 1);
    }
}
