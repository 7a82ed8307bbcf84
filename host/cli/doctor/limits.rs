//! The limits of the process: those of the host that runs, or else those that a host would inherit.

use super::{Finding, fail, ok, warn};
use insula_supervisor::HostConfig;
use std::fs::read_to_string;

/// Connections, tenants' files and directories want more than the usual 1,024.
const FILES_MIN: u64 = 8_192;
/// Below this many no host is of use.
const FILES_LEAST: u64 = 256;
/// Address space that one worker reserves at most, in bytes: two engines with 1,000 slots of 4 GiB and
/// their guards, doubled.
const ADDRESSES_BYTES: u64 = 16 << 40;
/// Bit of the capability that lets the second thread yield to everything.
const SYS_NICE: u32 = 23;
/// `ulimit -e` that does the same.
const NICE_MIN: u64 = 20;
/// Processes and threads for each worker, generously: its threads, and those for files and names.
const TASKS_EACH: u64 = 64;

/// Soft and hard; none for no limit.
type Limit = (Option<u64>, Option<u64>);

pub(super) fn look(host: Option<u32>, config: &HostConfig) -> Vec<Finding> {
    let process = host.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let of = |name| limit(&process, name);
    vec![
        files(of("Max open files")),
        tasks(of("Max processes"), config),
        addresses(of("Max address space")),
        priority(&process, of("Max nice priority")),
    ]
}

fn limit(process: &str, name: &str) -> Limit {
    let text = read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    (words.next().flatten(), words.next().flatten())
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "no limit".into(), |limit| limit.to_string())
}

fn files((soft, hard): Limit) -> Finding {
    const WHAT: &str = "open files";
    let found = format!("{}, at most {}", shown(soft), shown(hard));
    // Workers raise the soft limit to the hard one; the supervisor does with the soft one.
    let mend = format!("ulimit -n {FILES_MIN}, or LimitNOFILE={FILES_MIN} in its systemd unit");
    if soft.is_some_and(|soft| soft < FILES_LEAST) {
        return fail(WHAT, found, mend);
    }
    match hard.is_some_and(|hard| hard < FILES_MIN) {
        true => warn(WHAT, found, mend),
        false => ok(WHAT, found),
    }
}

fn tasks((soft, _): Limit, config: &HostConfig) -> Finding {
    const WHAT: &str = "processes";
    let least = u64::from(config.workers).saturating_add(1).saturating_mul(TASKS_EACH);
    match soft.is_some_and(|soft| soft < least) {
        true => warn(WHAT, shown(soft), format!("ulimit -u {least}")),
        false => ok(WHAT, shown(soft)),
    }
}

fn addresses((soft, _): Limit) -> Finding {
    const WHAT: &str = "address space";
    match soft.is_some_and(|soft| soft < ADDRESSES_BYTES) {
        true => fail(
            WHAT,
            format!("{} bytes", shown(soft)),
            "ulimit -v unlimited: a worker reserves 4 GiB for each instance it may have",
        ),
        false => ok(WHAT, shown(soft)),
    }
}

fn priority(process: &str, (soft, _): Limit) -> Finding {
    const WHAT: &str = "thread priorities";
    let status = read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capable = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> SYS_NICE & 1 == 1);
    if capable {
        return ok(WHAT, "CAP_SYS_NICE");
    }
    match soft {
        Some(nice) if nice < NICE_MIN => warn(
            WHAT,
            format!("neither CAP_SYS_NICE nor ulimit -e {NICE_MIN}"),
            format!(
                "give one of them (LimitNICE={NICE_MIN} in its systemd unit): otherwise short requests feel long ones more"
            ),
        ),
        nice => ok(WHAT, format!("ulimit -e {}", shown(nice))),
    }
}
