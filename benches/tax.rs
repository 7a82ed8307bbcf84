//! `insula bench tax`: CPU time of guests that only compute: metered by fuel, by time, not at all, and
//! native.

use crate::groups::{self, Group};
use crate::host::Host;
use crate::kernels::{KERNELS, program};
use crate::native;
use crate::peers::wasmtime;
use crate::process::detached;
use crate::results::Bench;
use crate::samples::{Figure, add, ratio};
use crate::session::Session;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const ROUNDS: usize = 10;
const FUEL: &str = "fuel and preemption";
const TIME: &str = "preemption only";
const UNMETERED: &str = "unmetered";
/// Figures of each program, in their order in [`KERNELS`].
const FIGURES: [Figure; 4] = [
    Figure::less("cpu time, integers", "ms"),
    Figure::less("cpu time, memory", "ms"),
    Figure::less("cpu time, calls", "ms"),
    Figure::less("cpu time, branches", "ms"),
];

const METHOD: &str = "Programs that only compute (benches/kernels.rs), each in a fresh instance: integers is a loop of multiplications, \
memory loads and stores over 1 MiB, calls Fibonacci's numbers by recursion, branches Collatz's sequences. With Insula the CPU time is \
the tenant's own, as the host counts it; fuel and preemption is the default, preemption only is metering = \"time\". Unmetered is \
`wasmtime run` of the same program, compiled beforehand, without fuel and epochs: the CPU time of its process less that of one that \
computes nothing. Native is the same program in Rust, optimised, by its thread's CPU time. In turn, in an order that rotates.";

/// Who runs the programs, with one file or tenant for each.
enum Way {
    Insula(&'static str, &'static str),
    Unmetered(Group, Vec<PathBuf>),
    Native(PathBuf),
}

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let rounds = session.options.rounds.unwrap_or(ROUNDS);
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), rounds.to_string());
    session.step("tax: preparing", 0, 0)?;
    let dir = TempDir::new()?;
    let host = Host::start(&session.options.binary, 1)?;
    for (name, functions, compute) in KERNELS {
        let digest = host.upload(&program(functions, compute)?)?;
        for way in ["fuel", "time"] {
            let mut manifest =
                json!({ "metering": way, "timeout": "1m", "memory": { "instance": "64Mi" } });
            if way == "fuel" {
                manifest["fuel"] = json!("1T");
            }
            host.deploy(&format!("{name}-{way}"), &digest, &manifest)?;
        }
    }
    let mut ways = vec![Way::Insula(FUEL, "fuel"), Way::Insula(TIME, "time")];
    if !session.peers(&["wasmtime"])?.is_empty() {
        match groups::available() {
            Ok(()) => ways.push(Way::Unmetered(Group::new("tax")?, compiled(dir.path())?)),
            Err(why) => bench.notes.push(format!("unmetered is not measured: {why}")),
        }
    }
    if !session.peers(&["exec"])?.is_empty() {
        match native::twin() {
            Ok(twin) => ways.push(Way::Native(twin)),
            Err(error) => session.lost("exec", &error),
        }
    }
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let Some(way) = ways.get((turn + round) % ways.len()) else { continue };
            session.step("tax", round * ways.len() + turn, rounds * ways.len())?;
            for (number, (figure, (name, ..))) in FIGURES.into_iter().zip(KERNELS).enumerate() {
                let (id, case, ms) = match way {
                    Way::Insula(case, suffix) => {
                        ("insula", *case, of_tenant(&host, &format!("{name}-{suffix}"))?)
                    }
                    Way::Unmetered(group, files) => {
                        let nothing = of_process(group, files.last().context("no program")?)?;
                        let all = of_process(group, files.get(number).context("no program")?)?;
                        ("wasmtime", UNMETERED, all - nothing)
                    }
                    Way::Native(twin) => ("exec", "native", of_native(twin, number)?),
                };
                add(bench, figure, id, case, None, ms);
            }
        }
    }
    for figure in FIGURES {
        let fuel = ("insula", FUEL);
        for other in [("insula", TIME), ("wasmtime", UNMETERED), ("exec", "native")] {
            bench.ratios.extend(ratio(bench, figure, fuel, other, None, None));
        }
        let time = ("insula", TIME);
        bench.ratios.extend(ratio(bench, figure, time, ("wasmtime", UNMETERED), None, None));
    }
    Ok(())
}

/// Every program as machine code; the last does nothing.
fn compiled(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let nothing = ("nothing", "", "");
    for (name, functions, compute) in KERNELS.into_iter().chain([nothing]) {
        let (text, code) = (dir.join(format!("{name}.wasm")), dir.join(format!("{name}.cwasm")));
        std::fs::write(&text, program(functions, compute)?)?;
        let mut command = Command::new(wasmtime());
        let output = command.arg("compile").arg(&text).arg("-o").arg(&code).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "wasmtime compile: {said}");
        all.push(code);
    }
    Ok(all)
}

/// Milliseconds of one request.
fn of_tenant(host: &Host, name: &str) -> Result<f64> {
    let spent = || -> Result<f64> {
        let (status, body) = host.api("GET", &format!("/v1/tenants/{name}"), b"")?;
        ensure!(status == 200, "{name}: {status}");
        let detail: Value = serde_json::from_slice(&body)?;
        detail["counters"]["cpu_us"].as_f64().context("cpu_us")
    };
    let before = spent()?;
    let status = host.get(name)?;
    ensure!(status == 200, "{name} answered {status}");
    Ok((spent()? - before) / 1e3)
}

/// Milliseconds of a process that runs a compiled program.
fn of_process(group: &Group, code: &Path) -> Result<f64> {
    let script = format!("{}exec \"$@\"", group.entrance());
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", &wasmtime(), "run", "--allow-precompiled"]).arg(code);
    let before = group.cpu_us()?;
    let ended = detached(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(ended.success(), "wasmtime run: {ended}");
    Ok((group.cpu_us()? - before) / 1e3)
}

/// Milliseconds of a native program.
fn of_native(twin: &Path, number: usize) -> Result<f64> {
    let output = Command::new(twin).args(["kernel", &number.to_string()]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.trim().parse::<f64>().with_context(|| format!("the native program: {said}"))? / 1e6)
}
