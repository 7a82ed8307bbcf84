//! A plot of rows under each other: who, the figure in words, and every sample as a dot.

use super::axis::Axis;
use super::canvas::{Align, Canvas, Font, GRID, INK, Ink, MUTED, Mark, draw};
use super::{Drawn, Head, LABEL, MARGIN, TICK, WIDTH};
use crate::stats::{self, Estimate};
use anyhow::Result;

/// Beyond as many samples a row shows its percentiles instead.
const DOTS_MAX: usize = 200;
/// From the middle of a row's words to that of its dots.
const TO_DOTS: f64 = 19.0;
const LINE: f64 = 16.0;
const ROW_GAP: f64 = 30.0;

/// One row.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// Who.
    pub(super) label: String,
    /// The figure in words, beside who, or under it if there is no room.
    pub(super) said: String,
    /// The colour.
    pub(super) ink: Ink,
    /// Whether it is ourselves.
    pub(super) ours: bool,
    /// In which case.
    pub(super) case: &'a str,
    /// What was measured, if each is to be seen.
    pub(super) samples: &'a [f64],
    /// The median and its interval.
    pub(super) estimate: Estimate,
    /// A bar that the project has set itself.
    pub(super) limit: Option<f64>,
}

/// Whether any row has more samples than can be shown one by one.
pub(super) fn shows_percentiles(rows: &[Row<'_>]) -> bool {
    rows.iter().any(|row| row.samples.len() > DOTS_MAX)
}

/// What stands under the rows.
pub(super) struct Under<'a> {
    /// A value in words.
    pub(super) tick: &'a dyn Fn(f64) -> String,
    /// The size of the unit in which a value is written.
    pub(super) unit: &'a dyn Fn(f64) -> f64,
    /// Where a line stands that all rows are to be held against.
    pub(super) equal: Option<f64>,
}

impl std::fmt::Debug for Under<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Under").field("equal", &self.equal).finish_non_exhaustive()
    }
}

/// Where a row's words and its dots are.
struct Place {
    label: Vec<String>,
    top: f64,
    /// Whether the figure has a line of its own.
    apart: bool,
    dots: f64,
}

