//! `insula bench doctor`: what this machine can measure, what it cannot, and what would change that.

use crate::peers;
use crate::results::Subject;
use crate::{groups, machine};
use serde::Serialize;

/// More of the machine than this in use by others, in cores, and start-up times are not worth much.
const BUSY_MAX: f64 = 0.2;
/// Live instances take about so many mappings each, and a process has [`MAPS`] by default.
const MAPS_EACH: u64 = 6;
/// The usual bound of a process's mappings.
const MAPS: u64 = 65_530;
/// Connections and tenants' files want more than the usual 1,024.
const FILES_MIN: u64 = 8_192;

/// Something of the machine that bears on the figures.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub found: String,
    /// Whether that is as it should be.
    pub good: bool,
    /// What to do about it.
    pub mend: Option<String>,
}

/// What the doctor says.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of the machine.
    pub machine: Vec<Finding>,
    /// Whom it can run.
    pub peers: Vec<Subject>,
}

/// Looks at everything; takes less than a second.
pub fn examine() -> Report {
    let machine = vec![cores(), idle(), root(), groups(), maps(), files(), swap()];
    Report { machine, peers: peers::all().collect() }
}

fn finding(what: &str, found: String, good: bool, mend: &str) -> Finding {
    let mend = (!good).then(|| mend.to_owned());
    Finding { what: what.into(), found, good, mend }
}

fn cores() -> Finding {
    let cores = machine::cores();
    let mend =
        "with fewer than 3 cores load generator and servers share them: compare ratios, not times";
    finding("cores", cores.to_string(), cores > 2, mend)
}

fn idle() -> Finding {
    match machine::busy_cores() {
        Some(busy) => {
            let found = format!("others use {busy:.2} cores");
            finding("idle", found, busy <= BUSY_MAX, "wait until nothing else runs")
        }
        None => finding("idle", "unknown".into(), false, "look at /proc/stat"),
    }
}

fn root() -> Finding {
    let root = rustix::process::geteuid().is_root();
    let found = if root { "root" } else { "not root" };
    let mend = "containers, control groups and kernel memory need root: sudo insula bench …";
    finding("user", found.into(), root, mend)
}

fn groups() -> Finding {
    let version = groups::version();
    let mend =
        "mount cgroups with a memory controller: memory then counts what the kernel holds, too";
    finding("cgroups", version.into(), version != "none", mend)
}

fn maps() -> Finding {
    let maps = machine::number("/proc/sys/vm/max_map_count").unwrap_or(0);
    let live = maps / MAPS_EACH;
    let found = format!("{maps}: about {live} live instances in each worker");
    finding("vm.max_map_count", found, maps >= MAPS, &format!("sysctl -w vm.max_map_count={MAPS}"))
}

fn files() -> Finding {
    let files = machine::open_files();
    let found = files.map_or_else(|| "no limit".into(), |files| files.to_string());
    let good = files.is_none_or(|files| files >= FILES_MIN);
    finding("open files", found, good, &format!("ulimit -n {FILES_MIN}"))
}

fn swap() -> Finding {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let active = text.lines().count() > 1;
    let found = if active { "active" } else { "none" };
    finding(
        "swap",
        found.into(),
        !active,
        "swapoff -a: what is swapped out is in no figure of memory",
    )
}
