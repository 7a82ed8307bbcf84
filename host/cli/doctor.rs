//! `insula doctor`: whether this machine and this configuration are fit for a host, and what to do.

mod directory;
mod groups;
mod host;
mod limits;
mod machine;
mod state;

use crate::failure::{Exit, Failure};
use crate::host_args::data_flag;
use crate::host_config::HostFlags;
use crate::table::{self, shrinks, text as words};
use crate::{out, text};
use anyhow::Result;
use insula_supervisor::HostConfig;
use serde::Serialize;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula doctor
  insula doctor --config /etc/insula/host.toml --data /var/lib/insula
  insula doctor --deep --json
  insula doctor --restore        the state database is damaged: put its last good copy back

Says `ok`, `warn` or `fail` of everything it looks at, and what to do. Works with and without a host
that runs. Exit code 0: no failure. Nothing is changed without --fix or --restore.";

/// Look at this machine, the configuration and the data directory, and say what to do.
///
/// Takes the flags, variables and file that `insula serve` takes: give it the same ones.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Read every artifact and all compiled code, too
    #[arg(long)]
    deep: bool,
    /// Remove compiled code that is of no use: of other versions, and without a sound seal. Only while
    /// no host runs
    #[arg(long)]
    fix: bool,
    /// Put the last good copy of the state database in its place. Only while no host runs
    #[arg(long, conflicts_with_all = ["fix", "deep", "json"])]
    restore: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: HostFlags,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// Something that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    /// What.
    what: &'static str,
    level: Level,
    /// How it is.
    found: String,
    /// What to do about it.
    mend: Option<String>,
}

/// As it should be.
fn ok(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, level: Level::Ok, found: found.into(), mend: None }
}

/// A host runs with it, less well.
fn warn(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { what, level: Level::Warn, found: found.into(), mend: Some(mend.into()) }
}

/// A host does not run with it, or loses something.
fn fail(what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { what, level: Level::Fail, found: found.into(), mend: Some(mend.into()) }
}

#[derive(Debug, Serialize)]
struct Report {
    findings: Vec<Finding>,
    failures: usize,
    warnings: usize,
}

/// Looks at everything, or mends one thing.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let flags = args.flags.clone();
    let (config, configuration) = match args.flags.resolve("info") {
        Ok(config) => (config, None),
        // The rest is looked at by what the flags alone say.
        Err(error) => (flags.without_file().resolve("info")?, Some(error)),
    };
    if args.restore {
        return restore(&config);
    }
    if args.fix {
        fix(&config)?;
    }
    let mut findings = vec![match &configuration {
        None => ok("configuration", "valid"),
        Some(error) => {
            let why = error.chain().map(|cause| text::printable(&cause.to_string()));
            fail("configuration", why.collect::<Vec<_>>().join(": "), "mend it as the message says")
        }
    }];
    let held = host::Held::look(&config).await;
    let deep = args.deep;
    let (held, looked) = tokio::task::spawn_blocking(move || {
        let mut looked = machine::look(&config);
        looked.extend(limits::look(held.pid, &config));
        looked.extend(groups::look(held.pid));
        looked.extend(directory::look(&config, &held));
        looked.extend(state::look(&config, &held, deep));
        looked.extend(held.look_at(&config));
        (held, looked)
    })
    .await?;
    drop(held);
    findings.extend(looked);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failures, warnings) = (count(Level::Fail), count(Level::Warn));
    let report = Report { findings, failures, warnings };
    if args.json {
        out::json(&serde_json::to_vec_pretty(&report)?)?;
    } else {
        print(&report)?;
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { Exit::Failure.into() })
}

fn print(report: &Report) -> Result<()> {
    let paint = out::stdout_paint();
    let rows = report.findings.iter().map(|finding| {
        let mark = match finding.level {
            Level::Ok => paint.good("ok"),
            Level::Warn => paint.warn("warn"),
            Level::Fail => paint.error("fail"),
        };
        let found = text::printable(&finding.found);
        [mark, finding.what.to_owned(), found, finding.mend.clone().unwrap_or_default()]
    });
    let columns = [words(""), words("LOOKED AT"), shrinks("FOUND"), shrinks("MEND").optional()];
    out::line(&table::render(columns, rows.collect()))?;
    let (failures, warnings) = (report.failures as u64, report.warnings as u64);
    out::line(&format!(
        "{failures} {}, {warnings} {}",
        text::plural(failures, "failure"),
        text::plural(warnings, "warning")
    ))
}

fn fix(config: &HostConfig) -> Result<()> {
    if !config.data.is_dir() {
        return Ok(());
    }
    let freed = insula_supervisor::survey::remove_stale(&config.data).map_err(|error| {
        Failure::new(Exit::Failure, "stale compiled code was not removed")
            .hint("stop the host first; its next start removes what other versions compiled by itself")
            .caused_by(error)
    })?;
    out::note(&format!("removed {} of compiled code that was of no use", text::bytes(freed)));
    Ok(())
}

fn restore(config: &HostConfig) -> Result<ExitCode> {
    let kept = insula_supervisor::restore(&config.data).map_err(|error| {
        Failure::new(Exit::Failure, "nothing was restored")
            .hint("a copy is made while a host runs, from a database that is sound; without one, take `state.db` from your own backup")
            .caused_by(error)
    })?;
    out::line(
        "the state database is its last good copy again; what was changed after that copy is lost",
    )?;
    if let Some(kept) = kept {
        out::line(&format!("the damaged one is kept as {}", kept.display()))?;
    }
    out::line(&format!("start the host: insula serve{}", data_flag(&config.data)))?;
    Ok(ExitCode::SUCCESS)
}
