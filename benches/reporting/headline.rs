//! The three sentences that open a report, computed from what was measured.

use super::words::{self, Quiet};
use crate::results::{Bench, Ratio, Results, Series};
use crate::stats;
use std::collections::BTreeSet;

/// Ourselves, as [`crate::results::Subject::id`].
pub(crate) const OURS: &str = "insula";

/// How many others a sentence names; the tables have all.
const OTHERS_MAX: usize = 4;

/// A sentence in pieces; the second of each says whether it carries the point.
pub(crate) type Sentence = Vec<(String, bool)>;

/// Ours against one other, the right way round.
#[derive(Debug, Clone)]
struct Against<'a> {
    ratio: &'a Ratio,
    case: &'a str,
    other: (&'a str, &'a str),
    /// Ours to theirs: median and interval.
    ours: [f64; 3],
}

/// Start-up, memory, and what neighbours do, or throughput where neighbours were not measured.
pub(crate) fn sentences(results: &Results) -> Vec<Sentence> {
    let (third, topic) =
        if bench(results, "neighbours").is_some_and(|bench| !against(bench).0.is_empty()) {
            ("neighbours", words::title("neighbours"))
        } else if bench(results, "throughput").is_some() {
            ("throughput", words::title("throughput"))
        } else {
            ("neighbours", "Throughput and noisy neighbours")
        };
    [("startup", "Start-up"), ("density", "Memory")]
        .into_iter()
        .chain([(third, topic)])
        .map(|(name, topic)| sentence(results, name, topic))
        .collect()
}

fn bench<'a>(results: &'a Results, name: &str) -> Option<&'a Bench> {
    results.benches.iter().find(|bench| bench.name == name && !bench.series.is_empty())
}

fn sentence(results: &Results, name: &str, topic: &str) -> Sentence {
    let Some(bench) = bench(results, name) else {
        return vec![(format!("{topic}: not measured in this run."), true)];
    };
    let (against, kinds) = against(bench);
    let Some(first) = against.first() else {
        return vec![
            (format!("{topic}: "), true),
            ("no other subject was measured, so there is nothing to compare with.".into(), false),
        ];
    };
    let subject = words::with_case(results, (OURS, first.case));
    let subject = if first.case.is_empty() { subject } else { subject + "," };
    let figure = words::capital(&first.ratio.figure);
    let mut said = vec![(format!("{topic}: "), true)];
    let ours = series(bench, (OURS, first.case), first.ratio);
    let axis = words::axis(bench, &first.ratio.figure);
    let x = ours.and_then(|series| series.x).or(first.ratio.x);
    let place = words::place(x, axis);
    let place = if place.is_empty() || first.case.is_empty() { place } else { place + "," };
    said.push((format!("{figure} of {subject}{place} is "), false));
    if let Some((estimate, series)) =
        ours.and_then(|series| Some((stats::estimate(&series.samples)?, series)))
    {
        let count = series.samples.len();
        let range = words::around(&estimate, &series.unit);
        let range = words::interval(&range, count, "sample");
        let kind = if words::enough(count) { "95% interval " } else { "" };
        said.push((words::value(estimate.median, &series.unit), true));
        said.push((format!(" ({kind}{range}), which is "), false));
    }
    let named = against.len().min(OTHERS_MAX);
    for (index, one) in against.iter().take(named).enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == named => " and ",
            _ => ", ",
        };
        said.push((before.into(), false));
        let [median, low, high] = one.ours;
        said.push((multiple(median, &words::with_case(results, one.other)), true));
        // Not all come as far.
        let theirs =
            series(bench, one.other, one.ratio).and_then(|series| series.x).or(one.ratio.x);
        let there = if theirs == x { String::new() } else { words::place(theirs, axis) };
        let interval = words::ratio_interval(low, high, one.ratio.rounds);
        said.push((format!("{there} ({interval})"), false));
    }
    let better = if less_is_better(bench, &first.ratio.figure) { "less" } else { "more" };
    said.push((format!("; {better} is better."), false));
    if kinds > 1 {
        said.push((
            format!(
                " Of {kinds} kinds of neighbours this is the one that compares worst for Insula."
            ),
            false,
        ));
    }
    if Quiet::of(bench) == Quiet::No {
        said.push((" The machine was too noisy for this bench: see its control.".into(), true));
    }
    said
}

/// The samples of one side of a ratio: at its place, or as far out as they go if it names none.
fn series<'a>(bench: &'a Bench, whose: (&str, &str), ratio: &Ratio) -> Option<&'a Series> {
    let series = bench.series.iter().filter(|series| {
        (series.subject.as_str(), series.case.as_str()) == whose
            && series.figure == ratio.figure
            && (ratio.x.is_none() || series.x == ratio.x)
    });
    series.max_by(|one, other| one.x.unwrap_or(0.0).total_cmp(&other.x.unwrap_or(0.0)))
}

/// `1/52 of crun`, `4.71 times wasmtime serve`.
fn multiple(ratio: f64, name: &str) -> String {
    let joined = if ratio < 0.995 { "of" } else { "times" };
    format!("{} {joined} {name}", words::times(ratio))
}

fn less_is_better(bench: &Bench, figure: &str) -> bool {
    bench
        .series
        .iter()
        .find(|series| series.figure == figure)
        .is_none_or(|series| series.less_is_better)
}

/// Our first case that the project has set itself a bar for, else our first, against each other once: where
/// there is an axis, at the place of the bar, else as far out as both came. Beside neighbours it is the case
/// that is worst for us, and of how many is said: a reader must not take the kindest neighbour for all.
fn against(bench: &Bench) -> (Vec<Against<'_>>, usize) {
    let all: Vec<Against<'_>> = bench.ratios.iter().filter_map(turned).collect();
    let lead = all.iter().find(|one| one.ratio.bar.is_some()).or(all.first());
    let Some(mut lead) = lead else { return (Vec::new(), 0) };
    let mut kinds = 0;
    if bench.name == "neighbours" {
        let alike = || all.iter().filter(|one| one.ratio.figure == lead.ratio.figure);
        kinds = alike().map(|one| one.case).collect::<BTreeSet<_>>().len();
        let less = less_is_better(bench, &lead.ratio.figure);
        let badness = |one: &Against<'_>| if less { one.ours[0] } else { -one.ours[0] };
        lead = alike().max_by(|one, other| badness(one).total_cmp(&badness(other))).unwrap_or(lead);
    }
    let (figure, case) = (&lead.ratio.figure, lead.case);
    let mut chosen: Vec<Against<'_>> = Vec::new();
    for one in all.iter().filter(|one| one.ratio.figure == *figure && one.case == case) {
        let weight = |one: &Against<'_>| (one.ratio.bar.is_some(), one.ratio.x.unwrap_or(0.0));
        match chosen.iter_mut().find(|known| known.other == one.other) {
            Some(known) if weight(one) > weight(known) => *known = one.clone(),
            Some(_) => {}
            None => chosen.push(one.clone()),
        }
    }
    (chosen, kinds)
}

/// The ratio with ours above; none if it is not ours against another.
fn turned(ratio: &Ratio) -> Option<Against<'_>> {
    let (of, to) = (&ratio.of, &ratio.to);
    let (case, other, ours) = match (of.0 == OURS, to.0 == OURS) {
        (true, false) => (&of.1, to, [ratio.median, ratio.low, ratio.high]),
        (false, true) => (&to.1, of, [1.0 / ratio.median, 1.0 / ratio.high, 1.0 / ratio.low]),
        _ => return None,
    };
    Some(Against { ratio, case, other: (&other.0, &other.1), ours })
}
