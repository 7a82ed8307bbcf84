//! One worker's lives: from process to process, until the host ends.

use super::backoff::{Backoff, Death};
use super::link::{self, Link, Who};
use super::old::HandedWorker;
use super::{Inner, OUTGOING_MAX, Phase, REAP_MS_MAX, spawn};
use crate::sync::lock;
use bytes::Bytes;
use insula_ipc::channel::{ChannelError, encode};
use insula_model::api::WorkerState;
use insula_model::wire::{ToWorker, WorkerConfig};
use insula_sandbox::epoch::monotonic_ns;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// How long a worker may take to begin serving, in milliseconds: the time to read the largest
/// registry many times over.
const START_MS_MAX: u64 = 30_000;
/// How long a worker may live on after its socket has ended, in milliseconds.
const SOCKETLESS_MS_MAX: u64 = 1_000;
/// How much later than told a draining worker may end, in milliseconds.
pub(super) const DRAIN_GRACE_MS: u64 = 1_000;
/// How long a worker may take over the message that it is reading or writing when the host is handed over,
/// in milliseconds.
const HAND_OVER_MS_MAX: u64 = 1_000;
/// How long a host that stops still answers clients with idle connections, in milliseconds, and never
/// more than half of the drain: their requests may be on the way.
const STOP_IDLE_MS_MAX: u64 = 1_000;
/// The signal that nobody can catch.
const SIGKILL: i32 = 9;

/// How a process ended.
struct End {
    cause: String,
    /// Killed by neither the supervisor nor its own doing.
    from_outside: bool,
}

/// Says, however the task ends, that the seat is empty for good.
pub(super) struct Leaving(pub(super) Arc<Inner>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.filled.send_modify(|filled| *filled -= 1);
    }
}

/// Keeps the seat `index` filled until the host stops.
pub(super) async fn keep(inner: Arc<Inner>, index: u32) {
    let _leaving = Leaving(Arc::clone(&inner));
    let mut backoff = Backoff::default();
    let mut phase = inner.phase.subscribe();
    loop {
        let Some(end) = live(&inner, index, &mut phase).await else { return };
        let served = inner.seat(index, |seat| {
            seat.link = None;
            seat.pid = None;
            seat.serving_since.take().map(|since| since.elapsed())
        });
        let slot = inner.table.bury(index, monotonic_ns());
        let life = inner.seat(index, |seat| seat.life).unwrap_or_default();
        inner.runs_lost(life, *phase.borrow() != Phase::Running);
        inner.probes_lost(life, slot, &end.cause);
        if *phase.borrow() != Phase::Running {
            tracing::debug!(worker = index, cause = end.cause, "worker ended");
            return;
        }
        let tenant = slot.and_then(|slot| inner.registry.by_slot(slot));
        let tenant = tenant.as_ref().map(|tenant| &tenant.entry.name);
        let death = Death { served: served.flatten(), from_outside: end.from_outside, tenant };
        let pause = backoff.after(&death);
        tracing::error!(
            worker = index,
            cause = end.cause,
            tenant = tenant.map_or("(none)", |name| name.as_str()),
            pause_ms = pause.as_millis(),
            "worker died; it is replaced"
        );
        inner.record(index, backoff.unstarted(), end.cause, tenant.map(ToString::to_string));
        if !pause.is_zero() {
            inner.seat(index, |seat| seat.state = WorkerState::BackingOff);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
            }
        }
        inner.seat(index, |seat| seat.state = WorkerState::Starting);
    }
}

impl Inner {
    /// The process of this life is gone: so are the runs of jobs in it.
    pub(super) fn runs_lost(&self, life: u64, draining: bool) {
        for line in self.jobs.worker_gone(life, draining) {
            self.logs.push(&self.registry, line);
        }
    }
}

impl Inner {
    /// … and so are the probes.
    pub(super) fn probes_lost(&self, life: u64, current: Option<u32>, cause: &str) {
        self.probes.worker_gone(life, current, cause);
    }
}

