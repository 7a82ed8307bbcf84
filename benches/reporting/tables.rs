//! The tables of a report, once for the page and for Markdown.

use super::figures::{self, Figure};
use super::words::{self, Quiet};
use crate::results::{Bench, Ratio, Results};
use crate::stats;
use std::collections::BTreeMap;

/// What stands for an interval where there can be none.
const TOO_FEW: &str = "too few";

/// Rows of words under a head.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// What it shows.
    pub(crate) caption: String,
    /// Over each column; the first column names its row.
    pub(crate) head: Vec<String>,
    /// What stands in them, as long as the head.
    pub(crate) rows: Vec<Vec<String>>,
    /// How many columns from the left are words; the others are figures.
    pub(crate) words: usize,
}

impl Table {
    fn new(caption: impl Into<String>, head: &[&str], words: usize) -> Self {
        let head = head.iter().map(|&title| title.to_owned()).collect();
        Self { caption: caption.into(), head, rows: Vec::new(), words }
    }
}

/// What begins a note about a bar that is no ratio, and ends one that is missed.
const BAR_NOTE: (&str, &str) = ("bar: ", "is missed");

/// The bars that are no ratios, from the notes of all benches, and whether each is held.
pub(crate) fn bars_noted(results: &Results) -> Vec<(String, bool)> {
    let notes = results.benches.iter().flat_map(|bench| {
        bench
            .notes
            .iter()
            .filter_map(|note| Some((words::title(&bench.name), note.strip_prefix(BAR_NOTE.0)?)))
    });
    notes.map(|(title, note)| (format!("{title}: {note}"), !note.ends_with(BAR_NOTE.1))).collect()
}

/// A bench's notes about anything but bars.
pub(crate) fn notes(bench: &Bench) -> Vec<&str> {
    bench.notes.iter().map(String::as_str).filter(|note| !note.starts_with(BAR_NOTE.0)).collect()
}

/// How many bars are held, and of how many; only of those that were measured.
pub(crate) fn bars_held(results: &Results) -> (usize, usize) {
    let barred = results.benches.iter().flat_map(|bench| &bench.ratios);
    let ratios = barred.filter_map(|ratio| Some(words::held(ratio, ratio.bar.as_ref()?)));
    let noted = bars_noted(results);
    ratios
        .chain(noted.iter().map(|(_, held)| *held))
        .fold((0, 0), |(held, all), one| (held + usize::from(one), all + 1))
}

/// The bars in a sentence.
pub(crate) fn bars_said(results: &Results) -> String {
    match bars_held(results) {
        (_, 0) => "No bar that the project has set itself was measured in this run.".into(),
        (held, all) => {
            let plural = if all == 1 { "bar" } else { "bars" };
            format!(
                "Of {all} {plural} that the project has set itself and this run measured, {held} {} held and {} missed.",
                if held == 1 { "is" } else { "are" },
                all - held
            )
        }
    }
}

/// The bars that the project has set itself, of all benches.
pub(crate) fn bars(results: &Results) -> Table {
    let head = ["What", "Verdict", "Bar", "Measured", "95% interval", "Rounds"];
    let mut table =
        Table::new("Bars that the project has set itself: ratios within this run", &head, 2);
    for bench in &results.benches {
        let quiet = Quiet::of(bench);
        for ratio in &bench.ratios {
            let Some(bar) = &ratio.bar else { continue };
            table.rows.push(vec![
                named(results, bench, ratio),
                words::verdict(ratio, bar, quiet),
                words::bar(bar),
                words::times(ratio.median),
                interval(ratio),
                words::number(ratio.rounds as f64),
            ]);
        }
    }
    table
}

/// All ratios of a bench, its control last.
pub(crate) fn ratios(results: &Results, bench: &Bench) -> Table {
    let caption = format!("{}: ratios, paired by round", words::title(&bench.name));
    let head = ["Ratio", "Bar", "Median", "95% interval", "Rounds"];
    let mut table = Table::new(caption, &head, 2);
    let mut push = |name: String, ratio: &Ratio| {
        let bar = ratio.bar.as_ref().map_or_else(
            || "none".to_owned(),
            |bar| format!("{}: {}", words::bar(bar), words::verdict(ratio, bar, Quiet::of(bench))),
        );
        let rounds = words::number(ratio.rounds as f64);
        table.rows.push(vec![name, bar, words::times(ratio.median), interval(ratio), rounds]);
    };
    for ratio in &bench.ratios {
        push(named(results, bench, ratio), ratio);
    }
    if let Some(control) = &bench.control {
        push(format!("Control: {}", named(results, bench, control)), control);
    }
    table
}

