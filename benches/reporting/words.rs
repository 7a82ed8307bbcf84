//! Numbers, ratios and names as people read them.

use crate::results::{Bar, Bench, Ratio, Results};
use crate::stats::Estimate;

/// Whether the figures of a bench can be trusted, by its control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// The interval of the same thing against itself contains 1.
    Yes,
    /// It does not: something else than the subjects differed.
    No,
    /// There was no control, or it had too few rounds.
    Unknown,
}

impl Quiet {
    pub(crate) fn of(bench: &Bench) -> Self {
        match &bench.control {
            None => Self::Unknown,
            Some(ratio) if !enough(ratio.rounds) => Self::Unknown,
            Some(ratio) if ratio.low <= 1.0 && 1.0 <= ratio.high => Self::Yes,
            Some(_) => Self::No,
        }
    }

    /// The verdict as a sentence.
    pub(crate) fn sentence(bench: &Bench) -> String {
        let Some(control) = &bench.control else {
            return "Control: none was measured, so nothing here says how noisy the machine was."
                .into();
        };
        let measured = format!(
            "{} against itself gives {} (95% interval {} to {}, {} rounds)",
            capital(&control.figure),
            times(control.median),
            times(control.low),
            times(control.high),
            number(control.rounds as f64),
        );
        if !enough(control.rounds) {
            return format!(
                "Control: too few rounds to say how noisy the machine was. {} against itself gives {} ({}).",
                capital(&control.figure),
                times(control.median),
                ratio_interval(control.low, control.high, control.rounds)
            );
        }
        match Self::of(bench) {
            Self::No => format!(
                "Control: too noisy. {measured}, and that does not contain 1: the machine changed \
                 between measurements, so read these figures with doubt and measure again."
            ),
            _ => format!("Control: quiet enough. {measured}, which contains 1 as it must."),
        }
    }
}

/// A bar held or missed: the median decides, the interval says how surely.
pub(crate) fn verdict(ratio: &Ratio, bar: &Bar, quiet: Quiet) -> String {
    let within = |value: f64| {
        if bar.at_most { value <= bar.limit } else { value >= bar.limit }
    };
    let mut said = if within(ratio.median) { "held" } else { "MISSED" }.to_owned();
    if !enough(ratio.rounds) {
        said.push_str(", but from too few rounds to be sure");
    } else if within(ratio.low) != within(ratio.high) {
        said.push_str(", but the interval crosses the bar");
    }
    if quiet == Quiet::No {
        said.push_str("; the machine was too noisy");
    }
    said
}

/// Whether the median keeps to the bar.
pub(crate) fn held(ratio: &Ratio, bar: &Bar) -> bool {
    if bar.at_most { ratio.median <= bar.limit } else { ratio.median >= bar.limit }
}

/// `at most 1/40`.
pub(crate) fn bar(bar: &Bar) -> String {
    format!("{} {}", if bar.at_most { "at most" } else { "at least" }, times(bar.limit))
}

/// Three digits, more only of whole numbers, thousands parted.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "not a number".into();
    }
    let size = value.abs();
    let digits = match size {
        0.0 => 0,
        _ if size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ if size >= 0.0995 => 3,
        _ if size >= 0.00995 => 4,
        _ => return format!("{value:.2e}"),
    };
    let text = format!("{value:.digits$}");
    // 10.0 says no more than 10 on an axis, and whole counts are not measured in tenths.
    let text = match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    };
    parted(&text)
}

fn parted(text: &str) -> String {
    let (whole, rest) =
        text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut said = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            said.push(',');
        }
        said.push(digit);
    }
    if let Some(rest) = rest {
        said.push('.');
        said.push_str(rest);
    }
    said
}

/// What to multiply with, and the unit that is then said, so that a number stays short.
fn scale(value: f64, unit: &str) -> (f64, &str) {
    let size = value.abs();
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "KiB" => {
            return match size {
                0.0 => (1.0, "KiB"),
                _ if size < 0.9995 => (1024.0, "B"),
                _ if size >= 1024.0 * 1024.0 => (1.0 / 1024.0 / 1024.0, "GiB"),
                _ if size >= 1024.0 => (1.0 / 1024.0, "MiB"),
                _ => (1.0, "KiB"),
            };
        }
        "1/s" => return (1.0, "/s"),
        "count" => return (1.0, ""),
        "x" => return (1.0, "×"),
        other => return (1.0, other),
    };
    match size * seconds {
        0.0 if unit == "us" => (1.0, "µs"),
        0.0 => (1.0, unit),
        short if short < 0.9995e-6 => (seconds / 1e-9, "ns"),
        short if short < 0.9995e-3 => (seconds / 1e-6, "µs"),
        short if short < 0.9995 => (seconds / 1e-3, "ms"),
        _ => (seconds, "s"),
    }
}

fn with_unit(number: String, unit: &str) -> String {
    match unit {
        "" => number,
        "×" | "/s" | "%" => format!("{number}{unit}"),
        unit => format!("{number} {unit}"),
    }
}

/// `0.42 ms`, `1.2 MiB`, `38,043/s`.
pub(crate) fn value(value: f64, unit: &str) -> String {
    let (factor, unit) = scale(value, unit);
    if unit == "×" {
        return with_unit(short(value, 2), unit);
    }
    with_unit(number(value * factor), unit)
}

/// `0.40 to 0.45 ms`.
pub(crate) fn range(low: f64, high: f64, unit: &str) -> String {
    range_about(high, low, high, unit)
}

