//! Load from `wrk` (Debian package `wrk`): a closed loop, to use up what the server has.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// One run's figures.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Requests answered.
    pub requests: f64,
    /// Answers other than 2xx and 3xx, and broken connections.
    pub errors: u64,
    /// Requests per second.
    pub rate: f64,
}

/// Runs `wrk -t THREADS -c CONNECTIONS -d SECONDS` against a host name on a loopback port.
pub fn wrk(host: &str, port: u16, threads: u32, connections: u32, seconds: u32) -> Result<Load> {
    wrk_at(host, port, "/", threads, connections, seconds)
}

/// The same at another path than `/`.
pub fn wrk_at(
    host: &str,
    port: u16,
    path: &str,
    threads: u32,
    connections: u32,
    seconds: u32,
) -> Result<Load> {
    let output = Command::new("wrk")
        .args(["-t", &threads.to_string(), "-c", &connections.to_string()])
        .args(["-d", &format!("{seconds}s"), "-H", &format!("Host: {host}")])
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .context("wrk cannot be started; install it with `apt-get install wrk`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str| line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
    let line = |with: &str| text.lines().find(|line| line.contains(with)).map(str::to_owned);
    let Some(requests) = line("requests in").as_deref().and_then(number) else {
        bail!("wrk said nothing useful:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    let rate = line("Requests/sec").as_deref().and_then(number).unwrap_or(0.0);
    let sum = |text: String| -> u64 {
        let words = text.split(|c: char| !c.is_ascii_digit());
        words.filter_map(|word| word.parse::<u64>().ok()).sum()
    };
    // `Non-2xx or 3xx responses: N` holds a 2 and a 3 of its own.
    let bad = line("Non-2xx").map_or(0, |text| sum(text.replace("Non-2xx or 3xx", "")));
    let broken = line("Socket errors").map_or(0, sum);
    Ok(Load { requests, errors: bad + broken, rate })
}
