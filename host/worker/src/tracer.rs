//! Traces: which trace a request is part of, and what is recorded of those that somebody watches.
//!
//! ```text
//! traceparent given │ recording off                    │ recording on
//! ──────────────────┼──────────────────────────────────┼──────────────────────────────────────────
//! valid             │ passed on as it is               │ a span below it; recorded if it is sampled
//! none, or invalid  │ nothing                          │ a trace of its own; recorded by the ratio
//! ```
//! Without recording, a span of our own would be one that nobody can find, so none is made. Bounded by
//! [`RECORDS_MAX`] records a second; more are dropped and counted. Costs a request without a trace one look-up
//! among its fields.

use crate::respond;
use crate::worker::Worker;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use insula_model::trace::{Stage, TRACEPARENT, TRACESTATE, TraceContext, TraceRecord};
use insula_model::wire::{FromWorker, TenantEntry};
use insula_model::{Fault, Outcome, RequestId};
use insula_sandbox::epoch::monotonic_ns;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Requests that one worker records between two messages to the supervisor.
const RECORDS_MAX: usize = 500;
/// Of those, requests that were refused: a flood of them must leave room for the others.
const REFUSED_MAX: usize = RECORDS_MAX / 2;
/// Between two of those messages.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Spans of one request.
const SPANS_MAX: u64 = 1 + Stage::ALL.len() as u64;
/// Spans of one that was refused.
const SPANS_REFUSED: u64 = 2;
const MILLION: u64 = 1_000_000;
/// By OpenTelemetry's conventions, any other is `_OTHER`.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];

pub(crate) const PARENT: HeaderName = HeaderName::from_static(TRACEPARENT);
/// Bytes of a `tracestate` that is carried on; the standard asks for no more.
const STATE_BYTES_MAX: usize = 512;

pub(crate) const STATE: HeaderName = HeaderName::from_static(TRACESTATE);

/// What a worker records.
pub(crate) struct Tracer {
    /// Of a million traces that begin here, so many are recorded; none if nothing is.
    sampled_ppm: Option<u32>,
    seed: Cell<u64>,
    records: RefCell<Vec<TraceRecord>>,
    /// Of the records, those of requests that were refused.
    refused: Cell<usize>,
    dropped: Cell<u64>,
    /// Recorded requests that have not ended.
    under_way: Cell<u32>,
    /// Whether somebody will send the records.
    sending: Cell<bool>,
}

/// A request whose trace is recorded.
pub(crate) struct Recording {
    context: TraceContext,
    parent: Option<u64>,
    id: RequestId,
    method: &'static str,
    received_ns: u64,
    start_unix_ns: u64,
    stages_ns: [u64; Stage::ALL.len()],
}

/// Where a request stands among traces.
#[derive(Default)]
pub(crate) struct Traced {
    pub(crate) context: Option<TraceContext>,
    pub(crate) recorded: bool,
    parent: Option<u64>,
}

impl Tracer {
    pub(crate) fn new(sampled_ppm: Option<u32>) -> Self {
        Self {
            sampled_ppm,
            seed: Cell::new(RandomState::new().hash_one(std::process::id())),
            records: RefCell::default(),
            refused: Cell::new(0),
            dropped: Cell::new(0),
            under_way: Cell::new(0),
            sending: Cell::new(false),
        }
    }

