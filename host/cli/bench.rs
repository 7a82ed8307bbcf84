//! `insula bench`: measure this program against containers and other hosts, on this machine.

use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::table::{self, number, shrinks, text as words};
use crate::{out, text};
use anyhow::{Context, Result};
use clap::builder::ValueHint;
use insula_benches::command::{self, Which};
use insula_benches::doctor;
use insula_benches::peers::{RUNTIMES, SERVERS};
use insula_benches::report;
use insula_benches::results::{Ratio, Results, Series};
use insula_benches::session::{Options, Session};
use insula_benches::stats;
use insula_model::ByteSize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Memory that the tenants of one subject may take, if nobody says otherwise.
const BUDGET: ByteSize = ByteSize(2 << 30);

const EXAMPLES: &str = "\
Examples:
  insula bench doctor
  insula bench startup --against crun,docker --rounds 10
  insula bench all --out report

The host under test is this very program, with a data directory of its own. Containers need root.
Ctrl-C ends the run; what was measured until then is kept.";

/// Measure this program against containers and other hosts, on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to measure
    what: What,
    /// Peers, separated by commas, or `auto`: all that this machine can run
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = parse_against)]
    against: Against,
    /// Rounds [default: as many as each benchmark needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Tenants at most [default: as many as each benchmark needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tenants: Option<u32>,
    /// Memory that the tenants of each peer may take
    #[arg(long, value_name = "SIZE", default_value_t = BUDGET)]
    budget: ByteSize,
    /// Write results.json and the report here [default: only what is printed]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Measure this `insula` in place of the one that measures
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    binary: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Say what this machine can measure, and what would add the rest
    Doctor,
    /// Time to the first answer; what creating and removing costs
    Startup,
    /// Memory of each tenant
    Density,
    /// Requests per second and CPU time of each
    Throughput,
    /// What a tenant notices of its neighbours
    Neighbours,
    /// What more deployed tenants cost the others
    Scale,
    /// The same handler in several languages
    Languages,
    /// What metering and preemption cost a guest that computes
    Tax,
    /// All of these, in turn
    All,
    /// Write the report in `--out` again, from its results.json
    Report,
}

impl What {
    fn benches(self) -> Vec<Which> {
        match self {
            Self::Doctor | Self::Report => vec![],
            Self::All => Which::ALL.to_vec(),
            _ => Which::ALL.into_iter().filter(|one| self.is(*one)).collect(),
        }
    }

    fn is(self, one: Which) -> bool {
        use clap::ValueEnum;
        self.to_possible_value().is_some_and(|value| value.matches(one.name(), false))
    }
}

/// None: all that can be had.
#[derive(Debug, Clone)]
struct Against(Option<Vec<String>>);

fn parse_against(text: &str) -> Result<Against, String> {
    if text == "auto" {
        return Ok(Against(None));
    }
    let known = || RUNTIMES.iter().chain(&SERVERS);
    let all: Vec<String> = text.split(',').map(|id| id.trim().to_owned()).collect();
    match all.iter().find(|id| known().all(|known| known != id)) {
        None => Ok(Against(Some(all))),
        Some(unknown) => {
            let known: Vec<&str> = known().copied().collect();
            Err(format!("there is no peer `{unknown}`; auto, or some of {}", known.join(", ")))
        }
    }
}

