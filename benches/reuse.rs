//! What the manifest's `reuse` buys a WASI 0.3 service: a fresh instance for each request, a reused
//! one, and one that serves several at once. Both cores loaded, rounds interleaved.
//!
//! ```text
//! cargo bench -p insula-benches --bench reuse
//! ```
//! `ROUNDS` and `SECONDS` set how long it takes (4 and 3); `INSULA` names a binary that is built
//! already.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::load::wrk;
use insula_benches::spread;

const THREADS: u32 = 2;
const CONNECTIONS: u32 = 32;
const WAYS: [(&str, &[&str]); 3] = [
    ("fresh", &[]),
    ("reused", &["--reuse-requests", "1000"]),
    ("shared", &["--reuse-requests", "1000", "--reuse-concurrent", "16"]),
];

fn main() -> Result<()> {
    let (rounds, seconds) = (setting("ROUNDS", 4)?, setting("SECONDS", 3)?);
    let binary = std::env::var_os("INSULA").map_or_else(binary, |path| Ok(path.into()))?;
    let host = Host::start(&binary, 2)?;
    let component = root().join("guests/hello-p3/hello-p3.wasm");
    for (name, flags) in WAYS {
        let path = component.to_str().context("path")?;
        host.cli(&[&["deploy", name, path], flags].concat())?;
        wrk(&format!("{name}.localhost"), host.port, THREADS, CONNECTIONS, 1)?;
    }
    let mut cpu_us = vec![Vec::new(); WAYS.len()];
    let mut rates = cpu_us.clone();
    for round in 0..rounds as usize {
        for turn in 0..WAYS.len() {
            let at = (turn + round) % WAYS.len();
            let name = WAYS[at].0;
            let before = host.server.cpu_seconds();
            let load = wrk(&format!("{name}.localhost"), host.port, THREADS, CONNECTIONS, seconds)?;
            ensure!(load.errors == 0, "{name}: {} errors", load.errors);
            cpu_us[at].push((host.server.cpu_seconds() - before) * 1e6 / load.requests);
            rates[at].push(load.rate);
        }
    }
    println!("wrk -t{THREADS} -c{CONNECTIONS} -d{seconds}s, {rounds} rounds");
    for (at, (name, _)) in WAYS.iter().enumerate() {
        let ratios: Vec<f64> =
            cpu_us[0].iter().zip(&cpu_us[at]).map(|(fresh, this)| fresh / this).collect();
        println!(
            "{name:<8} {} CPU µs per request, {} requests per second, {}× fresh",
            spread(&cpu_us[at], 1),
            spread(&rates[at], 0),
            spread(&ratios, 2),
        );
    }
    Ok(())
}

fn setting(name: &str, otherwise: u32) -> Result<u32> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(otherwise),
    }
}
