//! The worker processes: started, told, watched, buried, replaced.
//!
//! ```text
//!            spawn            Serving                Drain
//!  (none) ──────────▶ Starting ──────▶ Serving ──────────────▶ Draining ──▶ (gone)
//!                        ▲  │             │
//!                 at once│  └───died──────┤
//!                        │                ▼
//!                        └───────── bury, record ──▶ BackingOff (see `backoff`)
//! ```
//! A worker of a host that is upgraded is left to the supervisor that comes after (see `old`), for which it
//! is one that retires.
//!
//! Owns the listening socket, the shared table and one task per worker. Bounded by the number of
//! workers; each has an outgoing queue of [`OUTGOING_MAX`] frames, and one that does not keep up is
//! killed and replaced. Ends with [`Workers::stop`].
//!
//! No publish is missed by a worker that is starting: the registry is changed before any worker is
//! told, and a new worker's queue is registered before its snapshot is taken, in one step without an
//! await. A publish is therefore in the snapshot, in the queue behind it, or in both; applying it
//! twice is harmless.

mod backoff;
mod figures;
mod link;
mod old;
mod probes;
mod spawn;
mod worker;

pub(crate) use old::{HandedWorker, OldWorker, OldWorkers, Process};

use crate::clock;
use crate::jobs::{Board, Place};
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::sync::lock;
use crate::traces::Traces;
use bytes::Bytes;
use futures_util::future::join_all;
use insula_ipc::channel::{ChannelError, encode};
use insula_ipc::memory::Resident;
use insula_ipc::table::Table;
use insula_model::CodeId;
use insula_model::access_log::Sample;
use insula_model::api::{HostMemory, MemoryPressure, WorkerDeath, WorkerInfo, WorkerState};
use insula_model::wire::{Retired, TenantEntry, ToWorker};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub(crate) use probes::{ProbeAsked, Unprobed};

/// Frames on their way to one worker: publishes come one at a time, so these are `CodeReady`s.
const OUTGOING_MAX: usize = 256;
/// How long a worker may take to put a publish in force before it counts as stuck, in milliseconds.
const ACK_MS_MAX: u64 = 10_000;
/// How long a killed worker may take to be reaped, in milliseconds.
const REAP_MS_MAX: u64 = 2_000;

/// A worker asks for compiled code.
#[derive(Debug)]
pub(crate) struct CodeNeeded {
    /// Which artifact.
    pub(crate) code: CodeId,
    /// What was wrong.
    pub(crate) reason: String,
}

/// How the host as a whole is doing, as far as workers' tasks are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The dead are replaced.
    Running,
    /// Finish within this many milliseconds; nobody is replaced.
    Draining(u64),
    /// Another supervisor takes over the workers as they are; nobody is replaced.
    HandedOver,
    /// End now.
    Killing,
}

/// What workers are started with, besides what they inherit.
pub(crate) struct WorkerSetup {
    /// Tenants' listening socket.
    pub(crate) listener: TcpListener,
    /// The shared table; it says how many workers there are.
    pub(crate) table: Arc<Table>,
    /// Knows which figures are to be kept when a slot is cleared.
    pub(crate) metrics: Arc<Metrics>,
    /// Where recorded traces go.
    pub(crate) traces: Traces,
    /// The log filter.
    pub(crate) log: String,
    /// Directory of compiled code.
    pub(crate) code_dir: std::path::PathBuf,
    /// The key that authenticates it.
    pub(crate) code_key: [u8; 32],
    /// Directory of what tenants keep.
    pub(crate) tenants_dir: std::path::PathBuf,
    /// Certificates (PEM) that outbound TLS trusts beside the public ones.
    pub(crate) outbound_ca: String,
    /// Which requests the access log gets of tenants that do not say so themselves.
    pub(crate) access_log: Sample,
    /// Live instances that each has room for.
    pub(crate) instances: u32,
}

/// All workers of this host; clones share them.
#[derive(Clone)]
pub(crate) struct Workers(Arc<Inner>);

struct Inner {
    inheritance: spawn::Inheritance,
    code_dir: String,
    code_key: [u8; 32],
    tenants_dir: String,
    outbound_ca: String,
    access_log: Sample,
    instances: u32,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    traces: Traces,
    registry: Arc<Registry>,
    jobs: Arc<Board>,
    probes: probes::Probes,
    logs: Logs,
    code_needed: mpsc::Sender<CodeNeeded>,
    seats: Mutex<Vec<Seat>>,
    /// Something about a seat has changed.
    changed: Notify,
    phase: watch::Sender<Phase>,
    /// Seats whose task has not ended.
    filled: watch::Sender<u32>,
    seq: AtomicU64,
    /// Processes started so far.
    lives: AtomicU64,
    /// Workers from before an upgrade, while there are any.
    old: Mutex<old::Old>,
    /// How many of them.
    retiring: watch::Sender<u32>,
    /// Workers that the next supervisor gets.
    handed: Mutex<Vec<HandedWorker>>,
}

