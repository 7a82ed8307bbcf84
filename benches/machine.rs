//! The machine that is measured on, and programs' own words about themselves.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::process::{Command, Stdio};

/// The time, RFC 3339.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The first line that a program prints when it is called so; none if there is no such program.
pub fn says(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// A number from a file that holds nothing else.
pub fn number(file: &str) -> Option<u64> {
    read_to_string(file).ok()?.trim().parse().ok()
}

/// The soft limit of open files.
pub fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes that this machine, or the control group of this process, has free or can free at once.
pub fn memory_free_bytes() -> Option<u64> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// How busy the machine is without us: cores used in 300 ms.
pub fn busy_cores() -> Option<f64> {
    let busy = || -> Option<(f64, f64)> {
        let text = read_to_string("/proc/stat").ok()?;
        let ticks: Vec<f64> =
            text.lines().next()?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all: f64 = ticks.iter().take(8).sum();
        Some((all - idle, all))
    };
    let (busy_before, all_before) = busy()?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (busy_after, all_after) = busy()?;
    let all = (all_after - all_before).max(1.0);
    Some((busy_after - busy_before) / all * cores() as f64)
}

/// What bears on the figures; name to value.
pub fn describe() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    };
    let of = |file: &str, key: &str| -> Option<String> {
        let text = read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        let (_, value) = line.split_once([':', '='])?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    put("processor", of("/proc/cpuinfo", "model name"));
    put("cores", Some(cores().to_string()));
    put("memory", of("/proc/meminfo", "MemTotal"));
    put("swap", of("/proc/meminfo", "SwapTotal"));
    put("kernel", read_to_string("/proc/sys/kernel/osrelease").ok().map(|s| s.trim().to_owned()));
    put("distribution", of("/etc/os-release", "PRETTY_NAME"));
    put("cgroups", Some(crate::groups::version().to_owned()));
    put("vm.max_map_count", number("/proc/sys/vm/max_map_count").map(|n| n.to_string()));
    put("open files", open_files().map(|n| n.to_string()));
    let root = rustix::process::geteuid().is_root();
    put("user", Some(if root { "root" } else { "not root" }.into()));
    put("busy before the run", busy_cores().map(|n| format!("{n:.2} cores")));
    all
}
