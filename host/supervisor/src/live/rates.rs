//! One tenant's figures, from what its counters say at two looks.

use insula_model::Latency;
use insula_model::api::{Counters, EventFigures, LiveState};

/// For so many looks after the last one a tenant counts as failing, shedding or serving: a grid of
/// thousands of cells must not flicker.
const STICKS_FOR: u64 = 5;

/// What is remembered of a tenant between two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    counters: Counters,
    /// Of a tenant that has had a request; most have not.
    latency: Option<Box<Latency>>,
    /// The looks, from 1, at which it last did something; 0 for never.
    served_at: u64,
    shed_at: u64,
    failed_at: u64,
}

/// What happened between two looks, in whole numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) requests: u64,
    pub(super) faults: u64,
    pub(super) shed: u64,
    pub(super) cpu_us: u64,
    /// How long the requests took that ended.
    pub(super) latency: Latency,
}

impl Seen {
    /// As first seen: what was counted before is no news.
    pub(super) fn first(counters: Counters, latency: &Latency) -> Self {
        let latency = (counters.requests > 0).then(|| Box::new(*latency));
        Self { counters, latency, ..Self::default() }
    }

    /// Takes in what the counters say at `look`. Counters start again from 0 when a slot changes hands.
    pub(super) fn update(&mut self, now: Counters, latency: &Latency, look: u64) -> Happened {
        let since = match &mut self.latency {
            Some(before) => {
                let since = latency.since(before);
                **before = *latency;
                since
            }
            None => *latency,
        };
        if self.latency.is_none() && now.requests > 0 {
            self.latency = Some(Box::new(*latency));
        }
        let before = std::mem::replace(&mut self.counters, now);
        let faults = |c: &Counters| c.guest_faults + c.host_faults;
        let happened = Happened {
            requests: now.requests.saturating_sub(before.requests),
            faults: faults(&now).saturating_sub(faults(&before)),
            shed: now.shed.saturating_sub(before.shed),
            cpu_us: now.cpu_us.saturating_sub(before.cpu_us),
            latency: since,
        };
        let at = |mark: &mut u64, is: bool| *mark = if is { look } else { *mark };
        at(&mut self.served_at, happened.requests > 0 || now.running > 0);
        at(&mut self.shed_at, happened.shed > 0);
        at(&mut self.failed_at, happened.faults > 0);
        happened
    }

    /// Its figures, when `happened` took `elapsed_us`.
    pub(super) fn figures(
        &self,
        (slot, is_open): (u32, bool),
        happened: &Happened,
        (look, elapsed_us): (u64, u64),
    ) -> EventFigures {
        let lately = |mark: u64| mark > 0 && look.saturating_sub(mark) < STICKS_FOR;
        let state = if is_open {
            LiveState::Open
        } else if lately(self.failed_at) {
            LiveState::Failing
        } else if lately(self.shed_at) {
            LiveState::Shedding
        } else if lately(self.served_at) {
            LiveState::Serving
        } else {
            LiveState::Idle
        };
        let within = |q| happened.latency.quantile_us(q).map(whole);
        EventFigures {
            slot,
            state,
            p50_us: within(0.5),
            p99_us: within(0.99),
            requests: per_second(happened.requests, elapsed_us),
            faults: per_second(happened.faults, elapsed_us),
            shed: per_second(happened.shed, elapsed_us),
            cpu_m: happened.cpu_us.saturating_mul(1_000) / elapsed_us.max(1),
            memory_bytes: self.counters.memory_bytes,
            running: self.counters.running,
        }
    }
}

/// Microseconds, at most the last bound of the buckets, as a whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(us: f64) -> u64 {
    us.max(0.0).round() as u64
}

/// So many in a second, to a tenth.
pub(super) fn per_second(count: u64, elapsed_us: u64) -> f64 {
    let tenths = count.saturating_mul(10_000_000) / elapsed_us.max(1);
    // Exact up to 2^32 tenths, which no host does in a second.
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_some_looks_and_the_worst_wins() {
        let mut seen =
            Seen::first(Counters { requests: 7, ..Counters::default() }, &Latency::default());
        let state = |seen: &Seen, look| {
            seen.figures((3, false), &Happened::default(), (look, 1_000_000)).state
        };
        assert_eq!(state(&seen, 1), LiveState::Idle);
        let now = Counters { requests: 9, guest_faults: 1, shed: 1, cpu_us: 500, ..seen.counters };
        let mut took = Latency::default();
        took.buckets[4] = 1;
        let happened = seen.update(now, &took, 1);
        let figures = seen.figures((3, false), &happened, (1, 500_000));
        assert!(figures.p99_us.is_some_and(|us| (500..=1_000).contains(&us)), "{figures:?}");
        assert_eq!((figures.requests, figures.faults, figures.cpu_m), (4.0, 2.0, 1));
        assert_eq!(figures.state, LiveState::Failing);
        assert_eq!(seen.figures((3, true), &happened, (1, 1)).state, LiveState::Open);
        let now = Counters { requests: 10, ..now };
        seen.update(now, &took, 4);
        assert_eq!(state(&seen, 5), LiveState::Failing);
        assert_eq!(state(&seen, 6), LiveState::Serving);
        assert_eq!(state(&seen, 9), LiveState::Idle);
    }

    #[test]
    fn counters_that_start_again_are_no_news() {
        let mut seen =
            Seen::first(Counters { requests: 7, ..Counters::default() }, &Latency::default());
        assert_eq!(seen.update(Counters::default(), &Latency::default(), 1), Happened::default());
        assert_eq!(per_second(15, 1_000_000).to_bits(), 15f64.to_bits());
        assert_eq!(per_second(3, 2_000_000).to_bits(), 1.5f64.to_bits());
    }
}