/// One process, from its start to its end; none if it lives on and was handed over.
async fn live(inner: &Arc<Inner>, index: u32, phase: &mut watch::Receiver<Phase>) -> Option<End> {
    let (mut child, socket) = match spawn::spawn(&inner.inheritance) {
        Ok(started) => started,
        Err(error) => {
            let cause = format!("it could not be started: {error}");
            return Some(End { cause, from_outside: false });
        }
    };
    let pid = child.id();
    tracing::debug!(worker = index, pid, "worker started");
    let (outgoing, queued) = mpsc::channel(OUTGOING_MAX);
    let (kills, killed) = mpsc::channel(1);
    let link = Link { outgoing: outgoing.clone(), acks: HashMap::new(), kills };
    let life = inner.lives.fetch_add(1, Ordering::Relaxed);
    inner.seat(index, |seat| {
        seat.pid = pid;
        seat.life = life;
        seat.link = Some(link);
    });
    // After the queue is registered, without an await in between: see `processes`.
    let snapshot = inner.registry.snapshot();
    let config = WorkerConfig {
        index,
        workers: inner.table.workers(),
        instances: inner.instances,
        code_dir: inner.code_dir.clone(),
        code_key: inner.code_key,
        tenants_dir: inner.tenants_dir.clone(),
        outbound_ca: inner.outbound_ca.clone(),
        access_log: inner.access_log,
        sampled_ppm: inner.traces.sampled_ppm(),
    };
    let (from, to) = socket.into_split();
    let writing = tokio::spawn(link::write(to, config, snapshot, queued));
    let mut reading = tokio::spawn(link::read(Arc::clone(inner), Who::Seat(index), life, from));
    let watched = Watched { inner, index, outgoing, killed, phase };
    let Some(end) = watched.until_it_ends(&mut child, &mut reading).await else {
        // The last sender: the writing task ends behind what is queued.
        inner.seat(index, |seat| seat.link = None);
        hand_over(inner, index, life, child, writing, reading).await;
        return None;
    };
    writing.abort();
    // The process is gone, so the socket ends: this takes the last lines of its guests.
    if !reading.is_finished()
        && tokio::time::timeout(Duration::from_millis(REAP_MS_MAX), &mut reading).await.is_err()
    {
        reading.abort();
    }
    Some(end)
}

type Writing = tokio::task::JoinHandle<Result<OwnedWriteHalf, ChannelError>>;

/// Leaves a worker to the supervisor that comes after, between two messages in either direction. One that is
/// in the middle of a message for too long is of no use to that, and killed.
async fn hand_over(
    inner: &Inner,
    index: u32,
    life: u64,
    mut child: Child,
    writing: Writing,
    reading: Reading,
) {
    let both = async { tokio::join!(writing, reading) };
    let both = tokio::time::timeout(Duration::from_millis(HAND_OVER_MS_MAX), both).await;
    let between = match both {
        Ok((Ok(Ok(to)), Ok(Ok(())))) => {
            let socket = to.as_ref().as_fd().try_clone_to_owned();
            // Dropped, it would tell the worker that there is no supervisor any more.
            to.forget();
            socket.ok().zip(child.id())
        }
        _ => None,
    };
    match between {
        Some((socket, pid)) => {
            let handed = HandedWorker { index, pid, life, socket, child };
            lock(&inner.handed).push(handed);
        }
        None => {
            let _ = child.kill().await;
            inner.table.bury(index, monotonic_ns());
            inner.runs_lost(life, false);
        }
    }
}

/// What a living process is watched for.
struct Watched<'a> {
    inner: &'a Inner,
    index: u32,
    outgoing: mpsc::Sender<Bytes>,
    killed: mpsc::Receiver<String>,
    phase: &'a mut watch::Receiver<Phase>,
}

type Reading = tokio::task::JoinHandle<Result<(), ChannelError>>;

