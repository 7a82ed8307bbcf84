//! The permit of one request, and its one outcome and usage.
//!
//! A ticket lives from admission until the response body has ended, is dropped with it, and then
//! records how the request ended: if nobody said, the client went away.

use crate::access::Draft;
use crate::errand::{Back, BoxFuture, Errand};
use crate::holding::Holding;
use crate::share::OVERRUN_NS;
use crate::tenant::Tenant;
use crate::tracer::Recording;
use crate::worker::Worker;
use http::{HeaderValue, StatusCode};
use insula_ipc::breaker::Probe;
use insula_model::trace::Stage;
use insula_model::{Fault, Outcome, RequestId, StatusClass, Usage};
use insula_sandbox::Running;
use insula_sandbox::epoch::{SLICE_NS, monotonic_ns, thread_cpu_ns};
use insula_sandbox::invoke::{Finished, Gauge};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub(crate) struct Ticket {
    pub(crate) worker: Rc<Worker>,
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) deadline: Instant,
    pub(crate) gauge: Arc<Gauge>,
    /// Bytes of the request body that the guest was given; set where there is a body.
    pub(crate) bytes_in: Option<Arc<AtomicU64>>,
    pub(crate) bytes_out: u64,
    /// When a client's request began; none of a job's run, whose duration is no answer's.
    received_ns: Option<u64>,
    /// What the client was answered, once that is certain.
    status: Option<StatusCode>,
    /// When the client had all of it, if the guest ran on after that.
    answered_ns: Option<u64>,
    /// Whose `tracestate` its calls carry on, if there is one.
    carries: Option<RequestId>,
    /// What becomes of its trace, if that is recorded.
    recording: Option<Box<Recording>>,
    /// The request's line of the access log, if it gets one.
    pub(crate) access: Option<Box<Draft>>,
    cpu: Duration,
    outcome: Option<Outcome>,
    /// Whether the guest was on the second thread at any time, and whether from the start.
    pub(crate) went_away: bool,
    began_away: bool,
    /// Its end decides whether the tenant's circuit breaker closes.
    probe: Option<Probe>,
    /// What may wait for the client to take it; where there is much.
    untaken: Option<Holding>,
    /// The guest, once it has begun.
    seat: Seat<Finished>,
}

impl Ticket {
    /// For a request that was counted into the table already.
    pub(crate) fn entered(worker: Rc<Worker>, tenant: Rc<Tenant>, probe: Option<Probe>) -> Self {
        worker.running.set(worker.running.get() + 1);
        worker.cell().set_running(worker.running.get());
        let timeout = Duration::from_millis(tenant.entry.limits.timeout_ms);
        Self {
            worker,
            tenant,
            deadline: Instant::now() + timeout,
            gauge: Arc::default(),
            bytes_in: None,
            bytes_out: 0,
            received_ns: None,
            status: None,
            answered_ns: None,
            carries: None,
            access: None,
            recording: None,
            cpu: Duration::ZERO,
            outcome: None,
            went_away: false,
            began_away: false,
            probe,
            untaken: None,
            seat: Seat::Empty,
        }
    }

    /// For bytes that wait in the host for this request.
    pub(crate) fn holding(&self) -> Holding {
        let Self { worker, tenant, .. } = self;
        Holding::new(worker.table.clone(), worker.index, tenant.entry.slot)
    }

    /// So many bytes of the answer may wait for the client, until the request has ended.
    pub(crate) fn hold_untaken(&mut self, bytes: u64) {
        let mut untaken = self.untaken.take().unwrap_or_else(|| self.holding());
        untaken.set(bytes);
        self.untaken = Some(untaken);
    }

    /// It is a client's request, whose head was there at this time.
    pub(crate) fn received(&mut self, at_ns: u64) {
        self.received_ns = Some(at_ns);
    }

    /// Its trace is recorded from here on.
    pub(crate) fn record(&mut self, recording: Option<Box<Recording>>) {
        if recording.is_some() {
            self.gauge.timed.store(true, Relaxed);
        }
        self.recording = recording;
    }

    /// Its calls carry this `tracestate` on.
    pub(crate) fn carry(&mut self, id: RequestId, state: Option<HeaderValue>) {
        if let Some(state) = state {
            self.worker.outbound.carry(id, state);
            self.carries = Some(id);
        }
    }

