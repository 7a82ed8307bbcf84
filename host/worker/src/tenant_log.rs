//! What a tenant's guests write, on its way to the supervisor.
//!
//! Bounded twice: each tenant by a token bucket ([`GUEST_BYTES_PER_SECOND_MAX`]), all of them by a
//! queue of [`LINES_QUEUED_MAX`] lines. Beyond either, lines are dropped and counted, and the count
//! goes into the log; a guest never waits and never fills the disk.

use insula_model::api::LogStream;
use insula_model::wire::{
    FromWorker, LOG_LINE_BYTES_MAX, LogLine, PROBE_LINE_BYTES_MAX, PROBE_LINES_MAX,
};
use insula_model::{RequestId, TenantName};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Sustained bytes of one tenant's output in one worker.
const GUEST_BYTES_PER_SECOND_MAX: u64 = 64 << 10;
/// Bytes that may come at once before that.
const GUEST_BURST_BYTES_MAX: u64 = 256 << 10;
/// The same for what the host says about a tenant, so that a guest's flood cannot hide it.
const HOST_BYTES_PER_SECOND_MAX: u64 = 8 << 10;
const HOST_BURST_BYTES_MAX: u64 = 32 << 10;
/// What a line counts beyond its text.
const LINE_BYTES: u64 = 64;
/// Milliseconds between two notices of dropped lines.
const NOTICE_INTERVAL_MS: u128 = 1_000;
/// Lines on their way to the supervisor, of all tenants.
pub(crate) const LINES_QUEUED_MAX: usize = 1_024;

pub(crate) struct TenantLog {
    slot: u32,
    name: TenantName,
    revision: u32,
    to: To,
    state: Mutex<State>,
}

/// Where lines go.
enum To {
    Supervisor(mpsc::Sender<FromWorker>),
    Kept(Kept),
}

/// The last lines of a probe: at most [`PROBE_LINES_MAX`], each cut at [`PROBE_LINE_BYTES_MAX`].
pub(crate) type Kept = Arc<Mutex<VecDeque<(LogStream, String)>>>;

struct State {
    guest: Bucket,
    host: Bucket,
    dropped: u64,
    noticed: Option<Instant>,
}

struct Bucket {
    bytes: u64,
    burst: u64,
    per_second: u64,
    at: Instant,
}

impl Bucket {
    fn new(burst: u64, per_second: u64) -> Self {
        Self { bytes: burst, burst, per_second, at: Instant::now() }
    }

    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let elapsed_ms = u64::try_from(now.duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let refill = elapsed_ms.saturating_mul(self.per_second) / 1_000;
        if refill > 0 {
            self.bytes = self.burst.min(self.bytes.saturating_add(refill));
            self.at = now;
        }
        let enough = self.bytes >= bytes;
        if enough {
            self.bytes -= bytes;
        }
        enough
    }
}

impl TenantLog {
    pub(crate) fn new(
        slot: u32,
        name: TenantName,
        revision: u32,
        to: mpsc::Sender<FromWorker>,
    ) -> Self {
        Self::to(slot, name, revision, To::Supervisor(to))
    }

    /// One whose last lines are kept in `lines` and go nowhere else.
    pub(crate) fn kept(slot: u32, name: TenantName, revision: u32, lines: Kept) -> Self {
        Self::to(slot, name, revision, To::Kept(lines))
    }

    fn to(slot: u32, name: TenantName, revision: u32, to: To) -> Self {
        let state = State {
            guest: Bucket::new(GUEST_BURST_BYTES_MAX, GUEST_BYTES_PER_SECOND_MAX),
            host: Bucket::new(HOST_BURST_BYTES_MAX, HOST_BYTES_PER_SECOND_MAX),
            dropped: 0,
            noticed: None,
        };
        Self { slot, name, revision, to, state: Mutex::new(state) }
    }

    /// A line, from a guest or from the host.
    pub(crate) fn line(&self, request: RequestId, stream: LogStream, text: &str) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = text.len() as u64 + LINE_BYTES;
        let bucket = if stream == LogStream::Host { &mut state.host } else { &mut state.guest };
        let sent = bucket.take(bytes, now) && self.send(request, stream, text);
        if !sent {
            state.dropped += 1;
        }
        let due =
            state.noticed.is_none_or(|at| now.duration_since(at).as_millis() >= NOTICE_INTERVAL_MS);
        if state.dropped > 0 && due {
            let dropped = std::mem::take(&mut state.dropped);
            state.noticed = Some(now);
            let text = format!(
                "{dropped} lines dropped: more than {} KiB a second, or more than the host could take",
                GUEST_BYTES_PER_SECOND_MAX >> 10
            );
            if !self.send(request, LogStream::Host, &text) {
                state.dropped = dropped;
            }
        }
    }

    fn send(&self, request: RequestId, stream: LogStream, text: &str) -> bool {
        let to = match &self.to {
            To::Supervisor(to) => to,
            To::Kept(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() >= PROBE_LINES_MAX {
                    lines.pop_front();
                }
                let end = text.floor_char_boundary(PROBE_LINE_BYTES_MAX);
                lines.push_back((stream, text[..end].into()));
                return true;
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = text.floor_char_boundary(LOG_LINE_BYTES_MAX);
        let line = LogLine {
            slot: self.slot,
            name: self.name.clone(),
            revision: self.revision,
            at_ms: u64::try_from(since.as_millis()).unwrap_or(0),
            stream,
            request: request.to_string(),
            trace: request.trace().map_or(0, |context| context.trace),
            text: text[..end].into(),
        };
        to.try_send(FromWorker::Log(line)).is_ok()
    }
}