/// Draws rows along one axis.
pub(super) fn rows(head: &Head, rows: &[Row<'_>], under: &Under<'_>) -> Result<Drawn> {
    let mut height = head.height();
    let places: Vec<Place> = rows
        .iter()
        .map(|row| {
            let place = place(row, height);
            height = place.dots + ROW_GAP;
            place
        })
        .collect();
    let end = height - ROW_GAP + 17.0;
    height = end + 24.0;
    let values = rows
        .iter()
        .flat_map(|row| {
            let Estimate { median, low, high } = row.estimate;
            row.samples.iter().copied().chain([median, low, high]).chain(row.limit)
        })
        .chain(under.equal);
    let axis = Axis::holding(values, MARGIN + 4.0, WIDTH - MARGIN - 4.0);
    let (within, view) = draw((WIDTH, height), |canvas| {
        head.draw(canvas)?;
        let ticks = labelled(&axis, under);
        for (row, place) in rows.iter().zip(&places) {
            let across = |x: f64| [(x, place.dots - 11.0), (x, place.dots + 11.0)];
            for (value, _) in &ticks {
                let [from, to] = across(axis.at(*value));
                canvas.line(from, to, GRID, 1.0)?;
            }
            if let Some(equal) = under.equal {
                let [from, to] = across(axis.at(equal));
                canvas.line(from, to, MUTED, 1.2)?;
            }
            words(canvas, row, place)?;
            marks(canvas, row, &axis, place.dots)?;
        }
        canvas.line((MARGIN, end), (WIDTH - MARGIN, end), MUTED, 1.0)?;
        for (value, text) in ticks {
            let x = axis.at(value);
            canvas.line((x, end), (x, end + 4.0), MUTED, 1.0)?;
            canvas.text((kept_within(x, &text), end + 13.0), &text, TICK, MUTED, Align::Middle)?;
        }
        Ok(())
    })?;
    Ok(Drawn { within, view, width: WIDTH, height })
}

fn font(row: &Row<'_>) -> Font {
    Font { bold: row.ours, ..LABEL }
}

fn place(row: &Row<'_>, top: f64) -> Place {
    let width = WIDTH - 2.0 * MARGIN;
    let label = font(row).wrap(&row.label, width);
    let last = label.last().map_or(0.0, |line| font(row).width(line));
    let apart = label.len() > 1 || last + LABEL.width(&row.said) + 14.0 > width;
    let lines = label.len().max(1) - usize::from(!apart);
    Place {
        label,
        top: top + LINE / 2.0,
        apart,
        dots: top + LINE / 2.0 + lines as f64 * LINE + TO_DOTS,
    }
}

fn words(canvas: &Canvas<'_>, row: &Row<'_>, place: &Place) -> Result<()> {
    let ink = if row.ours { row.ink } else { INK };
    let mut y = place.top;
    for line in &place.label {
        canvas.text((MARGIN, y), line, font(row), ink, Align::Left)?;
        y += LINE;
    }
    if place.apart {
        canvas.text((MARGIN, y), &row.said, LABEL, INK, Align::Left)
    } else {
        canvas.text((WIDTH - MARGIN, y - LINE), &row.said, LABEL, INK, Align::Right)
    }
}

fn marks(canvas: &Canvas<'_>, row: &Row<'_>, axis: &Axis, dots: f64) -> Result<()> {
    let percentiles: Vec<f64>;
    let shown = if row.samples.len() > DOTS_MAX {
        percentiles = (1..100)
            .map(|hundredth| stats::quantile(row.samples, f64::from(hundredth) / 100.0))
            .collect();
        &percentiles
    } else {
        row.samples
    };
    for (index, sample) in shown.iter().enumerate() {
        // Golden ratio: neighbours in time lie far apart, and no two on each other.
        let aside = ((index as f64 * 0.618_034) % 1.0 - 0.5) * 15.0;
        canvas.dot((axis.at(*sample), dots + aside), 2.1, row.ink, 0.5)?;
    }
    let Estimate { median, low, high } = row.estimate;
    let (low, high) = (axis.at(low), axis.at(high));
    canvas.rectangle((low, dots - 2.2), (high.max(low + 1.0), dots + 2.2), row.ink, 0.9)?;
    if row.samples.is_empty() {
        canvas.mark(Mark::Disc, (axis.at(median), dots), row.ink)?;
    } else {
        let x = axis.at(median);
        canvas.rectangle((x - 1.3, dots - 9.5), (x + 1.3, dots + 9.5), INK, 1.0)?;
    }
    if let Some(limit) = row.limit {
        let x = axis.at(limit);
        canvas.line((x, dots - 9.0), (x, dots + 9.0), INK, 1.4)?;
        canvas.shape(
            &[(x - 4.5, dots - 12.0), (x + 4.5, dots - 12.0), (x, dots - 5.0)],
            INK,
            1.0,
        )?;
    }
    Ok(())
}

/// The values under the axis with their words: as many as fit.
fn labelled(axis: &Axis, under: &Under<'_>) -> Vec<(f64, String)> {
    // Fewer ticks rather than some of many: what is left out of a series would be missed in it.
    let tries = [7, 5, 4, 3, 2].into_iter().map(|about| {
        let ticks = axis.ticks(about, under.unit);
        let all = ticks.len();
        let mut free = f64::NEG_INFINITY;
        let words = ticks.into_iter().map(|value| (value, (under.tick)(value)));
        let kept: Vec<(f64, String)> = words
            .filter(|(value, text)| {
                let (middle, half) = (kept_within(axis.at(*value), text), TICK.width(text) / 2.0);
                let fits = middle - half >= free;
                if fits {
                    free = middle + half + 8.0;
                }
                fits
            })
            .collect();
        (kept.len() == all, kept)
    });
    let mut last = Vec::new();
    for (fits, kept) in tries {
        last = kept;
        if fits {
            break;
        }
    }
    last
}

/// The middle of a text so that neither end of it leaves the paper.
fn kept_within(x: f64, text: &str) -> f64 {
    let half = TICK.width(text) / 2.0;
    x.clamp(half + 2.0, (WIDTH - half - 2.0).max(half + 2.0))
}
