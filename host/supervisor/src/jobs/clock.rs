//! The wall clock, watched: schedules name wall-clock times, and a process sleeps by another clock
//! that stands still while the machine does and knows nothing of corrections.

use super::LATE_MS_MAX;
use insula_model::grants::schedule::Schedule;
use std::time::{Duration, Instant};

/// The longest sleep while any time is waited for, in milliseconds: what a machine's own sleep or a
/// set clock can delay a run by.
pub(super) const CHECK_MS_MAX: u64 = 10_000;
/// A clock that moves back by less does not repeat the times in between, in milliseconds.
const BACK_MS_MAX: u64 = 60_000;

/// Where both clocks were.
pub(super) struct Watch {
    wall_ms: u64,
    at: Instant,
}

impl Watch {
    pub(super) fn new(wall_ms: u64, at: Instant) -> Self {
        Self { wall_ms, at }
    }

    /// Whether the wall clock was set back since the last look, by more than a correction.
    pub(super) fn moved_back(&mut self, wall_ms: u64, at: Instant) -> bool {
        let elapsed = at.saturating_duration_since(self.at);
        let expected = self.wall_ms.saturating_add(ms(elapsed));
        (self.wall_ms, self.at) = (wall_ms, at);
        wall_ms.saturating_add(BACK_MS_MAX) < expected
    }
}

/// The next time of a schedule whose last one was `last_ms`: never the same again because the clock
/// was corrected by a little, but by the new clock if it was set back by much.
pub(super) fn next(schedule: &Schedule, now_ms: u64, last_ms: Option<u64>) -> Option<u64> {
    let last = last_ms.filter(|last| last.saturating_sub(now_ms) <= BACK_MS_MAX);
    schedule.next_after(last.map_or(now_ms, |last| last.max(now_ms)))
}

/// Whether `due_ms` is too long ago to be run now.
pub(super) fn missed(due_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(due_ms) > LATE_MS_MAX
}

/// Milliseconds of a duration.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_small_correction_repeats_nothing_and_a_large_one_starts_afresh() {
        let schedule: Schedule = "* * * * *".parse().unwrap();
        let noon = 720 * 60_000;
        assert_eq!(next(&schedule, noon - 5, Some(noon)), Some(noon + 60_000));
        assert_eq!(next(&schedule, noon - 3_600_000, Some(noon)), Some(noon - 3_540_000));
        assert_eq!(next(&schedule, noon + 125_000, Some(noon)), Some(noon + 180_000));
    }

    #[test]
    fn only_a_clock_that_was_set_back_moved_back() {
        let start = Instant::now();
        let later = start + Duration::from_secs(100);
        let mut watch = Watch::new(1_000_000, start);
        assert!(!watch.moved_back(1_100_000, later));
        assert!(!watch.moved_back(1_090_000, later), "ten seconds are a correction");
        assert!(watch.moved_back(500_000, later));
        assert!(!watch.moved_back(900_000, later), "forward");
    }
}
