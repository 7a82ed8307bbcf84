//! `insula bench scale`: what it costs a tenant, and the host, that so many others are deployed.

use crate::clients::Clients;
use crate::embedded::{HELLO, distinct};
use crate::first;
use crate::machine;
use crate::open_loop::Arrivals;
use crate::results::Bench;
use crate::samples::{Figure, add, at_most, of, paired};
use crate::session::Session;
use crate::stats::{self, quantile};
use crate::subject::{Subject, limits};
use crate::threads::Cores;
use crate::wire;
use anyhow::{Result, anyhow, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const LEVELS: [usize; 4] = [1, 100, 10_000, 100_000];
/// Different artifacts among the tenants: each has to be compiled.
const ARTIFACTS: usize = 200;
/// Deploys at once.
const DEPLOYERS: usize = 4;
/// Requests a second to the hot tenant, and for how long.
const HOT_RATE: f64 = 2_000.0;
const HOT_SPAN: Duration = Duration::from_millis(2_000);
/// Requests to tenants drawn by Zipf's law.
const DRAWN: usize = 2_000;
/// Tenants drawn evenly, each of which must answer.
const SPOT: usize = 1_000;
/// Tenants from which on the host itself counts little in each one's part.
const WHOLE_FROM: f64 = 100_000.0;
const SEED: u64 = 0x7363_616c_6500;

const AXIS: &str = "tenants";
const RESTART: Figure = Figure::less("restart to first answer", "ms").along(AXIS);
const P50: Figure = Figure::less("hot tenant p50", "us").along(AXIS);
const P99: Figure = Figure::less("hot tenant p99", "us").along(AXIS);
const RATE: Figure = Figure::more("hot tenant, requests per second", "1/s").along(AXIS);
const COLD_P50: Figure = Figure::less("cold hit p50", "us").along(AXIS);
const COLD_P99: Figure = Figure::less("cold hit p99", "us").along(AXIS);
const MEMORY: Figure = Figure::less("memory of the whole host", "KiB").along(AXIS);
const ANSWERED: Figure = Figure::more("drawn evenly, and answered", "count").along(AXIS);
const DEPLOY: Figure = Figure::less("deploy, each", "ms").along(AXIS);

const METHOD: &str = "A host for each number of tenants, deployed through the control API by 4 clients; the tenants share up to 200 \
artifacts. The rounds take the hosts in turn: started, from the command to the first answer of the tenant that was deployed last; \
one tenant is asked 2,000 times a second for 2 s in an open loop (hot), then by 16 connections as fast as it answers; the host is weighed by its control group, less page cache that nobody has mapped; 2,000 requests \
on new connections go to tenants drawn by Zipf's law (exponent 1), of which each tenant's first since the start is a cold hit; 1,000 \
tenants drawn evenly must answer.";

/// A host with its tenants.
struct Level {
    tenants: usize,
    subject: Subject,
}

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let rounds = session.options.rounds.unwrap_or(ROUNDS);
    let most = session.options.tenants.unwrap_or(usize::MAX);
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), rounds.to_string());
    bench.settings.insert("workers".into(), machine::cores().to_string());
    bench.settings.insert("artifacts".into(), ARTIFACTS.to_string());
    let mut wanted: Vec<usize> = LEVELS.into_iter().filter(|level| *level < most).collect();
    if let Some(most) = session.options.tenants {
        wanted.push(most);
    }
    let mut levels = Vec::new();
    for tenants in wanted {
        levels.push(fill(session, bench, tenants)?);
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for round in 0..rounds {
        for turn in 0..levels.len() {
            let count = levels.len();
            let Some(level) = levels.get_mut((turn + round) % count) else { continue };
            let what = format!("scale: {} tenants", level.tenants);
            session.step(&what, round * count + turn, rounds * count)?;
            let done = measure(session, bench, level, &mut random);
            level.subject.stop();
            compare(bench);
            done?;
        }
    }
    Ok(())
}

