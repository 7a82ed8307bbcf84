//! Jobs: tenants with a schedule, whose programs the host runs.
//!
//! ```text
//!            time, or asked for            a worker has room            JobEnded, or its death
//!  (resting) ─────────────────▶ Waiting ─────────────────▶ Running ───────────────────▶ (resting)
//!      │  ▲                                recorded before                recorded after
//!      └──┘ skipped, and logged: it waits or runs already, the time was missed, no room in time
//! ```
//! [`Board`] owns what is due, waits and runs; [`Scheduler`] is the one task that acts on it, and
//! sleeps until the next time. Bounded by one run of each tenant, [`RUNS_PER_WORKER_MAX`] in a worker,
//! and [`START_WAIT_MS_MAX`] of waiting. Ends when the host does: nothing is started any more, and what
//! runs is recorded as it ends.
//!
//! A run is started at most once. It is written to the database before a worker hears of it, and a
//! worker or host that dies takes it along; nobody repeats it, since nobody knows how far it came.
//! Times that pass while the host is down, or asleep, are missed: they are logged and not made up for.

mod board;
mod clock;
mod scheduler;
mod waiting;

pub(crate) use board::{Board, HandedJobs};
pub(crate) use scheduler::Scheduler;
pub(crate) use waiting::{Place, Refused};

/// Programs of jobs that one worker runs at once; they share its thread with requests.
const RUNS_PER_WORKER_MAX: usize = 32;
/// How long a run that is due may wait for a worker with room, in milliseconds.
const START_WAIT_MS_MAX: u64 = 600_000;
/// The same for a run that somebody asked for and waits for, in milliseconds.
const ASKED_WAIT_MS_MAX: u64 = 10_000;
/// A time that is noticed later than this was missed, in milliseconds.
const LATE_MS_MAX: u64 = 30_000;

/// The result of a run whose worker died.
pub(crate) const WORKER_DIED: &str = "worker-died";
/// The result of a run that was cut off with the whole host.
pub(crate) const HOST_DIED: &str = "host-died";
