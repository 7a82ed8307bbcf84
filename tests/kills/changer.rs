//! Threads that change tenants, and what they know of them: a model that a host is held against.

use insula_tests::wait::PATIENCE;
use insula_tests::{Connection, Host, repo};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Tenants of each thread.
pub(crate) const TENANTS: u64 = 3;

/// Numbers that look random and can be had again (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// One of 0 to `below` - 1.
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revision {
    pub(crate) artifact: String,
    pub(crate) stamp: String,
    pub(crate) gets_token: bool,
}

/// Everything about one name that outlives a kill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// 0: not deployed.
    pub(crate) active: u32,
    previous: u32,
    last: u32,
    pub(crate) revisions: BTreeMap<u32, Revision>,
    token: Option<String>,
    /// What the token may be instead: of sets whose answers were lost while no answer of the tenant's shows it.
    unseen: Vec<String>,
    pub(crate) stopped: bool,
}

impl Known {
    /// What it is after a deploy.
    pub(crate) fn deployed(&self, revision: Revision) -> Self {
        let number = self.last + 1;
        let mut next = self.clone();
        (next.previous, next.active, next.last) = (self.active, number, number);
        next.revisions.insert(number, revision);
        next
    }

    fn rolled_back(&self) -> Self {
        Self { active: self.previous, previous: self.active, ..self.clone() }
    }

    /// Whether its answer has the token in it.
    fn shows_token(&self) -> bool {
        !self.stopped && self.revisions.get(&self.active).is_some_and(|active| active.gets_token)
    }

    /// This, and the same with each token that it may have instead.
    fn possible(&self) -> Vec<Self> {
        let others = self.unseen.iter().cloned();
        let others = others.map(|token| Self { token: Some(token), ..self.clone() });
        [self.clone()].into_iter().chain(others).collect()
    }

    /// Whether an archive of it can be taken where this is the secret.
    fn may_come_where(&self, token: Option<&String>) -> bool {
        token.is_some() || self.revisions.values().all(|revision| !revision.gets_token)
    }
}

/// What one thread knows of its tenants, and what of it may be true or not.
pub(crate) struct Changer {
    dice: Dice,
    /// What makes the bytes of each artifact its own.
    pub(crate) artifacts: Vec<u64>,
    pub(crate) known: BTreeMap<String, Known>,
    under_way: Option<(String, Known)>,
    /// Whole exports: of which tenant, as it was, and the bytes.
    archives: BTreeMap<String, (Known, Vec<u8>)>,
    pub(crate) acknowledged: u64,
    /// Of these, imports.
    pub(crate) imported: u64,
    pub(crate) exported: u64,
}

