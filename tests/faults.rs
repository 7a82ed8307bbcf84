//! Faults of the machine and of those who use it. Whatever fails: tenants are served, nothing that was
//! acknowledged is lost, the message names cause and mend, and what was in the way being gone, all goes
//! on by itself. Beside these: `crashes`, `restarts` and `kills` (processes that die), `full` (workers
//! out of resources), `deploying` (compiled code that was tampered with).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/artifacts.rs"]
mod artifacts;
#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/database.rs"]
mod database;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/processes.rs"]
mod processes;

use insula_tests::cli::{finish, insula};
use insula_tests::{Host, Output, repo};

/// `insula secret set` with this on standard input.
#[track_caller]
fn set_secret(host: &Host, name: &str, key: &str, value: &str) -> Output {
    let mut command = insula(host.home());
    command.env("INSULA_DATA", host.data()).args(["secret", "set", name, key]);
    finish(&mut command, value.as_bytes())
}

/// Deploys an example guest with these further lines of manifest.
#[track_caller]
fn deploy(host: &Host, guest: &str, name: &str, more: &str) -> Output {
    let component = repo::guest(guest);
    let manifest = format!("name = '{name}'\ncomponent = '{}'\n{more}\n", component.display());
    let file = host.file(&format!("{name}.toml"), manifest);
    host.cli(["deploy", "-f", file.to_str().unwrap()])
}

/// What the doctor finds of one thing, and its exit code.
#[track_caller]
fn doctor(host: &Host, what: &str) -> (String, String, Option<i32>) {
    let data = host.data();
    let output =
        host.cli(["doctor", "--json", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    let report: serde_json::Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["what"] == what);
    let finding = finding.unwrap_or_else(|| panic!("nothing of {what}: {report}"));
    let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    (word("level"), format!("{} {}", word("found"), word("mend")), output.code)
}
