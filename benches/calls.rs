//! What a call from tenant to tenant costs, against the same call over a loopback connection.
//!
//! ```text
//! cargo bench -p insula-benches --bench calls
//! ```
//! `guests/relay` calls `guests/hello` as `http://hello.internal/`, and as `http://127.0.0.1:PORT/`
//! through the host's own listener, over pooled connections; `hello` alone is the measure. `ROUNDS` and
//! `SECONDS` set the length.
#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::load::wrk_at;
use insula_benches::spread;
use tempfile::TempDir;

const CONNECTIONS: u32 = 16;
const LABELS: [&str; 3] = ["hello", "relay → hello.internal", "relay → hello over loopback"];

fn main() -> Result<()> {
    let number =
        |name: &str, default| std::env::var(name).map_or(Ok(default), |text| text.parse::<u32>());
    let (rounds, seconds) = (number("ROUNDS", 4)?, number("SECONDS", 3)?);
    let host = Host::start(&binary()?, 2)?;
    let hello = root().join("guests/hello/hello.wasm");
    let routes = ["--route", "hello.localhost", "--route", "127.0.0.1"];
    host.cli(&[&["deploy", "hello", &hello.to_string_lossy()], &routes[..]].concat())?;
    let dir = TempDir::new()?;
    let manifest = dir.path().join("insula.toml");
    let component = root().join("guests/relay/relay.wasm");
    let url = format!("http://127.0.0.1:{}", host.port);
    let text = format!(
        "name = \"relay\"\ncomponent = {component:?}\n[outbound]\nhosts = [\"http://hello.internal\", {url:?}]\n"
    );
    std::fs::write(&manifest, text)?;
    host.cli(&["deploy", "-f", &manifest.to_string_lossy()])?;

    let targets = [
        ("hello.localhost", "/".to_owned()),
        ("relay.localhost", "/".to_owned()),
        ("relay.localhost", format!("/?url={url}/")),
    ];
    let mut figures: [(Vec<f64>, Vec<f64>); 3] = Default::default();
    for _ in 0..rounds {
        for ((name, path), figures) in targets.iter().zip(&mut figures) {
            wrk_at(name, host.port, path, 2, CONNECTIONS, 1)?;
            let before = host.server.cpu_seconds();
            let load = wrk_at(name, host.port, path, 2, CONNECTIONS, seconds)?;
            let cpu = host.server.cpu_seconds() - before;
            ensure!(load.errors == 0, "{name}{path}: {} errors", load.errors);
            figures.0.push(cpu * 1e6 / load.requests);
            figures.1.push(load.rate);
        }
    }
    println!("{:<28} {:>24} {:>32}", "", "CPU µs per request", "requests per second");
    for (label, (cpu, rate)) in LABELS.iter().zip(&figures) {
        println!("{label:<28} {:>24} {:>32}", spread(cpu, 1), spread(rate, 0));
    }
    Ok(())
}
