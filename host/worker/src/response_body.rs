//! A response body on its way out, and the guest that writes it.
//!
//! ```text
//!            guest done, body short ──▶ Whole: permit already given back
//! head ──────┤
//!            ├ no body by HTTP's rules ──▶ head goes out; the host reads the body to its end, for
//!            │                             nobody, under the same limits
//!            └ otherwise ──▶ Stream: owns guest, permit, deadline ──▶ ended once, by one of
//!                             the body's end · a fault · the watchdog · being dropped (client gone)
//! ```
//! The stream polls the guest where the body is polled: a client that reads slowly slows the guest
//! down, and one that goes away drops it. A client that stops reading would stop the deadline's timer
//! as well, so each stream has a watchdog outside the connection's task. Bounded by the tenant's
//! `response.body` and `timeout`.

use crate::connection::{Busy, WRITE_BUFFER_BYTES_MAX};
use crate::request_body::BodyState;
use crate::respond;
use crate::ticket::Ticket;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use insula_model::api::LogStream;
use insula_model::{Fault, Outcome, RequestId};
use insula_sandbox::{GuestBody, Running};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// A client that still has not taken the end of its response this long after the deadline loses its
/// connection.
const STALL_GRACE: Duration = Duration::from_secs(1);

/// The response cannot be completed: the connection (or the HTTP/2 stream) is broken off, so that
/// nobody takes the part for the whole.
#[derive(Debug)]
pub(crate) struct Cut(Fault);

impl Cut {
    /// Why.
    pub(crate) fn fault(&self) -> Fault {
        self.0
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response was cut: {}", self.0.code())
    }
}

impl std::error::Error for Cut {}

pub(crate) enum ResponseBody {
    Whole(Option<Bytes>),
    Stream(StreamBody),
}

/// The half that hyper owns. Dropped early, it ends the guest.
pub(crate) struct StreamBody(Rc<RefCell<Stream>>);

/// A guest and the body it writes.
pub(crate) struct Stream {
    ticket: Option<Ticket>,
    running: Running,
    body: GuestBody,
    /// Frames taken from the body before the head went out.
    early: VecDeque<Frame<Bytes>>,
    /// The body has no more frames.
    body_ended: bool,
    served: u32,
    declared: Option<u64>,
    limit: u64,
    /// Bytes of the body so far.
    passed: u64,
    /// Nobody gets the body: HEAD, 204, 304.
    discards: bool,
    request_id: RequestId,
    fault: Option<Fault>,
    waker: Option<Waker>,
    /// How the request's body stands.
    request_body: Option<Arc<BodyState>>,
    /// The connection is not idle while this stands.
    _busy: Option<Busy>,
}

pub(crate) struct StreamParts {
    pub(crate) ticket: Ticket,
    pub(crate) running: Running,
    pub(crate) body: GuestBody,
    pub(crate) early: VecDeque<Frame<Bytes>>,
    pub(crate) body_ended: bool,
    pub(crate) served: u32,
    pub(crate) declared: Option<u64>,
    pub(crate) request_id: RequestId,
    pub(crate) busy: Busy,
    pub(crate) request_body: Option<Arc<BodyState>>,
}