fn name(number: usize) -> String {
    format!("tenant-{number:06}")
}

/// Deploys so many; the host is stopped afterwards.
fn fill(session: &Session, bench: &mut Bench, tenants: usize) -> Result<Level> {
    let workers = u32::try_from(machine::cores())?;
    let binary = &session.options.binary;
    let mut subject = Subject::start(binary, workers, &format!("insula-{tenants}"))?;
    let host = subject.host()?;
    let digests: Result<Vec<String>> = (0..ARTIFACTS.min(tenants))
        .map(|n| host.upload(&distinct(HELLO, &n.to_string())))
        .collect();
    let digests = digests?;
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let deploy = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(digest) = digests.get(number % digests.len()).filter(|_| number < tenants)
            else {
                return Ok(());
            };
            session.go_on()?;
            host.deploy(&name(number), digest, &limits())?;
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..DEPLOYERS).map(|_| scope.spawn(deploy)).collect();
        while all.iter().any(|one| !one.is_finished()) {
            let done = next.load(Relaxed).min(tenants);
            // Those at work see an interruption themselves.
            let _ = session.step("scale: deploying tenants", done, tenants);
            std::thread::sleep(Duration::from_millis(50));
        }
        all.into_iter()
            .try_for_each(|one| one.join().map_err(|_| anyhow!("a deployer panicked"))?)
    })?;
    let each = began.elapsed().as_secs_f64() * 1e3 / tenants as f64;
    add(bench, DEPLOY, "insula", "", Some(tenants as f64), each);
    subject.stop();
    Ok(Level { tenants, subject })
}

fn measure(
    session: &Session,
    bench: &mut Bench,
    level: &mut Level,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let x = Some(level.tenants as f64);
    let began = Instant::now();
    level.subject.begin(&session.options.binary)?;
    let port = level.subject.host()?.port;
    let restart = first::answer(port, &name(level.tenants - 1), began)?;
    add(bench, RESTART, "insula", "", x, restart);
    let hot = wire::get(&name(0), "/");
    let cores = Cores::divide().generator;
    let arrivals = Arrivals {
        port,
        request: hot.clone(),
        rate: HOT_RATE,
        span: HOT_SPAN,
        cores: cores.clone(),
    };
    let answers = arrivals.run()?;
    ensure!(answers.failed == 0, "{} of the hot tenant's requests failed", answers.failed);
    add(bench, P50, "insula", "", x, answers.latency(0.5));
    add(bench, P99, "insula", "", x, answers.latency(0.99));
    let start = Instant::now();
    let clients = Clients::closed_loop(port, vec![hot; 16], &cores)?;
    std::thread::sleep(Duration::from_secs(1));
    let seen = clients.end()?.answers;
    let good = seen.get(&200).copied().unwrap_or(0);
    ensure!(seen.len() == 1, "the hot tenant's answers: {seen:?}");
    add(bench, RATE, "insula", "", x, good as f64 / start.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(1));
    let bytes = match level.subject.group() {
        Some(group) => group.held()?.kept,
        None => {
            let family = crate::process::family(level.subject.host()?.server.pid());
            let (pages, tables) = crate::process::resident(&family);
            pages + tables
        }
    };
    add(bench, MEMORY, "insula", "", x, bytes as f64 / 1024.0);
    session.go_on()?;
    let cold = cold_hits(port, level.tenants, random)?;
    if !cold.is_empty() {
        add(bench, COLD_P50, "insula", "", x, quantile(&cold, 0.5));
        add(bench, COLD_P99, "insula", "", x, quantile(&cold, 0.99));
    }
    session.go_on()?;
    let mut answered = 0;
    for _ in 0..SPOT.min(level.tenants) {
        let number = below(random, level.tenants);
        let status = first::ask(port, &wire::get(&name(number), "/"));
        answered += usize::from(status.is_ok_and(|status| status == 200));
    }
    add(bench, ANSWERED, "insula", "", x, answered as f64);
    Ok(())
}

