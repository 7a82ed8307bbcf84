//! The samples, grouped the way they are drawn and tabled: one figure, several lines, points along an axis.

use super::headline::OURS;
use super::words;
use crate::results::{Bench, Results};
use crate::stats::{self, Estimate};

/// How many lines one plot over an axis can carry before nobody can tell them apart.
const LINES_MAX: usize = 6;

/// One figure of a bench, of all who were measured.
#[derive(Debug, Clone)]
pub(crate) struct Figure<'a> {
    /// What is measured.
    pub(crate) name: &'a str,
    /// Of which case all lines are, if the figure was too full for one plot.
    pub(crate) facet: Option<&'a str>,
    /// Unit of every sample.
    pub(crate) unit: &'a str,
    /// Whether less is better.
    pub(crate) less_is_better: bool,
    /// What the horizontal axis is, if the figure has one.
    pub(crate) axis: Option<&'a str>,
    /// One for each subject and case.
    pub(crate) lines: Vec<Line<'a>>,
}

/// One subject in one case.
#[derive(Debug, Clone)]
pub(crate) struct Line<'a> {
    /// Its id.
    pub(crate) subject: &'a str,
    /// Its name for people.
    pub(crate) name: &'a str,
    /// Which of its cases.
    pub(crate) case: &'a str,
    /// Its colour, the same everywhere; see [`colour`].
    pub(crate) colour: usize,
    /// Which of its subject's cases within this figure.
    pub(crate) variant: usize,
    /// In the order of the axis.
    pub(crate) points: Vec<Point<'a>>,
}

/// Samples at one place of the axis.
#[derive(Debug, Clone)]
pub(crate) struct Point<'a> {
    /// Where, if there is an axis.
    pub(crate) x: Option<f64>,
    /// All of them.
    pub(crate) samples: &'a [f64],
    /// Their median and its interval.
    pub(crate) estimate: Estimate,
}

impl Figure<'_> {
    /// Whether there is a course along an axis to be drawn, and not only places beside each other.
    pub(crate) fn runs_along_an_axis(&self) -> bool {
        self.lines.iter().any(|line| {
            let first = line.points.first().and_then(|point| point.x);
            line.points.iter().any(|point| point.x.is_some() && point.x != first)
        })
    }

    /// What stands over its plot.
    pub(crate) fn title(&self) -> String {
        let name = words::capital(self.name);
        self.facet.map_or_else(|| name.clone(), |facet| format!("{name}: {facet}"))
    }
}

/// Which colour a subject has: 0 for ourselves, and each other the place it has among the others.
pub(crate) fn colour(results: &Results, id: &str) -> usize {
    if id == OURS {
        return 0;
    }
    let mut others = results.subjects.iter().filter(|subject| subject.id != OURS);
    1 + others.position(|subject| subject.id == id).unwrap_or(results.subjects.len())
}

/// The figures of a bench, in the order in which they first appear.
pub(crate) fn of<'a>(results: &'a Results, bench: &'a Bench) -> Vec<Figure<'a>> {
    let mut figures: Vec<Figure<'a>> = Vec::new();
    for series in &bench.series {
        let Some(estimate) = stats::estimate(&series.samples) else { continue };
        let point = Point { x: series.x, samples: &series.samples, estimate };
        let known = figures
            .iter()
            .position(|known| known.name == series.figure && known.unit == series.unit);
        let index = known.unwrap_or(figures.len());
        if known.is_none() {
            figures.push(Figure {
                name: &series.figure,
                facet: None,
                unit: &series.unit,
                less_is_better: series.less_is_better,
                axis: None,
                lines: Vec::new(),
            });
        }
        let Some(figure) = figures.get_mut(index) else { continue };
        figure.axis = figure.axis.or(series.axis.as_deref());
        let lines = &mut figure.lines;
        if let Some(line) =
            lines.iter_mut().find(|line| line.subject == series.subject && line.case == series.case)
        {
            line.points.push(point);
            continue;
        }
        let variant = lines.iter().filter(|line| line.subject == series.subject).count();
        lines.push(Line {
            subject: &series.subject,
            name: words::name(results, &series.subject),
            case: &series.case,
            colour: colour(results, &series.subject),
            variant,
            points: vec![point],
        });
    }
    for line in figures.iter_mut().flat_map(|figure| &mut figure.lines) {
        line.points.sort_by(|one, other| {
            one.x.unwrap_or(f64::NAN).total_cmp(&other.x.unwrap_or(f64::NAN))
        });
    }
    figures
}

/// The same figures, those with too many lines over their axis parted by case. A line without a case
/// belongs to every part, since that is what the others are held against.
pub(crate) fn to_draw<'a>(figures: &[Figure<'a>]) -> Vec<Figure<'a>> {
    figures.iter().flat_map(parts).collect()
}

fn parts<'a>(figure: &Figure<'a>) -> Vec<Figure<'a>> {
    let mut cases: Vec<&str> = Vec::new();
    for line in &figure.lines {
        if !line.case.is_empty() && !cases.contains(&line.case) {
            cases.push(line.case);
        }
    }
    let shared = |case: &&&str| figure.lines.iter().filter(|line| line.case == **case).count() > 1;
    // Cases that only one subject has are no parts: nothing would stand beside anything.
    let parted = cases.iter().filter(shared).count() > 1;
    if figure.lines.len() <= LINES_MAX || !parted || !figure.runs_along_an_axis() {
        return vec![figure.clone()];
    }
    let part = |case: &'a str| {
        let mut part = figure.clone();
        part.facet = Some(case);
        part.lines.retain(|line| line.case == case || line.case.is_empty());
        for line in &mut part.lines {
            // The title says the case, and within the part each subject has one line.
            line.case = "";
            line.variant = 0;
        }
        part
    };
    cases.into_iter().map(part).collect()
}