/// The same in the unit in which another value is written, so that both can be compared at a glance.
pub(crate) fn range_about(about: f64, low: f64, high: f64, unit: &str) -> String {
    let (factor, said) = scale(about, unit);
    let (below, above) = (low * factor, high * factor);
    if low != 0.0 && below < 0.01 || above >= 100_000.0 && said != "/s" && !said.is_empty() {
        return format!("{} to {}", value(low, unit), value(high, unit));
    }
    format!("{} to {}", number(below), with_unit(number(above), said))
}

/// The interval of an estimate, in the unit of its median.
pub(crate) fn around(estimate: &Estimate, unit: &str) -> String {
    range_about(estimate.median, estimate.low, estimate.high, unit)
}

pub(crate) use crate::stats::enough;

/// An interval in words, or what stands for one where there are too few samples; `what` names those.
pub(crate) fn interval(range: &str, count: usize, what: &str) -> String {
    match count {
        0 | 1 => format!("1 {what}"),
        few if !enough(few) => format!("{range}, {few} {what}s"),
        _ => range.to_owned(),
    }
}

/// `0.42 ms (0.40 to 0.45 ms)`.
pub(crate) fn estimate(estimate: &Estimate, unit: &str, count: usize) -> String {
    let range = around(estimate, unit);
    format!("{} ({})", value(estimate.median, unit), interval(&range, count, "sample"))
}

/// The interval of a ratio.
pub(crate) fn ratio_interval(low: f64, high: f64, rounds: usize) -> String {
    interval(&format!("{} to {}", times(low), times(high)), rounds, "round")
}

/// A ratio: `1/52` under a half, else `0.73` or `4.71`.
pub(crate) fn times(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.495 {
        return format!("1/{}", short(1.0 / ratio, 1));
    }
    short(ratio, 2)
}

/// A number with so many decimals below ten, and none from ten on or if it is whole.
fn short(value: f64, decimals: usize) -> String {
    let whole = (value - value.round()).abs() < 1e-9;
    if !value.is_finite() || whole || value.abs() >= 9.95 {
        return number(value.round());
    }
    format!("{value:.decimals$}")
}

/// `39 min 52 s`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        return value(seconds, "s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours} h {minutes} min")
    } else {
        format!("{minutes} min {seconds} s")
    }
}

/// A time of RFC 3339 with less to stumble over; anything else as it is.
pub(crate) fn time(began: &str) -> String {
    match began.split_once('T') {
        Some((day, time)) if time.ends_with('Z') => {
            let time = time.trim_end_matches('Z');
            format!("{day} at {} UTC", time.split('.').next().unwrap_or(time))
        }
        _ => began.to_owned(),
    }
}

/// What the unit is, for the head of a plot or a column; empty where a figure is a bare count.
pub(crate) fn unit(unit: &str) -> &str {
    match unit {
        "us" => "µs",
        "1/s" => "per second",
        "x" => "ratio",
        other => other,
    }
}

/// A subject's name for people.
pub(crate) fn name<'a>(results: &'a Results, id: &'a str) -> &'a str {
    results.subjects.iter().find(|subject| subject.id == id).map_or(id, |subject| &subject.name)
}

/// `Insula, deployed, warm disk`; just the name where there is one case.
pub(crate) fn with_case(results: &Results, (id, case): (&str, &str)) -> String {
    let name = name(results, id);
    if case.is_empty() { name.to_owned() } else { format!("{name}, {case}") }
}

/// ` at 64 connections`, or nothing where the figure has no axis.
pub(crate) fn place(x: Option<f64>, axis: Option<&str>) -> String {
    match (x, axis) {
        (Some(x), Some(axis)) => format!(" at {} {axis}", number(x)),
        (Some(x), None) => format!(" at {}", number(x)),
        (None, _) => String::new(),
    }
}

/// The axis of a figure of a bench, which a ratio does not carry itself: that of its samples, or of the
/// whole bench, for a figure that is computed from others.
pub(crate) fn axis<'a>(bench: &'a Bench, figure: &str) -> Option<&'a str> {
    let axes = || bench.series.iter().filter_map(|series| Some((series, series.axis.as_deref()?)));
    let mut own = axes().filter(|(series, _)| series.figure == figure);
    own.next().or_else(|| axes().next()).map(|(_, axis)| axis)
}

/// The first letter as a capital, and those of abbreviations.
pub(crate) fn capital(text: &str) -> String {
    let text = abbreviated(text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

/// Abbreviations in capitals.
pub(crate) fn abbreviated(text: &str) -> String {
    let words = text.split(' ').map(|word| match word {
        "cpu" => "CPU",
        "pss" => "PSS",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The unit in which large figures are written, for round numbers in it.
pub(crate) fn step(value: f64, unit: &str) -> f64 {
    1.0 / scale(value, unit).0
}

/// All the benches there are, in the order of the report, with the names that people read.
pub(crate) const BENCHES: [(&str, &str); 7] = [
    ("startup", "Start-up"),
    ("density", "Memory and density"),
    ("throughput", "Throughput"),
    ("neighbours", "Noisy neighbours"),
    ("scale", "Scale"),
    ("languages", "Languages"),
    ("tax", "What metering costs"),
];

/// The name of a bench for people.
pub(crate) fn title(bench: &str) -> &str {
    BENCHES.iter().find(|(name, _)| *name == bench).map_or(bench, |(_, title)| title)
}
