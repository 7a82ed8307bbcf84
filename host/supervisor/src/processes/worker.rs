//! One worker's lives: from process to process, until the host ends.

use super::backoff::{Backoff, Death};
use super::link::{self, Link};
use super::{Inner, OUTGOING_MAX, Phase, REAP_MS_MAX, spawn};
use bytes::Bytes;
use insula_ipc::channel::{ChannelError, encode};
use insula_model::api::WorkerState;
use insula_model::wire::{ToWorker, WorkerConfig};
use insula_sandbox::epoch::monotonic_ns;
use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// How long a worker may take to begin serving, in milliseconds: the time to read the largest
/// registry many times over.
const START_MS_MAX: u64 = 30_000;
/// How long a worker may live on after its socket has ended, in milliseconds.
const SOCKETLESS_MS_MAX: u64 = 1_000;
/// How much later than told a draining worker may end, in milliseconds.
const DRAIN_GRACE_MS: u64 = 1_000;
/// The signal that nobody can catch.
const SIGKILL: i32 = 9;

/// How a process ended.
struct End {
    cause: String,
    /// Killed by neither the supervisor nor its own doing.
    from_outside: bool,
}

/// Says, however the task ends, that the seat is empty for good.
struct Leaving(Arc<Inner>);

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
        let end = live(&inner, index, &mut phase).await;
        let served = inner.seat(index, |seat| {
            seat.link = None;
            seat.pid = None;
            seat.serving_since.take().map(|since| since.elapsed())
        });
        let slot = inner.table.bury(index, monotonic_ns());
        inner.runs_lost(index, *phase.borrow() != Phase::Running);
        inner.probes_lost(index, slot, &end.cause);
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
    /// The process of this seat is gone: so are the runs of jobs in it.
    fn runs_lost(&self, index: u32, draining: bool) {
        let life = self.seat(index, |seat| seat.life).unwrap_or_default();
        for line in self.jobs.worker_gone(life, draining) {
            self.logs.push(&self.registry, line);
        }
    }
}

impl Inner {
    /// … and so are the probes.
    fn probes_lost(&self, index: u32, current: Option<u32>, cause: &str) {
        let life = self.seat(index, |seat| seat.life).unwrap_or_default();
        self.probes.worker_gone(life, current, cause);
    }
}

/// One process, from its start to its end.
async fn live(inner: &Arc<Inner>, index: u32, phase: &mut watch::Receiver<Phase>) -> End {
    let (mut child, socket) = match spawn::spawn(&inner.inheritance) {
        Ok(started) => started,
        Err(error) => {
            return End { cause: format!("it could not be started: {error}"), from_outside: false };
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
        code_dir: inner.code_dir.clone(),
        code_key: inner.code_key,
        tenants_dir: inner.tenants_dir.clone(),
        outbound_ca: inner.outbound_ca.clone(),
        access_log: inner.access_log,
        sampled_ppm: inner.traces.sampled_ppm(),
    };
    let (from, to) = socket.into_split();
    let writing = tokio::spawn(link::write(to, config, snapshot, queued));
    let mut reading = tokio::spawn(link::read(Arc::clone(inner), index, life, from));
    let watched = Watched { inner, index, outgoing, killed, phase };
    let end = watched.until_it_ends(&mut child, &mut reading).await;
    writing.abort();
    // The process is gone, so the socket ends: this takes the last lines of its guests.
    if !reading.is_finished()
        && tokio::time::timeout(Duration::from_millis(REAP_MS_MAX), &mut reading).await.is_err()
    {
        reading.abort();
    }
    end
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
    async fn until_it_ends(mut self, child: &mut Child, reading: &mut Reading) -> End {
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
                status = child.wait() => return ended(status, by_us),
                Some(reason) = self.killed.recv() => kill(child, &mut by_us, reason),
                why = late => {
                    deadline = None;
                    let serving = self.inner.seat(self.index, |seat| seat.serving_since.is_some());
                    // It began to serve since the deadline for that was set.
                    let stale = told == Phase::Running && serving == Some(true) && !socketless;
                    if !stale {
                        kill(child, &mut by_us, why.into());
                    }
                }
                end = &mut *reading, if !socketless => {
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

    fn drain(&self, within_ms: u64) {
        self.inner.seat(self.index, |seat| seat.state = WorkerState::Draining);
        match encode(&ToWorker::Drain { within_ms }) {
            // Full or closed: it will not drain, and the deadline ends it.
            Ok(frame) => drop(self.outgoing.try_send(Bytes::from(frame))),
            Err(error) => tracing::error!(%error, "a worker could not be told to drain"),
        }
    }
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
