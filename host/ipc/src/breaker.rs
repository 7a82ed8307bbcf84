//! A tenant's circuit breaker, in one shared word, so that all workers see the same.
//!
//! ```text
//! closed ──trip──▶ open ──time is up: one request claims the probe──▶ half-open
//!   ▲               ▲ └── twice as long as before ◀── it fails ──────┘   │
//!   └───────────────┼──────────── it is answered ◀───────────────────────┤
//!                   └── nobody can tell: the next request tries ◀────────┘
//! ```
//! A probe that nobody hears of again (its worker died) is given up when its own time is up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Doublings of the time that it stays open, at most.
const LEVEL_MAX: u64 = 6;
const STATE_BITS: u32 = 2;
const LEVEL_BITS: u32 = 6;
const UNTIL_SHIFT: u32 = STATE_BITS + LEVEL_BITS;
const OPEN: u64 = 1;
const HALF_OPEN: u64 = 2;

/// The word of one tenant. Times are milliseconds of the monotonic clock.
#[derive(Clone, Copy)]
pub struct Breaker<'a>(&'a AtomicU64);

/// What it says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// They are refused until then.
    Open(u64),
    /// One request tries, until then.
    HalfOpen(u64),
}

/// Whether a request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It may.
    Free,
    /// It may, and its end decides.
    Probe(Probe),
    /// Not yet: [`Breaker::state`] says until when.
    Refused,
}

/// The right to decide, of the one request that tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe(u64);

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest answered.
    Well,
    /// The guest failed.
    Failed,
    /// It never came to that.
    Unknown,
}

fn pack(state: u64, level: u64, until_ms: u64) -> u64 {
    state | level << STATE_BITS | until_ms << UNTIL_SHIFT
}

fn level(word: u64) -> u64 {
    (word >> STATE_BITS) & ((1 << LEVEL_BITS) - 1)
}

fn state(word: u64) -> State {
    match word & ((1 << STATE_BITS) - 1) {
        OPEN => State::Open(word >> UNTIL_SHIFT),
        HALF_OPEN => State::HalfOpen(word >> UNTIL_SHIFT),
        _ => State::Closed,
    }
}

impl<'a> Breaker<'a> {
    pub(crate) fn new(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// What it says now.
    pub fn state(self) -> State {
        state(self.0.load(Relaxed))
    }

    /// Whether a request may pass; one that is told to probe has `probe_ms` to do so.
    pub fn pass(self, now_ms: u64, probe_ms: u64) -> Pass {
        let word = self.0.load(Relaxed);
        let until = match state(word) {
            State::Closed => return Pass::Free,
            State::Open(until) | State::HalfOpen(until) => until,
        };
        if until > now_ms {
            return Pass::Refused;
        }
        let claimed = pack(HALF_OPEN, level(word), now_ms + probe_ms.max(1));
        match self.0.compare_exchange(word, claimed, Relaxed, Relaxed) {
            Ok(_) => Pass::Probe(Probe(claimed)),
            Err(_) => Pass::Refused,
        }
    }

    /// Opens it if it is closed; whether it was.
    pub fn trip(self, now_ms: u64, open_ms: u64) -> bool {
        self.0.compare_exchange(0, pack(OPEN, 0, now_ms + open_ms), Relaxed, Relaxed).is_ok()
    }

    /// What a probe found; one that took longer than it had decides nothing.
    pub fn decide(self, probe: Probe, verdict: Verdict, now_ms: u64, open_ms: u64) {
        let next = match verdict {
            Verdict::Well => 0,
            Verdict::Failed => {
                let level = (level(probe.0) + 1).min(LEVEL_MAX);
                pack(OPEN, level, now_ms + (open_ms << level))
            }
            Verdict::Unknown => pack(OPEN, level(probe.0), now_ms),
        };
        let _ = self.0.compare_exchange(probe.0, next, Relaxed, Relaxed);
    }

    /// Closes it: there is a new revision.
    pub fn reset(self) {
        self.0.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    fn probe(breaker: Breaker<'_>, now_ms: u64) -> Probe {
        match breaker.pass(now_ms, 100) {
            Pass::Probe(probe) => probe,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_request_at_a_time_tries_and_each_failure_doubles_the_wait() {
        let word = AtomicU64::new(0);
        let breaker = Breaker::new(&word);
        assert_eq!(breaker.pass(5, 100), Pass::Free);
        assert!(breaker.trip(1_000, 10));
        assert!(!breaker.trip(1_000, 10), "it is open already");
        assert_eq!(breaker.pass(1_004, 100), Pass::Refused);
        let mut now = 1_010;
        for wait in [20, 40, 80, 160, 320, 640, 640, 640] {
            let first = probe(breaker, now);
            assert_eq!(breaker.pass(now + 40, 100), Pass::Refused, "somebody tries");
            breaker.decide(first, Verdict::Failed, now + 50, 10);
            assert_eq!(breaker.state(), State::Open(now + 50 + wait));
            now += 50 + wait;
        }
        let unsure = probe(breaker, now);
        breaker.decide(unsure, Verdict::Unknown, now, 10);
        let lost = probe(breaker, now);
        let late = probe(breaker, now + 100);
        breaker.decide(lost, Verdict::Well, now + 101, 10);
        assert_eq!(breaker.state(), State::HalfOpen(now + 200), "its time was up");
        breaker.decide(late, Verdict::Well, now + 101, 10);
        assert_eq!(breaker.state(), State::Closed);
    }
}
