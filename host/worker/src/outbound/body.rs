//! The bodies of a call: counted, bounded in bytes and time, and honest about how they ended.
//!
//! Both hold one frame at a time at most, so a slow reader slows the writer down.

use super::inside::InsideBody;
use super::{Permit, Spoiled, Teller, net, too_large};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use insula_sandbox::outbound::{CallBody, CallError};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

type Polled<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// A request's body on its way out.
pub(super) struct Sending {
    body: CallBody,
    left: u64,
    limit: u64,
    spoiled: Spoiled,
}

impl Sending {
    pub(super) fn new(body: CallBody, limit: u64, spoiled: Spoiled) -> Self {
        Self { body, left: limit, limit, spoiled }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<CallError> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let checked = match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.left.checked_sub(length) {
                    Some(left) => {
                        self.left = left;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    None => CallError::RequestTooLarge(self.limit),
                }
            }
            Some(Err(error)) => error,
            None => return Poll::Ready(None),
        };
        let _ = self.spoiled.set(checked.clone());
        Poll::Ready(Some(Err(checked)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where an answer comes from.
pub(super) enum Source {
    Net(Incoming),
    Inside(InsideBody),
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Polled<CallError> {
        match self {
            Self::Net(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|error| net::read(&error).error))),
            Self::Inside(body) => body.poll(cx),
        }
    }
}

/// An answer's body on its way to the guest. Holds the call's place until it has ended.
pub(super) struct Receiving {
    source: Source,
    left: u64,
    limit: u64,
    deadline: Instant,
    /// The guest's own bound on the time between two frames.
    gap: Option<Duration>,
    /// Set only when a frame has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    permit: Option<Permit>,
    teller: Option<Teller>,
    ended: bool,
}

impl Receiving {
    pub(super) fn new(
        source: Source,
        limit: u64,
        deadline: Instant,
        gap: Option<Duration>,
        permit: Permit,
    ) -> Self {
        let permit = Some(permit);
        Self {
            source,
            left: limit,
            limit,
            deadline,
            gap,
            timer: None,
            permit,
            teller: None,
            ended: false,
        }
    }

    pub(super) fn told_by(mut self, teller: Teller) -> Self {
        self.teller = Some(teller);
        self
    }

    fn fail(&mut self, error: CallError) -> Polled<CallError> {
        let failure = too_large(error);
        if let Some(teller) = self.teller.take() {
            teller.tell(&failure.detail);
        }
        // The connection closes with its body, and the callee ends with its caller.
        self.source = Source::Inside(InsideBody::empty());
        self.end();
        Poll::Ready(Some(Err(failure.error)))
    }

    fn end(&mut self) {
        self.ended = true;
        self.permit = None;
        self.timer = None;
    }
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<CallError> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.source.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(length) else {
                    let limit = self.limit;
                    return self.fail(CallError::ResponseTooLarge(limit));
                };
                self.left = left;
                if self.gap.is_some() {
                    self.timer = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.fail(error),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let (deadline, gap) = (self.deadline, self.gap);
                let timer = self.timer.get_or_insert_with(|| {
                    let until = gap.map_or(deadline, |gap| deadline.min(Instant::now() + gap));
                    Box::pin(tokio::time::sleep_until(until.into()))
                });
                ready!(timer.as_mut().poll(cx));
                self.fail(CallError::Timeout)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            _ if self.ended => true,
            Source::Net(body) => body.is_end_stream(),
            Source::Inside(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Net(body) => body.size_hint(),
            Source::Inside(_) => SizeHint::default(),
        }
    }
}
