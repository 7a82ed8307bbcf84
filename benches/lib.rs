//! What the benchmarks share: starting servers, loading them with `wrk`, reading what they cost.
//!
//! Times are read from the kernel's own accounting of each process (`/proc/PID/stat`), so they do not
//! depend on how busy the machine is; ratios are taken within one run, round by round.
#![forbid(unsafe_code)]

pub mod clients;
pub mod cold;
pub mod command;
pub mod containers;
pub mod density;
pub mod doctor;
pub mod embedded;
pub mod first;
pub mod groups;
pub mod guests;
pub mod host;
pub mod kernels;
pub mod languages;
pub mod load;
pub mod machine;
pub mod native;
pub mod neighbours;
pub mod open_loop;
pub mod peers;
pub mod process;
// `benches/report` is for a report itself.
#[path = "reporting/mod.rs"]
pub mod report;
pub mod results;
pub mod samples;
pub mod scale;
pub mod session;
pub mod shell;
pub mod startup;
pub mod stats;
pub mod subject;
pub mod tax;
pub mod threads;
pub mod throughput;
pub mod wire;

pub use stats::median;

use anyhow::{Context, Result};

/// A number from the environment.
pub fn setting<T>(name: &str, default: T) -> Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    std::env::var(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// `median (smallest to largest)`.
pub fn spread(figures: &[f64], digits: usize) -> String {
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.digits$} ({low:.digits$} to {high:.digits$})", median(figures))
}
