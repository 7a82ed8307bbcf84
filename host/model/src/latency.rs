//! How long requests took: a histogram of fixed buckets, which can be added, subtracted and asked for quantiles.
//!
//! The same buckets in the shared table, in the metrics and in `insula top`, so that any two of them can be
//! compared and sums over workers, tenants or time are exact.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Upper bounds of the buckets but the last, which has none: microseconds, inclusive. Steps of 2 to 2.5, so a
/// quantile is off by less than that factor; 50 µs is about what the smallest guest takes.
pub const BOUNDS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];
/// Buckets, with the one above all bounds.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// The bucket of a duration in microseconds.
pub fn bucket_of(duration_us: u64) -> usize {
    BOUNDS_US.partition_point(|bound| *bound < duration_us)
}

/// Durations by bucket. Plain counts, not cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// How many ended in each bucket of [`BOUNDS_US`], then those above all of them.
    #[schema(value_type = Vec<u64>)]
    pub buckets: [u64; BUCKETS],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_us: 0 }
    }
}

impl Latency {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Takes those of another in.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(more);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// What came since `before`; nothing if the counts began anew in between.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        for (own, old) in since.buckets.iter_mut().zip(before.buckets) {
            *own = own.saturating_sub(old);
        }
        since.sum_us = self.sum_us.saturating_sub(before.sum_us);
        since
    }

    /// How many certainly took longer than this: those in buckets that begin at it or above.
    pub fn above(&self, us: u64) -> u64 {
        let begins = BOUNDS_US.partition_point(|bound| *bound < us) + 1;
        self.buckets.iter().skip(begins).fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The duration, in microseconds, that the part `q` (0 to 1) of all stayed within; none without any.
    ///
    /// Interpolated as Prometheus does: durations are taken as spread evenly over their bucket, the first of
    /// which begins at 0; above the last bound, the bound itself is the answer.
    pub fn quantile_us(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * as_f64(count);
        let (mut below, mut lower) = (0.0, 0.0);
        for (held, bound) in self.buckets.iter().zip(BOUNDS_US) {
            let (held, upper) = (as_f64(*held), as_f64(bound));
            if held > 0.0 && below + held >= rank {
                return Some(lower + (upper - lower) * ((rank - below) / held).clamp(0.0, 1.0));
            }
            below += held;
            lower = upper;
        }
        Some(lower)
    }

    /// What people look at.
    pub fn quantiles(&self) -> LatencyQuantiles {
        let ms = |q| self.quantile_us(q).map(|us| us / 1_000.0);
        LatencyQuantiles { p50_ms: ms(0.5), p90_ms: ms(0.9), p99_ms: ms(0.99) }
    }
}

/// Counts far beyond 2^53 lose their last digits, which no quantile shows.
#[allow(clippy::cast_precision_loss)]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// How long requests took, in milliseconds; estimates from a histogram. None where there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencyQuantiles {
    /// Half of them took no longer.
    pub p50_ms: Option<f64>,
    /// Nine of ten took no longer.
    pub p90_ms: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_ms: Option<f64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn of(durations: &[u64]) -> Latency {
        let mut latency = Latency::default();
        for us in durations {
            latency.buckets[bucket_of(*us)] += 1;
            latency.sum_us += us;
        }
        latency
    }

    #[test]
    fn bounds_are_inclusive_and_ascend() {
        assert!(BOUNDS_US.is_sorted_by(|a, b| a < b));
        assert_eq!((bucket_of(0), bucket_of(50), bucket_of(51)), (0, 0, 1));
        assert_eq!((bucket_of(10_000_000), bucket_of(u64::MAX)), (BUCKETS - 2, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_interpolated() {
        let none = Latency::default();
        assert_eq!(none.quantile_us(0.5), None);
        assert_eq!(none.quantiles().p99_ms, None);
        // Four between 500 and 1,000 µs: half of them are taken to be below the middle.
        let four = of(&[600, 700, 800, 900]);
        assert_eq!(four.quantile_us(0.5), Some(750.0));
        assert_eq!(four.quantile_us(1.0), Some(1_000.0));
        assert_eq!(four.quantile_us(0.0), Some(500.0));
        // One of a hundred is slow: the 99th part is not it.
        let mut most = of(&[40; 99]);
        most.add(&of(&[2_000_000]));
        assert!(most.quantile_us(0.99).unwrap() <= 50.0);
        assert!(most.quantile_us(0.999).unwrap() > 1_000_000.0);
        // Nothing is known above the last bound.
        assert_eq!(of(&[60_000_000]).quantile_us(0.5), Some(10_000_000.0));
    }

    #[test]
    fn what_is_above_a_bound_is_certainly_above_it() {
        let some = of(&[400_000, 490_000, 510_000, 2_000_000, 60_000_000]);
        assert_eq!((some.above(500_000), some.above(450_000), some.above(500_001)), (3, 3, 2));
        assert_eq!((some.above(10_000_000), some.above(10_000_001), some.above(0)), (1, 0, 5));
    }

    #[test]
    fn what_came_since_is_a_difference() {
        let before = of(&[10, 2_000]);
        let mut after = before;
        after.add(&of(&[3_000_000]));
        assert_eq!(after.since(&before), of(&[3_000_000]));
        // Begun anew: never less than nothing.
        assert_eq!(before.since(&after).count(), 0);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_its_bucket(
            mut durations in prop::collection::vec(0u64..20_000_000, 1..200), q in 0.0f64..=1.0,
        ) {
            let latency = of(&durations);
            durations.sort_unstable();
            let at = ((q * durations.len() as f64).ceil() as usize).clamp(1, durations.len()) - 1;
            let bucket = bucket_of(durations[at]);
            let lower = bucket.checked_sub(1).map_or(0, |below| BOUNDS_US[below]) as f64;
            let upper = BOUNDS_US[bucket.min(BUCKETS - 2)] as f64;
            let found = latency.quantile_us(q).unwrap();
            prop_assert!(lower <= found + 1e-6 && found <= upper + 1e-6, "{found} in {lower}..{upper}");
        }

        #[test]
        fn a_higher_quantile_is_no_smaller(
            durations in prop::collection::vec(0u64..20_000_000, 1..50), a in 0.0f64..=1.0, b in 0.0f64..=1.0,
        ) {
            let latency = of(&durations);
            let (low, high) = (latency.quantile_us(a.min(b)), latency.quantile_us(a.max(b)));
            prop_assert!(low.unwrap() <= high.unwrap() + 1e-6);
        }
    }
}
