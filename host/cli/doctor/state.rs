//! What the data directory holds: the database and its copy, artifacts, compiled code, secrets.

use super::host::Held;
use super::{Finding, fail, ok, warn};
use crate::text;
use insula_model::Digest;
use insula_sandbox::inventory::CodeInventory;
use insula_supervisor::HostConfig;
use insula_supervisor::survey::{self, Contents, Database};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// A clock that is behind the newest record by less than this was corrected, in seconds.
const BEHIND_S_MAX: i64 = 5;
/// A copy that is older than this and than the database is of little use.
const COPY_AGE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How many names a finding lists.
const NAMED_MAX: usize = 3;

pub(super) fn look(config: &HostConfig, held: &Held, deep: bool) -> Vec<Finding> {
    let data = &config.data;
    if !data.is_dir() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    match survey::database(data, config.secrets_key.clone()) {
        Database::New => findings.push(ok("state", "no database yet")),
        Database::Gone => findings.push(fail(
            "state",
            "state.db is gone or empty, although this directory has held tenants",
            restore(data, held),
        )),
        Database::Unusable(why) => {
            findings.push(fail("state", format!("state.db: {why}"), restore(data, held)));
        }
        Database::Newer(found, known) => findings.push(fail(
            "state",
            format!("state.db has version {found}, this program knows up to {known}"),
            "use the version that wrote it, or a later one",
        )),
        Database::Sound(contents) => {
            let tenants = contents.tenants;
            findings.push(ok(
                "state",
                format!(
                    "sound: {tenants} {}, schema {}",
                    text::plural(tenants, "tenant"),
                    contents.version
                ),
            ));
            findings.extend(records(&contents));
            findings.push(secrets(&contents));
            findings.push(artifacts(data, &contents, deep));
        }
    }
    findings.extend(copy(data));
    findings.extend(beside(data, held));
    findings.push(code(data, held, deep));
    findings
}

fn restore(data: &Path, held: &Held) -> String {
    let stop = if held.pid.is_some() { "stop the host; " } else { "" };
    match survey::copy(data) {
        Some((_, None)) => format!("{stop}insula doctor --restore puts the last good copy back"),
        _ => format!("{stop}there is no good copy: put `state.db` back from your own backup"),
    }
}

fn records(contents: &Contents) -> Option<Finding> {
    const WHAT: &str = "clock and records";
    let newest: Timestamp = contents.newest.as_ref()?.parse().ok()?;
    let ahead = newest.as_second() - Timestamp::now().as_second();
    Some(match ahead > BEHIND_S_MAX {
        true => warn(
            WHAT,
            format!("the newest record is of {newest:.0}, which is to come"),
            "set the clock right; if it is right, the record was made by a wrong one, and only looks odd",
        ),
        false => ok(WHAT, format!("the newest record is of {newest:.0}")),
    })
}

fn secrets(contents: &Contents) -> Finding {
    const WHAT: &str = "secrets";
    match (&contents.unreadable, contents.secrets) {
        (Some(why), _) => fail(
            WHAT,
            why.clone(),
            "give the key that they were set with: --secrets-key, INSULA_SECRETS_KEY, or secrets.key",
        ),
        (None, 0) => ok(WHAT, "none are set"),
        (None, count) => ok(WHAT, format!("{count} open with the key")),
    }
}

fn artifacts(data: &Path, contents: &Contents, deep: bool) -> Finding {
    const WHAT: &str = "artifacts";
    let known: BTreeSet<Digest> = contents.artifacts.keys().copied().collect();
    let found = survey::artifacts_against(data, &known, deep);
    let named = |digests: &[Digest]| {
        let names = digests.iter().take(NAMED_MAX).map(|digest| {
            let tenant = contents.artifacts.get(digest).map_or("", String::as_str);
            format!("{tenant} ({})", digest.short())
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let mend = "deploy these tenants again: that brings the bytes; look after the disk";
    if !found.missing.is_empty() {
        let found = format!("{} missing: {}", found.missing.len(), named(&found.missing));
        return fail(WHAT, found, mend);
    }
    if !found.damaged.is_empty() {
        let found = format!("{} damaged: {}", found.damaged.len(), named(&found.damaged));
        return fail(WHAT, found, mend);
    }
    let how = if deep { "all bytes are right" } else { "all there" };
    let mut said = format!("{}, {how}", known.len());
    if !found.orphans.is_empty() {
        let bytes = found.orphans.iter().map(|(_, bytes)| bytes).sum();
        let count = found.orphans.len();
        said.push_str(&format!(
            "; {count} without a tenant ({}), removed an hour after their upload",
            text::bytes(bytes)
        ));
    }
    ok(WHAT, said)
}

fn copy(data: &Path) -> Option<Finding> {
    const WHAT: &str = "copy of the state";
    let database =
        data.join("state.db").metadata().and_then(|metadata| metadata.modified()).ok()?;
    Some(match survey::copy(data) {
        None => warn(
            WHAT,
            "none yet",
            "a host makes one a second after its start; run one for that long",
        ),
        Some((_, Some(why))) => fail(
            WHAT,
            format!("state.db.bak: {why}"),
            "remove it while the state is sound: a host that runs makes another; look after the disk",
        ),
        Some((made, None)) => {
            let at =
                Timestamp::try_from(made).map_or_else(|_| String::new(), |at| format!("{at:.0}"));
            let behind = database.duration_since(made).unwrap_or_default();
            match behind > COPY_AGE_MAX {
                true => warn(
                    WHAT,
                    format!("of {at}, long before the last change"),
                    "see the host's log for why no other is made",
                ),
                false => ok(WHAT, format!("sound, of {at}")),
            }
        }
    })
}

fn beside(data: &Path, held: &Held) -> Option<Finding> {
    const WHAT: &str = "other databases";
    let all = survey::beside(data);
    let damaged: Vec<String> =
        all.iter().filter_map(|(name, why)| Some(format!("{name}: {}", why.as_ref()?))).collect();
    if all.is_empty() {
        return None;
    }
    if damaged.is_empty() {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        return Some(ok(WHAT, format!("{} sound", names.join(", "))));
    }
    let stop = if held.pid.is_some() { "stop the host; " } else { "" };
    let mend = format!("{stop}put it back from a backup, or move it away: a new one is begun");
    Some(fail(WHAT, damaged.join(", "), mend))
}

fn code(data: &Path, held: &Held, deep: bool) -> Finding {
    const WHAT: &str = "compiled code";
    let found = match CodeInventory::of(data, deep) {
        Ok(found) => found,
        Err(error) => {
            return fail(
                WHAT,
                error.to_string(),
                "see address space and vm.overcommit_memory above",
            );
        }
    };
    let (files, bytes) = found.sound;
    let sound = format!("{files} files, {}", text::bytes(bytes));
    if found.stale.is_empty() && found.unsound.is_empty() {
        return ok(WHAT, sound);
    }
    let mut parts = vec![sound];
    if !found.stale.is_empty() {
        parts.push(format!("{} of other versions", found.stale.len()));
    }
    if !found.unsound.is_empty() {
        parts.push(format!("{} without a sound seal", found.unsound.len()));
    }
    let mend = match held.pid {
        Some(_) => {
            "nothing: a restart removes what other versions compiled, and the rest is made again"
        }
        None => "insula doctor --fix removes them; they are made again where they are wanted",
    };
    let removable = text::bytes(found.removable_bytes);
    warn(WHAT, format!("{}: {removable} can go", parts.join(", ")), mend)
}
