//! SIGKILL at random instants of a loop that deploys, rolls back, rotates secrets and removes: what was
//! acknowledged is in force afterwards, what was under way was done or was not, and nothing is left over.
//!
//! `KILLS=1000 cargo test -p insula-tests --test kills` kills as often; `KILLS_SEED=N` repeats a choice
//! of instants and changes, as far as a machine repeats itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::process::{children, signal};
use insula_tests::wait::{eventually, within};
use insula_tests::{Connection, Host, repo};
use rustix::process::Signal;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the host is killed, if nobody says otherwise.
const KILLS: u64 = 40;
/// Threads that change tenants at once, each its own.
const CHANGERS: u64 = 2;
/// Tenants of each.
const TENANTS: u64 = 3;
/// The longest time between the first change and the kill, in milliseconds.
const KILL_MS_MAX: u64 = 400;
/// Well past the hour that an upload may wait for its deploy.
const OLD: Duration = Duration::from_secs(2 * 3_600);

/// Numbers that look random and can be had again (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Revision {
    artifact: String,
    stamp: String,
    gets_token: bool,
}

/// Everything about one name that outlives a kill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// 0: not deployed.
    active: u32,
    previous: u32,
    last: u32,
    revisions: BTreeMap<u32, Revision>,
    token: Option<String>,
}

impl Known {
    fn deployed(&self, revision: Revision) -> Self {
        let number = self.last + 1;
        let mut next = self.clone();
        (next.previous, next.active, next.last) = (self.active, number, number);
        next.revisions.insert(number, revision);
        next
    }

    fn rolled_back(&self) -> Self {
        Self { active: self.previous, previous: self.active, ..self.clone() }
    }
}

/// What one thread knows of its tenants, and what of it may be true or not.
struct Changer {
    dice: Dice,
    /// What makes the bytes of each artifact its own.
    artifacts: Vec<u64>,
    known: BTreeMap<String, Known>,
    under_way: Option<(String, Known)>,
    acknowledged: u64,
}

impl Changer {
    fn new(seed: u64, number: u64) -> Self {
        let names = (0..TENANTS).map(|i| (format!("t-{number}-{i}"), Known::default()));
        let (known, dice) = (names.collect(), Dice(seed ^ (number << 32)));
        Self { dice, artifacts: vec![number], known, under_way: None, acknowledged: 0 }
    }

    /// Changes one thing after the other until the host does not answer.
    fn run(&mut self, host: &Host) {
        let mut turn = 0;
        loop {
            turn += 1;
            let name = self.known.keys().nth(self.dice.roll(TENANTS) as usize).unwrap().clone();
            let before = self.known[&name].clone();
            let deployed = before.active > 0;
            let path = format!("/v1/tenants/{name}");
            let (after, method, path, body) = match self.dice.roll(10) {
                0 if deployed => (Known::default(), "DELETE", path, Vec::new()),
                1 | 2 if before.previous > 0 => {
                    (before.rolled_back(), "POST", format!("{path}/rollback"), b"{}".to_vec())
                }
                3 | 4 => {
                    let token = format!("token-{}", self.dice.roll(u64::MAX));
                    let body = token.clone().into_bytes();
                    let after = Known { token: Some(token), ..before };
                    (after, "PUT", format!("{path}/secrets/TOKEN"), body)
                }
                _ => {
                    // An eighth of the deploys brings bytes that the host has never seen.
                    if self.dice.roll(8) == 0 {
                        self.artifacts.push(self.dice.roll(u64::MAX));
                    }
                    let at = self.dice.roll(self.artifacts.len().min(4) as u64) as usize;
                    let number = self.artifacts[self.artifacts.len() - 1 - at];
                    // As `insula deploy` would: it may have gone with the last tenant that had it.
                    let Some(artifact) = upload(host, number) else { return };
                    // No deploy says what was said before.
                    let stamp = format!("{turn}-{}", self.dice.roll(u64::MAX));
                    let gets_token = before.token.is_some();
                    let mut manifest = json!({"name": name, "config": {"stamp": stamp}});
                    if gets_token {
                        manifest["secrets"] = json!({"TOKEN": "env"});
                    }
                    let body = json!({"manifest": manifest, "artifact": artifact}).to_string();
                    let after = before.deployed(Revision { artifact, stamp, gets_token });
                    (after, "PUT", path, body.into_bytes())
                }
            };
            self.under_way = Some((name.clone(), after.clone()));
            let Some((status, said)) = host.try_api(method, &path, &body) else { return };
            match status {
                200 | 204 => self.acknowledged += 1,
                // It was the compiler that was hit: nothing was changed.
                500 if said["message"].as_str().is_some_and(|text| text.contains("was killed")) => {
                    self.under_way = None;
                    continue;
                }
                _ => panic!("{method} {path}: {status} {said}"),
            }
            self.known.insert(name, after);
            self.under_way = None;
        }
    }

