//! From values to places, and the values that are written beside an axis.

use plotters::coord::combinators::LogCoord;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::IntoLogRange;

/// Places are whole numbers to plotters; these are thousandths of the axis.
const FINE: i32 = 100_000;

enum Scale {
    Even(RangedCoordf64),
    Log(LogCoord<f64>),
}

/// An axis between two places of the drawing.
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// One that holds all these values, drawn between two places. It is logarithmic if they span more
    /// than a decade and none is zero or less, and otherwise begins at zero.
    pub(super) fn holding(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low > 0.0 && high / low > 10.0 {
            // A little room, so that the outermost marks are not cut.
            let room = (high / low).powf(0.03);
            return Self::log(low / room, high * room, from, to);
        }
        let high = if high > 0.0 { high * 1.04 } else { 1.0 };
        let low = if low < 0.0 { low * 1.04 } else { 0.0 };
        Self { scale: Scale::Even((low..high).into()), low, high, from, to }
    }

    /// A logarithmic one.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { scale: Scale::Log((low..high).log_scale().into()), low, high, from, to }
    }

    /// Whether it is logarithmic.
    pub(super) fn is_log(&self) -> bool {
        matches!(self.scale, Scale::Log(_))
    }

    /// Where a value is.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let place = match &self.scale {
            Scale::Even(scale) => scale.map(&value, (0, FINE)),
            Scale::Log(scale) => scale.map(&value, (0, FINE)),
        };
        self.from + (self.to - self.from) * f64::from(place) / f64::from(FINE)
    }

    /// Values to write beside it, `about` as many as said: round ones in a unit of that size.
    pub(super) fn ticks(&self, about: usize, unit: impl Fn(f64) -> f64) -> Vec<f64> {
        match &self.scale {
            Scale::Even(_) => {
                let unit = unit(self.high);
                let scaled: RangedCoordf64 = (self.low / unit..self.high / unit).into();
                let ticks = scaled.key_points(about).into_iter().map(|tick| tick * unit);
                ticks.filter(|tick| self.holds(*tick)).collect()
            }
            Scale::Log(_) => self.round(about, unit),
        }
    }

    fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Powers of ten, with 2 and 5 times as much between them where there are few, and only every
    /// second or third where there are many.
    fn round(&self, about: usize, unit: impl Fn(f64) -> f64) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32 - 1, self.high.log10().ceil() as i32);
        let between = |factors: &[f64]| -> Vec<f64> {
            let all = (first..=last)
                .flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
            // A unit that is not a power of ten, such as MiB, has round numbers of its own.
            let mut all: Vec<f64> = all
                .map(|value| {
                    // 1,000 KiB and 1 MiB would lie on each other.
                    let unit = unit(value * 1.03);
                    let inner = value / unit;
                    let power = 10_f64.powf((inner.log10() + 0.02).floor());
                    let lead = factors.iter().rev().find(|lead| **lead <= inner / power + 0.05);
                    unit * power * lead.copied().unwrap_or(1.0)
                })
                .filter(|tick| self.holds(*tick))
                .collect();
            all.dedup_by(|one, other| (*one / *other - 1.0).abs() < 1e-6);
            all
        };
        let decades = between(&[1.0]);
        if decades.len() > about {
            let step = decades.len().div_ceil(about);
            return decades.into_iter().step_by(step).collect();
        }
        [&[1.0, 2.0, 5.0][..], &[1.0, 5.0]]
            .into_iter()
            .map(between)
            .find(|ticks| ticks.len() <= about + 1)
            .unwrap_or(decades)
    }
}

impl std::fmt::Debug for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Axis")
            .field("low", &self.low)
            .field("high", &self.high)
            .finish_non_exhaustive()
    }
}
