//! `insula bench`, as a user runs it: with no container runtime, and without root, it still measures
//! itself and plain processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use insula_tests::cli::finish;
use insula_tests::{binary, repo};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PEERS: [&str; 10] =
    ["exec", "crun", "runc", "ctr", "docker", "podman", "runsc", "hyper", "wasmtime", "workerd"];

fn bench(words: &[&str]) -> Command {
    let mut command = Command::new(binary::insula());
    command.arg("bench").args(words);
    // Where the native twin is built.
    command.current_dir(repo::root());
    command
}

fn results(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("results.json")).unwrap()).unwrap()
}

fn series<'a>(results: &'a Value, subject: &str, case: &str, figure: &str) -> &'a Value {
    let all = results["benches"][0]["series"].as_array().unwrap();
    all.iter()
        .find(|one| one["subject"] == subject && one["case"] == case && one["figure"] == figure)
        .unwrap_or_else(|| panic!("no {figure} of {subject} {case}: {all:?}"))
}

#[test]
fn the_doctor_names_every_peer_and_what_would_add_it() {
    let output = finish(&mut bench(&["doctor"]), b"");
    output.expect(0, &[]);
    for word in PEERS.iter().chain(&["cores", "idle", "vm.max_map_count", "open files"]) {
        assert!(output.stdout.contains(word), "{word}: {}", output.stdout);
    }
    let report = finish(&mut bench(&["doctor", "--json"]), b"").json();
    let peers = report["peers"].as_array().unwrap();
    assert_eq!(peers.len(), PEERS.len());
    for peer in peers {
        // One that is there has a version; one that is not can be had by a command.
        let mend = peer["mend"].as_str();
        assert_ne!(peer["version"].is_string(), mend.is_some(), "{peer}");
        assert!(mend.is_none_or(|mend| mend.contains("install")), "{peer}");
        assert!(mend.is_none() || peer["missing"] == "not installed", "{peer}");
    }
    let plain = peers.iter().find(|peer| peer["id"] == "exec").unwrap();
    assert!(plain["missing"].is_null(), "{plain}");
}

#[test]
fn an_unknown_peer_is_refused_with_those_that_there_are() {
    let output = finish(&mut bench(&["startup", "--against", "exec,lxc"]), b"");
    output.expect(2, &["lxc", "podman"]);
}

#[test]
fn start_up_is_measured_against_plain_processes_and_reported() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("report");
    let words = ["startup", "--against", "exec", "--rounds", "2", "--out", out.to_str().unwrap()];
    let output = finish(&mut bench(&words), b"");
    output.expect(0, &[]);

    let results = results(&out);
    assert_eq!(results["schema"], 1);
    assert_eq!(results["complete"], true);
    assert_eq!(results["command"], format!("insula bench {}", words.join(" ")));
    let subjects = results["subjects"].as_array().unwrap();
    assert_eq!(subjects.len(), 2, "only what was asked for: {subjects:?}");
    assert!(subjects.iter().all(|subject| subject["missing"].is_null()), "{subjects:?}");
    let cases = ["deployed, warm disk", "deployed, cold disk", "loaded", "live"];
    let more = ["deploy of new bytes", "deploy of known bytes"];
    for case in cases.iter().chain(&more) {
        let samples = series(&results, "insula", case, "first answer")["samples"].clone();
        let samples: Vec<f64> = serde_json::from_value(samples).unwrap();
        assert_eq!(samples.len(), 2, "{case}");
        assert!(samples.iter().all(|ms| *ms > 0.0 && *ms < 30_000.0), "{case}: {samples:?}");
    }
    assert_eq!(series(&results, "exec", "", "first answer")["unit"], "ms");
    let ratios = results["benches"][0]["ratios"].as_array().unwrap();
    let headline = ratios.iter().find(|ratio| {
        ratio["of"] == serde_json::json!(["insula", "deployed, warm disk"])
            && ratio["to"] == serde_json::json!(["exec", ""])
    });
    let headline = headline.unwrap_or_else(|| panic!("{ratios:?}"));
    assert_eq!(headline["rounds"], 2);
    assert!(headline["bar"]["at_most"].as_bool().unwrap());
    assert!(headline["low"].as_f64().unwrap() <= headline["high"].as_f64().unwrap());
    assert!(results["benches"][0]["control"]["median"].as_f64().unwrap() > 0.0);
    for file in ["report.md", "index.html"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert!(output.stdout.contains("A against A"), "{}", output.stdout);

    // The same report again, from its data alone.
    let page = std::fs::read(out.join("index.html")).unwrap();
    std::fs::remove_file(out.join("index.html")).unwrap();
    let again = ["report", "--out", out.to_str().unwrap()];
    finish(&mut bench(&again), b"").expect(0, &[]);
    assert_eq!(std::fs::read(out.join("index.html")).unwrap(), page);
    finish(&mut bench(&["report"]), b"").expect(2, &["--out"]);
    std::fs::write(out.join("results.json"), "{").unwrap();
    finish(&mut bench(&again), b"").expect(1, &["results.json"]);
}

#[test]
fn an_interruption_leaves_a_valid_report_and_nothing_else() {
    let (dir, temporary) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let out = dir.path().join("report");
    let words = ["startup", "--against", "exec", "--rounds", "500", "--out", out.to_str().unwrap()];
    let mut command = bench(&words);
    command.env("TMPDIR", temporary.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    let results = results(&out);
    assert_eq!(results["complete"], false);
    let notes = results["benches"][0]["notes"].to_string();
    assert!(notes.contains("interrupted"), "{notes}");
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