/// Measures, or only says what could be.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    if args.what == What::Doctor {
        return examine(args.json).await;
    }
    if args.what == What::Report {
        return write_again(args.out).await;
    }
    let binary = match args.binary {
        Some(binary) => crate::host_args::absolute(&binary),
        None => std::env::current_exe().context("this program cannot find itself")?,
    };
    let options = Options {
        binary,
        against: args.against.0,
        rounds: args.rounds.map(usize::from),
        tenants: args.tenants.and_then(|tenants| usize::try_from(tenants).ok()),
        budget_bytes: args.budget.0,
        out: args.out.clone(),
        command: command_line(),
    };
    let over = Arc::new(AtomicBool::new(false));
    let progress = Progress::steps("measuring", 0);
    let bar = progress.bar();
    let tell = Box::new(move |message: &str, done: usize, total: usize| {
        bar.set_message(message.to_owned());
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    let (flag, benches) = (Arc::clone(&over), args.what.benches());
    let mut work = tokio::task::spawn_blocking(move || {
        let mut session = Session::new(options, flag, tell);
        let done = command::run(&mut session, &benches);
        (session.results, done)
    });
    let (results, done) = loop {
        tokio::select! {
            ended = &mut work => break ended.context("the benchmark broke off")?,
            () = signalled() => {
                if !over.swap(true, Relaxed) {
                    out::note("ending; what was started is put away first");
                }
            }
        }
    };
    drop(progress);
    let complete = done?;
    if args.json {
        out::json(&serde_json::to_vec_pretty(&results)?)?;
    } else {
        out::line(&summary(&results))?;
    }
    if let Some(dir) = &args.out {
        out::note(&format!("written to {}", dir.display()));
    }
    if complete {
        return Ok(ExitCode::SUCCESS);
    }
    let notes: Vec<String> = results
        .benches
        .iter()
        .flat_map(|bench| bench.notes.iter().map(move |note| format!("{}: {note}", bench.name)))
        .filter(|note| note.contains(": ended early: ") || note.contains(": failed: "))
        .collect();
    let message = format!("not everything was measured\n{}", notes.join("\n"));
    Err(Failure::new(Exit::Failure, message).into())
}

async fn write_again(out: Option<PathBuf>) -> Result<ExitCode> {
    let Some(dir) = out else {
        let message = "which report? name its directory: `insula bench report --out DIR`";
        return Err(Failure::new(Exit::Usage, message).into());
    };
    let at = dir.clone();
    tokio::task::spawn_blocking(move || report::write(&report::read(&at)?, &at)).await??;
    out::note(&format!("written to {}", dir.display()));
    Ok(ExitCode::SUCCESS)
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// As it could be typed again.
fn command_line() -> String {
    let arguments = std::env::args().skip(1).map(|word| text::shell_word(&word));
    std::iter::once("insula".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

async fn examine(json: bool) -> Result<ExitCode> {
    let report = tokio::task::spawn_blocking(doctor::examine).await?;
    if json {
        out::json(&serde_json::to_vec_pretty(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let paint = out::stdout_paint();
    let rows = report.machine.iter().map(|finding| {
        let mark = if finding.good { paint.good("ok") } else { paint.warn("!") };
        let mend = finding.mend.clone().unwrap_or_default();
        [mark, finding.what.clone(), finding.found.clone(), mend]
    });
    let columns = [words(""), words("MACHINE"), shrinks("FOUND"), shrinks("MEND").optional()];
    out::line(&table::render(columns, rows.collect()))?;
    let rows = report.peers.iter().map(|peer| {
        let mark = if peer.missing.is_none() { paint.good("ok") } else { paint.warn("–") };
        let found = peer.missing.clone().or_else(|| peer.version.clone()).unwrap_or_default();
        [mark, peer.id.clone(), found, peer.mend.clone().unwrap_or_default()]
    });
    let columns = [words(""), words("PEER"), shrinks("FOUND"), shrinks("TO ADD").optional()];
    out::line(&format!("\n{}", table::render(columns, rows.collect())))?;
    Ok(ExitCode::SUCCESS)
}

/// Medians, and ratios with their bars, as text.
fn summary(results: &Results) -> String {
    let mut whole = String::new();
    for bench in &results.benches {
        let columns = [
            words("SUBJECT"),
            words("CASE"),
            words("FIGURE"),
            number("X"),
            number("MEDIAN"),
            words("UNIT"),
        ];
        let rows = bench.series.iter().map(row).collect();
        whole.push_str(&format!("{}\n{}\n", bench.name, table::render(columns, rows)));
        if !bench.ratios.is_empty() {
            let columns = [
                words("RATIO"),
                shrinks("OF"),
                shrinks("TO"),
                number("MEDIAN"),
                number("95%"),
                words("BAR"),
            ];
            let rows = bench.ratios.iter().map(ratio).collect();
            whole.push_str(&format!("\n{}\n", table::render(columns, rows)));
        }
        if let Some(control) = &bench.control {
            let quiet = control.low <= 1.0 && control.high >= 1.0;
            let verdict = match quiet {
                _ if !stats::enough(control.rounds) => {
                    "too few rounds to say how noisy the machine was"
                }
                true => "quiet enough",
                false => "the machine was too noisy",
            };
            let [median, low, high] = [control.median, control.low, control.high].map(short);
            whole.push_str(&format!("\nA against A: {median} ({low} to {high}): {verdict}\n"));
        }
        for note in &bench.notes {
            whole.push_str(&format!("note: {note}\n"));
        }
    }
    for subject in &results.subjects {
        if let Some(missing) = &subject.missing {
            whole.push_str(&format!("not measured: {}: {missing}\n", subject.id));
        }
    }
    whole.trim_end().to_owned()
}

fn row(series: &Series) -> [String; 6] {
    let x = series.x.map(short).unwrap_or_default();
    let median = short(stats::median(&series.samples));
    let [subject, case] = [&series.subject, &series.case].map(Clone::clone);
    [subject, case, series.figure.clone(), x, median, series.unit.clone()]
}

fn ratio(ratio: &Ratio) -> [String; 6] {
    let whom = |(subject, case): &(String, String)| format!("{subject} {case}").trim().to_owned();
    let bar = ratio.bar.as_ref().map_or_else(String::new, |bar| {
        let (holds, sign) = if bar.at_most {
            (ratio.median <= bar.limit, "≤")
        } else {
            (ratio.median >= bar.limit, "≥")
        };
        format!("{sign} {} {}", short(bar.limit), if holds { "holds" } else { "missed" })
    });
    let figure = ratio
        .x
        .map_or_else(|| ratio.figure.clone(), |x| format!("{} at {}", ratio.figure, short(x)));
    let interval = format!("{} to {}", short(ratio.low), short(ratio.high));
    [figure, whom(&ratio.of), whom(&ratio.to), short(ratio.median), interval, bar]
}

/// Three digits that count.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = (2 - value.abs().log10().floor().clamp(-9.0, 2.0) as i32).max(0);
    format!("{value:.*}", usize::try_from(digits).unwrap_or(0))
}