impl ResponseBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// A body that is still being written. `kill` ends the connection.
    pub(crate) fn stream(parts: StreamParts, kill: Rc<Notify>) -> Self {
        let deadline = parts.ticket.deadline;
        let stream = Rc::new(RefCell::new(Stream::new(parts, false)));
        let watched = Rc::downgrade(&stream);
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(deadline.into()).await;
            let Some(stream) = watched.upgrade() else { return };
            stream
                .borrow_mut()
                .fail(Fault::Deadline, "the deadline passed while the response was sent");
            drop(stream);
            tokio::time::sleep(STALL_GRACE).await;
            if watched.strong_count() > 0 {
                kill.notify_one();
            }
        });
        Self::Stream(StreamBody(stream))
    }

    /// The empty body of an answer that never has one. The server drops such a body unread, which says
    /// nothing about the client: the host itself sees the guest to its end, so that a request ends
    /// the way the same one with a body would. What the guest writes is held against its limits but
    /// counted as sent nowhere.
    pub(crate) fn discard(parts: StreamParts) -> Self {
        let deadline = parts.ticket.deadline;
        let mut stream = Stream::new(parts, true);
        if let Some(ticket) = stream.ticket.as_mut() {
            ticket.delivered();
        }
        tokio::task::spawn_local(async move {
            let to_its_end = poll_fn(|cx| {
                loop {
                    match std::task::ready!(stream.poll(cx)) {
                        Some(Ok(_unsent)) => {}
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
            });
            if tokio::time::timeout_at(deadline.into(), to_its_end).await.is_err() {
                let detail = "the deadline passed before the guest ended its body";
                stream.fail(Fault::Deadline, detail);
            }
        });
        Self::Whole(None)
    }
}

impl Stream {
    fn new(parts: StreamParts, discards: bool) -> Self {
        Self {
            limit: parts.ticket.tenant.entry.limits.response_body_bytes,
            ticket: Some(parts.ticket),
            running: parts.running,
            body: parts.body,
            early: parts.early,
            body_ended: parts.body_ended,
            served: parts.served,
            declared: parts.declared,
            passed: 0,
            discards,
            request_id: parts.request_id,
            fault: None,
            waker: None,
            request_body: parts.request_body,
            // The answer is out when nothing follows the head.
            _busy: Some(parts.busy).filter(|_| !discards),
        }
    }

    /// Ends the request with a fault, once; the guest goes, the permit is given back.
    fn fail(&mut self, fault: Fault, detail: &str) {
        self.running.abort();
        let fault = BodyState::blame(self.request_body.as_deref(), fault);
        if let Some(mut ticket) = self.ticket.take() {
            ticket.dismiss();
            ticket.tenant.log.line(
                self.request_id,
                LogStream::Host,
                &format!("{}: {detail}", fault.code()),
            );
            ticket.end(respond::outcome(fault));
            self.fault = Some(fault);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn cut(&mut self, fault: Fault, detail: &str) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.fail(fault, detail);
        Poll::Ready(Some(Err(Cut(self.fault.unwrap_or(fault)))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(fault) = self.fault {
            return Poll::Ready(Some(Err(Cut(fault))));
        }
        if self.ticket.is_none() {
            return Poll::Ready(None);
        }
        self.waker = Some(cx.waker().clone());
        if let Some(frame) = self.early.pop_front() {
            return self.pass(frame);
        }
        if let Some(fault) = self.drive(cx) {
            let (fault, detail) = fault;
            return self.cut(fault, &detail);
        }
        if !self.body_ended {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => return self.pass(frame),
                Poll::Ready(Some(Err(error))) => {
                    return self.cut(Fault::BadResponse, &error.to_string());
                }
                Poll::Ready(None) => self.body_ended = true,
            }
        }
        if let Some(fault) = self.running.body_ended() {
            return self.cut(fault.fault, &fault.detail);
        }
        // A body may also end because its guest trapped, which only the guest's end tells.
        if self.running.is_running() {
            return Poll::Pending;
        }
        self.complete()
    }

    /// Gives the guest a slice, if it still runs.
    fn drive(&mut self, cx: &mut Context<'_>) -> Option<(Fault, String)> {
        if !self.running.is_running() {
            return None;
        }
        let Self { ticket, running, .. } = self;
        let ticket = ticket.as_mut()?;
        match ticket.poll_guest(cx, running) {
            None => Some((Fault::Panic, "the host panicked; its own log has the details".into())),
            Some(Poll::Pending) => None,
            Some(Poll::Ready(finished)) => {
                if let Some(fault) = finished.fault {
                    return Some((fault.fault, fault.detail));
                }
                let served = self.served + 1;
                if let Some(instance) = finished.instance {
                    ticket.worker.keep(&ticket.tenant, instance, served);
                }
                None
            }
        }
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some(ticket) = self.ticket.as_mut() else { return Poll::Ready(None) };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let out = self.passed + length;
        if out > self.limit {
            let limit = self.limit;
            return self.cut(
                Fault::ResponseBodyTooLarge,
                &format!("the response body is longer than {limit} bytes"),
            );
        }
        if self.declared.is_some_and(|declared| out > declared) {
            return self.cut(Fault::BadResponse, "the body is longer than its content-length");
        }
        self.passed = out;
        ticket.bytes_out = if self.discards { 0 } else { out };
        if !self.discards {
            // How much of it the client has taken, only the connection knows.
            ticket.hold_untaken(out.min(WRITE_BUFFER_BYTES_MAX));
        }
        if self.declared == Some(out)
            && length > 0
            && !self.running.is_running()
            && self.early.is_empty()
        {
            // hyper asks for nothing beyond the declared length, so this is the end.
            ticket.end(
                self.request_body
                    .as_ref()
                    .and_then(|body| body.spoiled())
                    .map_or(Outcome::Response, respond::outcome),
            );
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn complete(&mut self) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.declared.is_some_and(|declared| self.passed < declared) {
            return self.cut(Fault::BadResponse, "the body is shorter than its content-length");
        }
        if let Some(fault) = self.request_body.as_ref().and_then(|body| body.spoiled()) {
            // The guest made an answer of the part it got; nobody should take that for the whole.
            return self.cut(fault, "the response was under way already");
        }
        if let Some(mut ticket) = self.ticket.take() {
            ticket.end(Outcome::Response);
        }
        Poll::Ready(None)
    }

    /// Whether the client has everything although the guest still runs.
    fn is_delivered(&self) -> bool {
        let all = self.ticket.is_some() && self.declared == Some(self.passed);
        self.early.is_empty() && (self.body_ended || all)
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut stream = self.0.borrow_mut();
        stream.waker = None;
        if !stream.is_delivered() {
            // The client went away: the ticket says so when it is dropped, and the guest ends here.
            stream.running.abort();
            stream.ticket = None;
            return;
        }
        // A shared instance is left; whatever becomes of it, the client has all.
        let _later = stream.running.body_ended();
        let spoiled = stream.request_body.as_ref().and_then(|body| body.spoiled());
        if let Some(ticket) = stream.ticket.as_mut() {
            ticket.delivered();
            ticket.end(spoiled.map_or(Outcome::Response, respond::outcome));
        }
        let closing = stream.ticket.as_ref().is_none_or(|ticket| ticket.worker.closing.get());
        if !stream.running.is_running() || closing {
            stream.running.abort();
            stream.ticket = None;
            return;
        }
        // The client has all of it; what the guest still does (a log line, a clean-up) it may finish,
        // under the same permit and deadline, which the watchdog keeps.
        drop(stream);
        let stream = self.0.clone();
        tokio::task::spawn_local(poll_fn(move |cx| {
            let mut stream = stream.borrow_mut();
            stream.waker = Some(cx.waker().clone());
            if stream.ticket.is_none() {
                return Poll::Ready(());
            }
            if let Some((fault, detail)) = stream.drive(cx) {
                stream.fail(fault, &detail);
            }
            if stream.running.is_running() {
                return Poll::Pending;
            }
            stream.ticket = None;
            Poll::Ready(())
        }));
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.0.borrow_mut().poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
