//! The plots: one for each figure of a bench, and one for its ratios.

mod axis;
mod canvas;
mod lines;
mod rows;

pub(super) use canvas::dark;

use super::figures::{self, Figure, Line};
use super::headline::OURS;
use super::{tables, words};
use crate::results::{Bench, Ratio, Results};
use crate::stats::Estimate;
use anyhow::Result;
use canvas::{Align, Canvas, Font, INK, Ink, MUTED};
use rows::{Row, Under};
use std::collections::BTreeSet;

/// In every plot, so that an older one is known for ours.
pub(super) const MARK: &str = "<!-- a plot of insula bench -->";

/// Narrow enough for a phone to show it at nearly its own size; three stand beside each other on a desk.
const WIDTH: f64 = 420.0;
const MARGIN: f64 = 10.0;
const TITLE: Font = Font { size: 15.0, bold: true };
const LABEL: Font = Font { size: 12.5, bold: false };
const TICK: Font = Font { size: 11.5, bold: false };
/// Rows that one plot of ratios can have.
const RATIOS_MAX: usize = 18;

/// A plot.
#[derive(Debug)]
pub(super) struct Plot {
    /// Its name in the directory, without what kind of file it is.
    slug: String,
    /// What it shows.
    pub(super) title: String,
    /// The same for who cannot see it, with the figures.
    described: String,
    drawn: Drawn,
}

/// What was drawn.
#[derive(Debug)]
struct Drawn {
    within: String,
    view: String,
    width: f64,
    height: f64,
}

impl Plot {
    /// The name of its file.
    pub(super) fn file(&self) -> String {
        format!("{}.svg", self.slug)
    }

    /// As an element of a page that has the rules of [`dark`].
    pub(super) fn inline(&self) -> String {
        self.element("")
    }

    /// As a file of its own, which turns dark where its viewer does.
    pub(super) fn standalone(&self) -> String {
        self.element(&format!("{MARK}\n<style>\n{}</style>\n", dark()))
    }

    fn element(&self, before: &str) -> String {
        let Self { slug, title, described, drawn } = self;
        let Drawn { within, view, width, height } = drawn;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"{view}\" role=\"img\" \
             aria-labelledby=\"{slug}-title {slug}-desc\">\n\
             <title id=\"{slug}-title\">{}</title>\n<desc id=\"{slug}-desc\">{}</desc>\n\
             {before}{within}\n</svg>\n",
            escaped(title),
            escaped(described),
        )
    }
}

fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What stands over a plot.
#[derive(Debug)]
struct Head {
    title: Vec<String>,
    under: Vec<String>,
}

impl Head {
    fn new(title: &str, under: &str) -> Self {
        let width = WIDTH - 2.0 * MARGIN;
        Self { title: TITLE.wrap(title, width), under: TICK.wrap(under, width) }
    }

    fn height(&self) -> f64 {
        10.0 + 19.0 * self.title.len() as f64 + 15.0 * self.under.len() as f64 + 10.0
    }

    fn draw(&self, canvas: &Canvas<'_>) -> Result<()> {
        let mut place = 10.0;
        for line in &self.title {
            canvas.text((MARGIN, place + 8.0), line, TITLE, INK, Align::Left)?;
            place += 19.0;
        }
        for line in &self.under {
            canvas.text((MARGIN, place + 7.0), line, TICK, MUTED, Align::Left)?;
            place += 15.0;
        }
        Ok(())
    }
}

/// All plots of a report, by the place of their bench.
pub(super) fn all(results: &Results) -> Result<Vec<(usize, Vec<Plot>)>> {
    let mut taken = BTreeSet::new();
    let benches = results.benches.iter().enumerate();
    benches.map(|(place, bench)| Ok((place, of(results, bench, &mut taken)?))).collect()
}

fn of(results: &Results, bench: &Bench, taken: &mut BTreeSet<String>) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for figure in figures::to_draw(&figures::of(results, bench)) {
        let title = figure.title();
        let drawn = if figure.runs_along_an_axis() { along(&figure)? } else { beside(&figure)? };
        let slug = slug(&format!("{} {title}", bench.name), taken);
        plots.push(Plot { slug, described: described(&figure), title, drawn });
    }
    plots.extend(ratios(results, bench, taken)?);
    Ok(plots)
}

