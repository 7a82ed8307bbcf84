//! The three sentences that open a report, computed from what was measured.

use super::words::{self, Quiet};
use crate::results::{Bench, Ratio, Results};
use crate::stats;

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
    let third = if bench(results, "neighbours").is_some_and(|bench| !against(bench).is_empty()) {
        "neighbours"
    } else if bench(results, "throughput").is_some() {
        "throughput"
    } else {
        "neighbours"
    };
    [("startup", "Start-up"), ("density", "Memory")]
        .into_iter()
        .chain([(third, words::title(third))])
        .map(|(name, topic)| sentence(results, name, topic))
        .collect()
}

fn bench<'a>(results: &'a Results, name: &str) -> Option<&'a Bench> {
    results.benches.iter().find(|bench| bench.name == name && !bench.series.is_empty())
}

fn sentence(results: &Results, name: &str, topic: &str) -> Sentence {
    let Some(bench) = bench(results, name) else {
        return vec![(format!("{topic} was not measured in this run."), true)];
    };
    let against = against(bench);
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
    let x = first.ratio.x;
    let ours = bench.series.iter().find(|series| {
        series.subject == OURS
            && series.case == first.case
            && series.figure == first.ratio.figure
            && series.x == x
    });
    let place = words::place(x, words::axis(bench, &first.ratio.figure));
    let place = if place.is_empty() || first.case.is_empty() { place } else { place + "," };
    match ours.and_then(|series| Some((stats::estimate(&series.samples)?, &series.unit))) {
        Some((estimate, unit)) => {
            said.push((format!("{figure} of {subject}{place} is "), false));
            said.push((words::value(estimate.median, unit), true));
            said.push((
                format!(
                    " (95% interval {}), which is ",
                    words::range(estimate.low, estimate.high, unit)
                ),
                false,
            ));
        }
        None => said.push((format!("{figure} of {subject}{place} is "), false)),
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
        // Not all came as far: where they did not, ours is taken at their place, too.
        let there = if one.ratio.x == x {
            String::new()
        } else {
            words::place(one.ratio.x, words::axis(bench, &one.ratio.figure))
        };
        said.push((format!("{there} ({} to {})", words::times(low), words::times(high)), false));
    }
    let better = if less_is_better(bench, &first.ratio.figure) { "less" } else { "more" };
    said.push((format!("; {better} is better."), false));
    if Quiet::of(bench) == Quiet::No {
        said.push((" The machine was too noisy for this bench: see its control.".into(), true));
    }
    said
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
/// there is an axis, at the place of the bar, else as far out as both came.
fn against(bench: &Bench) -> Vec<Against<'_>> {
    let all: Vec<Against<'_>> = bench.ratios.iter().filter_map(turned).collect();
    let Some(lead) = all.iter().find(|one| one.ratio.bar.is_some()).or(all.first()) else {
        return Vec::new();
    };
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
    chosen
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
