//! `insula bench neighbours`: what a tenant notices of its neighbours. An open-loop client drives a victim
//! at half a core, alone and beside aggressors of each class; the same with containers.

pub mod subjects;

use crate::native;
use crate::open_loop::{Answers, Arrivals};
use crate::results::Bench;
use crate::samples::{Figure, add, at_most, of, paired};
use crate::session::Session;
use crate::threads::{self, Cores};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use subjects::{Class, Containered, Hosted, Subject};

/// What the victim is to use, in cores.
const LOAD: f64 = 0.5;
/// How long aggressors are at it before anything counts.
const LEAD: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(2);
/// Aggressors, unless `--tenants` says otherwise.
const AGGRESSORS: [usize; 3] = [1, 10, 100];
const RATE_MAX: f64 = 15_000.0;

const AXIS: &str = "aggressors";
const ALONE: Figure = Figure::less("p99 alone", "us").along(AXIS);
const BESIDE: Figure = Figure::less("p99 beside", "us").along(AXIS);
const GROWTH: Figure = Figure::less("p99 beside to alone", "x").along(AXIS);
const ANSWERED: Figure = Figure::more("answered beside", "%").along(AXIS);

const METHOD: &str = "An open-loop client asks a victim (hello) at a constant rate, chosen beforehand so that its host uses half a core, \
15,000 a second at most; latency counts from the moment at which a request was due. It runs alone, then beside aggressors of a class, \
in turn; each p99 beside is divided by the p99 alone just before it. machine is no tenant at all but a thread of the lowest priority on \
each core, which takes nothing that anybody wants: what the victim notices of it is the machine's. spin computes without end; grow allocates and touches 32 MiB again \
and again; churn is asked as fast as it answers, in a fresh instance each time (a container starts a process each time); hostcalls reads \
the clock without end; fill fills 64 MiB in single operations; slow has clients that send and read a little at a time. \
The victim asks for half a core and the aggressors for nothing: cpu.request with Insula, cpu.shares 512 and 2 under crun. Other container \
runtimes set the same cgroups and are not measured again.";

/// How it is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Alone and beside, so many times.
    pub rounds: usize,
    /// Of each run.
    pub span: Duration,
    /// How many aggressors, in turn.
    pub aggressors: Vec<usize>,
    /// Connections of each aggressor.
    pub connections: usize,
    /// Whether nobody asks for any CPU.
    pub equal: bool,
    /// Arrivals a second at most: beyond, the generator itself would use much of the machine.
    pub rate_max: f64,
    /// Where servers and generator run.
    pub cores: Cores,
}

impl Settings {
    /// The most aggressors that are asked for.
    pub fn most(&self) -> usize {
        self.aggressors.iter().copied().max().unwrap_or(0)
    }
}

/// One round: alone, then beside, each with the cores that the whole server used meanwhile.
pub struct Pair {
    /// Without aggressors.
    pub alone: (Answers, f64),
    /// With them.
    pub beside: (Answers, f64),
    /// What became of the aggressors' requests.
    pub seen: String,
}

/// What p99 may grow to beside so many.
pub fn bound(aggressors: usize) -> f64 {
    if aggressors <= 10 { 1.5 } else { 2.0 }
}

fn arrivals(subject: &dyn Subject, rate: f64, span: Duration, settings: &Settings) -> Arrivals {
    Arrivals {
        port: subject.port(),
        request: subject.request(),
        rate,
        span,
        cores: settings.cores.generator.clone(),
    }
}

/// The rate at which the victim, alone, uses what it is to use.
pub fn calibrate(subject: &dyn Subject, settings: &Settings) -> Result<f64> {
    let mut rate: f64 = 4_000.0;
    for _ in 0..3 {
        let before = subject.cpu_seconds();
        let answers = arrivals(subject, rate, Duration::from_secs(2), settings).run()?;
        ensure!(answers.failed == 0, "{} requests fail without aggressors", answers.failed);
        let each = (subject.cpu_seconds() - before) / f64::from(answers.sent);
        rate = (LOAD / each).min(settings.rate_max);
    }
    Ok(rate.round())
}

