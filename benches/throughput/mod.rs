//! `insula bench throughput`: requests per second, what each costs in CPU time, and latency at a constant
//! rate of arrivals.

mod servers;

use crate::clients::Clients;
use crate::machine;
use crate::open_loop::Arrivals;
use crate::peers::SERVERS;
use crate::results::Bench;
use crate::samples::{Figure, add, at_most, of, paired, ratio};
use crate::session::Session;
use crate::stats;
use crate::threads::{self, Cores};
use anyhow::{Result, ensure};
use servers::Contender;
use std::time::{Duration, Instant};

const ROUNDS: usize = 6;
/// On so many cores servers and load generator have cores of their own.
const CORES_APART_MIN: usize = 4;
/// Of each closed loop.
const SPAN: Duration = Duration::from_millis(1_500);
/// Of each constant rate.
const OPEN_SPAN: Duration = Duration::from_millis(2_000);
const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
/// Bodies of 64 KiB, and ratios with bars, are taken here: both cores are busy, and no queue is long.
const USUAL: usize = 16;
/// Part of what the slowest can do that all are then asked for, at a constant rate.
const PART: f64 = 0.3;

const RATE: Figure = Figure::more("requests per second", "1/s").along("connections");
const CPU: Figure = Figure::less("cpu per request", "us").along("connections");
const P50: Figure = Figure::less("p50 at a constant rate", "us").along("requests per second");
const P99: Figure = Figure::less("p99 at a constant rate", "us").along("requests per second");

const METHOD: &str = "The load generator is part of this program: one thread for each two cores, or two, with epoll; a closed \
loop on kept connections, 1.5 s each, subjects in turn, in an order that rotates. CPU time is the server's own control group's, \
so it does not depend on what the generator takes of the same cores; requests per second do, on fewer than 4 cores, which \
both then share. All Wasm hosts have the same \
component and the same limits (64 MiB, fuel 1 G, 10 s). Fresh is an instance for each request, reuse one for up to 1,000. \
Latency comes from an open loop: requests are due at a constant rate, the same for all (30% of what the slowest reached with 64 \
connections), and count from the moment at which they were due.";

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let rounds = session.options.rounds.unwrap_or(ROUNDS);
    // Half of a machine of two cores would be one: no host is built for that, and none of the bars is about it.
    let cores = if machine::cores() < CORES_APART_MIN { Cores::shared() } else { Cores::divide() };
    let workers = u32::try_from(cores.server.len())?;
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), rounds.to_string());
    bench.settings.insert("workers".into(), workers.to_string());
    let apart = if cores.apart() { "apart" } else { "shared by server and load generator" };
    bench.settings.insert("cores".into(), apart.into());
    session.step("throughput: starting servers", 0, 0)?;
    // What is started from here stays on the server's cores.
    threads::bind(&cores.server);
    let mut all = servers::insula(&session.options.binary, workers)?;
    for peer in session.peers(&SERVERS)? {
        match servers::other(&peer.id) {
            Ok(contenders) => all.extend(contenders),
            Err(error) => session.lost(&peer.id, &error),
        }
    }
    let mut places: Vec<(usize, usize)> = (0..all.len())
        .flat_map(|at| CONNECTIONS.map(|connections| (at, connections)))
        .filter(|(at, connections)| {
            *connections == USUAL || all.get(*at).is_some_and(|one| !one.body)
        })
        .collect();
    // The first once more, for the control, and not next to itself.
    let control = places.len() / 2;
    places.insert(control, (0, USUAL));
    let (mut broken, mut again) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..places.len() {
            let place = (turn + round) % places.len();
            let Some((at, connections)) = places.get(place) else { continue };
            let Some(contender) = all.get(*at) else { continue };
            session.step("throughput", round * places.len() + turn, rounds * places.len())?;
            if broken.contains(at) {
                continue;
            }
            let done = closed(contender, *connections, &cores).map(|(rate, cpu)| {
                if place == control {
                    again.push(cpu);
                    return;
                }
                let x = Some(*connections as f64);
                add(bench, RATE, contender.id, contender.case, x, rate);
                add(bench, CPU, contender.id, contender.case, x, cpu);
            });
            // The others are measured all the same.
            if !session.survive(bench, &format!("{} {}", contender.id, contender.case), done)? {
                broken.push(*at);
            }
        }
        compare(bench, &all, &again);
    }
    open(session, bench, &all, rounds, &cores)
}

