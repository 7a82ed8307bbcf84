//! What 10,000 deployed tenants cost: start-up to the first answer, memory, and idle CPU, against an
//! empty host in the same run.
//!
//! ```text
//! cargo bench -p insula-benches --bench tenants
//! ```
//! `TENANTS` sets the number. All tenants share one artifact, as a platform's many copies of one
//! service do; each has its own row, route, limits and log.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::spread;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROUNDS: usize = 5;
const IDLE: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let tenants: usize = std::env::var("TENANTS").map_or(Ok(10_000), |text| text.parse())?;
    let binary = binary()?;
    let (one, many) = (TempDir::new()?, TempDir::new()?);
    fill(&binary, one.path(), 1)?;
    let start = Instant::now();
    fill(&binary, many.path(), tenants)?;
    let each = start.elapsed().as_secs_f64() * 1e3 / tenants as f64;
    println!("deploying {tenants} tenants through the control API: {each:.2} ms each\n");

    let mut figures = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let which = (turn + round) % 2;
            let (dir, last) = if which == 0 { (one.path(), 1) } else { (many.path(), tenants) };
            let start = Instant::now();
            let host = Host::start_in(&binary, 2, dir)?;
            let status = host.get(&name(last))?;
            ensure!(status == 200, "the last tenant answered {status}");
            figures[which].0.push(start.elapsed().as_secs_f64() * 1e3);
            figures[which].1.push(host.server.pss_kib() as f64);
        }
    }
    println!("{:<16} {:>34} {:>34}", "", "start to first answer, ms", "memory (PSS), KiB");
    for (label, (ms, kib)) in
        ["1 tenant".to_owned(), format!("{tenants} tenants")].iter().zip(&figures)
    {
        println!("{label:<16} {:>34} {:>34}", spread(ms, 0), spread(kib, 0));
    }
    let per_tenant = (insula_benches::median(&figures[1].1)
        - insula_benches::median(&figures[0].1))
        / tenants as f64;
    println!("per tenant, over supervisor and 2 workers: {per_tenant:.2} KiB\n");

    let host = Host::start_in(&binary, 2, many.path())?;
    std::thread::sleep(Duration::from_secs(2));
    let before = host.server.cpu_seconds();
    std::thread::sleep(IDLE);
    let used = (host.server.cpu_seconds() - before) * 1e3;
    println!("idle with {tenants} tenants: {used:.0} ms of CPU in {IDLE:?}, all processes");
    Ok(())
}

fn name(i: usize) -> String {
    format!("tenant-{i}")
}

fn fill(binary: &Path, data: &Path, tenants: usize) -> Result<()> {
    let host = Host::start_in(binary, 2, data)?;
    let component = root().join("guests/hello/hello.wasm");
    host.cli(&["deploy", &name(1), &component.to_string_lossy()])?;
    let (_, detail) = host.api("GET", "/v1/tenants/tenant-1", b"")?;
    let detail: serde_json::Value = serde_json::from_slice(&detail)?;
    let artifact = detail["artifact"].as_str().context("an artifact")?;
    for i in 2..=tenants {
        let name = name(i);
        let body = serde_json::json!({ "manifest": { "name": name }, "artifact": artifact });
        let (status, answer) =
            host.api("PUT", &format!("/v1/tenants/{name}"), body.to_string().as_bytes())?;
        ensure!(status < 300, "{name}: {status} {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
