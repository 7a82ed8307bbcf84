//! Workers from before an upgrade: handed over by the supervisor that they had, and on their way out.
//!
//! ```text
//! Serving ──HandedOver──▶ (left alone: serves on, its messages wait in the socket)
//!              exec, the new workers serve ──▶ Retiring: told to drain ──▶ (gone): buried, counters added
//! ```
//! Owns one task and one process descriptor each: they are children of this process (or, if it came by
//! another way, of nobody it knows), but not of the runtime. They use the table from before, which is kept
//! until the last has ended. Bounded by one generation: an upgrade waits until the one before has retired.
//!
//! They take part in publishes, since they answer clients until they are gone. Old workers of another
//! protocol version cannot: they are left without a supervisor, which makes them drain, and publishes wait.

use super::link::{self, Link, Who};
use super::worker::{DRAIN_GRACE_MS, Leaving};
use super::{Inner, OUTGOING_MAX, Phase, Workers, held};
use crate::sync::lock;
use bytes::Bytes;
use insula_ipc::channel::encode;
use insula_ipc::table::Table;
use insula_model::api::{WorkerInfo, WorkerState};
use insula_model::wire::{Retired, ToWorker};
use insula_sandbox::epoch::monotonic_ns;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// How long all workers together may take to be handed over, in milliseconds.
const HAND_OVER_ALL_MS_MAX: u64 = 3_000;
/// How often what old workers have counted is added to what is counted now.
const CATCH_UP: Duration = Duration::from_millis(50);
/// How long workers that have lost their supervisor live on at most, in milliseconds.
const ORPHAN_MS_MAX: u64 = 12_000;

/// A worker that the next supervisor gets. Dropped, it is killed.
pub(crate) struct HandedWorker {
    pub(crate) index: u32,
    pub(crate) pid: u32,
    pub(crate) life: u64,
    /// Between two messages.
    pub(crate) socket: OwnedFd,
    #[expect(dead_code, reason = "held, because it is killed when dropped")]
    pub(super) child: Child,
}

/// A worker from the supervisor before.
pub(crate) struct OldWorker {
    pub(crate) index: u32,
    pub(crate) pid: u32,
    pub(crate) life: u64,
    pub(crate) socket: OwnedFd,
}

/// All of them, and what they share.
pub(crate) struct OldWorkers {
    /// None if its layout is another version's: what they count is lost then.
    pub(crate) table: Option<Table>,
    pub(crate) workers: Vec<OldWorker>,
    /// Whether they speak this version of the protocol.
    pub(crate) speaks: bool,
}

/// What is known of those that are still there.
#[derive(Default)]
pub(super) struct Old {
    table: Option<Arc<Table>>,
    /// By life.
    seats: HashMap<u64, OldSeat>,
}

struct OldSeat {
    index: u32,
    pid: u32,
    /// None if it speaks another version of the protocol.
    link: Option<Link>,
}

impl Old {
    pub(super) fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.seats.values_mut().filter_map(|seat| seat.link.as_mut())
    }
}

impl Workers {
    /// Leaves every worker that serves to another supervisor, and ends the others. Nobody is replaced from
    /// now on.
    pub(crate) async fn hand_over(&self) -> Vec<HandedWorker> {
        self.0.phase.send_replace(Phase::HandedOver);
        let all = Duration::from_millis(HAND_OVER_ALL_MS_MAX);
        if tokio::time::timeout(all, self.reaped()).await.is_err() {
            tracing::error!("a worker could not be handed over in time");
        }
        std::mem::take(&mut *lock(&self.0.handed))
    }