/// What is known about the worker of one index, whichever process that is at the moment.
struct Seat {
    state: WorkerState,
    pid: Option<u32>,
    /// Which process it is, among all that there ever were, from 1.
    life: u64,
    serving_since: Option<Instant>,
    /// Deaths in a row before it ever served.
    unstarted: u32,
    restarts: u64,
    last_death: Option<WorkerDeath>,
    link: Option<link::Link>,
}

/// Why a host has no workers.
#[derive(Debug, thiserror::Error)]
#[error("worker {index} does not start: {cause}; the lines above may say why")]
pub struct WorkersFailed {
    /// Which worker.
    pub index: u32,
    /// How it last died.
    pub cause: String,
}

impl Workers {
    /// Starts one worker per column of the table. `lives` is how many there were before, if this host goes on
    /// from another.
    pub(crate) fn start(
        setup: WorkerSetup,
        registry: Arc<Registry>,
        jobs: Arc<Board>,
        logs: Logs,
        code_needed: mpsc::Sender<CodeNeeded>,
        lives: u64,
    ) -> Self {
        let seats = (0..setup.table.workers()).map(|_| Seat {
            state: WorkerState::Starting,
            pid: None,
            life: 0,
            serving_since: None,
            unstarted: 0,
            restarts: 0,
            last_death: None,
            link: None,
        });
        let inner = Arc::new(Inner {
            code_dir: path_text(&setup.code_dir),
            code_key: setup.code_key,
            tenants_dir: path_text(&setup.tenants_dir),
            outbound_ca: setup.outbound_ca,
            access_log: setup.access_log,
            instances: setup.instances,
            registry,
            jobs,
            probes: probes::Probes::default(),
            logs,
            code_needed,
            seats: Mutex::new(seats.collect()),
            changed: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            filled: watch::Sender::new(setup.table.workers()),
            seq: AtomicU64::new(1),
            lives: AtomicU64::new(lives + 1),
            old: Mutex::default(),
            retiring: watch::Sender::new(0),
            handed: Mutex::default(),
            table: Arc::clone(&setup.table),
            metrics: setup.metrics,
            traces: setup.traces,
            inheritance: spawn::Inheritance {
                listener: setup.listener,
                table: setup.table,
                log: setup.log,
            },
        });
        for index in 0..inner.table.workers() {
            tokio::spawn(worker::keep(Arc::clone(&inner), index));
        }
        Self(inner)
    }

    /// Waits until every worker serves; fails if one dies again and again before it does.
    pub(crate) async fn serving(&self) -> Result<(), WorkersFailed> {
        loop {
            let changed = self.0.changed.notified();
            {
                let seats = lock(&self.0.seats);
                if seats.iter().all(|seat| seat.state == WorkerState::Serving) {
                    return Ok(());
                }
                for (index, seat) in (0..).zip(seats.iter()) {
                    if seat.unstarted > backoff::FREE_RESTARTS {
                        let cause = seat.last_death.as_ref().map(|death| death.cause.clone());
                        return Err(WorkersFailed { index, cause: cause.unwrap_or_default() });
                    }
                }
            }
            changed.await;
        }
    }

    /// Whether at least one worker accepts connections.
    pub(crate) fn any_serving(&self) -> bool {
        lock(&self.0.seats).iter().any(|seat| seat.state == WorkerState::Serving)
    }

    /// Tells every worker and waits until all that live have acknowledged: from then on no request
    /// anywhere sees the state before. One that does not answer in time is killed; its replacement
    /// starts from the registry, which has the change already.
    pub(crate) async fn publish(
        &self,
        tenants: Vec<TenantEntry>,
        removed: Vec<u32>,
    ) -> Result<(), ChannelError> {
        let seq = self.0.seq.fetch_add(1, Ordering::Relaxed);
        self.tell(seq, &ToWorker::Publish { seq, tenants, removed }).await.map(drop)
    }

    /// Has every worker repave the tenants in these slots, at most
    /// [`insula_model::wire::REPAVE_SLOTS_MAX`]; the sum of what they retired. A worker that dies
    /// meanwhile has retired all it had, uncounted.
    pub(crate) async fn repave(&self, slots: Vec<u32>) -> Result<Retired, ChannelError> {
        let seq = self.0.seq.fetch_add(1, Ordering::Relaxed);
        self.tell(seq, &ToWorker::Repave { seq, slots }).await
    }