/// A name for a file: letters, digits and dashes, and no other plot's.
fn slug(text: &str, taken: &mut BTreeSet<String>) -> String {
    let words = text.to_ascii_lowercase();
    let words: Vec<&str> =
        words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(80).collect();
    let mut numbered =
        std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
    let free = numbered.find(|name| !name.is_empty() && !taken.contains(name)).unwrap_or(name);
    taken.insert(free.clone());
    free
}

fn better(less: bool) -> &'static str {
    if less { "less is better" } else { "more is better" }
}

fn along(figure: &Figure<'_>) -> Result<Drawn> {
    let unit = match words::unit(figure.unit) {
        "count" => String::new(),
        unit => format!("{unit}, "),
    };
    let shown = without_the_negative(figure);
    let left_out = match &shown {
        Some(_) => "; a point with a sample of nothing or less is not shown",
        None => "",
    };
    let figure = shown.as_ref().unwrap_or(figure);
    let log = if is_log(samples(figure)) { "log scale, " } else { "" };
    let better = better(figure.less_is_better);
    let under = format!(
        "{unit}{log}{better}; line: median; band: its {}; dots: samples{left_out}",
        of_what(figure)
    );
    lines::lines(&Head::new(&figure.title(), &under), figure)
}

fn samples<'a>(figure: &'a Figure<'_>) -> impl Iterator<Item = &'a f64> {
    figure.lines.iter().flat_map(|line| &line.points).flat_map(|point| point.samples)
}

/// What has grown by less than it varies has no place on a logarithmic axis, and would cost all others theirs:
/// the figure without such points, if there are any, most are none, and the others want such an axis.
fn without_the_negative<'a>(figure: &Figure<'a>) -> Option<Figure<'a>> {
    let positive = |point: &figures::Point<'_>| point.samples.iter().all(|value| *value > 0.0);
    let mut shown = figure.clone();
    shown.lines.iter_mut().for_each(|line| line.points.retain(positive));
    shown.lines.retain(|line| !line.points.is_empty());
    let count =
        |figure: &Figure<'_>| -> usize { figure.lines.iter().map(|line| line.points.len()).sum() };
    let (all, kept) = (count(figure), count(&shown));
    (kept < all && 2 * kept > all && is_log(samples(&shown))).then_some(shown)
}

/// What a band or a bar around a median is.
fn of_what(figure: &Figure<'_>) -> &'static str {
    let mut points = figure.lines.iter().flat_map(|line| &line.points);
    if points.all(|point| words::enough(point.samples.len())) {
        "95% interval"
    } else {
        "95% interval, or all of fewer than 5 samples"
    }
}

fn is_log<'a>(values: impl Iterator<Item = &'a f64>) -> bool {
    axis::Axis::holding(values.copied(), 0.0, 1.0).is_log()
}

fn beside(figure: &Figure<'_>) -> Result<Drawn> {
    let mut rows: Vec<Row<'_>> =
        figure.lines.iter().flat_map(|line| points(figure, line)).collect();
    // The best on top, whoever it is; within its case, if subjects have cases in common.
    let cases = common_cases(figure);
    let group = |row: &Row<'_>| cases.iter().position(|case| *case == row.case);
    rows.sort_by(|one, other| {
        let order = one.estimate.median.total_cmp(&other.estimate.median);
        let order = if figure.less_is_better { order } else { order.reverse() };
        group(one).cmp(&group(other)).then(order)
    });
    let log = is_log(rows.iter().flat_map(|row| row.samples));
    let dots = if rows::shows_percentiles(&rows) {
        "dots: percentiles 1 to 99"
    } else {
        "dots: every sample"
    };
    let under = format!(
        "{}{}; {dots}; tick: median; bar: its {}",
        if log { "log scale, " } else { "" },
        better(figure.less_is_better),
        of_what(figure)
    );
    let axis = Under {
        tick: &|value| words::value(value, figure.unit),
        unit: &|value| words::step(value, figure.unit),
        equal: None,
    };
    rows::rows(&Head::new(&figure.title(), &under), &rows, &axis)
}