    /// A stage of its way has ended.
    pub(crate) fn ended(&mut self, stage: Stage) {
        if let Some(recording) = &mut self.recording {
            recording.ended(stage);
        }
    }

    /// The status that goes out; the first word stands.
    pub(crate) fn answer(&mut self, status: StatusCode) {
        self.status.get_or_insert(status);
    }

    /// The client has all of the answer; the guest may run on.
    pub(crate) fn delivered(&mut self) {
        self.answered_ns.get_or_insert_with(monotonic_ns);
    }

    /// Says how the request ended; the first word stands.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    /// Runs a guest for one slice, or asks after one that runs elsewhere; none if the host panicked.
    pub(crate) fn poll_guest(
        &mut self,
        cx: &mut Context<'_>,
        running: &mut Running,
    ) -> Option<Poll<Finished>> {
        if running.is_shared() {
            return Some(running.poll_guest(cx));
        }
        if let Some(guest) = running.lend() {
            self.seat = Seat::Here(guest);
        }
        let mut seat = std::mem::replace(&mut self.seat, Seat::Empty);
        let polled = self.run(cx, &mut seat);
        match polled {
            Some(Poll::Pending) => self.seat = seat,
            Some(Poll::Ready(_)) => running.returned(),
            None => {}
        }
        polled
    }

    /// Lets go of the guest: its last words come before what the host has to say.
    pub(crate) fn dismiss(&mut self) {
        self.seat = Seat::Empty;
    }

    /// Runs a guest where its tenant's account has it run: a slice here, or on the second thread. None
    /// if the host panicked.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        cx: &mut Context<'_>,
        seat: &mut Seat<T>,
    ) -> Option<Poll<T>> {
        if let Seat::Away(errand) = seat {
            match errand.poll(cx) {
                Poll::Pending => return Some(Poll::Pending),
                Poll::Ready(Back::Finished(finished)) => return Some(Poll::Ready(finished)),
                Poll::Ready(Back::Panicked) => return None,
                Poll::Ready(Back::Home(guest)) => *seat = Seat::Here(guest),
            }
        }
        let Seat::Here(mut guest) = std::mem::replace(seat, Seat::Empty) else {
            return Some(Poll::Pending);
        };
        let now_ns = self.worker.outbox.before_guest(&self.tenant.account);
        if !self.worker.fair.is_free(&self.tenant.account, &self.worker.table, now_ns) {
            return self.send_away(cx, seat, guest, true);
        }
        let slice = catch_unwind(AssertUnwindSafe(|| self.slice(cx, &mut guest, now_ns)));
        match slice {
            Err(_) => None,
            Ok(Poll::Ready(finished)) => Some(Poll::Ready(finished)),
            Ok(Poll::Pending) if self.gauge.preempted.load(Relaxed) => {
                self.worker.fair.spent(monotonic_ns().saturating_sub(now_ns));
                self.send_away(cx, seat, guest, false)
            }
            Ok(Poll::Pending) => {
                *seat = Seat::Here(guest);
                Some(Poll::Pending)
            }
        }
    }

    fn send_away<T: Send + 'static>(
        &mut self,
        cx: &mut Context<'_>,
        seat: &mut Seat<T>,
        guest: BoxFuture<T>,
        stays: bool,
    ) -> Option<Poll<T>> {
        self.began_away |= stays && !self.went_away && self.cpu.is_zero();
        self.went_away = true;
        let share = self.tenant.account.share.borrow().clone();
        let mut errand = self.worker.long.take(guest, share, self.gauge.clone(), stays);
        self.worker.look_after_long();
        match errand.poll(cx) {
            Poll::Ready(Back::Finished(finished)) => return Some(Poll::Ready(finished)),
            Poll::Ready(Back::Panicked) => return None,
            Poll::Ready(Back::Home(guest)) => {
                *seat = Seat::Here(guest);
                cx.waker().wake_by_ref();
            }
            Poll::Pending => *seat = Seat::Away(errand),
        }
        Some(Poll::Pending)
    }

    /// Runs a guest for one slice: on the clock, on the tenant's account, and with its name in the
    /// shared table in case the process does not survive it.
    fn slice<T>(&mut self, cx: &mut Context<'_>, guest: &mut BoxFuture<T>, now_ns: u64) -> Poll<T> {
        let (worker, account) = (&self.worker, &self.tenant.account);
        self.gauge.slice_until_ns.store(now_ns + SLICE_NS, Relaxed);
        self.gauge.preempted.store(false, Relaxed);
        if worker.pressure.ends(self.tenant.entry.limits.resources.qos) {
            self.gauge.evicted.store(true, Relaxed);
        }
        let turn = worker.epoch.guest_runs(account.is_quick());
        worker.cell().set_current(Some(self.tenant.entry.slot));
        let before_ns = account.is_suspect(now_ns).then(|| worker.fair.cpu_at(now_ns));
        let polled = guest.as_mut().poll(cx);
        let end_ns = monotonic_ns();
        let wall_ns = end_ns.saturating_sub(now_ns);
        // A system call, and only a slice that was too long is in question.
        let cpu_ns = before_ns.filter(|_| wall_ns > OVERRUN_NS);
        let cpu_ns = cpu_ns.map(|before| thread_cpu_ns().saturating_sub(before).min(wall_ns));
        self.cpu += Duration::from_nanos(cpu_ns.unwrap_or(wall_ns));
        worker.fair.charge(account, wall_ns, cpu_ns, turn.ticks(), end_ns);
        let share = account.share.borrow();
        share.charge(&worker.table, worker.index, cpu_ns.unwrap_or(wall_ns), end_ns);
        worker.cell().set_current(None);
        drop(turn);
        worker.pressure.look(end_ns);
        polled
    }
}