    /// Holds the host against what is known; what was under way is known from then on.
    #[track_caller]
    fn check(&mut self, host: &Host) {
        let under_way = self.under_way.take();
        for (name, known) in &mut self.known {
            let found = there(host, name);
            let matches = |known: &Known| {
                let revisions =
                    known.revisions.iter().map(|(n, revision)| (*n, revision.artifact.clone()));
                found.active == known.active
                    && found.revisions == revisions.collect()
                    && found.has_token == known.token.is_some()
                    && found.says == says(name, known)
            };
            if matches(known) {
                continue;
            }
            match &under_way {
                Some((of, after)) if of == name && matches(after) => *known = after.clone(),
                _ => panic!("{name}: {found:?}\nknown: {known:?}\nunder way: {under_way:?}"),
            }
        }
    }
}

/// What a tenant answers, whole; none if it is not deployed.
fn says(name: &str, known: &Known) -> Option<String> {
    let revision = known.revisions.get(&known.active)?;
    let env = match &known.token {
        Some(token) if revision.gets_token => format!("TOKEN={token}\n"),
        _ => String::new(),
    };
    Some(format!("config\nstamp={}\nenv\n{env}args\n{name}\n", revision.stamp))
}

#[derive(Debug)]
struct Found {
    active: u32,
    revisions: BTreeMap<u32, String>,
    has_token: bool,
    says: Option<String>,
}

#[track_caller]
fn there(host: &Host, name: &str) -> Found {
    let (status, secrets) = host.api("GET", &format!("/v1/tenants/{name}/secrets"), None);
    let has_token = status == 200 && secrets.as_array().is_some_and(|all| !all.is_empty());
    let (status, tenant) = host.api("GET", &format!("/v1/tenants/{name}"), None);
    let answer = host.get(name, "/");
    if status == 404 {
        answer.expect_fault("no-route");
        return Found { active: 0, revisions: BTreeMap::new(), has_token, says: None };
    }
    let active = u32::try_from(tenant["revision"].as_u64().unwrap()).unwrap();
    let revisions = host.revisions(name);
    assert!(revisions.iter().all(|revision| revision.active == (revision.revision == active)));
    let revisions =
        revisions.into_iter().map(|revision| (revision.revision, revision.artifact.to_string()));
    Found {
        active,
        revisions: revisions.collect(),
        has_token,
        says: Some(answer.expect_ok().text()),
    }
}

/// Uploads the guest that shows its settings, in bytes of its own; its digest.
fn upload(host: &Host, number: u64) -> Option<String> {
    use sha2::Digest;
    let mut bytes = fs::read(repo::guest("settings")).unwrap();
    // A custom section, named `n`.
    bytes.extend([0, 10, 1, b'n']);
    bytes.extend(number.to_le_bytes());
    let digest = sha2::Sha256::digest(&bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let artifact = format!("sha256:{hex}");
    let (status, said) = host.try_api("PUT", &format!("/v1/artifacts/{artifact}"), &bytes)?;
    assert!(matches!(status, 200 | 201), "{status} {said}");
    Some(artifact)
}

#[test]
fn kills_at_random_instants_lose_nothing_and_leave_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let (kills, seed) = (number("KILLS").unwrap_or(KILLS), number("KILLS_SEED"));
    let seed = seed.unwrap_or(u64::from(now));
    // Past the test runner, which keeps what a passing test prints to itself.
    let tell = |text: String| {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    };
    tell(format!("\nKILLS={kills} KILLS_SEED={seed}\n"));
    let mut dice = Dice(seed);
    let mut host = Host::start();
    let mut changers: Vec<Changer> = (1..=CHANGERS).map(|n| Changer::new(seed, n)).collect();
    // What each begins with is compiled before the clock runs.
    for changer in &mut changers {
        let artifact = upload(&host, changer.artifacts[0]).unwrap();
        let (name, known) = changer.known.iter_mut().next().unwrap();
        let manifest = json!({"name": name, "config": {"stamp": "first"}});
        let body = json!({"manifest": manifest, "artifact": artifact});
        let (status, said) = host.api("PUT", &format!("/v1/tenants/{name}"), Some(&body));
        assert_eq!(status, 200, "{said}");
        *known = known.deployed(Revision { artifact, stamp: "first".into(), gets_token: false });
    }
    for kill in 0..kills {
        let pause = Duration::from_millis(dice.roll(KILL_MS_MAX));
        let how = dice.roll(10);
        std::thread::scope(|scope| {
            for changer in &mut changers {
                scope.spawn(|| changer.run(&host));
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
    let acknowledged: u64 = changers.iter().map(|changer| changer.acknowledged).sum();
    tell(format!("{kills} kills, {acknowledged} acknowledged changes\n"));
    assert!(acknowledged > kills, "too few changes to mean anything: {acknowledged}");
    nothing_left_over(&mut host, &changers);
}

/// Files that only something half-done has.
#[track_caller]
fn nothing_half(host: &Host) {
    let half = repo::files(&host.data(), "tmp");
    assert!(half.is_empty(), "{half:?}");
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
    assert!(!owned.is_empty(), "the last changes removed every tenant: another seed, please");
    eventually("artifacts without an owner are gone", || {
        let there: BTreeSet<String> =
            stored("artifacts", &["wasm"]).iter().map(|file| stem(file)).collect();
        (there == owned).then_some(())
    });
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
    within(Duration::from_secs(10), "an answer", || {
        let name = deployed.first()?;
        let answer = Connection::try_open(host.addr()).ok()?.get(&format!("{name}.localhost"), "/");
        (answer.status() == 200).then_some(())
    });
}
