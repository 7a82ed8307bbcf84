//! One run of `insula bench`: what was asked for, what has been found so far, and whether to go on.

use crate::results::{Bench, Results, SCHEMA, Subject};
use crate::{machine, peers, report, threads};
use anyhow::{Context, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `insula` under test.
    pub binary: PathBuf,
    /// Peers by their ids; all that this machine can run, if none are named.
    pub against: Option<Vec<String>>,
    /// Rounds; each benchmark has a number of its own otherwise.
    pub rounds: Option<usize>,
    /// Tenants at most.
    pub tenants: Option<usize>,
    /// Memory that the tenants of one subject may take, in bytes.
    pub budget_bytes: u64,
    /// Where `results.json` and the report go.
    pub out: Option<PathBuf>,
    /// The command as it was given.
    pub command: String,
}

/// Hears how far the work is: what is done now, steps done, and steps in all.
pub type Tell = Box<dyn Fn(&str, usize, usize) + Send + Sync>;

/// Somebody wants the run to end.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A run.
pub struct Session {
    /// What was asked for.
    pub options: Options,
    /// What has been found so far.
    pub results: Results,
    over: Arc<AtomicBool>,
    tell: Tell,
    start: Instant,
    failed: AtomicBool,
}

impl Session {
    /// Looks at the machine. `over` ends the run early, once it is true.
    pub fn new(options: Options, over: Arc<AtomicBool>, tell: Tell) -> Self {
        let results = Results {
            schema: SCHEMA,
            began: machine::now(),
            took_s: 0.0,
            complete: false,
            command: options.command.clone(),
            machine: machine::describe(),
            subjects: vec![insula(&options.binary)],
            benches: Vec::new(),
        };
        Self { options, results, over, tell, start: Instant::now(), failed: AtomicBool::new(false) }
    }

    /// Says what comes now; fails where the run is to end.
    pub fn step(&self, message: &str, done: usize, total: usize) -> Result<()> {
        (self.tell)(message, done, total);
        self.go_on()
    }

    /// Fails where the run is to end.
    pub fn go_on(&self) -> Result<()> {
        if self.over.load(Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// The peers of these kinds that were asked for and can be had; what is missing is noted.
    pub fn peers(&mut self, ids: &[&str]) -> Result<Vec<Subject>> {
        let mut found = Vec::new();
        for id in ids {
            let wanted =
                self.options.against.as_ref().is_none_or(|all| all.iter().any(|a| a == id));
            if !wanted {
                continue;
            }
            let subject = match self.results.subjects.iter().find(|known| known.id == *id) {
                Some(known) => known.clone(),
                None => {
                    let subject = peers::look(id).with_context(|| format!("no peer {id}"))?;
                    self.results.subjects.push(subject.clone());
                    subject
                }
            };
            if subject.missing.is_none() {
                found.push(subject);
            }
        }
        Ok(found)
    }

    /// Notes what failed, so that the rest can be measured all the same; an interruption ends the run. Whether
    /// it went well.
    pub fn survive(&self, bench: &mut Bench, what: &str, done: Result<()>) -> Result<bool> {
        match done {
            Ok(()) => Ok(true),
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => {
                bench.notes.push(format!("failed: {}: {error:#}", what.trim()));
                self.failed.store(true, Relaxed);
                Ok(false)
            }
        }
    }

    /// Whether something failed that the run went on after.
    pub fn failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Notes that a peer could not be measured after all.
    pub fn lost(&mut self, id: &str, why: &anyhow::Error) {
        if let Some(subject) = self.results.subjects.iter_mut().find(|known| known.id == id) {
            subject.missing.get_or_insert_with(|| format!("{why:#}"));
        }
    }

    /// Runs one benchmark. What it found before it failed or was interrupted is kept.
    pub fn bench(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Self, &mut Bench) -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        let mut bench = Bench {
            name: name.into(),
            took_s: 0.0,
            method: String::new(),
            settings: std::collections::BTreeMap::new(),
            series: Vec::new(),
            ratios: Vec::new(),
            control: None,
            notes: Vec::new(),
        };
        let cores = threads::allowed();
        let done = work(self, &mut bench);
        // One that kept servers and generator apart leaves the next all of them.
        threads::bind(&cores);
        bench.took_s = start.elapsed().as_secs_f64();
        if let Err(error) = &done {
            bench.notes.push(format!("ended early: {error:#}"));
        }
        self.results.benches.push(bench);
        self.results.took_s = self.start.elapsed().as_secs_f64();
        done
    }

    /// Writes what there is to the directory that was asked for.
    pub fn write(&mut self, complete: bool) -> Result<()> {
        self.results.complete = complete;
        self.results.took_s = self.start.elapsed().as_secs_f64();
        let Some(out) = &self.options.out else { return Ok(()) };
        report::write(&self.results, out)
    }
}

fn insula(binary: &Path) -> Subject {
    Subject {
        id: "insula".into(),
        name: "Insula".into(),
        version: machine::says(&binary.to_string_lossy(), &["--version"]),
        settings: "each tenant: memory 64 MiB, one core, fuel 1 G, deadline 10 s".into(),
        missing: None,
        mend: None,
    }
}