    /// Sends a message to every worker and waits for what it does to be in force in all of them.
    async fn tell(&self, seq: u64, message: &ToWorker) -> Result<Retired, ChannelError> {
        self.0.mute_are_gone().await;
        let frame = Bytes::from(encode(message)?);
        let mut waits = Vec::new();
        self.0.each_link(|link| {
            let (acknowledged, wait) = oneshot::channel();
            link.acks.insert(seq, acknowledged);
            link.send(frame.clone());
            waits.push(wait);
        });
        // A wait ends with the acknowledgement or with the worker, and both are good.
        let mut all = Box::pin(join_all(waits));
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(ACK_MS_MAX), &mut all).await {
            let mut sum = Retired::default();
            told.into_iter().flatten().for_each(|retired| sum += retired);
            return Ok(sum);
        }
        self.0.each_link(|link| {
            if link.acks.contains_key(&seq) {
                link.kill(format!("did not acknowledge a message within {ACK_MS_MAX} ms"));
            }
        });
        if tokio::time::timeout(Duration::from_millis(REAP_MS_MAX), all).await.is_err() {
            tracing::error!("a worker that was killed has not ended; is the machine out of order?");
        }
        Ok(Retired::default())
    }

    /// Tells every worker that compiled code is on disk.
    pub(crate) fn code_ready(&self, code: CodeId) -> Result<(), ChannelError> {
        let frame = Bytes::from(encode(&ToWorker::CodeReady { code })?);
        self.0.each_link(|link| link.send(frame.clone()));
        Ok(())
    }

    /// The workers that a run may be sent to.
    pub(crate) fn places(&self) -> Vec<Place> {
        let seats = lock(&self.0.seats);
        let serving = (0..).zip(seats.iter()).filter(|(_, seat)| seat.takes_runs());
        let place = |(index, seat): (u32, &Seat)| Place {
            life: seat.life,
            running: self.0.table.worker(index).running(),
        };
        serving.map(place).collect()
    }

    /// Has the worker of this life run a job, if it still serves.
    pub(crate) fn run_job(&self, life: u64, slot: u32, run: u64) -> bool {
        let Ok(frame) = encode(&ToWorker::RunJob { slot, run }) else { return false };
        self.send(life, Bytes::from(frame))
    }

    /// Sends a frame to the worker of this life, if it still serves.
    fn send(&self, life: u64, frame: Bytes) -> bool {
        let seats = lock(&self.0.seats);
        let seat = seats.iter().find(|seat| seat.life == life && seat.takes_runs());
        let link = seat.and_then(|seat| seat.link.as_ref());
        link.map(|link| link.send(frame)).is_some()
    }

    /// Live instances that each worker has room for.
    pub(crate) fn instances(&self) -> u32 {
        self.0.instances
    }

    /// What all workers hold now, and may hold.
    pub(crate) fn memory(&self) -> HostMemory {
        let all = self.infos().into_iter().chain(self.retiring());
        let used_bytes = all.map(|worker| worker.memory_bytes).sum();
        let budget = self.0.table.memory_budget();
        HostMemory {
            used_bytes,
            budget_bytes: (budget > 0).then_some(budget),
            pressure: MemoryPressure::of(used_bytes, budget),
        }
    }

    /// The workers as `insula ps` shows them.
    pub(crate) fn infos(&self) -> Vec<WorkerInfo> {
        let seats = lock(&self.0.seats);
        let info = |(index, seat): (u32, &Seat)| {
            let cell = self.0.table.worker(index);
            WorkerInfo {
                index,
                pid: seat.pid,
                state: seat.state,
                connections: cell.connections(),
                running: cell.running(),
                loaded: cell.loaded(),
                memory_bytes: seat.pid.map_or(0, held),
                restarts: seat.restarts,
                last_death: seat.last_death.clone(),
            }
        };
        (0..).zip(seats.iter()).map(info).collect()
    }

    /// Lets every worker finish what runs, and waits; what has not ended a second after
    /// `within_ms` is killed.
    pub(crate) async fn stop(&self, within_ms: u64) {
        // Killing outranks draining.
        self.0.phase.send_if_modified(|phase| {
            let running = *phase == Phase::Running;
            if running {
                *phase = Phase::Draining(within_ms);
            }
            running
        });
        self.reaped().await;
    }

    /// Ends every worker now; a `stop` under way then returns soon.
    pub(crate) fn kill(&self) {
        self.0.phase.send_replace(Phase::Killing);
    }

    /// Waits until the last worker is gone.
    pub(crate) async fn reaped(&self) {
        let mut seats = self.0.filled.subscribe();
        // The sender is in `self`: this ends with the condition.
        let _ = seats.wait_for(|filled| *filled == 0).await;
    }
}

impl Seat {
    fn takes_runs(&self) -> bool {
        self.state == WorkerState::Serving && self.link.is_some()
    }
}

impl Inner {
    /// Changes one seat and tells whoever waits for changes.
    fn seat<T>(&self, index: u32, change: impl FnOnce(&mut Seat) -> T) -> Option<T> {
        let changed = lock(&self.seats).get_mut(index as usize).map(change);
        self.changed.notify_waiters();
        changed
    }

    /// Notes a death in the seat of its worker.
    fn record(&self, index: u32, unstarted: u32, cause: String, tenant: Option<String>) {
        let death = WorkerDeath { at: clock::now(), cause, tenant };
        self.seat(index, |seat| {
            seat.restarts += 1;
            seat.unstarted = unstarted;
            seat.last_death = Some(death);
        });
    }
}

/// Paths travel as text. A data directory whose name is not UTF-8 is refused at start-up.
fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Bytes that a worker holds; nothing if it is gone.
fn held(pid: u32) -> u64 {
    Resident::of(pid).map_or(0, |resident| resident.bytes())
}
