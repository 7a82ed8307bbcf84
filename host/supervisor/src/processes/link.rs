//! The socket between the supervisor and one worker process.
//!
//! A writing task (the snapshot, then whatever is queued) and a reading task per process. Both end with
//! the process, since the socket does; or between two messages when the host is handed over, so that
//! whoever comes after reads and writes on from there.

use super::{CodeNeeded, Inner, Phase};
use crate::registry::{Slept, Snapshot, Tenant};
use bytes::Bytes;
use insula_ipc::channel::{ChannelError, encode, first, receive_after, send};
use insula_ipc::heap::give_back;
use insula_model::api::WorkerState;
use insula_model::packed::{Common, Packed};
use insula_model::wire::{
    FromWorker, MESSAGE_BYTES_MAX, PUBLISH_TENANTS_MAX, Retired, SLEEPERS_MAX, Sleeper,
    TenantEntry, ToWorker, WIRE_VERSION, WorkerConfig,
};
use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Instant;
use std::vec;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// Sequence number of the snapshot's messages; nobody waits for their acknowledgement.
const SNAPSHOT_SEQ: u64 = 0;
/// Encoded bytes of a tenant who is to sleep besides its own and its common ones, generously.
const SLEEPER_BYTES: usize = 32;
/// Encoded bytes of a tenant besides routes, grants and secrets, generously.
const ENTRY_BYTES: usize = 512;

/// The supervisor's handle on a living worker process.
pub(super) struct Link {
    /// Encoded frames.
    pub(super) outgoing: mpsc::Sender<Bytes>,
    /// Who waits for which message to be in force. Dropped with the link, which ends the waits.
    pub(super) acks: HashMap<u64, oneshot::Sender<Retired>>,
    /// Reasons to kill the process; the first one counts.
    pub(super) kills: mpsc::Sender<String>,
}

impl Link {
    /// Queues a frame. A worker whose queue is full has not read for long: it is killed, because a
    /// message must not be lost to a worker that lives.
    pub(super) fn send(&self, frame: Bytes) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outgoing.try_send(frame) {
            self.kill("did not read its messages".into());
        }
    }

    /// Has the process killed.
    pub(super) fn kill(&self, reason: String) {
        // Full or closed: it is being killed or dead already.
        let _ = self.kills.try_send(reason);
    }
}

/// Who is on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The worker in this seat.
    Seat(u32),
    /// A worker from before an upgrade.
    Old,
}

/// Writes everything a worker needs to start, then the queued frames, until nobody can queue any more.
pub(super) async fn write(
    mut to: OwnedWriteHalf,
    config: WorkerConfig,
    snapshot: Snapshot,
    queued: mpsc::Receiver<Bytes>,
) -> Result<OwnedWriteHalf, ChannelError> {
    send(&mut to, &ToWorker::Hello { version: WIRE_VERSION, config }).await?;
    let Snapshot { packed, whole } = snapshot;
    for sleep in (Sleepers { left: packed.into_iter().peekable() }) {
        send(&mut to, &sleep).await?;
    }
    for tenants in Batches(whole.into_iter().peekable()) {
        send(&mut to, &ToWorker::Publish { seq: SNAPSHOT_SEQ, tenants, removed: Vec::new() })
            .await?;
    }
    send(&mut to, &ToWorker::Start).await?;
    give_back();
    forward(to, queued).await
}

/// Writes queued frames, until nobody can queue any more.
pub(super) async fn forward(
    mut to: OwnedWriteHalf,
    mut queued: mpsc::Receiver<Bytes>,
) -> Result<OwnedWriteHalf, ChannelError> {
    while let Some(frame) = queued.recv().await {
        to.write_all(&frame).await?;
    }
    Ok(to)
}

/// Tenants who are to sleep, in messages of a bounded size.
struct Sleepers {
    left: Peekable<vec::IntoIter<Slept>>,
}

impl Iterator for Sleepers {
    type Item = ToWorker;
    fn next(&mut self) -> Option<ToWorker> {
        let (mut commons, mut tenants) = (Vec::new(), Vec::new());
        let mut places: HashMap<*const Common, u32> = HashMap::new();
        let mut room = MESSAGE_BYTES_MAX as usize;
        let bytes_max = |packed: &Packed<Arc<[u8]>>| {
            SLEEPER_BYTES + packed.bytes() + packed.common().as_bytes().len()
        };
        while tenants.len() < SLEEPERS_MAX
            && let Some((slot, packed)) =
                self.left.next_if(|(_, packed)| tenants.is_empty() || bytes_max(packed) <= room)
        {
            room = room.saturating_sub(bytes_max(&packed));
            let common = *places.entry(Arc::as_ptr(packed.common())).or_insert_with(|| {
                commons.push(packed.common().as_bytes().to_vec());
                u32::try_from(commons.len() - 1).unwrap_or(u32::MAX)
            });
            tenants.push(Sleeper { slot, common, own: packed.bare().to_vec() });
        }
        (!tenants.is_empty()).then_some(ToWorker::Sleep { commons, tenants })
    }
}

