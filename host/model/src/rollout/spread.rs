//! Which requests a canary gets.

use super::Percent;

/// 2^64 divided by the golden ratio: multiples of it fall into any part of the range about as often as the
/// part is large, in any stretch of them, and in step with no pattern that clients may have.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A part of the requests.
///
/// Of any 1,000 in a row within one or two of what the part says, for those that stick by nothing; and the
/// values of a larger part include those of a smaller one, so that whoever has the canary keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread(u64);

impl Spread {
    /// The first `share` of the range.
    pub fn new(share: Percent) -> Self {
        Self(u64::from(share.hundredths()).saturating_mul(u64::MAX / 10_000))
    }

    /// Whether the request of this number, counted from any start, is among them.
    pub fn takes_nth(self, number: u64) -> bool {
        self.takes(number.wrapping_mul(STEP))
    }

    /// Whether a value that is spread evenly over the range, such as a hash, is among them.
    pub fn takes(self, value: u64) -> bool {
        value < self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_a_thousand_requests_the_canary_gets_its_part() {
        for text in ["0.5%", "1%", "5%", "10%", "33.33%", "50%", "99%"] {
            let share: Percent = text.parse().unwrap();
            let wanted = f64::from(share.hundredths()) / 10.0;
            let spread = Spread::new(share);
            for start in (0..40_000).step_by(37) {
                let taken = (start..start + 1_000).filter(|n| spread.takes_nth(*n)).count();
                let off = (f64::from(u32::try_from(taken).unwrap()) - wanted).abs();
                assert!(off <= 2.0, "{text}: {taken} of 1,000 from {start}");
            }
            // Clients that take turns all get their part.
            for turns in [2, 3, 5, 8] {
                let taken = (0..1_000).filter(|n| spread.takes_nth(n * turns)).count();
                let off = (f64::from(u32::try_from(taken).unwrap()) - wanted).abs();
                assert!(off <= 12.0, "{text}: {taken} of every {turns}th");
            }
        }
    }

    #[test]
    fn a_larger_part_holds_the_smaller_one() {
        let [small, large] = ["5%", "20%"].map(|text| Spread::new(text.parse().unwrap()));
        for value in (0..u64::MAX).step_by(usize::MAX / 1_000) {
            assert!(!small.takes(value) || large.takes(value));
        }
    }
}
