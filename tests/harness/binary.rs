//! The binary under test: built once, exactly as `cargo run --release` builds it.

use crate::repo;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// `cargo test` tells tests about their own package. A build that inherited it would look changed to
/// Cargo, and start from nothing.
const OF_THE_OUTER_PACKAGE: [&str; 7] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_MANIFEST_LINKS",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_TMPDIR",
];

/// Where the real `insula` is. `INSULA_TEST_BINARY` names one to test in place of this repository's.
pub fn insula() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("INSULA_TEST_BINARY") {
        Some(given) => std::path::absolute(given).expect("INSULA_TEST_BINARY"),
        None => build(),
    })
}

/// Cargo's own lock keeps several test processes from building at once. Its progress goes to standard
/// error, so that whoever waits for the first build sees why.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--bin", "insula"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(repo::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || OF_THE_OUTER_PACKAGE.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    let built = command.output().expect("cargo");
    assert!(built.status.success(), "`cargo build --release --bin insula` failed; see above");
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "insula")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names no executable `insula`")
}