/// The cases in which several subjects were measured, if that is how most of a figure is made up.
fn common_cases<'a>(figure: &'a Figure<'_>) -> Vec<&'a str> {
    let count = |case: &str| figure.lines.iter().filter(|line| line.case == case).count();
    let mut cases: Vec<&str> = Vec::new();
    for line in &figure.lines {
        if count(&line.case) > 1 && !line.case.is_empty() && !cases.contains(&line.case.as_str()) {
            cases.push(&line.case);
        }
    }
    let among: usize = cases.iter().map(|case| count(case)).sum();
    if cases.len() > 1 && 2 * among > figure.lines.len() { cases } else { Vec::new() }
}

fn points<'a>(figure: &Figure<'a>, line: &'a Line<'a>) -> Vec<Row<'a>> {
    let who = if line.case.is_empty() {
        line.name.to_owned()
    } else {
        format!("{}, {}", line.name, line.case)
    };
    line.points
        .iter()
        .map(|point| Row {
            label: format!("{who}{}", words::place(point.x, figure.axis)),
            said: words::estimate(&point.estimate, figure.unit, point.samples.len()),
            ink: Ink::subject(line.colour),
            ours: line.subject == OURS,
            case: &line.case,
            samples: point.samples,
            estimate: point.estimate,
            limit: None,
        })
        .collect()
}

/// The ratios of a bench, those with a bar if there are too many.
fn ratios(results: &Results, bench: &Bench, taken: &mut BTreeSet<String>) -> Result<Option<Plot>> {
    let all: Vec<&Ratio> = bench.ratios.iter().collect();
    let barred: Vec<&Ratio> = all.iter().filter(|ratio| ratio.bar.is_some()).copied().collect();
    let mut chosen = if all.len() > RATIOS_MAX && !barred.is_empty() { barred } else { all };
    chosen.truncate(RATIOS_MAX);
    if chosen.is_empty() {
        return Ok(None);
    }
    let row = |ratio: &&Ratio, ink: Ink, ours: bool, control: bool| Row {
        label: if control {
            "control: the same against itself".into()
        } else {
            tables::named(results, bench, ratio)
        },
        said: format!(
            "{} ({}){}",
            words::times(ratio.median),
            words::ratio_interval(ratio.low, ratio.high, ratio.rounds),
            ratio.bar.as_ref().map_or_else(String::new, |bar| format!(
                ", bar {}: {}",
                words::times(bar.limit),
                if words::held(ratio, bar) { "held" } else { "MISSED" }
            ))
        ),
        ink,
        ours,
        case: "",
        samples: &[],
        estimate: Estimate { median: ratio.median, low: ratio.low, high: ratio.high },
        limit: ratio.bar.as_ref().map(|bar| bar.limit),
    };
    let mut rows: Vec<Row<'_>> = chosen
        .iter()
        .map(|ratio| {
            let other = if ratio.of.0 == OURS { &ratio.to.0 } else { &ratio.of.0 };
            row(ratio, Ink::subject(figures::colour(results, other)), false, false)
        })
        .collect();
    rows.extend(bench.control.iter().map(|ratio| row(&ratio, MUTED, false, true)));
    let title = format!("{}: ratios", words::title(&bench.name));
    let left = bench.ratios.len() - chosen.len();
    let more = if left > 0 { format!("; {left} more in the table") } else { String::new() };
    let under = format!(
        "paired by round; dot: median; line: its 95% interval; triangle: the project's bar; grey line: equal{more}"
    );
    let drawn = rows::rows(
        &Head::new(&title, &under),
        &rows,
        &Under { tick: &words::times, unit: &|_| 1.0, equal: Some(1.0) },
    )?;
    let described = rows
        .iter()
        .map(|row| format!("{}: {}.", row.label, row.said))
        .collect::<Vec<_>>()
        .join(" ");
    Ok(Some(Plot { slug: slug(&format!("{} ratios", bench.name), taken), title, described, drawn }))
}

/// The figures in words.
fn described(figure: &Figure<'_>) -> String {
    let lines = figure.lines.iter().map(|line| {
        let points = line.points.iter().map(|point| {
            format!(
                "{}{}",
                words::estimate(&point.estimate, figure.unit, point.samples.len()),
                words::place(point.x, figure.axis)
            )
        });
        let who = if line.case.is_empty() {
            line.name.to_owned()
        } else {
            format!("{}, {}", line.name, line.case)
        };
        format!("{who}: {}.", points.collect::<Vec<_>>().join("; "))
    });
    let lines: Vec<String> = lines.collect();
    format!("Medians with 95% intervals, {}. {}", better(figure.less_is_better), lines.join(" "))
}
