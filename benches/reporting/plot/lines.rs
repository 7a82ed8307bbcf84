//! A plot along an axis: medians as lines, their 95% intervals as bands, every sample as a faint dot.

use super::axis::Axis;
use super::canvas::{Align, Canvas, Font, GRID, INK, Ink, MUTED, Mark, draw};
use super::{Drawn, Head, LABEL, MARGIN, TICK, WIDTH};
use crate::report::figures::{Figure, Line, Point};
use crate::report::words;
use anyhow::Result;

/// At least so high, and higher if the names at the right need it.
const HEIGHT_MIN: f64 = 216.0;
/// The widest that the names at the ends of lines may be.
const NAMES_MAX: f64 = 128.0;
const NAME_LINE: f64 = 13.0;
/// Between two names, so that it is seen where one ends.
const NAME_GAP: f64 = 5.0;
/// Of each point at most as many samples are drawn.
const DOTS_MAX: usize = 60;

/// Draws a figure that has an axis.
pub(super) fn lines(head: &Head, figure: &Figure<'_>) -> Result<Drawn> {
    let top = head.height() + 6.0;
    let names: Vec<Vec<String>> = figure.lines.iter().map(name).collect();
    let tall: f64 = names.iter().map(|name| name.len() as f64 * NAME_LINE + NAME_GAP).sum();
    let bottom = top + tall.max(HEIGHT_MIN);
    let height = bottom + 44.0;
    let points = || figure.lines.iter().flat_map(|line| &line.points);
    let values = points().flat_map(|point| {
        point.samples.iter().copied().chain([point.estimate.low, point.estimate.high])
    });
    let up = Axis::holding(values, bottom, top);
    let ticks: Vec<(f64, String)> = up
        .ticks(6, |value| words::step(value, figure.unit))
        .into_iter()
        .map(|tick| (tick, words::value(tick, figure.unit)))
        .collect();
    let left = MARGIN + 6.0 + ticks.iter().map(|(_, text)| TICK.width(text)).fold(0.0, f64::max);
    let widest = names
        .iter()
        .zip(&figure.lines)
        .flat_map(|(name, line)| name.iter().map(|text| font(line).width(text)))
        .fold(0.0, f64::max);
    let right = WIDTH - MARGIN - 14.0 - widest.min(NAMES_MAX + 8.0);
    let along = Axis::holding(points().filter_map(|point| point.x), left + 8.0, right - 4.0);

    let (within, view) = draw((WIDTH, height), |canvas| {
        head.draw(canvas)?;
        for (tick, text) in &ticks {
            let y = up.at(*tick);
            canvas.line((left, y), (right, y), GRID, 1.0)?;
            canvas.text((left - 6.0, y), text, TICK, MUTED, Align::Right)?;
        }
        canvas.line((left, bottom), (right, bottom), MUTED, 1.0)?;
        for (x, text) in places(figure, &along) {
            canvas.line((along.at(x), bottom), (along.at(x), bottom + 4.0), MUTED, 1.0)?;
            canvas.text((along.at(x), bottom + 13.0), &text, TICK, MUTED, Align::Middle)?;
        }
        let scale = if along.is_log() { ", log scale" } else { "" };
        let axis = format!("{}{scale}", figure.axis.unwrap_or("place"));
        canvas.text(((left + right) / 2.0, bottom + 31.0), &axis, LABEL, MUTED, Align::Middle)?;
        // Ourselves last, so that nothing is drawn over us.
        for line in figure.lines.iter().rev() {
            self::line(canvas, line, &along, &up, (left, right))?;
        }
        label(canvas, figure, &names, &along, &up, (right, top, bottom))
    })?;
    Ok(Drawn { within, view, width: WIDTH, height })
}

fn font(line: &Line<'_>) -> Font {
    Font { bold: line.colour == 0, ..TICK }
}

/// What stands at the end of a line.
fn name(line: &Line<'_>) -> Vec<String> {
    let mut said = font(line).wrap(line.name, NAMES_MAX);
    said.extend(font(line).wrap(&line.case, NAMES_MAX));
    said
}

/// The places that were measured, as far as there is room; otherwise round ones.
fn places(figure: &Figure<'_>, along: &Axis) -> Vec<(f64, String)> {
    let mut measured: Vec<f64> =
        figure.lines.iter().flat_map(|line| &line.points).filter_map(|point| point.x).collect();
    measured.sort_by(f64::total_cmp);
    measured.dedup();
    let fitting = |all: Vec<f64>| -> (bool, Vec<(f64, String)>) {
        let count = all.len();
        let mut free = f64::NEG_INFINITY;
        let kept: Vec<(f64, String)> = all
            .into_iter()
            .map(|x| (x, words::number(x)))
            .filter(|(x, text)| {
                let (middle, half) = (along.at(*x), TICK.width(text) / 2.0);
                let fits = middle - half >= free;
                if fits {
                    free = middle + half + 5.0;
                }
                fits
            })
            .collect();
        (kept.len() == count, kept)
    };
    match fitting(measured) {
        (true, all) => all,
        (false, _) => fitting(along.ticks(6, |_| 1.0)).1,
    }
}