/// Where a guest runs.
pub(crate) enum Seat<T> {
    /// Here, when it is polled.
    Here(BoxFuture<T>),
    /// On the second thread.
    Away(Errand<T>),
    /// It has not begun, or is gone.
    Empty,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.dismiss();
        // Before the permit: the slot may be another tenant's as soon as nothing runs in it.
        self.untaken = None;
        let usage = Usage {
            fuel: self.gauge.fuel.load(Relaxed),
            cpu_ns: u64::try_from(self.cpu.as_nanos())
                .unwrap_or(u64::MAX)
                .saturating_add(self.gauge.cpu_ns.load(Relaxed)),
            memory_peak_bytes: self.gauge.memory_peak_bytes.load(Relaxed),
            bytes_in: self.bytes_in.as_ref().map_or(0, |bytes| bytes.load(Relaxed)),
            bytes_out: self.bytes_out,
        };
        let outcome = self.outcome.unwrap_or(Outcome::ClientFault(Fault::ClientGone));
        let cell = self.worker.table.cell(self.worker.index, self.tenant.entry.slot);
        cell.record(outcome, &usage);
        let now_ns = monotonic_ns();
        if let Some(received_ns) = self.received_ns {
            let end_ns = self.answered_ns.unwrap_or(now_ns);
            let duration_us = end_ns.saturating_sub(received_ns) / 1_000;
            cell.took(duration_us);
            let status = self.status.map(|status| status.as_u16());
            if let Some(access) = self.access.take() {
                access.end(status, outcome, usage, duration_us);
            }
            if let Some(class) = status.and_then(StatusClass::of) {
                cell.answered(class);
                if (class, outcome) == (StatusClass::ServerError, Outcome::Response) {
                    cell.answered_badly();
                }
            }
            if let Some(id) = self.carries {
                self.worker.outbound.carried(id);
            }
            if let Some(mut recording) = self.recording.take() {
                recording.instantiated(self.gauge.ready_ns.load(Relaxed));
                let tracer = &self.worker.tracer;
                tracer.finish(*recording, &self.tenant.entry, (outcome, status), end_ns);
            }
        }
        cell.leave();
        // By CPU time: what was interrupted may only have been kept waiting by other processes.
        let beyond = if self.began_away { SLICE_NS } else { SLICE_NS / 2 };
        self.tenant.account.learn(self.gauge.cpu_ns.load(Relaxed) >= beyond);
        self.tenant.note(&self.worker.table, outcome, self.probe, now_ns);
        self.worker.running.set(self.worker.running.get() - 1);
        self.worker.cell().set_running(self.worker.running.get());
        self.worker.tell_idle();
        if self.tenant.waiting.get() > 0 {
            self.tenant.freed.notify_one();
        }
    }
}
