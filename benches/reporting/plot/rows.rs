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
    /// The figure in words.
    pub(super) said: String,
    /// The colour.
    pub(super) ink: Ink,
    /// Whether it is ourselves.
    pub(super) ours: bool,
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

/// Draws rows along one axis; `tick` says the values that are written under it, `equal` is where a line
/// stands that all are to be held against.
pub(super) fn rows(
    head: &Head,
    rows: &[Row<'_>],
    tick: impl Fn(f64) -> String,
    equal: Option<f64>,
) -> Result<Drawn> {
    let top = head.height();
    let mut height = top;
    let mut places: Vec<(f64, bool)> = Vec::new();
    for row in rows {
        let label = Font { bold: row.ours, ..LABEL };
        // Who and the figure share a line if they can.
        let apart = label.width(&row.label) + LABEL.width(&row.said) + 14.0 > WIDTH - 2.0 * MARGIN;
        places.push((height + LINE / 2.0, apart));
        height += if apart { LINE } else { 0.0 } + TO_DOTS + ROW_GAP;
    }
    let end = height - ROW_GAP + 14.0;
    height = end + 22.0;
    let values = rows
        .iter()
        .flat_map(|row| {
            let Estimate { median, low, high } = row.estimate;
            row.samples.iter().copied().chain([median, low, high]).chain(row.limit)
        })
        .chain(equal);
    let axis = Axis::holding(values, MARGIN + 4.0, WIDTH - MARGIN - 4.0);
    let (within, view) = draw((WIDTH, height), |canvas| {
        head.draw(canvas)?;
        let ticks = labelled(&axis, &tick);
        for (row, (place, apart)) in rows.iter().zip(&places) {
            let dots = place + TO_DOTS + if *apart { LINE } else { 0.0 };
            for (value, _) in &ticks {
                let x = axis.at(*value);
                canvas.line((x, dots - 11.0), (x, dots + 11.0), GRID, 1.0)?;
            }
            if let Some(equal) = equal {
                let x = axis.at(equal);
                canvas.line((x, dots - 11.0), (x, dots + 11.0), MUTED, 1.2)?;
            }
            self::row(canvas, row, &axis, (*place, dots), *apart)?;
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

fn row(
    canvas: &Canvas<'_>,
    row: &Row<'_>,
    axis: &Axis,
    (place, dots): (f64, f64),
    apart: bool,
) -> Result<()> {
    let label = Font { bold: row.ours, ..LABEL };
    let ink = if row.ours { row.ink } else { INK };
    canvas.text((MARGIN, place), &row.label, label, ink, Align::Left)?;
    let said = if apart { place + LINE } else { place };
    let (x, align) = if apart { (MARGIN, Align::Left) } else { (WIDTH - MARGIN, Align::Right) };
    canvas.text((x, said), &row.said, LABEL, INK, align)?;

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
        canvas.dot((axis.at(*sample), dots + aside), 2.1, row.ink, 0.38)?;
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

/// The values that fit under the axis, with their words.
fn labelled(axis: &Axis, tick: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let all: Vec<(f64, String)> =
        axis.ticks(7).into_iter().map(|value| (value, tick(value))).collect();
    let mut kept: Vec<(f64, String)> = Vec::new();
    let mut free = f64::NEG_INFINITY;
    for (value, text) in all {
        let (middle, half) = (kept_within(axis.at(value), &text), TICK.width(&text) / 2.0);
        if middle - half >= free {
            free = middle + half + 8.0;
            kept.push((value, text));
        }
    }
    kept
}

/// The middle of a text so that neither end of it leaves the paper.
fn kept_within(x: f64, text: &str) -> f64 {
    let half = TICK.width(text) / 2.0;
    x.clamp(half + 2.0, (WIDTH - half - 2.0).max(half + 2.0))
}
