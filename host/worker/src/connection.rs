//! One client connection: HTTP/1.1 with keep-alive, or HTTP/2 with prior knowledge.
//!
//! Bounds: the constants below. Ends when the client closes, when it is idle for
//! [`IDLE_MAX`], when its response stalls past its deadline, or when the worker drains.
//!
//! A worker that drains does not close on an idle client at once: its next request may be on its way, and
//! would be lost. It answers that request and says `Connection: close` with it (HTTP/2: `GOAWAY`, which
//! loses no request, so that is said at once); only clients that ask nothing for a while are closed on.

use crate::dispatch::dispatch;
use crate::headers;
use crate::outbox::Socket;
use crate::paced::Paced;
use crate::request_body::ClientBody;
use crate::share::Account;
use crate::tenant::Tenant;
use crate::turns::Turn;
use crate::worker::Worker;
use http::header::{self, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use insula_ipc::table::balance::EXPECTED_MAX;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// From a connection's first byte, or the end of the last request, to a whole request head.
const HEADER_READ_MAX: Duration = Duration::from_secs(15);
/// Without any request.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request head that are read at all; a tenant's own limit is lower.
const HEAD_BYTES_MAX: usize = 192 << 10;
/// Bytes of an answer that a connection takes in before its client has taken any: hyper's bound on a buffer, which
/// is one for both directions.
pub(crate) const WRITE_BUFFER_BYTES_MAX: u64 = HEAD_BYTES_MAX as u64;
/// Fields of one head.
const FIELDS_MAX: usize = 200;
/// HTTP/2 requests at once on one connection.
const STREAMS_MAX: u32 = 256;
/// HTTP/2 bytes in flight towards one guest, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// What a request knows about its connection, or about the call that it is.
pub(crate) struct Peer {
    /// The client; a tenant has no address.
    pub(crate) from: Option<SocketAddr>,
    pub(crate) forwarded: HeaderValue,
    /// The tenant that another one calls, which no route decides.
    pub(crate) callee: Option<Rc<Tenant>>,
    /// Calls from tenant to tenant up to here.
    pub(crate) hops: u32,
    /// Ends the connection at once.
    pub(crate) kill: Rc<Notify>,
    /// Lets the connection end after what is under way on it, for another worker to take the next.
    leave: Notify,
    /// It speaks HTTP/2, as its first request has shown.
    is_http2: Cell<bool>,
    /// Whose guest has computed for long: slot and weight.
    pub(crate) went_long: Cell<Option<(u32, u32)>>,
    requests: Cell<u64>,
    /// Whose its last request was.
    pub(crate) account: RefCell<Option<Rc<Account>>>,
    /// Whether its next one waits for others'.
    pub(crate) turn: Cell<Turn>,
    last_end: Cell<Instant>,
}

/// hyper's HTTP/2 streams, on this thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Counts a request as running for the idle timer, until its response has ended.
pub(crate) struct Busy(Rc<Peer>);

impl Peer {
    fn new(forwarded: HeaderValue, callee: Option<Rc<Tenant>>, hops: u32) -> Self {
        Self {
            from: None,
            forwarded,
            callee,
            hops,
            kill: Rc::new(Notify::new()),
            leave: Notify::new(),
            is_http2: Cell::new(false),
            went_long: Cell::new(None),
            requests: Cell::new(0),
            account: RefCell::default(),
            turn: Cell::default(),
            last_end: Cell::new(Instant::now()),
        }
    }

    /// For one call of a tenant's to `callee`.
    pub(crate) fn inside(forwarded: HeaderValue, callee: Rc<Tenant>, hops: u32) -> Self {
        Self::new(forwarded, Some(callee), hops)
    }

    /// Has the client come back on another connection, if this worker drains, or its guests compute for long
    /// and would sooner be served elsewhere.
    pub(crate) fn let_go<B>(&self, worker: &Worker, response: &mut Response<B>, version: Version) {
        if self.from.is_none() {
            return;
        }
        if worker.draining.get() {
            return self.send_away(response, version);
        }
        let Some((slot, weight)) = self.went_long.take() else { return };
        if !worker.table.send_away(worker.index, slot, weight) {
            return;
        }
        worker.sent_away.set(EXPECTED_MAX.min(worker.sent_away.get() + 1));
        self.send_away(response, version);
    }

    fn send_away<B>(&self, response: &mut Response<B>, version: Version) {
        if version == Version::HTTP_2 {
            self.leave.notify_one();
        } else {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }

    /// The request that begins is this tenant's.
    pub(crate) fn asks(&self, account: &Rc<Account>) {
        let mut last = self.account.borrow_mut();
        if !last.as_ref().is_some_and(|last| Rc::ptr_eq(last, account)) {
            *last = Some(account.clone());
        }
    }

    /// Whether what there is to read may begin a request, and others' may come first.
    pub(crate) fn waits_for_turns(&self, worker: &Worker) -> bool {
        self.turn.get() != Turn::None
            || self.requests.get() == 0 && worker.fair.is_shared(self.account.borrow().as_deref())
    }

    /// A request begins on this connection.
    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.last_end.set(Instant::now());
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, from: SocketAddr) {
    // Small answers must not wait for the client's acknowledgements.
    let _ = stream.set_nodelay(true);
    let peer = Rc::new(Peer { from: Some(from), ..Peer::new(headers::forwarded(from), None, 0) });
    let stream = Paced { socket: Socket::new(stream), worker: worker.clone(), peer: peer.clone() };
    let service = {
        let (worker, peer) = (worker.clone(), peer.clone());
        service_fn(move |request: Request<Incoming>| {
            peer.is_http2.set(request.version() == Version::HTTP_2);
            dispatch(worker.clone(), peer.clone(), request.map(ClientBody::Socket))
        })
    };
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(FIELDS_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (mut draining, mut closing) = (worker.draining.get(), worker.closing.get());
    if closing {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        let idle_at = peer.last_end.get() + IDLE_MAX;
        tokio::select! {
            biased;
            // A client's broken connection is its own affair; nothing is learned from the error.
            _ = connection.as_mut() => return,
            () = peer.kill.notified() => return,
            () = peer.leave.notified() => connection.as_mut().graceful_shutdown(),
            () = worker.drain.notified(), if !draining => {
                draining = true;
                if peer.is_http2.get() {
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = worker.close.notified(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(idle_at) => {
                if peer.requests.get() > 0 {
                    // A long request is not idleness; it has a deadline of its own.
                    peer.last_end.set(Instant::now());
                } else if peer.last_end.get() + IDLE_MAX <= Instant::now() {
                    return;
                }
            }
        }
    }
}