    /// Tenants' listening socket.
    pub(crate) fn listener_fd(&self) -> BorrowedFd<'_> {
        self.0.inheritance.listener.as_fd()
    }

    /// The shared table's memory.
    pub(crate) fn table_fd(&self) -> BorrowedFd<'_> {
        self.0.table.fd()
    }

    /// Processes started so far.
    pub(crate) fn lives(&self) -> u64 {
        self.0.lives.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Has the workers from before finish what runs in them and go, within `within_ms`; clients with idle
    /// connections have half of that to come back on another.
    pub(crate) fn retire(&self, old: OldWorkers, within_ms: u64) {
        if let Some(before) = &old.table {
            self.0.table.take_totals(before);
        }
        lock(&self.0.old).table = old.table.map(Arc::new);
        self.0.catch_up();
        let all = u32::try_from(old.workers.len()).unwrap_or(u32::MAX);
        self.0.retiring.send_replace(all);
        self.0.filled.send_modify(|filled| *filled += all);
        tokio::spawn(count(Arc::clone(&self.0)));
        for worker in old.workers {
            tokio::spawn(retire(Arc::clone(&self.0), worker, old.speaks, within_ms));
        }
    }

    /// Waits until no worker from before is left.
    pub(crate) async fn retired(&self) {
        // The sender is in `self`.
        let _ = self.0.retiring.subscribe().wait_for(|retiring| *retiring == 0).await;
    }

    /// Those that are left, as `insula ps` shows them.
    pub(crate) fn retiring(&self) -> Vec<WorkerInfo> {
        let old = lock(&self.0.old);
        let info = |seat: &OldSeat| {
            let cell = old.table.as_ref().map(|table| table.worker(seat.index));
            WorkerInfo {
                index: seat.index,
                pid: Some(seat.pid),
                state: WorkerState::Draining,
                connections: cell.map_or(0, |cell| cell.connections()),
                running: cell.map_or(0, |cell| cell.running()),
                loaded: cell.map_or(0, |cell| cell.loaded()),
                memory_bytes: held(seat.pid),
                restarts: 0,
                last_death: None,
            }
        };
        old.seats.values().map(info).collect()
    }
}

impl Inner {
    /// Does something with the link of every worker that lives, old ones among them.
    pub(super) fn each_link(&self, mut each: impl FnMut(&mut Link)) {
        lock(&self.seats).iter_mut().filter_map(|seat| seat.link.as_mut()).for_each(&mut each);
        lock(&self.old).links().for_each(each);
    }

    pub(super) fn old_table(&self) -> Option<Arc<Table>> {
        lock(&self.old).table.clone()
    }

    pub(super) fn old_acknowledged(&self, life: u64, seq: u64) -> Option<oneshot::Sender<Retired>> {
        lock(&self.old).seats.get_mut(&life)?.link.as_mut()?.acks.remove(&seq)
    }

    /// Waits until no old worker is left that cannot be told of changes.
    pub(super) async fn mute_are_gone(&self) {
        if lock(&self.old).seats.values().any(|seat| seat.link.is_none()) {
            let _ = self.retiring.subscribe().wait_for(|retiring| *retiring == 0).await;
        }
    }

    /// Adds what old workers have counted of one tenant to what is counted now.
    pub(super) fn catch_up_slot(&self, slot: u32) {
        if let Some(before) = self.old_table() {
            self.table.catch_up_slot(&before, slot, monotonic_ns());
        }
    }

    /// The same of all.
    fn catch_up(&self) {
        if let Some(before) = self.old_table() {
            self.table.catch_up(&before, monotonic_ns());
        }
    }
}

/// Keeps the counters up with old workers until the last has ended, and forgets their table then.
async fn count(inner: Arc<Inner>) {
    let mut retiring = inner.retiring.subscribe();
    loop {
        inner.catch_up();
        if *retiring.borrow_and_update() == 0 {
            lock(&inner.old).table = None;
            return;
        }
        let _ = tokio::time::timeout(CATCH_UP, retiring.changed()).await;
    }
}

