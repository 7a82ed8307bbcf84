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

use anyhow::{Context, Result, ensure};
use insula_benches::host::binary;
use insula_benches::neighbours::subjects::{Class, Containered, Hosted, Subject};
use insula_benches::neighbours::{Pair, Settings, calibrate, pair};
use insula_benches::threads::Cores;
use insula_benches::{containers, setting, threads};
use report::report;
use std::path::PathBuf;
use std::time::Duration;

/// What the environment asks for; the classes, and the rate of arrivals, 0 if it is to be measured.
fn read() -> Result<(Settings, Vec<Class>, f64)> {
    let numbers: String = setting("AGGRESSORS", "1,10,100".to_owned())?;
    let names: String = setting("CLASSES", "spin,grow,churn,hostcalls,fill,slow".to_owned())?;
    let shares: String = setting("SHARES", "victim".to_owned())?;
    ensure!(["victim", "equal"].contains(&shares.as_str()), "SHARES={shares}");
    let numbers: Result<Vec<usize>, _> = numbers.split(',').map(str::parse).collect();
    let classes: Result<Vec<Class>> = names.split(',').map(Class::named).collect();
    let settings = Settings {
        rounds: setting("ROUNDS", 5)?,
        span: Duration::from_secs_f64(setting("SECONDS", 4.0)?),
        aggressors: numbers.context("AGGRESSORS")?,
        connections: setting("CONNECTIONS", 1)?,
        equal: shares == "equal",
        rate_max: setting("RATE_MAX", 15_000.0)?,
        cores: Cores::divide(),
    };
    Ok((settings, classes?, setting("RATE", 0.0)?))
}

fn main() -> Result<()> {
    let (settings, classes, rate) = read()?;
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
    let mut rates = [rate, rate];
    for class in &classes {
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

fn measure(subject: &dyn Subject, class: Class, rate: &mut f64, settings: &Settings) -> Result<()> {
    if *rate == 0.0 {
        *rate = calibrate(subject, settings)?;
    }
    let mut pairs: Vec<Vec<Pair>> = settings.aggressors.iter().map(|_| Vec::new()).collect();
    for _ in 0..settings.rounds {
        for (number, pairs) in settings.aggressors.iter().zip(&mut pairs) {
            pairs.push(pair(subject, *rate, *number, settings)?);
        }
    }
    report(subject.name(), class, *rate, &settings.aggressors, &pairs);
    Ok(())
}
