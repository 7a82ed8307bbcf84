//! The kernel, its settings, the processors and the clock.

use super::{Finding, fail, ok, warn};
use insula_sandbox::engine::{MAPPINGS_EACH, MAPPINGS_OF_WORKER};
use insula_supervisor::HostConfig;
use jiff::Timestamp;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags};
use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// The usual bound of a process's mappings.
const MAPS_MIN: u64 = 65_530;
/// The first kernel with `PAGEMAP_SCAN`.
const PAGEMAP_SCAN: (u32, u32) = (6, 7);
/// Before this the clock cannot be right: this program did not exist (RFC 3339).
const BUILT_AFTER: &str = "2026-01-01T00:00:00Z";
/// How long the clocks are watched, in milliseconds.
const CLOCKS_MS: u64 = 20;
/// How far they may come apart in that time, in milliseconds: more is a clock that is being set.
const CLOCKS_APART_MS_MAX: u128 = 500;

pub(super) fn look(config: &HostConfig) -> Vec<Finding> {
    vec![kernel(), maps(), overcommit(), swap(), huge_pages(), processors(config), clock()]
}

fn setting(file: &str) -> Option<u64> {
    read_to_string(file).ok()?.trim().parse().ok()
}

fn kernel() -> Finding {
    const WHAT: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH;
    if rustix::fs::openat2(CWD, ".", flags, Mode::empty(), beneath).is_err() {
        let mend = "use Linux 5.6 or newer, and a seccomp profile that lets openat2 through: tenants' directories are opened with it";
        return fail(WHAT, format!("{release}, without openat2"), mend);
    }
    if rustix::fs::memfd_create("insula-doctor", MemfdFlags::CLOEXEC).is_err() {
        let mend =
            "use a seccomp profile that lets memfd_create through: workers share a table in one";
        return fail(WHAT, format!("{release}, without memfd_create"), mend);
    }
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < PAGEMAP_SCAN => {
            let mend = "Linux 6.7 or newer resets instances faster (PAGEMAP_SCAN)";
            warn(WHAT, format!("{release}, without PAGEMAP_SCAN"), mend)
        }
        _ => ok(WHAT, format!("{release}: openat2, memfd, PAGEMAP_SCAN")),
    }
}

fn maps() -> Finding {
    const WHAT: &str = "vm.max_map_count";
    let Some(maps) = setting("/proc/sys/vm/max_map_count") else { return ok(WHAT, "unknown") };
    let found = format!(
        "{maps}: about {} live instances in each worker",
        maps.saturating_sub(MAPPINGS_OF_WORKER) / MAPPINGS_EACH
    );
    match maps < MAPS_MIN {
        true => warn(WHAT, found, format!("sysctl -w vm.max_map_count={MAPS_MIN}")),
        false => ok(WHAT, found),
    }
}

fn overcommit() -> Finding {
    const WHAT: &str = "vm.overcommit_memory";
    match setting("/proc/sys/vm/overcommit_memory") {
        Some(2) => {
            let mend = "sysctl -w vm.overcommit_memory=0: workers reserve far more address space than they use";
            warn(WHAT, "2: the kernel refuses reservations", mend)
        }
        Some(mode) => ok(WHAT, mode.to_string()),
        None => ok(WHAT, "unknown"),
    }
}

fn swap() -> Finding {
    let active = read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1);
    match active {
        true => warn(
            "swap",
            "active",
            "swapoff -a: with swap, instances are reset the slower way, and memory figures leave out what is swapped out",
        ),
        false => ok("swap", "none"),
    }
}

fn huge_pages() -> Finding {
    const WHAT: &str = "transparent huge pages";
    let text = read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = text.split('[').nth(1).and_then(|rest| rest.split(']').next());
    match chosen {
        // The host says no to them, for its tenants' memory as well (`insula_ipc::heap`).
        Some("always") => ok(WHAT, "always; a host takes none"),
        Some(other) => ok(WHAT, other),
        None => ok(WHAT, "none"),
    }
}

fn processors(config: &HostConfig) -> Finding {
    const WHAT: &str = "processors";
    let usable = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let workers = u64::from(config.workers);
    let found = format!("{usable} may be used, for {workers} workers");
    match workers > usable {
        true => {
            warn(WHAT, found, format!("--workers {usable}: more of them only take turns on a core"))
        }
        false => ok(WHAT, found),
    }
}

fn clock() -> Finding {
    const WHAT: &str = "clock";
    let now = Timestamp::now();
    let mend =
        "set it (timedatectl set-ntp true): job times, log times and certificates depend on it";
    if BUILT_AFTER.parse::<Timestamp>().is_ok_and(|built| now < built) {
        return fail(WHAT, format!("{now:.0} is before this program was made"), mend);
    }
    let since = Instant::now();
    std::thread::sleep(Duration::from_millis(CLOCKS_MS));
    let (steady, wall) = (since.elapsed().as_millis(), Timestamp::now().duration_since(now));
    let apart = i128::try_from(steady).unwrap_or(0) - wall.as_millis();
    if apart.unsigned_abs() > CLOCKS_APART_MS_MAX {
        return warn(WHAT, format!("it moved by {apart} ms just now"), mend);
    }
    ok(WHAT, format!("{now:.0}"))
}
