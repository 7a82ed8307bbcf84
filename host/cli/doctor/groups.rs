//! Control groups above the host: what they let it have.

use super::{Finding, ok, warn};
use crate::text;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Less memory than this is little for a host, in bytes.
const MEMORY_BYTES_MIN: u64 = 256 << 20;
/// Fewer processes and threads than this are few for a host.
const TASKS_MIN: u64 = 128;
/// What version 1 says where there is no limit of memory: more than any machine has, in bytes.
const UNLIMITED_BYTES: u64 = 1 << 60;

pub(super) fn look(host: Option<u32>) -> Vec<Finding> {
    let process = host.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let groups = read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let memory = least(&groups, "memory", &["memory.max", "memory.limit_in_bytes"], whole);
    let tasks = least(&groups, "pids", &["pids.max"], whole);
    // In thousandths of a core.
    let cpu = least(&groups, "cpu", &["cpu.max", "cpu.cfs_quota_us"], cores);
    let memory = match memory.filter(|bytes| *bytes < UNLIMITED_BYTES) {
        None => ok("cgroup memory", "no limit"),
        Some(bytes) if bytes < MEMORY_BYTES_MIN => warn(
            "cgroup memory",
            text::bytes(bytes),
            "raise it (MemoryMax=, docker run --memory): the kernel ends processes at this limit, `--memory` refuses requests before",
        ),
        Some(bytes) => ok("cgroup memory", text::bytes(bytes)),
    };
    let cpu = match cpu {
        None => ok("cgroup cpu", "no limit"),
        Some(millis) if millis < 1_000 => warn(
            "cgroup cpu",
            format!("{millis}m"),
            "raise it (CPUQuota=, docker run --cpus): below one core, requests wait for the next period",
        ),
        Some(millis) => ok("cgroup cpu", format!("{millis}m")),
    };
    let tasks = match tasks {
        None => ok("cgroup processes", "no limit"),
        Some(count) if count < TASKS_MIN => warn(
            "cgroup processes",
            count.to_string(),
            format!("raise it to {TASKS_MIN} (TasksMax=, docker run --pids-limit)"),
        ),
        Some(count) => ok("cgroup processes", count.to_string()),
    };
    vec![memory, cpu, tasks]
}

/// The lowest limit of a controller in the process's group and those above it.
fn least(
    groups: &str,
    controller: &str,
    files: &[&str],
    read: fn(&Path) -> Option<u64>,
) -> Option<u64> {
    let mut lowest: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Version 2 has one tree for all; version 1 one for each, or a few together.
        let tree = match controllers {
            "" => PathBuf::from(ROOT),
            list if list.split(',').any(|one| one == controller) => {
                let together = Path::new(ROOT).join(list);
                if together.is_dir() { together } else { Path::new(ROOT).join(controller) }
            }
            _ => continue,
        };
        let group = tree.join(path.trim_start_matches('/'));
        // In a container of its own name space the group is the tree's root, or cannot be seen.
        let above = group.ancestors().take_while(|dir| dir.starts_with(&tree));
        let limits =
            above.flat_map(|dir| files.iter().filter_map(move |file| read(&dir.join(file))));
        lowest = limits.chain(lowest).min();
    }
    lowest
}

fn whole(file: &Path) -> Option<u64> {
    read_to_string(file).ok()?.trim().parse().ok()
}

/// `cpu.max` holds quota and period; in version 1 they are two files.
fn cores(file: &Path) -> Option<u64> {
    let text = read_to_string(file).ok()?;
    let mut words = text.split_whitespace();
    let quota: u64 = words.next()?.parse().ok()?;
    let period = match words.next() {
        Some(period) => period.parse().ok()?,
        None => whole(&file.with_file_name("cpu.cfs_period_us"))?,
    };
    (quota * 1_000).checked_div(period)
}
