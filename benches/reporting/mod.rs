//! The report of `insula bench`: `results.json`, `report.md`, `index.html` and the plots, made of
//! [`Results`] and nothing else, so that it can be made again from `results.json` at any time.

mod figures;
mod headline;
mod markdown;
mod page;
mod plot;
mod tables;
mod words;

use crate::results::{Ratio, Results, SCHEMA};
use anyhow::{Context, Result, bail};
use plot::Plot;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What whoever reads an unfinished report must know.
const INCOMPLETE: &str = "The run was stopped before everything that was asked for was measured. What is shown was \
    measured; what is missing is not zero, but unknown.";

/// What holds for every figure of a report, in sentences.
const METHOD: [&str; 3] = [
    "Every figure on this page comes from one run on one machine. Times of this machine mean little on another; \
     ratios within one run hold better, and the command below measures them on yours.",
    "Medians stand with the 95% interval that a percentile bootstrap gives them (2,000 draws, a fixed seed, no \
     assumption about the distribution). A ratio is taken within each round, since what disturbs one of two \
     neighbours in time disturbs the other as well; its figure is the median of the rounds' ratios. A ratio \
     under a half is written as a fraction: 1/40 means a fortieth. Fewer than five samples have no 95% interval; \
     then their number is said, with the smallest and the largest.",
    "The control measures the same thing against itself, in the same way. If its interval does not contain 1, \
     something else than the subjects differed, and the report says that the machine was too noisy. A bar is \
     held or missed by the median; where the interval reaches over the bar, that is said as well.",
];

/// When, for how long and on what, in a sentence.
fn run(results: &Results) -> String {
    let machine = |(name, before, after): (&str, &str, &str)| {
        let value = results.machine.get(name)?;
        let before = if value.starts_with(before) { "" } else { before };
        Some(format!(", {before}{value}{after}"))
    };
    let machine: String =
        [("processor", "", ""), ("cores", "", " cores"), ("kernel", "Linux ", "")]
            .into_iter()
            .filter_map(machine)
            .collect();
    format!(
        "Measured on {}, in {}{machine}.",
        words::time(&results.began),
        words::duration(results.took_s)
    )
}

/// Which benches were not part of the run; none if all were.
fn benches_left(results: &Results) -> Option<String> {
    let ran = |name: &str| results.benches.iter().any(|bench| bench.name == name);
    let left = words::BENCHES.into_iter().filter(|(name, _)| !ran(name));
    let left: Vec<String> = left.map(|(name, _)| format!("insula bench {name}")).collect();
    (!left.is_empty()).then(|| format!("Not part of this run: {}.", left.join(", ")))
}

/// Where the data stands within a report.
pub const DATA: &str = "results.json";

/// Writes a report into a directory, which is made if it is not there.
///
/// Each file is replaced in one step, the data first and the page last, so that whoever interrupts this
/// finds an older report or a newer one, never half a file. The page needs no other file of the directory.
pub fn write(results: &Results, out: &Path) -> Result<()> {
    let results = &readable(results);
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let plots = plot::all(results)?;
    replace(out, DATA, &(serde_json::to_string_pretty(results)? + "\n"))?;
    for plot in plots.iter().flat_map(|(_, plots)| plots) {
        replace(out, &plot.file(), &plot.standalone())?;
    }
    replace(out, "report.md", &markdown::report(results, &plots))?;
    replace(out, "index.html", &page::page(results, &plots))?;
    remove_older_plots(out, &plots)
}

/// Reads the data of a report: a `results.json`, or the directory in which one stands.
pub fn read(path: &Path) -> Result<Results> {
    let file = if path.is_dir() { path.join(DATA) } else { path.to_owned() };
    let file = file.as_path();
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    // The schema first: a later layout may not parse as this one, and should not be called damaged.
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(schema) => bail!(
            "{} is of schema {schema}, and this program reads schema {SCHEMA}: make the report with \
             the version of insula that measured it",
            file.display()
        ),
        None => bail!("{} has no schema: it is not the data of a report", file.display()),
    }
    serde_json::from_value(value)
        .with_context(|| format!("{} is not what schema {SCHEMA} says", file.display()))
}

/// Without what is not a number, which JSON cannot hold; and every number with so many digits as are read
/// again exactly, so that the data makes the same report however often.
fn readable(results: &Results) -> Results {
    let mut results = results.clone();
    let finite =
        |ratio: &Ratio| [ratio.median, ratio.low, ratio.high].iter().all(|x| x.is_finite());
    for bench in &mut results.benches {
        for series in &mut bench.series {
            let before = series.samples.len();
            series.samples.retain(|sample| sample.is_finite());
            series.samples.iter_mut().for_each(round);
            let lost = before - series.samples.len();
            if lost > 0 {
                bench.notes.push(format!(
                    "{} {} {}: {lost} of {before} samples were not a number and are left out",
                    series.figure, series.subject, series.case
                ));
            }
        }
        let before = bench.ratios.len();
        bench.ratios.retain(finite);
        let lost = before - bench.ratios.len();
        if lost > 0 {
            bench.notes.push(format!("{lost} ratios were not a number and are left out"));
        }
        bench.control = bench.control.take().filter(finite);
        round(&mut bench.took_s);
        for ratio in bench.ratios.iter_mut().chain(&mut bench.control) {
            [&mut ratio.median, &mut ratio.low, &mut ratio.high].into_iter().for_each(round);
        }
    }
    round(&mut results.took_s);
    results
}

/// To twelve digits: nobody measures more, and JSON's quick way of reading numbers is exact up to fifteen.
fn round(value: &mut f64) {
    *value = format!("{value:.11e}").parse().unwrap_or(*value);
}

/// Puts a file in its place in one step.
fn replace(out: &Path, name: &str, text: &str) -> Result<()> {
    let path = out.join(name);
    let write = || -> Result<()> {
        let mut file = tempfile::Builder::new().prefix(".report-").tempfile_in(out)?;
        file.write_all(text.as_bytes())?;
        // Temporary files are for their owner alone; a report is for everybody.
        let readable = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(readable)?;
        // Without the file in the error, which would keep it for as long as anybody holds the error.
        file.persist(&path).map_err(|failed| failed.error)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Plots of an earlier report in the same directory would be taken for this one's.
fn remove_older_plots(out: &Path, plots: &[(usize, Vec<Plot>)]) -> Result<()> {
    let now: BTreeSet<String> = plots.iter().flat_map(|(_, plots)| plots).map(Plot::file).collect();
    for entry in std::fs::read_dir(out).with_context(|| format!("reading {}", out.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".svg") || now.contains(&name) {
            continue;
        }
        // Somebody else's pictures are not ours to remove.
        if std::fs::read_to_string(&path).is_ok_and(|text| text.contains(plot::MARK)) {
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}
