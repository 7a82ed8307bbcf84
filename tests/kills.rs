//! SIGKILL at random instants of a loop that deploys, rolls back, rotates secrets, stops, starts, exports,
//! imports and removes: what was acknowledged is in force afterwards, what was under way was done or was not,
//! and nothing is left over. And in the middle of upgrades in place ([`upgrading`]).
//!
//! `KILLS=1000 cargo test -p insula-tests --test kills` kills as often (`UPGRADE_KILLS` in upgrades);
//! `KILLS_SEED=N` repeats a choice of instants and changes, as far as a machine repeats itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "kills/changer.rs"]
mod changer;
#[path = "kills/upgrading.rs"]
mod upgrading;

use changer::{Changer, Dice};
use insula_tests::process::{children, signal};
use insula_tests::wait::{PATIENCE, eventually, within};
use insula_tests::{Connection, Host, repo};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the host is killed, if nobody says otherwise.
const KILLS: u64 = 40;
/// Threads that change tenants at once, each its own.
const CHANGERS: u64 = 2;
/// The longest time between the first change and the kill, in milliseconds.
const KILL_MS_MAX: u64 = 400;
/// Well past the hour that an upload may wait for its deploy.
const OLD: Duration = Duration::from_secs(2 * 3_600);

/// How often to kill (by the variable of this name), and the seed.
fn chosen(name: &str, kills: u64) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let (kills, seed) = (number(name).unwrap_or(kills), number("KILLS_SEED"));
    let seed = seed.unwrap_or(u64::from(now));
    tell(format!("\n{name}={kills} KILLS_SEED={seed}\n"));
    (kills, seed)
}

/// Past the test runner, which keeps what a passing test prints to itself.
fn tell(text: String) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

#[test]
fn kills_at_random_instants_lose_nothing_and_leave_nothing() {
    let (kills, seed) = chosen("KILLS", KILLS);
    let mut dice = Dice(seed);
    let mut host = Host::start();
    let mut changers: Vec<Changer> = (1..=CHANGERS).map(|n| Changer::new(seed, n)).collect();
    // What each begins with is compiled before the clock runs.
    for changer in &mut changers {
        changer.begin(&host);
    }
    let never = AtomicBool::new(false);
    for kill in 0..kills {
        let pause = Duration::from_millis(dice.roll(KILL_MS_MAX));
        let how = dice.roll(10);
        std::thread::scope(|scope| {
            for changer in &mut changers {
                scope.spawn(|| changer.run(&host, &never));
            }
            std::thread::sleep(pause);
            match how {
                // Its workers finish what they have and go.
                0 | 1 => drop(signal(host.pid(), Signal::KILL)),
                // One child first, as when memory runs out.
                2 | 3 => {
                    let child = children(host.pid()).into_iter().next_back();
                    child.map(|pid| signal(pid, Signal::KILL));
                    std::thread::sleep(Duration::from_millis(dice.roll(30)));
                    host.kill_everything();
                }
                _ => host.kill_everything(),
            }
        });
        host.kill();
        host.restart();
        for changer in &mut changers {
            changer.check(&host);
        }
        if kill % 100 == 99 {
            tell(format!("{} kills\n", kill + 1));
        }
        nothing_half(&host);
    }
    let sum = |of: fn(&Changer) -> u64| changers.iter().map(of).sum::<u64>();
    let acknowledged = sum(|changer| changer.acknowledged);
    let (exported, imported) = (sum(|changer| changer.exported), sum(|changer| changer.imported));
    tell(format!(
        "{kills} kills, {acknowledged} acknowledged changes, {imported} of them imports; {exported} exports\n"
    ));
    // On a machine that does something else, a good part of the kills comes before the first answer.
    assert!(acknowledged > kills / 4, "too few changes to mean anything: {acknowledged}");
    assert!(exported > 0 && (imported > 0 || kills <= KILLS), "nothing was moved");
    if changers.iter().all(|changer| changer.known.values().all(|known| known.active == 0)) {
        // The last changes removed every tenant.
        changers[0].begin(&host);
    }
    nothing_left_over(&mut host, &changers);
}

