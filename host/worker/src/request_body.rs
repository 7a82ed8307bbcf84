//! A request body on its way to the guest: counted, bounded, and honest about how it ended.
//!
//! Bounded by the tenant's `request.body`; holds one frame at a time, so a slow guest slows the
//! client down and nothing piles up.

use crate::holding::Holding;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use insula_model::Fault;
use insula_sandbox::invoke::RequestBodyError;
use insula_sandbox::outbound::CallBody;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

/// How a request body stands, readable while the guest owns the body itself.
#[derive(Default)]
pub(crate) struct BodyState(AtomicU8);

/// Where a body is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyPhase {
    /// Nothing is wrong.
    Fine,
    /// The guest waits for the client.
    Waiting,
    /// It passed its limit.
    TooLarge,
    /// The client broke off.
    Broken,
}

impl BodyState {
    fn set(&self, phase: BodyPhase) {
        self.0.store(phase as u8, Relaxed);
    }

    /// What the client did to this request, whatever the guest made of it.
    pub(crate) fn spoiled(&self) -> Option<Fault> {
        match self.phase() {
            BodyPhase::TooLarge => Some(Fault::RequestBodyTooLarge),
            BodyPhase::Broken => Some(Fault::RequestBodyBroken),
            BodyPhase::Fine | BodyPhase::Waiting => None,
        }
    }

    /// Whose fault it is: what the client did wrong explains how the guest ended.
    pub(crate) fn blame(state: Option<&Self>, fault: Fault) -> Fault {
        match (fault, state.map(Self::phase)) {
            (Fault::Deadline, Some(BodyPhase::Waiting)) => Fault::RequestTimeout,
            _ => state.and_then(Self::spoiled).unwrap_or(fault),
        }
    }

    fn phase(&self) -> BodyPhase {
        match self.0.load(Relaxed) {
            1 => BodyPhase::Waiting,
            2 => BodyPhase::TooLarge,
            3 => BodyPhase::Broken,
            _ => BodyPhase::Fine,
        }
    }
}

/// Whom a request comes from, as far as its body goes.
pub(crate) enum ClientBody {
    /// A client's connection.
    Socket(Incoming),
    /// A tenant that calls another.
    Tenant(CallBody),
}

impl ClientBody {
    /// The next frame; what exactly broke is not the callee's to know.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        match self {
            Self::Socket(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(drop)))
            }
            Self::Tenant(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(drop)))
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Socket(body) => body.is_end_stream(),
            Self::Tenant(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Socket(body) => body.size_hint(),
            Self::Tenant(body) => body.size_hint(),
        }
    }
}

/// What the guest reads from.
pub(crate) enum RequestBody {
    /// No body at all.
    Empty,
    /// The client's.
    Streaming {
        body: ClientBody,
        left: u64,
        limit: u64,
        seen: Arc<AtomicU64>,
        state: Arc<BodyState>,
        /// The last frame, until the guest asks for the next.
        holding: Holding,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Self::Streaming { body, left, limit, seen, state, holding } = self.get_mut() else {
            return Poll::Ready(None);
        };
        holding.set(0);
        let frame = match body.poll_frame(cx) {
            Poll::Pending => {
                state.set(BodyPhase::Waiting);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        let checked = match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                if length > *left {
                    state.set(BodyPhase::TooLarge);
                    return Poll::Ready(Some(Err(RequestBodyError::TooLarge(*limit))));
                }
                *left -= length;
                seen.fetch_add(length, Relaxed);
                holding.set(length);
                Some(Ok(frame))
            }
            Some(Err(())) => {
                state.set(BodyPhase::Broken);
                return Poll::Ready(Some(Err(RequestBodyError::Broken)));
            }
            None => None,
        };
        state.set(BodyPhase::Fine);
        Poll::Ready(checked)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming { body, .. } => body.size_hint(),
        }
    }
}