    /// Finds a request's trace, or makes one, and says so in its fields.
    pub(crate) fn begin(&self, headers: &mut HeaderMap) -> Traced {
        let given = given(headers);
        if given.is_none() && headers.contains_key(&STATE) {
            // It says nothing without the other.
            headers.remove(&STATE);
        }
        let Some(sampled_ppm) = self.sampled_ppm else {
            return Traced { context: given, ..Traced::default() };
        };
        let context = match given {
            Some(given) => given.child(self.random()),
            None => {
                let sampled = self.random() % MILLION < u64::from(sampled_ppm);
                let trace = u128::from(self.random()) << 64 | u128::from(self.random());
                TraceContext::root(trace, self.random(), sampled)
            }
        };
        if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
            headers.insert(PARENT, value);
        }
        let parent = given.map(|given| given.span);
        Traced { context: Some(context), recorded: context.is_sampled(), parent }
    }

    /// Sebastiano Vigna's splitmix64: ids must differ, not be secret.
    fn random(&self) -> u64 {
        let seed = self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed.set(seed);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The `tracestate` that calls of a request of this trace carry on, if there is one.
    pub(crate) fn state(traced: &Traced, headers: &HeaderMap) -> Option<HeaderValue> {
        traced.context?;
        let state = headers.get(&STATE).filter(|state| state.len() <= STATE_BYTES_MAX)?;
        headers.get_all(&STATE).iter().nth(1).is_none().then(|| state.clone())
    }

    /// What is to be recorded of a request, if anything is.
    pub(crate) fn record(
        &self,
        worker: &Rc<Worker>,
        traced: &Traced,
        id: RequestId,
        method: &http::Method,
        received_ns: u64,
    ) -> Option<Box<Recording>> {
        let context = traced.context.filter(|_| traced.recorded)?;
        self.keep_sending(worker);
        self.under_way.set(self.under_way.get() + 1);
        Some(Box::new(Recording::new(context, traced.parent, id, method, received_ns)))
    }

    /// A request was refused before anything ran. Costs one that is not recorded a branch.
    pub(crate) fn refused(
        &self,
        worker: &Rc<Worker>,
        traced: &Traced,
        (id, method, received_ns): (RequestId, &http::Method, u64),
        entry: &TenantEntry,
        fault: Fault,
    ) {
        let Some(context) = traced.context.filter(|_| traced.recorded) else { return };
        self.keep_sending(worker);
        if self.refused.get() >= REFUSED_MAX || self.records.borrow().len() >= RECORDS_MAX {
            self.dropped.set(self.dropped.get().saturating_add(SPANS_REFUSED));
            return;
        }
        self.refused.set(self.refused.get() + 1);
        let recording = Recording::new(context, traced.parent, id, method, received_ns);
        let how = (respond::outcome(fault), Some(respond::status(fault).as_u16()));
        self.records.borrow_mut().push(recording.record(entry, how, monotonic_ns()));
    }

    /// Has records sent until nothing is under way any more.
    fn keep_sending(&self, worker: &Rc<Worker>) {
        if !self.sending.replace(true) {
            tokio::task::spawn_local(keep_sending(worker.clone()));
        }
    }

    /// A recorded request has ended.
    pub(crate) fn finish(
        &self,
        recording: Recording,
        entry: &TenantEntry,
        (outcome, status): (Outcome, Option<u16>),
        end_ns: u64,
    ) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        let mut records = self.records.borrow_mut();
        if records.len() >= RECORDS_MAX {
            self.dropped.set(self.dropped.get().saturating_add(SPANS_MAX));
            return;
        }
        records.push(recording.record(entry, (outcome, status), end_ns));
    }

    /// Tells the supervisor what was recorded, if it takes it now.
    pub(crate) fn send(&self, worker: &Worker) {
        let records = self.records.take();
        self.refused.set(0);
        let dropped = self.dropped.take();
        if records.is_empty() && dropped == 0 {
            return;
        }
        let lost = (records.len() as u64).saturating_mul(SPANS_MAX);
        let message = FromWorker::Traces { records, dropped };
        if worker.to_supervisor.try_send(message).is_err() {
            self.dropped.set(dropped.saturating_add(lost));
        }
    }
}

/// The one valid context among a request's fields; any others are taken out.
fn given(headers: &mut HeaderMap) -> Option<TraceContext> {
    let first = headers.get(&PARENT)?;
    let context = first.to_str().ok().and_then(|text| text.trim().parse().ok());
    let context = context.filter(|_| headers.get_all(&PARENT).iter().nth(1).is_none());
    if context.is_none() {
        headers.remove(&PARENT);
    }
    context
}