/// Everything that a data directory may have at the top, and in `tenants`: nothing of an export, and nothing that
/// an import has put down for somebody who is not there.
const DATA: &[&str] = &[
    "artifacts",
    "audit",
    "code",
    "control.sock",
    "host.key",
    "lock",
    "logs",
    "reserve",
    "secrets.key",
    "state.db",
    "state.db-shm",
    "state.db-wal",
    "tenants",
    "usage.db",
    "usage.db-shm",
    "usage.db-wal",
];
const OF_TENANTS: &[&str] = &["keyvalue.db", "keyvalue.db-shm", "keyvalue.db-wal", "scratch"];

/// Files that only something half-done has.
#[track_caller]
fn nothing_half(host: &Host) {
    // But for the host's own copy of its database, while that is made.
    eventually("nothing half-done", || repo::files(&host.data(), "tmp").is_empty().then_some(()));
    for (dir, known) in [(host.data(), DATA), (host.data().join("tenants"), OF_TENANTS)] {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_copy = name.starts_with("state.db.bak");
            assert!(is_copy || known.contains(&name.as_str()), "{name} is left");
        }
    }
    let arriving = fs::read_dir(host.data().join("tenants/scratch")).into_iter().flatten();
    let arriving: Vec<_> = arriving.map(|entry| entry.unwrap().file_name()).collect();
    assert!(arriving.is_empty(), "{arriving:?}");
}

/// Once nobody can be about to deploy them, artifacts without an owner go, and so does all else that a
/// removal was killed in the middle of.
#[track_caller]
fn nothing_left_over(host: &mut Host, changers: &[Changer]) {
    assert!(host.stop(Signal::TERM).success());
    let data = host.data();
    let stored = |dir: &str, endings: &[&str]| -> Vec<PathBuf> {
        endings.iter().flat_map(|ending| repo::files(&data.join(dir), ending)).collect()
    };
    for file in stored("artifacts", &["wasm"]).into_iter().chain(stored("code", &["code", "seal"]))
    {
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - OLD).unwrap();
    }
    host.restart();
    let stem = |file: &Path| {
        file.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned()
    };
    let known = || changers.iter().flat_map(|changer| &changer.known);
    let owned: BTreeSet<String> = known()
        .flat_map(|(_, known)| known.revisions.values())
        .map(|revision| revision.artifact.trim_start_matches("sha256:").to_owned())
        .collect();
    assert!(!owned.is_empty());
    let kept = || stored("artifacts", &["wasm"]).iter().map(|file| stem(file)).collect();
    let until = Instant::now() + PATIENCE;
    loop {
        let there: BTreeSet<String> = kept();
        let (left, lost) = (there.difference(&owned), owned.difference(&there));
        let (left, lost): (Vec<_>, Vec<_>) = (left.collect(), lost.collect());
        if left.is_empty() && lost.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "artifacts without an owner: {left:?}; gone: {lost:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    eventually("code without an owner is gone", || {
        let code = stored("code", &["code", "seal"]);
        code.iter().all(|file| owned.contains(&stem(file))).then_some(())
    });
    let deployed: BTreeSet<String> =
        known().filter(|(_, known)| known.active > 0).map(|(name, _)| name.clone()).collect();
    let logs = fs::read_dir(data.join("logs")).unwrap();
    let logged: BTreeSet<String> = logs.map(|entry| stem(&entry.unwrap().path())).collect();
    assert!(logged.is_subset(&deployed), "logs of {:?}", logged.difference(&deployed));
    let report =
        host.cli(["doctor", "--deep", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    report.expect(0, &[]);
    // And it still works.
    let running: Vec<&String> = known()
        .filter(|(_, known)| known.active > 0 && !known.stopped)
        .map(|(name, _)| name)
        .collect();
    if running.is_empty() {
        return;
    }
    within(Duration::from_secs(10), "an answer", || {
        let name = running.first()?;
        let answer = Connection::try_open(host.addr()).ok()?.get(&format!("{name}.localhost"), "/");
        (answer.status() == 200).then_some(())
    });
}
