//! Whether tenants get the CPU they ask for: two with requests of 1:3 on a full machine, and one with a
//! limit of a quarter of a core.
//!
//! ```text
//! cargo bench -p insula-benches --bench share
//! ```
//! `ROUNDS` and `SECONDS` set how long it takes (4 and 10); `CONNECTIONS` is how many each tenant is kept
//! busy on (6). CPU time is what the control API counts to each tenant, held against what the kernel
//! counts to the host's processes. Connections are put on workers one by one: each is opened, and the
//! control API says whose it became. The cases take turns.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use insula_benches::clients::Clients;
use insula_benches::host::{Host, binary};
use insula_benches::threads::Cores;
use insula_benches::{median, setting, spread, threads, wire};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where the connections of a tenant land.
#[derive(Debug, Clone, Copy)]
enum Place {
    Spread,
    Only(usize),
}

struct Case {
    name: &'static str,
    tenants: &'static [(&'static str, Place)],
    /// What should come of it.
    aim: Aim,
    figures: Vec<f64>,
    cores: Vec<Vec<f64>>,
    whole: Vec<f64>,
}

enum Aim {
    /// The second tenant's CPU time in units of the first's.
    Ratio(f64),
    /// Cores that the one tenant uses.
    Cores(f64),
    /// The cores that all tenants use together; there is no saying who should have how much.
    All,
}

const WORKERS: u32 = 2;

fn cases() -> Vec<Case> {
    use Place::{Only, Spread};
    let case = |name, tenants, aim| Case {
        name,
        tenants,
        aim,
        figures: vec![],
        cores: vec![],
        whole: vec![],
    };
    vec![
        case("1:3, both on all workers", &[("one", Spread), ("three", Spread)], Aim::Ratio(3.0)),
        case("1:3, both on one worker", &[("one", Only(0)), ("three", Only(0))], Aim::Ratio(3.0)),
        case(
            "1:3, the lesser on one worker",
            &[("one", Only(0)), ("three", Spread)],
            Aim::Ratio(3.0),
        ),
        // What it should get is more than that worker's core: some of its connections have to move.
        case(
            "1:3, the greater on one worker",
            &[("one", Spread), ("three", Only(0))],
            Aim::Ratio(3.0),
        ),
        // Both cores, less what the clients use.
        case("one tenant, one worker", &[("three", Only(0))], Aim::All),
        case("250m, on all workers", &[("quarter", Spread)], Aim::Cores(0.25)),
        case("250m, on one worker", &[("quarter", Only(0))], Aim::Cores(0.25)),
    ]
}

fn main() -> Result<()> {
    let rounds: u32 = setting("ROUNDS", 4)?;
    let span = Duration::from_secs_f64(setting("SECONDS", 10.0)?);
    let connections: usize = setting("CONNECTIONS", 6)?;
    let binary = binary()?;
    let cores = Cores::divide();
    // Two workers take two cores, even if there are no more.
    let cores = if cores.server.len() < WORKERS as usize { Cores::shared() } else { cores };
    let server: Vec<usize> = cores.server.iter().copied().take(WORKERS as usize).collect();
    ensure!(threads::bind(&server), "the host cannot be bound to cores {server:?}");
    let host = Host::start(&binary, WORKERS)?;
    let dir = TempDir::new()?;
    let file = dir.path().join("burner.wasm");
    std::fs::write(&file, insula_benches::guests::burner()?)?;
    let file = file.to_str().context("path")?;
    let deploy = |name: &str, flag: &str, value: &str| {
        // The guests return without a response: their circuits are not to open for it.
        let limits = ["--fuel", "100G", "--timeout", "1m", "--breaker-window", "1ms"];
        host.cli(&[&["deploy", name, file, flag, value], &limits[..]].concat())
    };
    deploy("one", "--cpu-request", "100m")?;
    deploy("three", "--cpu-request", "300m")?;
    deploy("quarter", "--cpu-limit", "250m")?;
    println!("binary: {}", binary.display());
    println!(
        "{WORKERS} workers on cores {server:?}; {connections} connections a tenant, {span:?} a case, {rounds} rounds\n"
    );
    let mut cases = cases();
    for _ in 0..rounds {
        for case in &mut cases {
            measure(&host, case, connections, span, &cores.generator)?;
        }
    }
    report(&cases);
    Ok(())
}