impl Recording {
    fn new(
        context: TraceContext,
        parent: Option<u64>,
        id: RequestId,
        method: &http::Method,
        received_ns: u64,
    ) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(0);
        let known = METHODS.into_iter().find(|known| *known == method.as_str());
        Self {
            context,
            parent,
            id,
            method: known.unwrap_or("_OTHER"),
            received_ns,
            start_unix_ns: unix_ns.saturating_sub(monotonic_ns().saturating_sub(received_ns)),
            stages_ns: [0; Stage::ALL.len()],
        }
    }

    /// What the supervisor is told.
    fn record(
        self,
        entry: &TenantEntry,
        (outcome, status): (Outcome, Option<u16>),
        end_ns: u64,
    ) -> TraceRecord {
        TraceRecord {
            context: self.context,
            parent: self.parent,
            tenant: entry.name.clone(),
            revision: entry.revision,
            request: self.id.to_string(),
            method: self.method.into(),
            status,
            outcome,
            start_unix_ns: self.start_unix_ns,
            stages_ns: self.stages_ns,
            end_ns: end_ns.saturating_sub(self.received_ns),
        }
    }

    /// The instance was ready then; 0 if it was not.
    pub(crate) fn instantiated(&mut self, at_ns: u64) {
        let [_, load_ns, own_ns, run_ns, _] = &mut self.stages_ns;
        if at_ns != 0 {
            *own_ns = at_ns.saturating_sub(self.received_ns).max(*load_ns);
        } else if *run_ns != 0 {
            // It has run: there was an instance all along.
            *own_ns = *load_ns;
        }
    }

    /// A stage has ended, now.
    pub(crate) fn ended(&mut self, stage: Stage) {
        let now_ns = monotonic_ns();
        // 0 is for what was not reached.
        self.stages_ns[stage as usize] = now_ns.saturating_sub(self.received_ns).max(1);
    }
}

/// Sends what was recorded, every second until nothing is under way: an idle worker sleeps.
async fn keep_sending(worker: Rc<Worker>) {
    let tracer = &worker.tracer;
    loop {
        tokio::time::sleep(FLUSH_INTERVAL).await;
        tracer.send(&worker);
        if tracer.under_way.get() == 0 {
            tracer.sending.set(false);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn without_recording_what_is_valid_is_passed_on_and_the_rest_taken_out() {
        let tracer = Tracer::new(None);
        let mut headers = fields(&[(TRACEPARENT, GIVEN), (TRACESTATE, "a=1")]);
        let traced = tracer.begin(&mut headers);
        assert_eq!(traced.context.unwrap().to_string(), GIVEN);
        assert!(!traced.recorded && headers[PARENT] == GIVEN && headers[STATE] == "a=1");
        for bad in [&[(TRACEPARENT, "00-1-2-3"), (TRACESTATE, "a=1")][..], &[(TRACESTATE, "a=1")]] {
            let mut headers = fields(bad);
            assert!(tracer.begin(&mut headers).context.is_none() && headers.is_empty());
        }
        let mut twice = HeaderMap::new();
        twice.append(PARENT, HeaderValue::from_static(GIVEN));
        twice.append(PARENT, HeaderValue::from_static(GIVEN));
        assert!(tracer.begin(&mut twice).context.is_none() && twice.is_empty());
    }

    #[test]
    fn with_recording_each_request_is_a_span_of_its_own() {
        let tracer = Tracer::new(Some(0));
        let mut headers = fields(&[(TRACEPARENT, GIVEN)]);
        let traced = tracer.begin(&mut headers);
        let (own, given): (TraceContext, TraceContext) =
            (headers[PARENT].to_str().unwrap().parse().unwrap(), GIVEN.parse().unwrap());
        assert!(own.trace == given.trace && own.span != given.span && traced.recorded);
        assert_eq!(traced.parent, Some(given.span));
        // One of its own is recorded by the ratio, and named in any case.
        let mut headers = HeaderMap::new();
        assert!(!tracer.begin(&mut headers).recorded && headers.contains_key(PARENT));
        let all = Tracer::new(Some(1_000_000));
        let (a, b) = (all.begin(&mut HeaderMap::new()), all.begin(&mut HeaderMap::new()));
        assert!(a.recorded && b.recorded && a.context != b.context);
    }
}
