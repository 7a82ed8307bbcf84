//! Requests that each increment a counter in a key-value store, beside requests that do nothing.
//!
//! ```text
//! cargo bench -p insula-benches --bench keyvalue
//! ```
//! Rounds of `SECONDS` (3) alternate between `hello` and `counter` on one host with two workers;
//! `ROUNDS` (3) sets how many. Each increment is on disk before its answer, so the disk that holds the
//! temporary directory decides: `TMPDIR` names another.
#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::load::wrk;

const CONNECTIONS: [u32; 2] = [1, 32];

fn main() -> Result<()> {
    let number = |name, default| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let (rounds, seconds) = (number("ROUNDS", 3)?, number("SECONDS", 3)?);
    let host = Host::start(&binary()?, 2)?;
    for guest in ["hello", "counter"] {
        host.cli(&["deploy", "-f", &root().join("guests").join(guest).to_string_lossy()])?;
    }
    for connections in CONNECTIONS {
        for _ in 0..rounds {
            for guest in ["hello", "counter"] {
                let cpu = host.server.cpu_seconds();
                let name = format!("{guest}.localhost");
                let load = wrk(&name, host.port, connections.min(2), connections, seconds)?;
                let cpu = (host.server.cpu_seconds() - cpu) * 1e6 / load.requests;
                println!(
                    "{guest:8} {connections:3} connections {:8.0} a second {cpu:6.1} CPU µs each",
                    load.rate
                );
                ensure!(load.errors == 0, "{} errors", load.errors);
            }
        }
    }
    Ok(())
}