/// Requests per second, and microseconds of CPU for each.
fn closed(one: &Contender, connections: usize, cores: &Cores) -> Result<(f64, f64)> {
    let threads = connections.min(cores.generator.len().div_ceil(2).max(2));
    let before = one.cpu_us()?;
    let start = Instant::now();
    let clients: Result<Vec<Clients>> = (0..threads)
        .map(|thread| {
            let own = connections / threads + usize::from(thread < connections % threads);
            Clients::closed_loop(one.port, vec![one.request.clone(); own], &cores.generator)
        })
        .collect();
    let clients = clients?;
    std::thread::sleep(SPAN);
    let mut good = 0;
    for client in clients {
        for (status, count) in client.end()?.answers {
            ensure!(status == 200, "{} {}: {count} answers of {status}", one.id, one.case);
            good += count;
        }
    }
    let took = start.elapsed().as_secs_f64();
    let used = one.cpu_us()? - before;
    ensure!(good > 0, "{} {}: no answer", one.id, one.case);
    Ok((good as f64 / took, used / good as f64))
}

/// All at one rate that even the slowest can bear.
fn open(
    session: &Session,
    bench: &mut Bench,
    all: &[Contender],
    rounds: usize,
    cores: &Cores,
) -> Result<()> {
    let rates = all.iter().filter(|one| !one.body).map(|one| {
        let samples = of(bench, RATE, one.id, one.case, Some(64.0));
        stats::median(samples)
    });
    let slowest = rates.filter(|rate| rate.is_finite()).fold(f64::INFINITY, f64::min);
    ensure!(slowest.is_finite(), "no rate to go by");
    let rate = (slowest * PART / 100.0).floor().max(1.0) * 100.0;
    let mut lags = Vec::new();
    for round in 0..rounds {
        for turn in 0..all.len() {
            let Some(one) = all.get((turn + round) % all.len()).filter(|one| !one.body) else {
                continue;
            };
            let steps = (round * all.len() + turn, rounds * all.len());
            session.step("throughput: latency", steps.0, steps.1)?;
            let answers = Arrivals {
                port: one.port,
                request: one.request.clone(),
                rate,
                span: OPEN_SPAN,
                cores: cores.generator.clone(),
            }
            .run()?;
            ensure!(answers.failed == 0, "{} {}: {} failed", one.id, one.case, answers.failed);
            add(bench, P50, one.id, one.case, Some(rate), answers.latency(0.5));
            add(bench, P99, one.id, one.case, Some(rate), answers.latency(0.99));
            lags.push(answers.lag(0.99));
        }
    }
    let lag = stats::median(&lags);
    bench.notes.push(format!("the open loop's own delay, p99: {lag:.0} us, part of each latency"));
    Ok(())
}

fn compare(bench: &mut Bench, all: &[Contender], again: &[f64]) {
    let x = Some(USUAL as f64);
    if let Some(first) = all.first() {
        let (samples, who) = (of(bench, CPU, first.id, first.case, x), (first.id, first.case));
        bench.control = paired(CPU.name, (samples, who), (again, who), x, None);
    }
    let mut ratios = Vec::new();
    for (ours, theirs, limit) in [
        ("fresh", ("wasmtime", "defaults, fresh"), Some(1.0 / 4.0)),
        ("fresh", ("wasmtime", "tuned, fresh"), Some(1.0 / 3.0)),
        ("fresh", ("workerd", ""), Some(1.0)),
        ("fresh", ("hyper", ""), Some(4.0)),
        ("reuse", ("wasmtime", "reuse"), Some(1.0 / 1.3)),
        ("reuse", ("hyper", ""), Some(2.5)),
        ("64 KiB echoed, fresh", ("wasmtime", "64 KiB echoed, defaults, fresh"), None),
        ("64 KiB echoed, fresh", ("hyper", "64 KiB echoed"), None),
    ] {
        let bar = limit.and_then(at_most);
        ratios.push(ratio(bench, CPU, ("insula", ours), theirs, x, bar));
    }
    for one in all.iter().filter(|one| one.id != "insula" && !one.body) {
        let ours = if one.case == "reuse" { "reuse" } else { "fresh" };
        ratios.push(ratio(bench, RATE, ("insula", ours), (one.id, one.case), x, None));
    }
    bench.ratios = ratios.into_iter().flatten().collect();
}
