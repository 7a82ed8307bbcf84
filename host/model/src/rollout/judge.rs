//! Whether a canary is well: pure, and the same wherever it is asked.

use super::Rollout;
use crate::quantity::DurationMs;

/// Requests before which nothing is said about errors: one of two says little.
pub const REQUESTS_MIN: u64 = 20;
/// Errors before which it is not rolled back: one may be anybody's.
pub const ERRORS_MIN: u64 = 2;
/// Requests before which nothing is said about the slowest hundredth of them.
pub const LATENCY_REQUESTS_MIN: u64 = 100;
/// Slow requests before which it is not rolled back: the first in each worker has to load the code.
pub const SLOW_MIN: u64 = 5;

/// What was seen of a canary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests that ended, but for those that were refused before anything ran.
    pub requests: u64,
    /// Of those, what ended by the guest's fault or with a status of 500 or above.
    pub errors: u64,
    /// Of those, what took longer than the bound, as far as that is certain.
    pub slow: u64,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Its circuit breaker has opened.
    pub circuit_open: bool,
}

/// What is to become of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has had fewer requests than the number here, which would say something.
    TooFew(u64),
    /// It goes on.
    Well,
    /// Its time has passed, and it was well.
    Promote,
    /// It is not well; why, in words.
    RollBack(String),
}

impl Rollout {
    /// Requests that must be seen before anything is decided by their figures.
    pub fn requests_min(&self) -> u64 {
        if self.max_latency_ms.is_some() { LATENCY_REQUESTS_MIN } else { REQUESTS_MIN }
    }

    /// Judges a canary by what was seen of it.
    pub fn judge(&self, seen: &Seen) -> Verdict {
        let Seen { requests, errors, .. } = *seen;
        if seen.circuit_open {
            return Verdict::RollBack(format!(
                "its circuit opened: {errors} of {requests} requests failed"
            ));
        }
        let allowed = u128::from(requests) * u128::from(self.max_errors.hundredths());
        let above = u128::from(errors) * 10_000 > allowed;
        if requests >= REQUESTS_MIN && errors >= ERRORS_MIN && above {
            return Verdict::RollBack(format!(
                "{errors} of {requests} requests failed, more than {}",
                self.max_errors
            ));
        }
        let too_slow = u128::from(seen.slow) * 100 > u128::from(requests);
        if let Some(max_ms) = self.max_latency_ms
            && requests >= LATENCY_REQUESTS_MIN
            && seen.slow >= SLOW_MIN
            && too_slow
        {
            return Verdict::RollBack(format!(
                "{} of {requests} requests took longer than {}, more than 1%",
                seen.slow,
                DurationMs(max_ms)
            ));
        }
        let needed = self.requests_min();
        if requests < needed {
            return Verdict::TooFew(needed);
        }
        // What fails too often, but too seldom to be rolled back for it, is not promoted either.
        let over = self.for_ms.is_some_and(|for_ms| seen.age_ms >= for_ms);
        if over && !above && !too_slow { Verdict::Promote } else { Verdict::Well }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn rule(max_latency_ms: Option<u64>) -> Rollout {
        Rollout {
            share: "5%".parse().unwrap(),
            for_ms: Some(60_000),
            max_errors: "1%".parse().unwrap(),
            max_latency_ms,
            sticky: None,
        }
    }

    fn seen(requests: u64, errors: u64) -> Seen {
        Seen { requests, errors, ..Seen::default() }
    }

    #[test]
    fn a_few_requests_prove_nothing() {
        let rule = rule(None);
        assert_eq!(rule.judge(&seen(2, 1)), Verdict::TooFew(REQUESTS_MIN));
        assert_eq!(rule.judge(&seen(19, 19)), Verdict::TooFew(REQUESTS_MIN));
        assert_eq!(rule.judge(&seen(20, 1)), Verdict::Well);
        assert!(matches!(rule.judge(&seen(20, 2)), Verdict::RollBack(_)));
    }

    #[test]
    fn errors_are_held_against_their_part() {
        let rule = rule(None);
        assert_eq!(rule.judge(&seen(1_000, 10)), Verdict::Well);
        let Verdict::RollBack(why) = rule.judge(&seen(1_000, 11)) else { panic!("11 of 1,000") };
        assert_eq!(why, "11 of 1000 requests failed, more than 1%");
        let open = Seen { circuit_open: true, ..seen(3, 3) };
        assert!(matches!(rule.judge(&open), Verdict::RollBack(why) if why.contains("circuit")));
    }

    #[test]
    fn latency_is_held_against_its_bound_once_enough_was_seen() {
        let rule = rule(Some(500));
        let slow = |requests, slow| Seen { slow, ..seen(requests, 0) };
        assert_eq!(rule.judge(&slow(99, 99)), Verdict::TooFew(LATENCY_REQUESTS_MIN));
        let Verdict::RollBack(why) = rule.judge(&slow(100, 5)) else { panic!("5 of 100") };
        assert_eq!(why, "5 of 100 requests took longer than 500ms, more than 1%");
        // A few had to load the code; and 1% may be slow.
        assert_eq!(rule.judge(&slow(100, 4)), Verdict::Well);
        assert_eq!(rule.judge(&slow(500, 5)), Verdict::Well);
    }

    #[test]
    fn it_is_promoted_when_its_time_has_passed_and_enough_was_seen() {
        let rule = rule(None);
        let old = |requests, errors| Seen { age_ms: 60_000, ..seen(requests, errors) };
        assert_eq!(rule.judge(&Seen { age_ms: 59_999, ..seen(100, 0) }), Verdict::Well);
        assert_eq!(rule.judge(&old(100, 0)), Verdict::Promote);
        assert_eq!(rule.judge(&old(19, 0)), Verdict::TooFew(REQUESTS_MIN));
        // One error of 20 is too many to be promoted with, and too few to be rolled back for.
        assert_eq!(rule.judge(&old(20, 1)), Verdict::Well);
        let stays = Rollout { for_ms: None, ..rule };
        assert_eq!(stays.judge(&old(100, 0)), Verdict::Well);
    }
}
