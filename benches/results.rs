//! What `insula bench` has measured, as data: `results.json` is this, and the report is made of nothing else.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The layout of the file; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// One run of `insula bench`, whole or as far as it came.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// When the run began, RFC 3339.
    pub began: String,
    /// Seconds that it took so far.
    pub took_s: f64,
    /// Whether everything that was asked for was measured; not so after Ctrl-C.
    pub complete: bool,
    /// The command as it was given.
    pub command: String,
    /// The machine: processor, cores, memory, kernel, distribution, cgroup version, limits; name to value.
    pub machine: BTreeMap<String, String>,
    /// Whom it was measured against, and ourselves.
    pub subjects: Vec<Subject>,
    /// In the order in which they ran.
    pub benches: Vec<Bench>,
}

/// Something that is measured: ourselves, a container runtime, another Wasm host, a plain process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    /// Short and stable, as `--against` takes it: `insula`, `crun`, `docker`, `exec`, `hyper`, `wasmtime` …
    pub id: String,
    /// For people: `Docker`, `plain process`.
    pub name: String,
    /// What it says of itself; none where it is missing.
    pub version: Option<String>,
    /// Settings that bear on the figures: limits, flags, drivers.
    pub settings: String,
    /// Why it was not measured; none where it was.
    pub missing: Option<String>,
    /// The command that would add it.
    pub mend: Option<String>,
}

/// One benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bench {
    /// `startup`, `density`, `throughput`, `neighbours`, `scale`, `languages`, `tax`.
    pub name: String,
    /// Seconds that it took.
    pub took_s: f64,
    /// How it was measured, in sentences for the report.
    pub method: String,
    /// Rounds, limits, sizes; name to value.
    pub settings: BTreeMap<String, String>,
    /// Every sample, by figure, case and place.
    pub series: Vec<Series>,
    /// Paired ratios.
    pub ratios: Vec<Ratio>,
    /// The same thing against itself: its interval must contain 1, or the machine was too noisy.
    pub control: Option<Ratio>,
    /// Cases that were not measured, and bounds that were hit (map count, open files, address space), by name.
    pub notes: Vec<String>,
}

/// Samples of one figure of one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    /// [`Subject::id`].
    pub subject: String,
    /// What of the subject: `deployed, warm disk`, `loaded`, `live`, `fresh`, `reuse`; empty where there is one case.
    pub case: String,
    /// What is measured: `first answer`, `memory per tenant`, `cpu per request`, `p99 beside` …
    pub figure: String,
    /// `ms`, `us`, `KiB`, `1/s`, `count`, `x`.
    pub unit: String,
    /// Whether less is better.
    pub less_is_better: bool,
    /// Where on the horizontal axis (tenants, connections, aggressors), if the figure has one.
    pub x: Option<f64>,
    /// What the axis is, with its unit: `tenants`, `connections`.
    pub axis: Option<String>,
    /// In the order of their rounds.
    pub samples: Vec<f64>,
}

/// A ratio of two series, taken round by round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratio {
    /// As [`Series::figure`].
    pub figure: String,
    /// Numerator: subject and case.
    pub of: (String, String),
    /// Denominator: subject and case.
    pub to: (String, String),
    /// As [`Series::x`].
    pub x: Option<f64>,
    /// Median of the rounds' ratios.
    pub median: f64,
    /// 95% bootstrap interval of the median.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Rounds.
    pub rounds: usize,
    /// What it must be at most (or at least), if the project has set itself a bar.
    pub bar: Option<Bar>,
}

/// A bar that the project has set itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bar {
    /// The limit for the ratio.
    pub limit: f64,
    /// Whether the ratio must stay at or under it, or else at or over.
    pub at_most: bool,
}
