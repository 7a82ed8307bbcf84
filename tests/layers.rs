//! What the layout promises, held against the tree itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::repo::{files, root, text};
use std::collections::BTreeSet;
use std::process::Command;

/// Lines of one file, beyond which it is two things.
const LINES_MAX: usize = 500;

fn dependencies(krate: &str) -> BTreeSet<String> {
    let manifest: toml::Table = text(&format!("host/{krate}/Cargo.toml")).parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn the_arrows_between_crates_point_down() {
    let allowed = [
        ("model", &[][..]),
        ("ipc", &["model"]),
        ("sandbox", &["model"]),
        ("worker", &["model", "ipc", "sandbox"]),
        ("supervisor", &["model", "ipc", "sandbox"]),
    ];
    for (krate, allowed) in allowed {
        for dependency in dependencies(krate) {
            if let Some(inner) = dependency.strip_prefix("insula-") {
                assert!(allowed.contains(&inner), "{krate} must not depend on {inner}");
            }
        }
    }
}

#[test]
fn only_the_sandbox_names_wasmtime() {
    for krate in ["model", "ipc", "worker", "supervisor"] {
        for dependency in dependencies(krate) {
            assert!(!dependency.starts_with("wasmtime"), "{krate} depends on {dependency}");
        }
    }
    for file in files(&root().join("host"), "rs") {
        let path = file.to_string_lossy().into_owned();
        let code = std::fs::read_to_string(&file).unwrap();
        let named = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .any(|line| line.contains("wasmtime::") || line.contains("wasmtime_wasi"));
        assert!(!named || path.contains("host/sandbox/"), "{path} names wasmtime");
    }
}

#[test]
fn unsafe_code_stands_where_it_may() {
    let homes = ["sandbox/src/code.rs", "ipc/src/shm.rs", "ipc/src/fds.rs"];
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for dir in ["host", "benches", "tests"] {
        for file in files(&root().join(dir), "rs") {
            let path = file.to_string_lossy().into_owned();
            let code = std::fs::read_to_string(&file).unwrap();
            for (number, line) in code.lines().enumerate() {
                let line = line.trim_start();
                if line.starts_with("//")
                    || !(line.contains("unsafe {") || line.contains("unsafe fn"))
                {
                    continue;
                }
                // This very test writes the words it looks for.
                if path.ends_with("tests/layers.rs") {
                    continue;
                }
                let home = homes.iter().find(|home| path.ends_with(*home));
                assert!(home.is_some(), "{path}:{}: unsafe code", number + 1);
                found.extend(home.copied());
                let said = code.lines().skip(number.saturating_sub(5)).take(6);
                let said = said.into_iter().any(|line| line.contains("SAFETY"));
                assert!(said, "{path}:{}: no SAFETY above", number + 1);
            }
        }
    }
    assert_eq!(found.len(), homes.len(), "a home of unsafe code has none: shorten the list");
    for root_file in [
        "host/model/src/lib.rs",
        "host/worker/src/lib.rs",
        "host/supervisor/src/lib.rs",
        "host/cli/main.rs",
    ] {
        assert!(text(root_file).contains("#![forbid(unsafe_code)]"), "{root_file}");
    }
}

#[test]
fn no_file_is_two_things() {
    for dir in ["host", "benches", "tests", "guests"] {
        for file in files(&root().join(dir), "rs") {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
        }
    }
}

#[test]
fn built_guests_match_their_sources() {
    let checked = Command::new(root().join("guests/build.sh")).arg("--check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_fault_has_a_word_of_its_own_and_a_line_in_the_readme() {
    let model = text("host/model/src/outcome.rs");
    let readme = text("README.md");
    let words: Vec<&str> = model
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1.split_once('"')
        })
        .map(|(word, _)| word)
        .collect();
    assert!(words.len() > 15, "{words:?}");
    assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len(), "a word stands twice");
    for word in words {
        // Nobody is left to read the answer to a client that is gone.
        assert!(
            word == "client-gone" || readme.contains(&format!("`{word}`")),
            "{word} is not in the README"
        );
    }
}
