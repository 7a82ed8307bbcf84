//! What control costs a short request: `hello` with every control on, against `hello` as it is deployed
//! without a word, and against another binary if one is named.
//!
//! ```text
//! cargo bench -p insula-benches --bench cost
//! ```
//! `ROUNDS` and `SECONDS` set how long it takes (6 and 4). `BASELINE` names another binary, such as one of
//! before there was any control: it serves a plain `hello` in its own host. Both cores loaded, rounds
//! interleaved in an order that rotates; each ratio is taken within one round.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::load::wrk;
use insula_benches::{setting, spread};
use std::path::Path;

const THREADS: u32 = 2;
const CONNECTIONS: u32 = 16;
/// High enough that nothing is ever held back: the price is that of keeping count.
const ALL: &[&str] = &[
    "--cpu-request",
    "1",
    "--cpu-limit",
    "64",
    "--memory-request",
    "1Gi",
    "--memory-limit",
    "1Gi",
    "--rate",
    "1000000",
    "--rate-burst",
    "1000000",
    "--concurrency",
    "1000",
];

struct Contender<'a> {
    name: &'static str,
    tenant: &'static str,
    host: &'a Host,
    cpu_us: Vec<f64>,
    rates: Vec<f64>,
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, tenant: &'static str, host: &'a Host) -> Self {
        Self { name, tenant, host, cpu_us: vec![], rates: vec![] }
    }
}

fn main() -> Result<()> {
    let (rounds, seconds) = (setting("ROUNDS", 6)?, setting("SECONDS", 4)?);
    let binary = binary()?;
    let component = root().join("guests/hello/hello.wasm");
    let component = component.to_str().context("path")?;
    let host = Host::start(&binary, 2)?;
    host.cli(&["deploy", "plain", component])?;
    host.cli(&[&["deploy", "controlled", component], ALL].concat())?;
    println!("binary: {}", binary.display());
    println!("controls: {}", ALL.join(" "));
    let baseline = match std::env::var_os("BASELINE") {
        None => None,
        Some(path) => {
            println!("baseline: {}", Path::new(&path).display());
            let host = Host::start(Path::new(&path), 2)?;
            host.cli(&["deploy", "plain", component])?;
            Some(host)
        }
    };
    println!("wrk -t{THREADS} -c{CONNECTIONS} -d{seconds}s, {rounds} rounds\n");

    let mut all = vec![
        Contender::new("controlled", "controlled", &host),
        Contender::new("plain", "plain", &host),
    ];
    all.extend(baseline.as_ref().map(|host| Contender::new("baseline", "plain", host)));
    for round in 0..=rounds {
        let count = all.len();
        for turn in 0..count {
            let Some(this) = all.get_mut((turn + round) % count) else { continue };
            let before = this.host.server.cpu_seconds();
            let tenant = format!("{}.localhost", this.tenant);
            let load = wrk(&tenant, this.host.port, THREADS, CONNECTIONS, seconds)?;
            ensure!(load.errors == 0, "{}: {} errors", this.name, load.errors);
            // The first round warms up.
            if round > 0 {
                let cpu = this.host.server.cpu_seconds() - before;
                this.cpu_us.push(cpu * 1e6 / load.requests);
                this.rates.push(load.rate);
            }
        }
    }
    println!("{:<12} {:>26} {:>30}", "", "CPU µs per request", "requests per second");
    for this in &all {
        println!(
            "{:<12} {:>26} {:>30}",
            this.name,
            spread(&this.cpu_us, 1),
            spread(&this.rates, 0)
        );
    }
    let Some((controlled, others)) = all.split_first() else { return Ok(()) };
    println!("\ncontrolled against the others, round by round:");
    for other in others {
        let ratios = |ours: &[f64], theirs: &[f64]| -> Vec<f64> {
            ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
        };
        println!(
            "{:<12} CPU per request {}×, requests per second {}×",
            other.name,
            spread(&ratios(&controlled.cpu_us, &other.cpu_us), 3),
            spread(&ratios(&controlled.rates, &other.rates), 3),
        );
    }
    Ok(())
}