/// Microseconds of each tenant's first answer, among requests to tenants drawn by Zipf's law.
fn cold_hits(port: u16, tenants: usize, random: &mut ChaCha8Rng) -> Result<Vec<f64>> {
    let mut sum = 0.0;
    let weights: Vec<f64> = (1..=tenants)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    // The hot one and the last have been asked.
    let mut seen = HashSet::from([0, tenants - 1]);
    let mut cold = Vec::new();
    for _ in 0..DRAWN.min(tenants * 2) {
        let at = sum * (random.next_u32() as f64 / f64::from(u32::MAX));
        let number = weights.partition_point(|weight| *weight < at).min(tenants - 1);
        let took = first::answer(port, &name(number), Instant::now())?;
        if seen.insert(number) {
            cold.push(took * 1e3);
        }
    }
    Ok(cold)
}

fn below(random: &mut ChaCha8Rng, count: usize) -> usize {
    usize::try_from(random.next_u64() % count.max(1) as u64).unwrap_or(0)
}

fn compare(bench: &mut Bench) {
    let places = bench.series.iter().filter(|series| series.figure == P50.name);
    let mut places: Vec<f64> = places.filter_map(|series| series.x).collect();
    places.sort_by(f64::total_cmp);
    let Some((few, more)) = places.split_first() else { return };
    let mut ratios = Vec::new();
    for (figure, limit) in
        [(P50, Some(1.05)), (P99, Some(1.2)), (RATE, None), (RESTART, None), (MEMORY, None)]
    {
        for many in more {
            let samples = |x: f64| of(bench, figure, "insula", "", Some(x));
            let whose = [*many, *few]
                .map(|x| if x == 1.0 { "1 tenant".into() } else { format!("{x} tenants") });
            let [above, below] = whose.each_ref().map(|case| ("insula", case.as_str()));
            let bar = limit.and_then(at_most);
            let pair = ((samples(*many), above), (samples(*few), below));
            ratios.extend(paired(figure.name, pair.0, pair.1, Some(*many), bar));
        }
    }
    bench.ratios = ratios;
    bench.notes.retain(|note| !note.starts_with("bar: "));
    let Some(many) = more.last() else { return };
    let restart = |x: f64| stats::median(of(bench, RESTART, "insula", "", Some(x)));
    let longer = (restart(*many) - restart(*few)) / 1e3;
    let verdict = if longer <= 1.0 { "holds" } else { "is missed" };
    bench.notes.push(format!(
        "bar: a restart with {many} tenants takes {longer:.2} s longer than with {few}; at most 1 s {verdict}"
    ));
    let least = of(bench, ANSWERED, "insula", "", Some(*many)).iter().copied().reduce(f64::min);
    if let Some(least) = least {
        let asked = many.min(SPOT as f64);
        let verdict = if least == asked { "holds" } else { "is missed" };
        bench.notes.push(format!(
            "bar: of {many} tenants, {asked} drawn evenly are asked, {least} at least answer; all {verdict}"
        ));
    }
    let memory = |x: f64| stats::median(of(bench, MEMORY, "insula", "", Some(x)));
    let (whole, least) = (memory(*many), memory(*few));
    let each = (whole - least) / (many - few);
    let verdict = if each <= 1.0 { "holds" } else { "is missed" };
    bench.notes.push(format!(
        "bar: from {few} to {many} tenants the whole host grows by {each:.2} KiB for each; at most 1 KiB {verdict}"
    ));
    if *many >= WHOLE_FROM {
        let each = whole / many;
        let verdict = if each <= 1.0 { "holds" } else { "is missed" };
        bench.notes.push(format!(
            "bar: the whole host with {many} tenants takes {each:.2} KiB for each; at most 1 KiB {verdict}"
        ));
    }
}
