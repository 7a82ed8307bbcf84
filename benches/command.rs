//! What the command line calls.

use crate::session::{Interrupted, Session};
use crate::{density, languages, neighbours, scale, startup, tax, throughput};
use anyhow::Result;

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Time to the first answer, and what creating and removing costs.
    Startup,
    /// Memory of each tenant.
    Density,
    /// Requests per second, CPU time of each, latency.
    Throughput,
    /// What a tenant notices of its neighbours.
    Neighbours,
    /// What more deployed tenants cost the others.
    Scale,
    /// The same handler in several languages.
    Languages,
    /// What metering and preemption cost a guest that computes.
    Tax,
}

impl Which {
    /// All, in the order in which they run.
    pub const ALL: [Self; 7] = [
        Self::Startup,
        Self::Density,
        Self::Throughput,
        Self::Neighbours,
        Self::Scale,
        Self::Languages,
        Self::Tax,
    ];

    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Density => "density",
            Self::Throughput => "throughput",
            Self::Neighbours => "neighbours",
            Self::Scale => "scale",
            Self::Languages => "languages",
            Self::Tax => "tax",
        }
    }
}

/// Runs these, and writes what came of them after each. One that fails does not keep the next from being
/// run; an interruption does. Whether all was measured; the results have the rest.
pub fn run(session: &mut Session, which: &[Which]) -> Result<bool> {
    let mut complete = true;
    for one in which {
        let done = session.bench(one.name(), |session, bench| match one {
            Which::Startup => startup::run(session, bench),
            Which::Density => density::run(session, bench),
            Which::Throughput => throughput::run(session, bench),
            Which::Neighbours => neighbours::run(session, bench),
            Which::Scale => scale::run(session, bench),
            Which::Languages => languages::run(session, bench),
            Which::Tax => tax::run(session, bench),
        });
        let interrupted = done.as_ref().is_err_and(|error| error.is::<Interrupted>());
        complete &= done.is_ok();
        session.write(false)?;
        if interrupted {
            break;
        }
    }
    complete &= !session.failed();
    session.write(complete)?;
    Ok(complete)
}
