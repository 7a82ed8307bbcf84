//! Collecting samples into series, and comparing two of them round by round.

use crate::results::{Bar, Bench, Ratio, Series};
use crate::stats;

/// What a figure is, apart from whose.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// As in [`Series::figure`].
    pub name: &'static str,
    /// As in [`Series::unit`].
    pub unit: &'static str,
    /// Whether less is better.
    pub less_is_better: bool,
    /// What the horizontal axis is, if there is one.
    pub axis: Option<&'static str>,
}

impl Figure {
    /// One of which less is better, without an axis.
    pub const fn less(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, less_is_better: true, axis: None }
    }

    /// One of which more is better, without an axis.
    pub const fn more(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, less_is_better: false, axis: None }
    }

    /// The same along an axis.
    pub const fn along(self, axis: &'static str) -> Self {
        Self { axis: Some(axis), ..self }
    }
}

/// Adds a sample.
pub fn add(
    bench: &mut Bench,
    figure: Figure,
    subject: &str,
    case: &str,
    x: Option<f64>,
    sample: f64,
) {
    if let Some(series) = find_mut(bench, figure.name, subject, case, x) {
        series.samples.push(sample);
        return;
    }
    bench.series.push(Series {
        subject: subject.into(),
        case: case.into(),
        figure: figure.name.into(),
        unit: figure.unit.into(),
        less_is_better: figure.less_is_better,
        x,
        axis: figure.axis.map(Into::into),
        samples: vec![sample],
    });
}

fn find_mut<'a>(
    bench: &'a mut Bench,
    figure: &str,
    subject: &str,
    case: &str,
    x: Option<f64>,
) -> Option<&'a mut Series> {
    bench.series.iter_mut().find(|series| is(series, figure, subject, case, x))
}

fn is(series: &Series, figure: &str, subject: &str, case: &str, x: Option<f64>) -> bool {
    series.figure == figure && series.subject == subject && series.case == case && series.x == x
}

/// The samples of one series.
pub fn of<'a>(
    bench: &'a Bench,
    figure: Figure,
    subject: &str,
    case: &str,
    x: Option<f64>,
) -> &'a [f64] {
    let found = bench.series.iter().find(|series| is(series, figure.name, subject, case, x));
    found.map_or(&[], |series| &series.samples)
}

/// What a ratio must be at most.
pub fn at_most(limit: f64) -> Option<Bar> {
    Some(Bar { limit, at_most: true })
}

/// What a ratio must be at least.
pub fn at_least(limit: f64) -> Option<Bar> {
    Some(Bar { limit, at_most: false })
}

/// One series divided by another, round by round; none if either has no samples.
pub fn ratio(
    bench: &Bench,
    figure: Figure,
    of_whom: (&str, &str),
    to_whom: (&str, &str),
    x: Option<f64>,
    bar: Option<Bar>,
) -> Option<Ratio> {
    let above = of(bench, figure, of_whom.0, of_whom.1, x);
    let below = of(bench, figure, to_whom.0, to_whom.1, x);
    paired(figure.name, (above, of_whom), (below, to_whom), x, bar)
}

/// The same of any two lists of samples.
pub fn paired(
    name: &str,
    (above, of): (&[f64], (&str, &str)),
    (below, to): (&[f64], (&str, &str)),
    x: Option<f64>,
    bar: Option<Bar>,
) -> Option<Ratio> {
    let ratios: Vec<f64> = above
        .iter()
        .zip(below)
        .filter(|(_, below)| **below != 0.0)
        .map(|(above, below)| above / below)
        .collect();
    let estimate = stats::estimate(&ratios)?;
    Some(Ratio {
        figure: name.into(),
        of: (of.0.into(), of.1.into()),
        to: (to.0.into(), to.1.into()),
        x,
        median: estimate.median,
        low: estimate.low,
        high: estimate.high,
        rounds: ratios.len(),
        bar,
    })
}
