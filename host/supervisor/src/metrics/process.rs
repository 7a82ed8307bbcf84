//! What the kernel says about this process and its workers (proc_pid_stat(5)).

use std::fs;
use std::time::Duration;

/// One process, or nothing but zeros if it is gone.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Process {
    pub(super) cpu_s: f64,
    pub(super) virtual_bytes: u64,
    pub(super) resident_bytes: u64,
    /// Seconds since 1970.
    pub(super) started_s: f64,
}

/// Fields of `stat` after the name, counted from the state.
const UTIME: usize = 11;
const STIME: usize = 12;
const START: usize = 19;
const VSIZE: usize = 20;
const RSS: usize = 21;

impl Process {
    /// The process with this id; `self` for this one.
    pub(super) fn read(pid: &str) -> Self {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| Self::parse(&stat))
            .unwrap_or_default()
    }

    /// The same in nanoseconds; none if it is gone.
    pub(super) fn started_unix_ns(&self) -> Option<u64> {
        let since =
            Duration::try_from_secs_f64(self.started_s).ok().filter(|since| !since.is_zero())?;
        u64::try_from(since.as_nanos()).ok()
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name may hold blanks and parentheses.
        let fields: Vec<u64> = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let ticks_per_s = as_f64(rustix::param::clock_ticks_per_second());
        let of = |at: usize| fields.get(at).copied();
        Some(Self {
            cpu_s: as_f64(of(UTIME)? + of(STIME)?) / ticks_per_s,
            virtual_bytes: of(VSIZE)?,
            resident_bytes: of(RSS)?.saturating_mul(rustix::param::page_size() as u64),
            started_s: booted_s() + as_f64(of(START)?) / ticks_per_s,
        })
    }
}

/// When the machine was booted, in seconds since 1970.
fn booted_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|s| s.trim().parse().ok()).map_or(0.0, as_f64)
}

/// Descriptors that this process has open, and may have.
pub(super) fn descriptors() -> (u64, u64) {
    let open = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64);
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    (open, most.unwrap_or(u64::MAX))
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let own = Process::read("self");
        assert!(own.resident_bytes > 1 << 20 && own.virtual_bytes >= own.resident_bytes, "{own:?}");
        assert!(own.started_s > 1.5e9, "{own:?}");
        assert!(descriptors().0 >= 3);
        assert!(Process::parse("1 (a b) c) S 2").is_none());
    }
}