fn measure(
    host: &Host,
    case: &mut Case,
    connections: usize,
    span: Duration,
    generator: &[usize],
) -> Result<()> {
    let mut streams = Vec::new();
    for (tenant, place) in case.tenants {
        let request = wire::get(tenant, "/");
        for number in 0..connections {
            let worker = match place {
                Place::Spread => number % WORKERS as usize,
                Place::Only(worker) => *worker,
            };
            streams.push((worker, request.clone()));
        }
    }
    let wanted: Vec<usize> = streams.iter().map(|(worker, _)| *worker).collect();
    let placed = place(host, &wanted)?;
    let all = placed.into_iter().zip(streams).map(|(stream, (_, request))| (stream, request));
    let clients = Clients::on_connections(host.port, all.collect(), generator);
    std::thread::sleep(Duration::from_secs(2));
    let (before, whole, since) = (used(host, case)?, host.server.cpu_seconds(), Instant::now());
    std::thread::sleep(span);
    let (after, took) = (used(host, case)?, since.elapsed().as_secs_f64());
    let whole = (host.server.cpu_seconds() - whole) / took;
    let seen = clients.end()?;
    ensure!(
        !seen.answers.contains_key(&0),
        "{}: a connection broke, and its successor may be on another worker",
        case.name
    );
    let cores: Vec<f64> = before.iter().zip(&after).map(|(b, a)| (a - b) / 1e6 / took).collect();
    case.figures.push(match case.aim {
        Aim::Ratio(_) => cores[1] / cores[0],
        Aim::Cores(_) => cores[0],
        Aim::All => cores.iter().sum(),
    });
    case.cores.push(cores);
    case.whole.push(whole);
    settle(host)
}

/// CPU time of the case's tenants so far, in microseconds.
fn used(host: &Host, case: &Case) -> Result<Vec<f64>> {
    case.tenants.iter().map(|(name, _)| counter(host, name, "cpu_us")).collect()
}

fn counter(host: &Host, tenant: &str, name: &str) -> Result<f64> {
    let (status, body) = host.api("GET", &format!("/v1/tenants/{tenant}"), b"")?;
    ensure!(status == 200, "{tenant}: {status}");
    let detail: serde_json::Value = serde_json::from_slice(&body)?;
    detail["counters"][name].as_f64().context("a counter")
}

/// Waits until nothing runs any more.
fn settle(host: &Host) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(70);
    while Instant::now() < until {
        let running: Result<Vec<f64>> = ["one", "three", "quarter"]
            .iter()
            .map(|tenant| counter(host, tenant, "running"))
            .collect();
        if running?.iter().all(|count| *count == 0.0) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("requests still run although their clients have gone")
}

/// A connection on each of these workers. Workers share the connections out among themselves, so those
/// that are not wanted stay open until all are found.
fn place(host: &Host, wanted: &[usize]) -> Result<Vec<TcpStream>> {
    let mut spare: Vec<Vec<TcpStream>> = (0..WORKERS).map(|_| Vec::new()).collect();
    let mut before = held(host)?;
    let enough = |spare: &[Vec<TcpStream>]| {
        (0..WORKERS as usize)
            .all(|w| spare[w].len() >= wanted.iter().filter(|wanted| **wanted == w).count())
    };
    while !enough(&spare) {
        ensure!(spare.iter().map(Vec::len).sum::<usize>() < 200, "no worker takes its share");
        let stream = TcpStream::connect(("127.0.0.1", host.port))?;
        let until = Instant::now() + Duration::from_secs(5);
        let worker = loop {
            let now = held(host)?;
            let more = |w: &usize| now[*w] > before[*w];
            if let Some(worker) = (0..WORKERS as usize).find(more) {
                before = now;
                break worker;
            }
            // One of the last case has been let go.
            before = before.iter().zip(&now).map(|(b, n)| *b.min(n)).collect();
            ensure!(Instant::now() < until, "no worker accepts");
            std::thread::sleep(Duration::from_millis(2));
        };
        spare[worker].push(stream);
    }
    wanted.iter().map(|worker| spare[*worker].pop().context("counted above")).collect()
}

/// Connections that each worker holds.
fn held(host: &Host) -> Result<Vec<u64>> {
    let (_, body) = host.api("GET", "/v1/host", b"")?;
    let info: serde_json::Value = serde_json::from_slice(&body)?;
    let workers = info["workers"].as_array().context("workers")?;
    workers.iter().map(|worker| worker["connections"].as_u64().context("connections")).collect()
}

fn report(cases: &[Case]) {
    println!(
        "{:<32} {:>8} {:>26} {:>10} {:>18} {:>16}",
        "", "aim", "measured", "off by", "cores each", "host's cores"
    );
    for case in cases {
        let measured = median(&case.figures);
        let (aim, off) = match case.aim {
            Aim::Ratio(aim) | Aim::Cores(aim) => {
                (format!("{aim:.2}"), format!("{:+.1}%", (measured / aim - 1.0) * 100.0))
            }
            Aim::All => ("–".into(), "–".into()),
        };
        let each = (0..case.tenants.len()).map(|at| {
            let of_one: Vec<f64> = case.cores.iter().filter_map(|c| c.get(at).copied()).collect();
            format!("{:.3}", median(&of_one))
        });
        println!(
            "{:<32} {:>8} {:>26} {:>10} {:>18} {:>16}",
            case.name,
            aim,
            spread(&case.figures, 3),
            off,
            each.collect::<Vec<_>>().join(" + "),
            spread(&case.whole, 2),
        );
    }
}