/// A figure of a bench, one row for each subject, case and place.
pub(crate) fn figure(bench: &Bench, figure: &Figure<'_>) -> Table {
    let axis = figure.lines.iter().flat_map(|line| &line.points).any(|point| point.x.is_some());
    let better = if figure.less_is_better { "less is better" } else { "more is better" };
    let caption =
        format!("{}: {}, {better}", words::title(&bench.name), words::abbreviated(figure.name));
    let mut head = vec!["Subject", "Case"];
    if axis {
        head.push(figure.axis.unwrap_or("at"));
    }
    head.extend(["Median", "95% interval of the median", "10% to 90% of the samples"]);
    head.extend(["Smallest to largest", "Samples"]);
    let mut table = Table::new(caption, &head, 2);
    for line in &figure.lines {
        for point in &line.points {
            let case = if line.case.is_empty() { "–" } else { line.case.as_str() };
            let mut row = vec![line.name.to_owned(), case.to_owned()];
            if axis {
                row.push(point.x.map_or_else(|| "–".into(), words::number));
            }
            let between = |low: f64, high: f64| {
                let (low, high) =
                    (stats::quantile(point.samples, low), stats::quantile(point.samples, high));
                words::range(low, high, figure.unit)
            };
            row.extend([
                words::value(point.estimate.median, figure.unit),
                if words::enough(point.samples.len()) {
                    words::around(&point.estimate, figure.unit)
                } else {
                    TOO_FEW.into()
                },
                between(0.1, 0.9),
                between(0.0, 1.0),
                words::number(point.samples.len() as f64),
            ]);
            table.rows.push(row);
        }
    }
    table
}

/// All tables of a bench.
pub(crate) fn of(results: &Results, bench: &Bench) -> Vec<Table> {
    let ratios =
        (!bench.ratios.is_empty() || bench.control.is_some()).then(|| ratios(results, bench));
    let figures = figures::of(results, bench);
    ratios.into_iter().chain(figures.iter().map(|one| figure(bench, one))).collect()
}

/// Names and values.
pub(crate) fn pairs(caption: String, pairs: &BTreeMap<String, String>) -> Table {
    let mut table = Table::new(caption, &["What", "Value"], 2);
    table.rows.extend(pairs.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    table
}

/// Who was measured.
pub(crate) fn subjects(results: &Results) -> Table {
    let mut table = Table::new(
        "Who was measured, and how they were set",
        &["Subject", "Version", "Settings"],
        3,
    );
    for subject in results.subjects.iter().filter(|subject| subject.missing.is_none()) {
        let version = subject.version.clone().unwrap_or_else(|| "it does not say".into());
        let settings = if subject.settings.is_empty() { "its defaults" } else { &subject.settings };
        table.rows.push(vec![subject.name.clone(), version, settings.to_owned()]);
    }
    table
}

/// Who was not measured: name, why, and the command that would add it.
pub(crate) fn missing(results: &Results) -> Vec<(&str, &str, Option<&str>)> {
    let missing = results.subjects.iter();
    missing
        .filter_map(|subject| {
            Some((subject.name.as_str(), subject.missing.as_deref()?, subject.mend.as_deref()))
        })
        .collect()
}

fn interval(ratio: &Ratio) -> String {
    if !words::enough(ratio.rounds) {
        return TOO_FEW.into();
    }
    format!("{} to {}", words::times(ratio.low), words::times(ratio.high))
}

/// `First answer: Insula, loaded ÷ crun`.
pub(crate) fn named(results: &Results, bench: &Bench, ratio: &Ratio) -> String {
    let of = words::with_case(results, (&ratio.of.0, &ratio.of.1));
    let to = words::with_case(results, (&ratio.to.0, &ratio.to.1));
    let place = words::place(ratio.x, words::axis(bench, &ratio.figure));
    format!("{}{place}: {of} ÷ {to}", words::capital(&ratio.figure))
}
