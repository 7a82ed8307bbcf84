//! `http://NAME.internal/`: a call from one tenant to another of this host, without a socket.
//!
//! ```text
//! caller's guest (Send) ── InsideCall ──▶ serve (this thread's) ──▶ dispatch, as for a client
//!        ▲                                        │
//!        └──── head, then Whole or pieces ────────┘   one piece in the channel, one in hand
//! ```
//! The callee runs under its own admission, limits and accounts, in the caller's worker. A caller that
//! goes away drops its end of a channel, and so ends the callee; a callee whose body was cut is told
//! from one that ended. Bounds: [`QUEUED_MAX`], [`PIECES_MAX`], the hop limit, both tenants' limits.

use super::Failure;
use crate::connection::Peer;
use crate::dispatch::dispatch;
use crate::headers::content_length;
use crate::request_body::ClientBody;
use crate::response_body::ResponseBody;
use crate::worker::Worker;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri};
use http_body::Frame;
use http_body_util::BodyExt;
use insula_model::TenantName;
use insula_model::grants::outbound::INTERNAL;
use insula_sandbox::outbound::{CallBody, CallError};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::sync::{Notify, mpsc, oneshot};

/// Calls on their way to `serve`, which takes them at once.
pub(crate) const QUEUED_MAX: usize = 256;
/// Frames of one answer that its caller has not taken yet.
const PIECES_MAX: usize = 1;

type Answer = Result<Response<InsideBody>, Failure>;

/// A call on its way to the callee.
pub(crate) struct InsideCall {
    caller: TenantName,
    callee: Box<str>,
    request: Request<CallBody>,
    hops: u32,
    answer: oneshot::Sender<Answer>,
}

/// What passes from callee to caller; a channel that closes without an end was cut.
pub(super) enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// The answer's body, at the caller's end.
pub(super) enum InsideBody {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Piece>),
}

impl InsideBody {
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let pieces = match self {
            Self::Whole(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Pieces(pieces) => pieces,
        };
        Poll::Ready(match ready!(pieces.poll_recv(cx)) {
            Some(Piece::Frame(frame)) => Some(Ok(frame)),
            Some(Piece::End) => None,
            // The callee was ended in the middle.
            None => Some(Err(CallError::Terminated)),
        })
    }
}

/// Calls the tenant `callee`; ready with the answer's head.
pub(super) async fn call(
    to: &mpsc::Sender<InsideCall>,
    caller: &TenantName,
    callee: &str,
    request: Request<CallBody>,
    hops: u32,
) -> Answer {
    let (answer, answered) = oneshot::channel();
    let (caller, callee) = (caller.clone(), callee.into());
    let call = InsideCall { caller, callee, request, hops, answer };
    let gone = || Failure::from(CallError::Terminated);
    to.send(call).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// Takes calls for as long as the worker lives.
pub(crate) async fn serve(worker: Rc<Worker>, mut calls: mpsc::Receiver<InsideCall>) {
    while let Some(call) = calls.recv().await {
        tokio::task::spawn_local(answer(worker.clone(), call));
    }
}

async fn answer(worker: Rc<Worker>, call: InsideCall) {
    let InsideCall { caller, callee, request, hops, mut answer } = call;
    let Some(tenant) = worker.tenant_named(&callee).filter(|tenant| !tenant.entry.job) else {
        let detail = format!("there is no tenant `{callee}` on this host that serves requests");
        let _ = answer.send(Err(Failure::new(CallError::NoSuchName, detail)));
        return;
    };
    // Only the host writes `Forwarded`, and for clients it writes an address there (RFC 7239, section
    // 6.3: a name of our own begins with `_`).
    let forwarded = HeaderValue::from_str(&format!("for=_{caller};proto=http"));
    let host = HeaderValue::from_str(&format!("{callee}.{INTERNAL}"));
    let (Ok(forwarded), Ok(host)) = (forwarded, host) else {
        let _ = answer.send(Err(CallError::Uri.into()));
        return;
    };
    let peer = Rc::new(Peer::inside(forwarded, tenant, hops));
    let is_head = request.method() == Method::HEAD;
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.headers.insert(HOST, host);
    let request = Request::from_parts(parts, ClientBody::Tenant(body));
    let kill = peer.kill.clone();
    let response = tokio::select! {
        biased;
        // Dropping the request is what ends it when a client goes away, too.
        () = answer.closed() => return,
        response = dispatch(worker, peer, request) => response,
    };
    let (parts, body) = match response {
        Ok(response) => response.into_parts(),
        Err(never) => match never {},
    };
    match body {
        ResponseBody::Whole(bytes) => {
            let _ = answer.send(Ok(Response::from_parts(parts, InsideBody::Whole(bytes))));
        }
        stream @ ResponseBody::Stream(_) => {
            let (to, pieces) = mpsc::channel(PIECES_MAX);
            let bodiless = is_head || matches!(parts.status.as_u16(), 204 | 304);
            let left = content_length(&parts.headers).filter(|_| !bodiless);
            let left = if bodiless { Some(0) } else { left };
            if answer.send(Ok(Response::from_parts(parts, InsideBody::Pieces(pieces)))).is_ok() {
                pump(stream, left, to, kill).await;
            }
        }
    }
}

/// Passes the callee's frames on until it ends, its caller goes away, or its deadline's grace passes.
/// `left` is the declared length: at its end the callee's client has everything, whatever the guest
/// still does.
async fn pump(
    mut body: ResponseBody,
    mut left: Option<u64>,
    to: mpsc::Sender<Piece>,
    kill: Rc<Notify>,
) {
    while left != Some(0) {
        let frame = tokio::select! {
            biased;
            () = to.closed() => return,
            () = kill.notified() => return,
            frame = body.frame() => frame,
        };
        let frame = match frame {
            None => break,
            Some(Err(_)) => return,
            Some(Ok(frame)) => frame,
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        left = left.map(|left| left.saturating_sub(length));
        tokio::select! {
            biased;
            () = kill.notified() => return,
            sent = to.send(Piece::Frame(frame)) => if sent.is_err() { return },
        }
    }
    // Given back before the caller can tell that the callee has ended.
    drop(body);
    let _ = to.send(Piece::End).await;
}
