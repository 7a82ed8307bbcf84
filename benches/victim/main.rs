//! What a tenant notices of its neighbours: an open-loop client drives a victim at half a core, alone and
//! beside aggressors of each class; the same with containers under `crun`.
//!
//! ```text
//! cargo bench -p insula-benches --bench victim
//! ```
//! From the environment: `ROUNDS` and `SECONDS` (5 and 4); `AGGRESSORS` (1,10,100); `CLASSES`
//! (spin,grow,churn,hostcalls,fill,slow); `CONNECTIONS` of each aggressor (1); `SHARES` (`victim`: the
//! victim asks for half a core and the aggressors for nothing; `equal`: nobody asks for anything);
//! `AGAINST` (`both`, `insula`, `crun`); `RATE` of arrivals (measured), and `RATE_MAX` (15000), beyond which
//! the generator would itself use much of the machine; `CLIENT_NICE`, the niceness of the aggressors'
//! clients (0). README.md says how each figure is taken.
#![forbid(unsafe_code)]

mod report;
mod subjects;

use anyhow::{Context, Result, ensure};
use insula_benches::host::binary;
use insula_benches::open_loop::{Answers, Arrivals};
use insula_benches::threads::Cores;
use insula_benches::{containers, setting, threads};
use report::{Pair, report};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use subjects::{Class, Containered, Hosted, Subject};

/// What the victim is to use, in cores.
const LOAD: f64 = 0.5;
/// How long aggressors are at it before anything counts.
const LEAD: Duration = Duration::from_secs(1);

/// What the environment asks for.
pub(crate) struct Settings {
    rounds: u32,
    span: Duration,
    aggressors: Vec<usize>,
    classes: Vec<Class>,
    pub(crate) connections: usize,
    pub(crate) equal: bool,
    rate: f64,
    rate_max: f64,
    pub(crate) cores: Cores,
}

impl Settings {
    /// The most aggressors that are asked for.
    pub(crate) fn most(&self) -> usize {
        self.aggressors.iter().copied().max().unwrap_or(0)
    }

    fn read() -> Result<Self> {
        let numbers: String = setting("AGGRESSORS", "1,10,100".to_owned())?;
        let names: String = setting("CLASSES", "spin,grow,churn,hostcalls,fill,slow".to_owned())?;
        let shares: String = setting("SHARES", "victim".to_owned())?;
        ensure!(["victim", "equal"].contains(&shares.as_str()), "SHARES={shares}");
        let numbers: Result<Vec<usize>, _> = numbers.split(',').map(str::parse).collect();
        let classes: Result<Vec<Class>> = names.split(',').map(Class::named).collect();
        Ok(Self {
            rounds: setting("ROUNDS", 5)?,
            span: Duration::from_secs_f64(setting("SECONDS", 4.0)?),
            aggressors: numbers.context("AGGRESSORS")?,
            classes: classes?,
            connections: setting("CONNECTIONS", 1)?,
            equal: shares == "equal",
            rate: setting("RATE", 0.0)?,
            rate_max: setting("RATE_MAX", 15_000.0)?,
            cores: Cores::divide(),
        })
    }
}

fn main() -> Result<()> {
    let settings = Settings::read()?;
    let against: String = setting("AGAINST", "both".to_owned())?;
    println!(
        "server on cores {:?}, load generator on {:?}{}",
        settings.cores.server,
        settings.cores.generator,
        if settings.cores.apart() { "" } else { ": they share them" },
    );
    println!(
        "{} rounds of {:?} alone and beside, {} connections an aggressor, shares: {}\n",
        settings.rounds,
        settings.span,
        settings.connections,
        if settings.equal { "equal" } else { "the victim asks for half a core" },
    );
    let peer: Option<PathBuf> = match against.as_str() {
        "insula" => None,
        _ if containers::available() => Some(containers::build_peer()?),
        _ => {
            println!("containers: not measured, since crun or the right to run it is missing\n");
            None
        }
    };
    // Everything that is started from here on stays on the server's cores.
    threads::bind(&settings.cores.server);
    let mut rates = [settings.rate, settings.rate];
    for class in &settings.classes {
        if against != "crun" {
            let subject = Hosted::start(&binary()?, *class, &settings)?;
            measure(&subject, *class, &mut rates[0], &settings)?;
        }
        if let Some(peer) = peer.as_ref().filter(|_| class.role().is_some()) {
            let subject = Containered::start(peer, *class, &settings)?;
            measure(&subject, *class, &mut rates[1], &settings)?;
        }
    }
    Ok(())
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
fn calibrate(subject: &dyn Subject, settings: &Settings) -> Result<f64> {
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

fn measure(subject: &dyn Subject, class: Class, rate: &mut f64, settings: &Settings) -> Result<()> {
    if *rate == 0.0 {
        *rate = calibrate(subject, settings)?;
    }
    let once = || -> Result<(Answers, f64)> {
        let (before, since) = (subject.cpu_seconds(), Instant::now());
        let answers = arrivals(subject, *rate, settings.span, settings).run()?;
        Ok((answers, (subject.cpu_seconds() - before) / since.elapsed().as_secs_f64()))
    };
    let mut pairs: Vec<Vec<Pair>> = settings.aggressors.iter().map(|_| Vec::new()).collect();
    for _ in 0..settings.rounds {
        for (number, pairs) in settings.aggressors.iter().zip(&mut pairs) {
            let alone = once()?;
            let aggression = subject.attack(*number)?;
            std::thread::sleep(LEAD);
            let beside = once();
            // They end, whatever came of it.
            let seen = aggression.end()?;
            pairs.push(Pair { alone, beside: beside?, seen });
            subject.settle()?;
        }
    }
    report(subject.name(), class, *rate, &settings.aggressors, &pairs);
    Ok(())
}
