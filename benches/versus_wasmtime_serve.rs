//! Requests per CPU-second against `wasmtime serve`, same component, same limits, fresh instance for
//! each request, both cores loaded.
//!
//! ```text
//! cargo install wasmtime-cli@48.0.8 --locked
//! cargo bench -p insula-benches --bench versus_wasmtime_serve
//! ```
//! `ROUNDS` and `SECONDS` set how long it takes (5 and 4), `WASMTIME` names the binary. The rounds
//! are interleaved and their order rotates; each ratio is taken within one round.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use insula_benches::host::{Host, binary, root};
use insula_benches::load::wrk;
use insula_benches::process::Server;
use insula_benches::{median, spread};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const THREADS: u32 = 2;
const CONNECTIONS: u32 = 16;
const LIMITS: &str = "timeout=10s,fuel=1000000000,max-memory-size=67108864";
const TUNED: &str = "pooling-allocator=y,pooling-memory-keep-resident=2097152,\
                     pooling-table-keep-resident=65536,pooling-async-stack-keep-resident=65536,\
                     pooling-pagemap-scan=y";

struct Contender {
    name: &'static str,
    server: Server,
    port: u16,
    host: Option<Host>,
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
}

impl Contender {
    fn cpu_seconds(&self) -> f64 {
        self.host
            .as_ref()
            .map_or_else(|| self.server.cpu_seconds(), |host| host.server.cpu_seconds())
    }
}

fn main() -> Result<()> {
    let rounds = setting("ROUNDS", 5)?;
    let seconds = setting("SECONDS", 4)?;
    let component = root().join("guests/hello/hello.wasm");
    let wasmtime = std::env::var("WASMTIME").unwrap_or_else(|_| "wasmtime".into());
    let version = Command::new(&wasmtime)
        .arg("--version")
        .output()
        .context("no `wasmtime`: `cargo install wasmtime-cli@48.0.8 --locked`, or set WASMTIME")?;
    println!("against {}", String::from_utf8_lossy(&version.stdout).trim());
    println!(
        "limits on all: {LIMITS}; wrk -t{THREADS} -c{CONNECTIONS} -d{seconds}s, {rounds} rounds"
    );
    println!("tuned: -O {TUNED}\n");

    let host = Host::start(&binary()?, 2)?;
    let component_text = component.to_string_lossy().into_owned();
    let deploy = [
        "deploy",
        "hello",
        &component_text,
        "--memory",
        "64Mi",
        "--fuel",
        "1G",
        "--timeout",
        "10s",
    ];
    host.cli(&deploy)?;
    // A stand-in that costs nothing, so that all contenders have one shape.
    let idle = Server::start(Command::new("sleep").arg("3600"))?;
    let port = host.port;
    let insula = Contender {
        name: "insula",
        server: idle,
        port,
        host: Some(host),
        cpu_us: vec![],
        rate: vec![],
    };
    let mut contenders = vec![
        insula,
        wasmtime_serve(&wasmtime, "wasmtime serve, defaults", &component_text, None)?,
        wasmtime_serve(&wasmtime, "wasmtime serve, tuned", &component_text, Some(TUNED))?,
    ];
    for contender in &contenders {
        wrk("hello.localhost", contender.port, THREADS, CONNECTIONS, 1)?;
    }
    for round in 0..rounds as usize {
        let n = contenders.len();
        for turn in 0..n {
            let Some(contender) = contenders.get_mut((turn + round) % n) else { continue };
            let before = contender.cpu_seconds();
            let load = wrk("hello.localhost", contender.port, THREADS, CONNECTIONS, seconds)?;
            let cpu = contender.cpu_seconds() - before;
            ensure!(load.errors == 0, "{}: {} errors", contender.name, load.errors);
            contender.cpu_us.push(cpu * 1e6 / load.requests);
            contender.rate.push(load.rate);
        }
    }
    report(&contenders);
    Ok(())
}

fn wasmtime_serve(
    wasmtime: &str,
    name: &'static str,
    component: &str,
    tuning: Option<&str>,
) -> Result<Contender> {
    let mut command = Command::new(wasmtime);
    command.args(["serve", "-Scli", "-W", LIMITS, "--max-instance-reuse-count", "1"]);
    if let Some(tuning) = tuning {
        command.args(["-O", tuning]);
    }
    command.args(["--addr", "127.0.0.1:0", component]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).spawn()?;
    let stderr = child.stderr.take().context("its standard error")?;
    let mut lines = BufReader::new(stderr).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains("http://"));
    let line =
        line.with_context(|| format!("{name}: no address; does this version have all options?"))?;
    std::thread::spawn(move || lines.for_each(drop));
    let address = line.rsplit("http://").next().unwrap_or_default().trim_end_matches('/');
    let port = address.rsplit(':').next().unwrap_or_default().parse()?;
    Ok(Contender {
        name,
        server: Server::adopt(child),
        port,
        host: None,
        cpu_us: vec![],
        rate: vec![],
    })
}

fn report(contenders: &[Contender]) {
    println!("{:<26} {:>26} {:>30}", "", "CPU µs per request", "requests per second");
    for c in contenders {
        println!("{:<26} {:>26} {:>30}", c.name, spread(&c.cpu_us, 1), spread(&c.rate, 0));
    }
    println!("\nrequests per CPU-second, insula to the others, round by round:");
    let Some((insula, others)) = contenders.split_first() else { return };
    for other in others {
        let ratios: Vec<f64> =
            other.cpu_us.iter().zip(&insula.cpu_us).map(|(theirs, ours)| theirs / ours).collect();
        println!("{:<26} {:>5.2}×   ({})", other.name, median(&ratios), spread(&ratios, 2));
    }
}

fn setting(name: &str, default: u32) -> Result<u32> {
    std::env::var(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}
