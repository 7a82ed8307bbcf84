//! What counting fuel costs: the same guests metered by fuel and by time, CPU time of each request.
//!
//! ```text
//! cargo bench -p insula-benches --bench metering
//! ```
//! Small programs that do nothing but compute, each in its own way, and example guests that are built.
//! One request at a time; rounds interleaved. CPU time is the tenant's own, from the host's counters.
//! `ROUNDS` and `MS` set how long it takes: so many (8) measurements of about so much CPU time (200).
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::kernels::{KERNELS, program};
use insula_benches::spread;
use std::path::{Path, PathBuf};

const WAYS: [(&str, &[&str]); 2] = [("fuel", &["--fuel", "1T"]), ("time", &["--metering", "time"])];

const GUESTS: [&str; 3] = ["hello", "hello-js", "hello-python"];

fn main() -> Result<()> {
    let (rounds, ms) = (setting("ROUNDS", 8)?, setting("MS", 200)?);
    let dir = tempfile::tempdir()?;
    let mut subjects: Vec<(&str, PathBuf)> = Vec::new();
    for (name, functions, compute) in KERNELS {
        let file = dir.path().join(name);
        std::fs::write(&file, program(functions, compute)?)?;
        subjects.push((name, file));
    }
    for guest in GUESTS {
        let file = root().join(format!("guests/{guest}/{guest}.wasm"));
        if file.is_file() {
            subjects.push((guest, file));
        }
    }
    let host = Host::start(&binary()?, 1)?;
    println!("CPU ms per request, {rounds} rounds of {ms} ms");
    for (subject, file) in &subjects {
        let mut code = Vec::new();
        for (way, flags) in WAYS {
            let name = format!("{subject}-{way}");
            deploy(&host, &name, file, flags)?;
            ensure!(host.get(&name)? == 200, "{name} does not answer");
            code.push(tenant(&host, &name)?["code_bytes"].as_f64().context("code_bytes")?);
        }
        // The slower way, so that neither is measured for less.
        let once = cost(&host, &format!("{subject}-fuel"), 3)?;
        let requests =
            (1..10_000).find(|n| f64::from(*n) * once >= f64::from(ms)).unwrap_or(10_000);
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..rounds as usize {
            for turn in 0..WAYS.len() {
                let at = (turn + round) % WAYS.len();
                costs[at].push(cost(&host, &format!("{subject}-{}", WAYS[at].0), requests)?);
            }
        }
        let ratios: Vec<f64> =
            costs[0].iter().zip(&costs[1]).map(|(fuel, time)| fuel / time).collect();
        println!(
            "{subject:<13} fuel {}, time {}, fuel to time {}, compiled code {:.2}×",
            spread(&costs[0], 2),
            spread(&costs[1], 2),
            spread(&ratios, 2),
            code[0] / code[1],
        );
    }
    Ok(())
}

fn deploy(host: &Host, name: &str, file: &Path, flags: &[&str]) -> Result<()> {
    let path = file.to_str().context("path")?;
    host.cli(&[&["deploy", name, path, "--timeout", "60s", "--memory", "256Mi"], flags].concat())?;
    Ok(())
}

fn tenant(host: &Host, name: &str) -> Result<serde_json::Value> {
    let (status, body) = host.api("GET", &format!("/v1/tenants/{name}"), b"")?;
    ensure!(status == 200, "{name}: {status}");
    Ok(serde_json::from_slice(&body)?)
}

/// Milliseconds of CPU for each of some requests.
fn cost(host: &Host, name: &str, requests: u32) -> Result<f64> {
    let spent =
        || -> Result<f64> { tenant(host, name)?["counters"]["cpu_us"].as_f64().context("cpu_us") };
    let before = spent()?;
    for _ in 0..requests {
        ensure!(host.get(name)? == 200, "{name} fails");
    }
    Ok((spent()? - before) / 1e3 / f64::from(requests))
}

fn setting(name: &str, otherwise: u32) -> Result<u32> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(otherwise),
    }
}