impl Watched<'_> {
    /// None once the host is handed over, if this worker can be.
    async fn until_it_ends(mut self, child: &mut Child, reading: &mut Reading) -> Option<End> {
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        let mut deadline = Some((after(START_MS_MAX), "did not begin to serve in time"));
        let mut by_us: Option<String> = None;
        let mut told = Phase::Running;
        let mut socketless = false;
        loop {
            let phase = *self.phase.borrow_and_update();
            if phase != told {
                told = phase;
                match phase {
                    Phase::Running => {}
                    Phase::Draining(within_ms) => {
                        self.drain(within_ms);
                        let end = after(within_ms.saturating_add(DRAIN_GRACE_MS));
                        deadline = Some((end, "did not drain in time"));
                    }
                    Phase::HandedOver if !socketless && self.serves() => return None,
                    Phase::HandedOver => {
                        deadline = Some((Instant::now(), "was not ready to be handed over"));
                    }
                    Phase::Killing => deadline = Some((Instant::now(), "the host stops at once")),
                }
            }
            let late = async {
                match deadline {
                    Some((at, why)) => {
                        sleep_until(at).await;
                        why
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = child.wait() => return Some(ended(status, by_us)),
                Some(reason) = self.killed.recv() => kill(child, &mut by_us, reason),
                why = late => {
                    deadline = None;
                    // It began to serve since the deadline for that was set.
                    let stale = told == Phase::Running && self.serves() && !socketless;
                    if !stale {
                        kill(child, &mut by_us, why.into());
                    }
                }
                end = &mut *reading, if !socketless => {
                    if *self.phase.borrow() == Phase::HandedOver && matches!(end, Ok(Ok(()))) {
                        // It stopped for that. `hand_over` looks at it again.
                        *reading = tokio::spawn(std::future::ready(Ok(())));
                        continue;
                    }
                    socketless = true;
                    match end {
                        // It died with messages unread; the death is reported as such.
                        Ok(Ok(()) | Err(ChannelError::Io(_))) => {}
                        Ok(Err(error)) => {
                            tracing::error!(worker = self.index, %error, "a worker's message is unreadable");
                        }
                        Err(error) => {
                            tracing::error!(worker = self.index, %error, "reading a worker's messages failed");
                        }
                    }
                    deadline = Some((after(SOCKETLESS_MS_MAX), "closed its socket and lived on"));
                }
                // The sender is in `inner`: this does not fail before everything ends.
                _ = self.phase.changed() => {}
            }
        }
    }

    fn serves(&self) -> bool {
        self.inner.seat(self.index, |seat| seat.serving_since.is_some()).unwrap_or_default()
    }

    fn drain(&self, within_ms: u64) {
        self.inner.seat(self.index, |seat| seat.state = WorkerState::Draining);
        match encode(&ToWorker::Drain { within_ms, idle_ms: stop_idle_ms(within_ms) }) {
            // Full or closed: it will not drain, and the deadline ends it.
            Ok(frame) => drop(self.outgoing.try_send(Bytes::from(frame))),
            Err(error) => tracing::error!(%error, "a worker could not be told to drain"),
        }
    }
}

/// What of a drain clients with idle connections have.
fn stop_idle_ms(within_ms: u64) -> u64 {
    STOP_IDLE_MS_MAX.min(within_ms / 2)
}

fn kill(child: &mut Child, by_us: &mut Option<String>, reason: String) {
    if let Err(error) = child.start_kill() {
        tracing::error!(%error, "a worker could not be killed");
    }
    by_us.get_or_insert(reason);
}

fn ended(status: std::io::Result<ExitStatus>, by_us: Option<String>) -> End {
    let status = match status {
        Ok(status) => status,
        Err(error) => return End { cause: format!("it was lost: {error}"), from_outside: false },
    };
    let cause = match (&by_us, status.signal(), status.code()) {
        (Some(reason), _, _) => format!("killed by the supervisor: it {reason}"),
        (None, Some(signal), _) => format!("killed by signal {signal}"),
        (None, None, Some(code)) => format!("exit status {code}"),
        (None, None, None) => status.to_string(),
    };
    End { cause, from_outside: by_us.is_none() && status.signal() == Some(SIGKILL) }
}
