//! What the reports say of samples: properties that hold of any, and answers that are known beforehand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_benches::stats::{Estimate, estimate, median, paired, quantile, ratios};
use proptest::prelude::*;

fn samples() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(0.001_f64..1e6, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_median_has_half_on_each_side(figures in samples()) {
        let middle = median(&figures);
        let half = figures.len().div_ceil(2);
        prop_assert!(figures.iter().filter(|figure| **figure <= middle).count() >= half);
        prop_assert!(figures.iter().filter(|figure| **figure >= middle).count() >= half);
    }

    #[test]
    fn quantiles_rise_from_the_smallest_to_the_largest(
        figures in samples(),
        one in 0.0_f64..=1.0,
        other in 0.0_f64..=1.0,
    ) {
        prop_assert!(quantile(&figures, one.min(other)) <= quantile(&figures, one.max(other)));
        let (low, high) = (quantile(&figures, 0.0), quantile(&figures, 1.0));
        prop_assert!(figures.contains(&low) && figures.contains(&high));
        prop_assert!(figures.iter().all(|figure| low <= *figure && *figure <= high));
    }

    #[test]
    fn the_order_of_samples_changes_no_quantile(figures in samples(), share in 0.0_f64..=1.0) {
        let mut turned = figures.clone();
        turned.reverse();
        prop_assert_eq!(quantile(&turned, share), quantile(&figures, share));
    }

    #[test]
    fn an_interval_holds_its_median_and_stays_among_the_samples(figures in samples()) {
        let Estimate { median: middle, low, high } = estimate(&figures).unwrap();
        prop_assert_eq!(middle, median(&figures));
        prop_assert!(low <= middle && middle <= high);
        prop_assert!(quantile(&figures, 0.0) <= low && high <= quantile(&figures, 1.0));
        prop_assert_eq!(estimate(&figures).unwrap(), Estimate { median: middle, low, high });
    }

    #[test]
    fn another_unit_is_the_same_interval(figures in samples()) {
        // A power of two, so that nothing is rounded.
        let scaled: Vec<f64> = figures.iter().map(|figure| figure * 1024.0).collect();
        let (one, other) = (estimate(&figures).unwrap(), estimate(&scaled).unwrap());
        prop_assert_eq!(one.median * 1024.0, other.median);
        prop_assert_eq!(one.low * 1024.0, other.low);
        prop_assert_eq!(one.high * 1024.0, other.high);
    }

    #[test]
    fn a_thing_against_itself_is_exactly_one(figures in samples()) {
        let Estimate { median, low, high } = paired(&figures, &figures).unwrap();
        prop_assert_eq!([median, low, high], [1.0; 3]);
    }

    /// Rounds that were slow for both must not widen the interval: that is what pairing is for.
    #[test]
    fn what_disturbs_both_sides_of_a_round_disturbs_no_ratio(figures in samples()) {
        let doubled: Vec<f64> = figures.iter().map(|figure| figure * 2.0).collect();
        let Estimate { median, low, high } = paired(&doubled, &figures).unwrap();
        prop_assert_eq!([median, low, high], [2.0; 3]);
    }
}

#[test]
fn known_answers() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(quantile(&[10.0, 20.0, 30.0, 40.0, 50.0], 0.9), 46.0);
    assert_eq!(ratios(&[1.0, 6.0, 9.0], &[2.0, 3.0]), [0.5, 2.0]);
    assert!(median(&[]).is_nan() && quantile(&[], 0.1).is_nan());
}

#[test]
fn no_estimate_where_there_is_nothing_to_estimate() {
    assert_eq!(estimate(&[]), None);
    assert_eq!(estimate(&[1.0, f64::NAN]), None);
    assert_eq!(estimate(&[1.0, f64::INFINITY]), None);
    assert_eq!(paired(&[1.0], &[0.0]), None);
    assert_eq!(paired(&[1.0], &[]), None);
}

/// Draws from a skewed population whose median is known: of 200 intervals at 95%, about 190 hold it,
/// those that are drawn and those that are computed.
#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let mut state = 7_u64;
    let mut exponential = || {
        // Knuth's MMIX generator; its upper bits are good enough here.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = ((state >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        -unit.ln()
    };
    let truth = std::f64::consts::LN_2;
    for size in [31, 800] {
        let held = (0..200)
            .filter(|_| {
                let drawn: Vec<f64> = (0..size).map(|_| exponential()).collect();
                let interval = estimate(&drawn).unwrap();
                interval.low <= truth && truth <= interval.high
            })
            .count();
        assert!((180..=199).contains(&held), "{held} of 200 with {size} samples");
    }
}

/// On both sides of the number of samples from which on intervals are computed, they are as wide.
#[test]
fn computed_intervals_follow_on_from_drawn_ones() {
    let width = |size: u32| {
        let spread: Vec<f64> = (0..size).map(|index| f64::from(index) / f64::from(size)).collect();
        let interval = estimate(&spread).unwrap();
        interval.high - interval.low
    };
    let (drawn, computed) = (width(298), width(302));
    assert!((drawn / computed - 1.0).abs() < 0.1, "{drawn} and {computed}");
}
