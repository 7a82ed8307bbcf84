//! A minute of full load at 64 connections: errors, and whether memory stays flat.
//!
//! ```text
//! cargo bench -p insula-benches --bench soak
//! ```
//! `SECONDS` sets the length (60). Memory is read every six seconds; the first reading is after
//! three seconds, when every pool is warm.
#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::load::wrk;
use std::time::Duration;

const CONNECTIONS: u32 = 64;
const READINGS: u32 = 10;

fn main() -> Result<()> {
    let seconds: u32 = std::env::var("SECONDS").map_or(Ok(60), |text| text.parse())?;
    let host = Host::start(&binary()?, 2)?;
    let component = root().join("guests/hello/hello.wasm");
    host.cli(&["deploy", "hello", &component.to_string_lossy()])?;
    wrk("hello.localhost", host.port, 2, CONNECTIONS, 3)?;
    let mut readings = vec![host.server.pss_kib()];
    let port = host.port;
    let load = std::thread::spawn(move || wrk("hello.localhost", port, 2, CONNECTIONS, seconds));
    for _ in 0..READINGS {
        std::thread::sleep(Duration::from_secs_f64(f64::from(seconds) / f64::from(READINGS)));
        readings.push(host.server.pss_kib());
    }
    let load = load.join().map_err(|_| anyhow::anyhow!("the load generator panicked"))??;
    println!("{} requests, {} errors, {:.0} a second", load.requests, load.errors, load.rate);
    println!("memory (PSS, KiB), every {} s: {readings:?}", seconds / READINGS);
    ensure!(load.errors == 0, "{} errors", load.errors);
    Ok(())
}