/// Tenants in messages of a bounded size.
struct Batches<I: Iterator<Item = Arc<Tenant>>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = Arc<Tenant>>> Iterator for Batches<I> {
    type Item = Vec<TenantEntry>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut batch: Vec<TenantEntry> = Vec::new();
        let mut room = MESSAGE_BYTES_MAX as usize;
        let fits = |tenant: &Arc<Tenant>, room: usize, first: bool| {
            first || (entry_bytes_max(&tenant.entry) <= room)
        };
        while batch.len() < PUBLISH_TENANTS_MAX
            && let Some(tenant) = self.0.next_if(|tenant| fits(tenant, room, batch.is_empty()))
        {
            room = room.saturating_sub(entry_bytes_max(&tenant.entry));
            batch.push(tenant.entry.clone());
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// At most this many bytes are needed to send a tenant.
fn entry_bytes_max(entry: &TenantEntry) -> usize {
    // Brackets of an address, and a length before the text.
    let routes = entry.routes.iter().map(|route| route.host().len() + route.prefix().len() + 8);
    let secrets =
        entry.secrets.iter().map(|(key, value)| key.as_str().len() + value.reveal().len() + 8);
    // Few tenants are granted anything; one that cannot be measured goes alone, and fails there.
    let grants = entry
        .grants
        .as_ref()
        .map_or(0, |grants| encode(grants).map_or(MESSAGE_BYTES_MAX as usize, |frame| frame.len()));
    ENTRY_BYTES + routes.sum::<usize>() + secrets.sum::<usize>() + grants
}

/// A worker has put a message in force: whoever waits for that is told.
fn acknowledged(inner: &Inner, who: Who, life: u64, seq: u64, retired: Retired) {
    let link = |seat: &mut super::Seat| seat.link.as_mut()?.acks.remove(&seq);
    let acknowledged = match who {
        Who::Seat(index) => inner.seat(index, link).flatten(),
        Who::Old => inner.old_acknowledged(life, seq),
    };
    if let Some(acknowledged) = acknowledged {
        // Whoever waited may have given up.
        let _ = acknowledged.send(retired);
    }
}

/// Reads a worker's messages until its socket ends, or the host is handed over.
pub(super) async fn read(
    inner: Arc<Inner>,
    who: Who,
    life: u64,
    mut from: OwnedReadHalf,
) -> Result<(), ChannelError> {
    let mut phase = inner.phase.subscribe();
    loop {
        let first = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::HandedOver) => return Ok(()),
            first = first(&from) => first?,
        };
        let Some(first) = first else { return Ok(()) };
        match receive_after(first, &mut from).await? {
            FromWorker::Serving => {
                let Who::Seat(index) = who else { continue };
                inner.seat(index, |seat| {
                    seat.serving_since = Some(Instant::now());
                    seat.unstarted = 0;
                    if seat.state == WorkerState::Starting {
                        seat.state = WorkerState::Serving;
                    }
                });
                inner.jobs.wake();
            }
            FromWorker::Ack { seq: SNAPSHOT_SEQ } => {}
            FromWorker::Ack { seq } => acknowledged(&inner, who, life, seq, Retired::default()),
            FromWorker::Repaved { seq, retired } => acknowledged(&inner, who, life, seq, retired),
            FromWorker::Log(line) => inner.logs.push(&inner.registry, line),
            FromWorker::Access(line) => inner.logs.push_access(&inner.registry, line),
            FromWorker::Traces { records, dropped } => inner.traces.take(records, dropped),
            FromWorker::CodeNeeded { code, reason } => {
                // Its reader never waits for anything, so this does not hold up the acknowledgements
                // behind it.
                let _ = inner.code_needed.send(CodeNeeded { code, reason }).await;
            }
            FromWorker::Probed { id, report } => inner.probes.ended(life, id, report),
            FromWorker::JobEnded { slot, run, result } => {
                // Behind every line that the program wrote.
                if let Some(line) = inner.jobs.ended(life, slot, run, result) {
                    inner.logs.push(&inner.registry, line);
                }
            }
        }
    }
}