/// One round.
pub fn pair(
    subject: &dyn Subject,
    rate: f64,
    aggressors: usize,
    settings: &Settings,
) -> Result<Pair> {
    let once = || -> Result<(Answers, f64)> {
        let (before, since) = (subject.cpu_seconds(), Instant::now());
        let answers = arrivals(subject, rate, settings.span, settings).run()?;
        Ok((answers, (subject.cpu_seconds() - before) / since.elapsed().as_secs_f64()))
    };
    let alone = once()?;
    let aggression = subject.attack(aggressors)?;
    std::thread::sleep(LEAD);
    let beside = once();
    // They end, whatever came of it.
    let seen = aggression.end()?;
    subject.settle()?;
    Ok(Pair { alone, beside: beside?, seen })
}

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let settings = Settings {
        rounds: session.options.rounds.unwrap_or(ROUNDS),
        span: SPAN,
        aggressors: session.options.tenants.map_or_else(|| AGGRESSORS.to_vec(), |n| vec![n]),
        connections: 1,
        equal: false,
        rate_max: RATE_MAX,
        cores: Cores::divide(),
    };
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), settings.rounds.to_string());
    let apart = if settings.cores.apart() { "apart" } else { "shared by servers and generator" };
    bench.settings.insert("cores".into(), apart.into());
    let mut peer = None;
    if !session.peers(&["crun"])?.is_empty() {
        match native::twin() {
            Ok(twin) => peer = Some(twin),
            Err(error) => session.lost("crun", &error),
        }
    }
    // Everything that is started from here on stays on the server's cores.
    threads::bind(&settings.cores.server);
    let mut rates = [0.0, 0.0];
    let classes = Class::ALL.len();
    for (at, class) in Class::ALL.into_iter().enumerate() {
        session.step(&format!("neighbours: {}", class.name()), at, classes)?;
        let done = Hosted::start(&session.options.binary, class, &settings).and_then(|subject| {
            measure(session, bench, &subject, class, (&mut rates[0], &settings))
        });
        // The others are measured all the same.
        session.survive(bench, &format!("insula {}", class.name()), done)?;
        if let Some(peer) = peer.as_ref().filter(|_| class.role().is_some()) {
            session.step(&format!("neighbours: {} in containers", class.name()), at, classes)?;
            let done = Containered::start(peer, class, &settings).and_then(|subject| {
                measure(session, bench, &subject, class, (&mut rates[1], &settings))
            });
            session.survive(bench, &format!("crun {}", class.name()), done)?;
        }
        compare(bench, &settings);
    }
    Ok(())
}

fn measure(
    session: &Session,
    bench: &mut Bench,
    subject: &dyn Subject,
    class: Class,
    (rate, settings): (&mut f64, &Settings),
) -> Result<()> {
    if *rate == 0.0 {
        *rate = calibrate(subject, settings)?;
        let name = format!("arrivals a second, {}", subject.name());
        bench.settings.insert(name, format!("{rate:.0}"));
    }
    for _ in 0..settings.rounds {
        for number in &settings.aggressors {
            session.go_on()?;
            let round = pair(subject, *rate, *number, settings)?;
            let (alone, beside) = (round.alone.0.latency(0.99), round.beside.0.latency(0.99));
            let mut put = |figure: Figure, sample: f64| {
                add(bench, figure, subject.name(), class.name(), Some(*number as f64), sample);
            };
            put(GROWTH, beside / alone);
            put(BESIDE, beside);
            put(ALONE, alone);
            put(ANSWERED, round.beside.0.success() * 100.0);
            if !(round.alone.0.urgent && round.beside.0.urgent) {
                let note =
                    "the generator had no right to go first: its own lag is part of these figures";
                if !bench.notes.iter().any(|known| known == note) {
                    bench.notes.push(note.into());
                }
            }
        }
    }
    Ok(())
}

fn compare(bench: &mut Bench, settings: &Settings) {
    let mut ratios = Vec::new();
    for class in Class::ALL {
        for number in &settings.aggressors {
            let x = Some(*number as f64);
            for id in ["insula", "crun"] {
                let samples = |figure| of(bench, figure, id, class.name(), x);
                let alone = format!("{}, alone", class.name());
                let bar = if id == "insula" { at_most(bound(*number)) } else { None };
                ratios.extend(paired(
                    "p99 beside to alone",
                    (samples(BESIDE), (id, class.name())),
                    (samples(ALONE), (id, &alone)),
                    x,
                    bar,
                ));
            }
            let growth = |id| of(bench, GROWTH, id, class.name(), x);
            ratios.extend(paired(
                GROWTH.name,
                (growth("insula"), ("insula", class.name())),
                (growth("crun"), ("crun", class.name())),
                x,
                None,
            ));
        }
    }
    bench.ratios = ratios;
}
