//! The access log, on its way to the supervisor: a line for each request of a tenant that has one.
//!
//! Without one a request costs a branch at its begin and one at its end. With one, what the line needs of the
//! head is copied, and the line goes the way of guests' lines, through the same queue. It takes at most half of
//! that, never waits, and what does not fit is counted and told with the next line.

use crate::connection::Peer;
use crate::respond;
use crate::tenant::Tenant;
use crate::tenant_log::LINES_QUEUED_MAX;
use crate::worker::Worker;
use http::request::Parts;
use insula_model::access_log::Sample;
use insula_model::wire::{ACCESS_PATH_BYTES_MAX, AccessLine, FromWorker};
use insula_model::{Fault, Outcome, RequestId, Usage};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Bytes of a method; longer ones are no standard's.
const METHOD_BYTES_MAX: usize = 32;

/// What a tenant with an access log needs.
pub(crate) struct Access {
    sample: Sample,
    due: Cell<u32>,
    dropped: Cell<u64>,
}

impl Access {
    /// None if nothing is logged.
    pub(crate) fn of(sample: Sample) -> Option<Self> {
        (!sample.is_none()).then(|| Self { sample, due: Cell::new(0), dropped: Cell::new(0) })
    }

    fn is_due(&self) -> bool {
        let mut due = self.due.get();
        let takes = self.sample.takes(&mut due);
        self.due.set(due);
        takes
    }
}

/// A line that waits for its request's end.
pub(crate) struct Draft {
    tenant: Rc<Tenant>,
    to: mpsc::Sender<FromWorker>,
    line: AccessLine,
}

/// The line of a request that is to be logged.
pub(crate) fn begin(
    worker: &Worker,
    tenant: &Rc<Tenant>,
    parts: &Parts,
    peer: &Peer,
    id: RequestId,
) -> Option<Box<Draft>> {
    tenant.access.as_ref()?.is_due().then(|| {
        let cut = |text: &str, bytes: usize| text[..text.floor_char_boundary(bytes)].to_owned();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = AccessLine {
            slot: tenant.entry.slot,
            name: tenant.entry.name.clone(),
            revision: tenant.entry.revision,
            at_ms: u64::try_from(since.as_millis()).unwrap_or(0),
            request: id.to_string(),
            method: cut(parts.method.as_str(), METHOD_BYTES_MAX),
            path: cut(parts.uri.path(), ACCESS_PATH_BYTES_MAX),
            protocol: format!("{:?}", parts.version),
            peer: peer.from,
            status: None,
            outcome: Outcome::Response,
            duration_us: 0,
            usage: Usage::default(),
            dropped: 0,
        };
        let to = worker.to_supervisor.clone();
        Box::new(Draft { tenant: tenant.clone(), to, line })
    })
}

/// A request was refused before it was let in.
pub(crate) fn refused(draft: Option<Box<Draft>>, fault: Fault, duration_us: u64) {
    if let Some(draft) = draft {
        if draft.tenant.is_flooded() {
            // Refusing must not cost more than it does.
            if let Some(access) = &draft.tenant.access {
                access.dropped.set(access.dropped.get() + 1);
            }
            return;
        }
        let status = Some(respond::status(fault).as_u16());
        draft.end(status, respond::outcome(fault), Usage::default(), duration_us);
    }
}

impl Draft {
    /// The request has ended: the line goes out, or is counted.
    pub(crate) fn end(self, status: Option<u16>, outcome: Outcome, usage: Usage, duration_us: u64) {
        let Self { tenant, to, mut line } = self;
        let Some(access) = &tenant.access else { return };
        let dropped = access.dropped.get();
        line.status = status;
        line.outcome = outcome;
        line.usage = usage;
        line.duration_us = duration_us;
        line.dropped = dropped;
        let has_room = to.capacity() > LINES_QUEUED_MAX / 2;
        let sent = has_room && to.try_send(FromWorker::Access(Box::new(line))).is_ok();
        access.dropped.set(if sent { 0 } else { dropped + 1 });
    }
}
