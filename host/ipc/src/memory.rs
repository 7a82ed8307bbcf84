//! What processes hold of the machine's memory, and what there is of it.

use rustix::io::pread;
use std::fs::{File, read_to_string};
use std::io;
use std::path::Path;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Reads how much memory one process holds.
#[derive(Debug)]
pub struct Resident(File);

impl Resident {
    /// Of the calling process.
    pub fn own() -> io::Result<Self> {
        File::open("/proc/self/statm").map(Self)
    }

    /// Of another one.
    pub fn of(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/statm")).map(Self)
    }

    /// Bytes that it alone holds: what the kernel could only swap out. Pages of files, compiled code among
    /// them, can be dropped and read again, and do not count (proc_pid_statm(5): `resident` less `shared`).
    /// Nothing if the process is gone.
    pub fn bytes(&self) -> u64 {
        let mut text = [0; 128];
        let length = pread(&self.0, &mut text, 0).unwrap_or(0);
        let text = std::str::from_utf8(&text[..length]).unwrap_or("");
        let pages: Vec<u64> =
            text.split_whitespace().take(3).filter_map(|field| field.parse().ok()).collect();
        let [_, resident, shared] = pages[..] else { return 0 };
        resident.saturating_sub(shared).saturating_mul(rustix::param::page_size() as u64)
    }
}

/// What of a process is in memory, by kind, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Its own.
    pub own: u64,
    /// Pages of files.
    pub files: u64,
    /// Memory shared with other processes.
    pub shared: u64,
}

impl Kinds {
    /// Of a process; nothing if it is gone.
    pub fn of(pid: u32) -> Self {
        let text = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of = |name: &str| kib(&text, name).unwrap_or(0);
        Self { own: of("RssAnon:"), files: of("RssFile:"), shared: of("RssShmem:") }
    }
}

/// Bytes of memory that this process and others beside it may use: the machine's, or what a cgroup (v2)
/// above this process allows, if that is less. None if the kernel does not say.
pub fn available_bytes() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemTotal:"));
    let own = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let limits = Path::new(own).ancestors().filter_map(|group| {
        let path = Path::new(CGROUPS).join(group).join("memory.max");
        // `max` is no number, and no limit.
        read_to_string(path).ok()?.trim().parse::<u64>().ok()
    });
    limits.chain(machine).min()
}

/// Bytes that a line of such a file gives.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_touched_is_held() {
        let own = Resident::own().unwrap();
        let before = own.bytes();
        let held = vec![1u8; 32 << 20];
        let after = own.bytes();
        assert!(after > before + (24 << 20), "{before} {after} {}", held.len());
        let kinds = Kinds::of(std::process::id());
        assert!(kinds.own >= 24 << 20 && kinds.files > 0, "{kinds:?}");
        assert!(available_bytes().unwrap() > after);
        assert_eq!(
            kib("MemTotal:       24689024 kB\nMemFree: 1 kB", "MemTotal:"),
            Some(24_689_024 << 10)
        );
    }
}
