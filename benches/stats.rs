//! Medians, quantiles and bootstrap intervals: what the reports say of samples, and how sure they are.
//!
//! Nothing here assumes a distribution; latencies have none that is worth assuming. The bootstrap draws
//! from a generator with a fixed seed, so the same samples always give the same interval.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How often the bootstrap draws.
const DRAWS: usize = 2_000;
/// From so many samples on, the interval is computed instead of drawn.
const DRAWN_MAX: usize = 300;
/// "Insula" in ASCII; any number would do.
const SEED: u64 = 0x0000_496e_7375_6c61;

/// Under so many samples not even their whole range is a 95% interval of the median.
const SAMPLES_MIN: usize = 5;

/// Whether an interval can be given for so many samples or rounds.
pub fn enough(count: usize) -> bool {
    count >= SAMPLES_MIN
}

/// A median and the 95% interval that the bootstrap gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Median of the samples.
    pub median: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end of the 95% interval.
    pub high: f64,
}

/// The middle of some figures; of an even number, half-way between the two. Not a number if there is none.
pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The figure under which a share of all lies, from 0 (the smallest) to 1 (the largest), interpolated
/// between neighbours. Not a number if there is none.
pub fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor();
    let low = sorted.get(below as usize).copied().unwrap_or(f64::NAN);
    let high = sorted.get(place.ceil() as usize).copied().unwrap_or(low);
    if low == high { low } else { low + (high - low) * (place - below) }
}

/// The median of some samples with the interval that its bootstrap gives it (percentiles 2.5 and 97.5 of
/// the medians of samples drawn from the samples); none if there are no samples, or one is not finite.
///
/// Of many samples the same interval is known without drawing: which of them, sorted, becomes the median
/// of a draw is then as good as normally distributed.
pub fn estimate(samples: &[f64]) -> Option<Estimate> {
    if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
        return None;
    }
    let median = median(samples);
    if samples.len() >= DRAWN_MAX {
        let aside = 1.96 * 0.5 / (samples.len() as f64).sqrt();
        let (low, high) = (quantile(samples, 0.5 - aside), quantile(samples, 0.5 + aside));
        return Some(Estimate { median, low, high });
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut drawn = vec![0.0; samples.len()];
    let medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            for slot in &mut drawn {
                *slot = samples.get(below(&mut random, samples.len())).copied().unwrap_or(f64::NAN);
            }
            middle(&mut drawn)
        })
        .collect();
    Some(Estimate {
        median,
        low: quantile(&medians, 0.025).min(median),
        high: quantile(&medians, 0.975).max(median),
    })
}

/// Each round's ratio of the one to the other; rounds that only one of them has are left out.
pub fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

/// The median of the rounds' ratios with its interval; none without rounds, or if one divides by nothing.
///
/// Rounds are paired because what disturbs one of two neighbours in time disturbs the other as well; the
/// ratio of two medians would keep that noise.
pub fn paired(of: &[f64], to: &[f64]) -> Option<Estimate> {
    estimate(&ratios(of, to))
}

/// A number below `bound`, each as likely as the others to within one part in 2^64 / `bound`.
fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}

/// The median, without sorting the whole, since the bootstrap asks thousands of times.
fn middle(figures: &mut [f64]) -> f64 {
    let half = figures.len() / 2;
    let even = figures.len().is_multiple_of(2);
    let (below, upper, _) = figures.select_nth_unstable_by(half, f64::total_cmp);
    if even {
        let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lower + (*upper - lower) / 2.0
    } else {
        *upper
    }
}
