//! The samples, grouped the way they are drawn and tabled: one figure, several lines, points along an axis.

use super::headline::OURS;
use super::words;
use crate::results::{Bench, Results};
use crate::stats::{self, Estimate};
use std::collections::BTreeSet;

/// How many lines one plot over an axis can carry before nobody can tell them apart.
const LINES_MAX: usize = 6;

/// One figure of a bench, of all who were measured.
#[derive(Debug, Clone)]
pub(crate) struct Figure<'a> {
    /// What is measured.
    pub(crate) name: &'a str,
    /// What all lines have in common, if the figure was too full for one plot.
    pub(crate) facet: Option<String>,
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
    pub(crate) case: String,
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
        self.facet.as_ref().map_or_else(|| name.clone(), |facet| format!("{name}: {facet}"))
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
            case: series.case.clone(),
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

/// The same figures as they are drawn: one that is too full is parted.
pub(crate) fn to_draw<'a>(figures: &[Figure<'a>]) -> Vec<Figure<'a>> {
    figures.iter().flat_map(parts).collect()
}

/// A full figure along an axis becomes one that has what was measured at one place only, beside all others
/// at that place, and one for each word that several subjects' cases have in common.
fn parts<'a>(figure: &Figure<'a>) -> Vec<Figure<'a>> {
    if figure.lines.len() <= LINES_MAX || !figure.runs_along_an_axis() {
        return vec![on_its_own(figure)];
    }
    // Somebody who was measured at one place only, in whatever case, is still seen among the lines.
    let others = |whose: &str| {
        figure.lines.iter().any(|line| line.subject == whose && line.points.len() > 1)
    };
    let alone = |line: &Line<'_>| line.points.len() == 1 && others(line.subject);
    let mut places: Vec<f64> = figure
        .lines
        .iter()
        .filter(|line| alone(line))
        .filter_map(|line| line.points.first()?.x)
        .collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut along = figure.clone();
    along.lines.retain(|line| !alone(line));
    let beside = places.into_iter().map(|place| at(figure, place));
    by_words(along).into_iter().chain(beside).collect()
}

/// Where there is no course, but all was measured at one place, the title names the place once for all.
fn on_its_own<'a>(figure: &Figure<'a>) -> Figure<'a> {
    let mut places = figure.lines.iter().flat_map(|line| &line.points).map(|point| point.x);
    match places.next() {
        Some(Some(place)) if places.all(|other| other == Some(place)) => at(figure, place),
        _ => figure.clone(),
    }
}

/// All that was measured at one place.
fn at<'a>(figure: &Figure<'a>, place: f64) -> Figure<'a> {
    let mut part = figure.clone();
    part.facet = Some(words::place(Some(place), figure.axis).trim_start().to_owned());
    for line in &mut part.lines {
        line.points.retain(|point| point.x == Some(place));
        for point in &mut line.points {
            point.x = None;
        }
    }
    part.lines.retain(|line| !line.points.is_empty());
    part
}

/// Parts by what the cases of several subjects have in common. A line without a case belongs to all of
/// them, since that is what the others are held against.
fn by_words(figure: Figure<'_>) -> Vec<Figure<'_>> {
    let words = |line: &Line<'_>| -> Vec<String> {
        line.case.split(", ").filter(|word| !word.is_empty()).map(Into::into).collect()
    };
    let mut parts = Vec::new();
    let mut rest = figure.clone();
    for word in figure.lines.iter().flat_map(words) {
        let (with, without): (Vec<_>, Vec<_>) =
            rest.lines.iter().cloned().partition(|line| words(line).contains(&word));
        let subjects: BTreeSet<&str> = with.iter().map(|line| line.subject).collect();
        let all = with.iter().all(|line| line.case == word);
        if subjects.len() < 2 || figure.lines.len() <= LINES_MAX {
            continue;
        }
        let mut part = Figure { facet: Some(word.clone()), lines: with, ..figure.clone() };
        for line in &mut part.lines {
            let left: Vec<String> =
                words(line).into_iter().filter(|other| *other != word).collect();
            line.case = left.join(", ");
            line.variant = if all { 0 } else { line.variant };
        }
        part.lines.extend(figure.lines.iter().filter(|line| line.case.is_empty()).cloned());
        parts.push(part);
        rest.lines = without;
    }
    // What is left is a part of its own, unless it is only what all parts have.
    if parts.is_empty() || rest.lines.iter().any(|line| !line.case.is_empty()) {
        if !parts.is_empty() {
            rest.facet = Some("others".into());
        }
        parts.push(rest);
    }
    parts
}