fn line(
    canvas: &Canvas<'_>,
    line: &Line<'_>,
    along: &Axis,
    up: &Axis,
    (left, right): (f64, f64),
) -> Result<()> {
    let ink = Ink::subject(line.colour);
    let mark = Mark::nth(line.variant);
    let placed: Vec<(f64, &Point<'_>)> =
        line.points.iter().filter_map(|point| Some((along.at(point.x?), point))).collect();
    // What has no place on the axis holds for all of it.
    for point in line.points.iter().filter(|point| point.x.is_none()) {
        let y = up.at(point.estimate.median);
        canvas.dashes(&[(left, y), (right, y)], ink, 1.4)?;
    }
    let upper = placed.iter().map(|(x, point)| (*x, up.at(point.estimate.high)));
    let lower = placed.iter().rev().map(|(x, point)| (*x, up.at(point.estimate.low)));
    let band: Vec<(f64, f64)> = upper.chain(lower).collect();
    if placed.len() > 1 {
        canvas.shape(&band, ink, 0.16)?;
    }
    for (x, point) in &placed {
        let step = point.samples.len().div_ceil(DOTS_MAX).max(1);
        for (index, sample) in point.samples.iter().step_by(step).enumerate() {
            let aside = ((index as f64 * 0.618_034) % 1.0 - 0.5) * 5.0;
            canvas.dot((x + aside, up.at(*sample)), 1.3, ink, 0.4)?;
        }
        let (low, high) = (up.at(point.estimate.low), up.at(point.estimate.high));
        canvas.line((*x, low), (*x, high), ink, 1.2)?;
    }
    let medians: Vec<(f64, f64)> =
        placed.iter().map(|(x, point)| (*x, up.at(point.estimate.median))).collect();
    if medians.len() > 1 {
        if line.variant % 2 == 1 {
            canvas.dashes(&medians, ink, 1.8)?;
        } else {
            canvas.path(&medians, ink, 1.8)?;
        }
    }
    medians.iter().try_for_each(|at| canvas.mark(mark, *at, ink))
}

/// Names at the ends of the lines, moved apart where they would lie on each other.
fn label(
    canvas: &Canvas<'_>,
    figure: &Figure<'_>,
    names: &[Vec<String>],
    along: &Axis,
    up: &Axis,
    (right, top, bottom): (f64, f64, f64),
) -> Result<()> {
    let mut placed: Vec<(f64, f64, &Line<'_>, &Vec<String>)> = figure
        .lines
        .iter()
        .zip(names)
        .filter_map(|(line, name)| {
            let y = up.at(line.points.last()?.estimate.median);
            Some((y, y, line, name))
        })
        .collect();
    placed.sort_by(|one, other| one.0.total_cmp(&other.0));
    let tall = |name: &[String]| name.len() as f64 * NAME_LINE;
    let mut free = top - 8.0;
    for (_, place, _, name) in &mut placed {
        *place = place.max(free + tall(name) / 2.0);
        free = *place + tall(name) / 2.0 + NAME_GAP;
    }
    let mut free = bottom + 6.0;
    for (_, place, _, name) in placed.iter_mut().rev() {
        *place = place.min(free - tall(name) / 2.0);
        free = *place - tall(name) / 2.0 - NAME_GAP;
    }
    for (y, place, line, name) in placed {
        let ink = Ink::subject(line.colour);
        // A line that ends early is led to its name.
        if let Some(last) = line.points.iter().filter_map(|point| point.x).next_back() {
            let last = along.at(last) + 6.0;
            if last + 8.0 < right {
                canvas.dashes(&[(last, y), (right - 2.0, y)], ink, 0.7)?;
            }
        }
        canvas.path(
            &[(right - 2.0, y), (right + 4.0, y), (right + 8.0, place), (right + 11.0, place)],
            ink,
            1.0,
        )?;
        let first = place - (tall(name) - NAME_LINE) / 2.0;
        for (index, text) in name.iter().enumerate() {
            let at = (right + 14.0, first + index as f64 * NAME_LINE);
            let ink = if line.colour == 0 { ink } else { INK };
            canvas.text(at, text, font(line), ink, Align::Left)?;
        }
    }
    Ok(())
}
