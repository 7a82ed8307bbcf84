//! SIGKILL in the middle of upgrades in place, for the supervisor (the old one and the new one are one
//! process), for the process that tries the new binary or watches over it, or for all of them.

use super::changer::{Changer, Dice};
use super::{chosen, tell};
use insula_tests::process::{children, is_alive, signal};
use insula_tests::wait::within;
use insula_tests::{Host, binary};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How often, if nobody says otherwise.
const KILLS: u64 = 10;
/// The longest time between the request for an upgrade and the kill, in milliseconds: well past its end.
const KILL_MS_MAX: u64 = 800;
/// For somebody to be the host again, or for everybody to have given up.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Processes that were told of this data directory: the host, and whoever tries or watches over an upgrade.
fn told_of(data: &Path) -> Vec<u32> {
    let data = data.to_str().unwrap().as_bytes();
    let is_told = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.any(|word| word == data) && is_alive(*pid)
    };
    let all = fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_told).collect()
}

/// Ends them, whoever they are, before the directory goes.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for pid in told_of(&self.0) {
            for pid in [pid].into_iter().chain(children(pid)) {
                signal(pid, Signal::KILL);
            }
        }
    }
}

/// Who is the host, when it is clear: one process that answers; none if nobody is left that could be.
fn settled(host: &Host) -> Option<u32> {
    within(SETTLE_MAX, "one host serves, or nobody is left", || {
        let told = told_of(&host.data());
        if told.is_empty() {
            return Some(None);
        }
        let (status, info) = host.try_api("GET", "/v1/host", b"")?;
        let pid = u32::try_from(info["pid"].as_u64().filter(|_| status == 200)?).ok()?;
        // Whoever watched is gone as well, and nobody else believes to be the host.
        (told_of(&host.data()) == [pid]).then_some(Some(pid))
    })
}

#[test]
fn kills_in_the_middle_of_upgrades_leave_one_host_with_the_acknowledged_state() {
    let (kills, seed) = chosen("UPGRADE_KILLS", KILLS);
    let mut dice = Dice(seed);
    let mut host = Host::start();
    let _cleanup = Cleanup(host.data());
    let binaries = ["insula-a", "insula-b"].map(|name| {
        let path = host.home().join(name);
        if fs::hard_link(binary::insula(), &path).is_err() {
            fs::copy(binary::insula(), &path).unwrap();
        }
        path
    });
    let mut changer = Changer::new(seed, 1);
    changer.begin(&host);
    let (mut other, mut restarted, mut upgraded) = (0, 0, 0);
    for kill in 0..kills {
        let pause = Duration::from_millis(dice.roll(KILL_MS_MAX));
        let how = dice.roll(4);
        let over = AtomicBool::new(false);
        let before = host.pid();
        let serving = std::thread::scope(|scope| {
            scope.spawn(|| changer.run(&host, &over));
            scope.spawn(|| {
                let asked = json!({"binary": binaries[kill as usize % 2]}).to_string();
                let _ = host.try_api("POST", "/v1/host/upgrade", asked.as_bytes());
            });
            std::thread::sleep(pause);
            let beside: Vec<u32> =
                told_of(&host.data()).into_iter().filter(|pid| *pid != before).collect();
            match how {
                0 => host.kill_everything(),
                1 | 2 if !beside.is_empty() => {
                    for pid in &beside {
                        signal(*pid, Signal::KILL);
                    }
                }
                _ => drop(signal(before, Signal::KILL)),
            }
            // A handover that goes on is let go on.
            std::thread::sleep(Duration::from_millis(200));
            over.store(true, Relaxed);
            settled(&host)
        });
        match serving {
            Some(pid) if pid == before => upgraded += 1,
            Some(pid) => {
                // Whoever watched over the upgrade is the host now: as good as any.
                other += 1;
                host.eventually_serves();
                changer.check(&host);
                signal(pid, Signal::TERM);
                within(SETTLE_MAX, "it stops", || (!is_alive(pid)).then_some(()));
                host.kill();
                host.restart();
            }
            None => {
                restarted += 1;
                host.kill();
                host.restart();
            }
        }
        changer.check(&host);
        super::nothing_half(&host);
        assert_eq!(told_of(&host.data()), [host.pid()], "two hosts");
    }
    tell(format!(
        "{kills} kills in upgrades: {upgraded} hosts lived on, {other} were taken over, {restarted} restarted\n"
    ));
    assert!(changer.acknowledged > 0, "nothing was changed meanwhile");
    host.must(["audit", "--verify"]);
}