impl Changer {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let names = (0..TENANTS).map(|i| (format!("t-{number}-{i}"), Known::default()));
        let (known, dice) = (names.collect(), Dice(seed ^ (number << 32)));
        Self {
            dice,
            artifacts: vec![number],
            known,
            under_way: None,
            archives: BTreeMap::new(),
            acknowledged: 0,
            imported: 0,
            exported: 0,
        }
    }

    /// Deploys its first tenant, so that what it begins with is compiled.
    #[track_caller]
    pub(crate) fn begin(&mut self, host: &Host) {
        let artifact = upload(host, self.artifacts[0]).unwrap();
        let (name, known) = self.known.iter_mut().next().unwrap();
        let manifest = json!({"name": name, "config": {"stamp": "first"}});
        let body = json!({"manifest": manifest, "artifact": artifact});
        let (status, said) = host.api("PUT", &format!("/v1/tenants/{name}"), Some(&body));
        assert_eq!(status, 200, "{said}");
        *known = known.deployed(Revision { artifact, stamp: "first".into(), gets_token: false });
    }

    /// Changes one thing after the other until the host does not answer, or it is `over`.
    pub(crate) fn run(&mut self, host: &Host, over: &AtomicBool) {
        let mut turn = 0;
        while !over.load(Relaxed) {
            turn += 1;
            let name = self.known.keys().nth(self.dice.roll(TENANTS) as usize).unwrap().clone();
            let before = self.known[&name].clone();
            let deployed = before.active > 0;
            let path = format!("/v1/tenants/{name}");
            let archive = self.archives.get(&name);
            let archive = archive.filter(|(known, _)| known.may_come_where(before.token.as_ref()));
            let (after, method, path, body) = match self.dice.roll(16) {
                0 if deployed => (Known::default(), "DELETE", path, Vec::new()),
                1 | 2 if before.previous > 0 => {
                    (before.rolled_back(), "POST", format!("{path}/rollback"), b"{}".to_vec())
                }
                3 | 4 => {
                    let token = format!("token-{}", self.dice.roll(u64::MAX));
                    let body = token.clone().into_bytes();
                    let after = Known { token: Some(token), unseen: Vec::new(), ..before };
                    (after, "PUT", format!("{path}/secrets/TOKEN"), body)
                }
                5 | 6 if deployed => {
                    let verb = if before.stopped { "start" } else { "stop" };
                    let after = Known { stopped: !before.stopped, ..before };
                    (after, "POST", format!("{path}/{verb}"), b"{}".to_vec())
                }
                7 | 8 if deployed => {
                    if self.export(host, &name).is_none() {
                        return;
                    }
                    continue;
                }
                9 | 10 if archive.is_some() => {
                    let (known, tar) = archive.unwrap();
                    let Known { token, unseen, .. } = before;
                    let after = Known { token, unseen, ..known.clone() };
                    (after, "POST", "/v1/import?replace=true".into(), tar.clone())
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
            // An import says of each tenant what became of it.
            let refused = &said["tenants"][0]["error"];
            let why = if refused.is_null() { &said } else { refused };
            let why = why["message"].as_str().unwrap_or_default();
            match status {
                // It was the compiler or the probing worker that was hit: nothing was changed.
                200 | 422 | 500 if was_hit(why) => {
                    self.under_way = None;
                    continue;
                }
                200 | 204 if refused.is_null() => {
                    self.acknowledged += 1;
                    self.imported += u64::from(path.starts_with("/v1/import"));
                }
                // The other thread imports; or the host is about to be another.
                429 | 503 => {
                    self.under_way = None;
                    continue;
                }
                _ => panic!("{method} {path}: {status} {said}"),
            }
            self.known.insert(name, after);
            self.under_way = None;
        }
    }

    /// Exports a tenant, or all of them; none if the host did not answer to the end.
    fn export(&mut self, host: &Host, name: &str) -> Option<()> {
        let all = self.dice.roll(4) == 0;
        let asked = if all { json!({"all": true}) } else { json!({"tenants": [name]}) };
        let stream = UnixStream::connect(host.data().join("control.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("socket");
        let fields = [("content-type", "application/json"), ("connection", "close")];
        let body = asked.to_string();
        let answer = Connection::over(stream)
            .try_ask("POST", "insula", "/v1/export", &fields, Some(body.as_bytes()))
            .ok()
            .filter(|answer| answer.whole)?;
        if answer.status() != 200 {
            assert!(matches!(answer.status(), 429 | 503), "export: {}", answer.text());
            return Some(());
        }
        let last = b"manifest.json";
        assert!(answer.body.windows(last.len()).any(|part| part == last), "not a whole archive");
        self.exported += 1;
        if !all {
            self.archives.insert(name.to_owned(), (self.known[name].clone(), answer.body));
        }
        Some(())
    }

    /// Holds the host against what is known; what was under way is known from then on.
    #[track_caller]
    pub(crate) fn check(&mut self, host: &Host) {
        let under_way = self.under_way.take();
        for (name, known) in &mut self.known {
            let found = there(host, name);
            let matches = |known: &Known| {
                let revisions =
                    known.revisions.iter().map(|(n, revision)| (*n, revision.artifact.clone()));
                found.active == known.active
                    && found.revisions == revisions.collect()
                    && found.has_token == known.token.is_some()
                    && found.stopped == known.stopped
                    && found.says == says(name, known)
            };
            let after = under_way.as_ref().filter(|(of, _)| of == name).map(|(_, after)| after);
            let all =
                known.possible().into_iter().chain(after.into_iter().flat_map(Known::possible));
            let Some(mut now) = all.into_iter().find(|one| matches(one)) else {
                panic!("{name}: {found:?}\nknown: {known:?}\nunder way: {under_way:?}");
            };
            if now.shows_token() {
                now.unseen.clear();
            } else {
                let maybe = after.filter(|after| after.token != now.token && matches(after));
                now.unseen.extend(maybe.and_then(|after| after.token.clone()));
            }
            *known = now;
        }
    }
}

/// Whether it was a child of the host that a kill has hit, and not the host.
fn was_hit(why: &str) -> bool {
    why.contains("was killed") || why.contains("that tried it died")
}

/// What a tenant answers, whole; none if it is not deployed, or stopped.
fn says(name: &str, known: &Known) -> Option<String> {
    let revision = known.revisions.get(&known.active)?;
    if known.stopped {
        return None;
    }
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
    stopped: bool,
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
        let revisions = BTreeMap::new();
        return Found { active: 0, revisions, has_token, stopped: false, says: None };
    }
    let stopped = tenant["stopped_at"] != Value::Null;
    let active = u32::try_from(tenant["revision"].as_u64().unwrap()).unwrap();
    let revisions = host.revisions(name);
    assert!(revisions.iter().all(|revision| revision.active == (revision.revision == active)));
    let revisions =
        revisions.into_iter().map(|revision| (revision.revision, revision.artifact.to_string()));
    let says = if stopped {
        answer.expect_fault("tenant-stopped");
        None
    } else {
        Some(answer.expect_ok().text())
    };
    Found { active, revisions: revisions.collect(), has_token, stopped, says }
}

/// Uploads the guest that shows its settings, in bytes of its own; its digest.
pub(crate) fn upload(host: &Host, number: u64) -> Option<String> {
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