/// One old worker, until it has ended.
async fn retire(inner: Arc<Inner>, worker: OldWorker, speaks: bool, within_ms: u64) {
    let leaving = Leaving(Arc::clone(&inner));
    let (index, pid, life) = (worker.index, worker.pid, worker.life);
    if let Err(error) = until_it_ends(&inner, worker, speaks, within_ms).await {
        tracing::error!(worker = index, pid, %error, "a worker from before the upgrade is lost");
    }
    if let Some(before) = inner.old_table() {
        before.settle(index, monotonic_ns());
    }
    inner.catch_up();
    inner.runs_lost(life, true);
    lock(&inner.old).seats.remove(&life);
    let mut left = 0;
    inner.retiring.send_modify(|retiring| {
        *retiring -= 1;
        left = *retiring;
    });
    if left == 0 {
        tracing::info!("the last worker from before the upgrade has ended");
    }
    drop(leaving);
}

async fn until_it_ends(
    inner: &Arc<Inner>,
    worker: OldWorker,
    speaks: bool,
    within_ms: u64,
) -> io::Result<()> {
    let OldWorker { index, pid, life, socket } = worker;
    let process = Process::of(pid)?;
    let (kills, mut killed) = mpsc::channel(1);
    let (link, reading, mut deadline) = if speaks {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(socket)?.into_split();
        let (outgoing, queued) = mpsc::channel(OUTGOING_MAX);
        let drain = ToWorker::Drain { within_ms, idle_ms: within_ms / 2 };
        let _ = outgoing.try_send(Bytes::from(encode(&drain).map_err(io::Error::other)?));
        tokio::spawn(link::forward(to, queued));
        let reading = tokio::spawn(link::read(Arc::clone(inner), Who::Old, life, from));
        let link = Link { outgoing, acks: HashMap::new(), kills };
        (Some(link), Some(reading), within_ms.saturating_add(DRAIN_GRACE_MS))
    } else {
        // Its end of the stream tells it to drain.
        drop((socket, kills));
        (None, None, ORPHAN_MS_MAX)
    };
    lock(&inner.old).seats.insert(life, OldSeat { index, pid, link });
    let mut phase = inner.phase.subscribe();
    let mut at = Instant::now() + Duration::from_millis(deadline);
    loop {
        tokio::select! {
            () = process.ended() => break,
            Some(reason) = killed.recv() => process.kill(index, &reason),
            () = sleep_until(at) => {
                process.kill(index, "it did not drain in time");
                at += Duration::from_millis(ORPHAN_MS_MAX);
            }
            // The sender is in `inner`.
            _ = phase.changed() => {
                deadline = match *phase.borrow_and_update() {
                    Phase::Draining(within_ms) => within_ms.saturating_add(DRAIN_GRACE_MS),
                    Phase::Killing => 0,
                    Phase::Running | Phase::HandedOver => continue,
                };
                at = at.min(Instant::now() + Duration::from_millis(deadline));
            }
        }
    }
    process.reap();
    // The process is gone, so the socket ends: this takes the last lines of its guests.
    if let Some(mut reading) = reading
        && tokio::time::timeout(Duration::from_secs(1), &mut reading).await.is_err()
    {
        reading.abort();
    }
    Ok(())
}

/// A process by its descriptor, which stays its own even when the number has a new owner.
pub(crate) struct Process(AsyncFd<OwnedFd>);

impl Process {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("not a process id"))?;
        let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // The replacement of this constructor is unsafe for types whose descriptor may change; an
        // `OwnedFd`'s never does.
        #[allow(deprecated)]
        AsyncFd::new(descriptor).map(Self)
    }

    pub(crate) async fn ended(&self) {
        // It becomes readable when the process ends, and stays so.
        if self.0.readable().await.is_err() {
            std::future::pending().await
        }
    }

    fn kill(&self, index: u32, reason: &str) {
        tracing::warn!(worker = index, reason, "a worker from before the upgrade is killed");
        let _ = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Takes its status, if it is a child of this process.
    pub(crate) fn reap(&self) {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.0.get_ref().as_fd()), how);
    }
}
