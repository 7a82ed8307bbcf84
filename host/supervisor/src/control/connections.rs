//! The connections of the control API and of the metrics' own address: HTTP/1.1 on each, and which of them has to go.
//!
//! Owns a task for each connection. Bounded by the listener's places; when all places are taken, the
//! connection that has been idle longest gives up its own, so clients that hang keep nobody out. A head
//! has [`HEAD_MS_MAX`] to arrive (an idle connection counts as one that waits for it), and an answer may
//! stand still for [`STALL_MS_MAX`]; bodies have their own bound (`super::body`). Ends when told to:
//! idle connections close at once, answers under way have [`FINISH_MS_MAX`].

use super::listener::{Bounded, Held};
use super::peer::Peer;
use crate::sync::lock;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use axum::serve::Listener;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Open connections of the control API; more wait in the socket's backlog.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// How long a request's head may take to arrive, in milliseconds.
const HEAD_MS_MAX: u64 = 30_000;
/// How long a client may leave an answer unread, in milliseconds: somebody who reads a log may have
/// stopped to think.
pub(super) const STALL_MS_MAX: u64 = 120_000;
/// A connection that has been idle for less than this is not closed to make room, in milliseconds: its
/// client may have a request on the way.
const IDLE_MS_MIN: u64 = 1_000;
/// How long requests under way may take to end at shutdown, in milliseconds.
const FINISH_MS_MAX: u64 = 2_000;
/// How long they may before an upgrade, in milliseconds: a deploy may be at its compiler.
const FINISH_UPGRADE_MS_MAX: u64 = 30_000;

/// What is known of one connection.
struct Client {
    /// Since when nothing is under way on it; none while something is.
    idle_since: Mutex<Option<Instant>>,
    leave: Notify,
}

type Clients = Arc<Mutex<HashMap<u64, Arc<Client>>>>;

/// Accepts and serves until `ending` says so. Once `held` is true nobody is accepted any more: the host is
/// upgraded, and who comes waits in the socket's backlog for the supervisor that goes on. `peer` says who is
/// at the other end, for handlers that ask.
pub(super) async fn serve<L: Listener>(
    mut listener: Bounded<L>,
    router: Router,
    mut ending: watch::Receiver<bool>,
    mut held: watch::Receiver<bool>,
    peer: impl Fn(&Held<L::Io>) -> Option<Peer>,
) {
    let clients = Clients::default();
    let mut tasks = JoinSet::new();
    let mut number = 0_u64;
    loop {
        let stream = tokio::select! {
            biased;
            // The senders live as long as the host: an error means that it ends, too.
            _ = ending.wait_for(|ending| *ending) => break,
            () = async { drop(held.wait_for(|held| *held).await) } => None,
            stream = next(&mut listener, &clients) => Some(stream),
        };
        let Some(stream) = stream else {
            drop(ending.wait_for(|ending| *ending).await);
            break;
        };
        while tasks.try_join_next().is_some() {}
        number += 1;
        let client =
            Arc::new(Client { idle_since: Mutex::new(Some(Instant::now())), leave: Notify::new() });
        lock(&clients).insert(number, Arc::clone(&client));
        let entry = Entry { number, clients: Arc::clone(&clients) };
        let (router, ending, peer) = (router.clone(), ending.clone(), peer(&stream));
        tasks.spawn(async move {
            let _entry = entry;
            connection(stream, peer, router, client, ending).await;
        });
    }
    drop(listener);
    let finished = async { while tasks.join_next().await.is_some() {} };
    // What is left is dropped with the set.
    let finish_ms = if *held.borrow() { FINISH_UPGRADE_MS_MAX } else { FINISH_MS_MAX };
    let _ = tokio::time::timeout(Duration::from_millis(finish_ms), finished).await;
}

/// The next connection. Where every place is taken, somebody idle is asked to leave.
async fn next<L: Listener>(listener: &mut Bounded<L>, clients: &Clients) -> Held<L::Io> {
    loop {
        if listener.has_place() {
            return listener.accept().await;
        }
        if let Some(client) = idlest(clients) {
            client.leave.notify_one();
        }
        // A place that becomes free ends this wait; so does time, which makes others idle.
        let pause = Duration::from_millis(IDLE_MS_MIN / 4);
        let _ = tokio::time::timeout(pause, listener.place()).await;
    }
}

fn idlest(clients: &Clients) -> Option<Arc<Client>> {
    let all = lock(clients);
    let since = |client: &Arc<Client>| *lock(&client.idle_since);
    let idle = all.values().filter_map(|client| Some((since(client)?, client)));
    let (since, client) = idle.min_by_key(|(since, _)| *since)?;
    (since.elapsed() >= Duration::from_millis(IDLE_MS_MIN)).then(|| Arc::clone(client))
}

/// One connection, to its end.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send>(
    held: Held<S>,
    peer: Option<Peer>,
    router: Router,
    client: Arc<Client>,
    mut ending: watch::Receiver<bool>,
) {
    let of = Arc::clone(&client);
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        let busy = Busy::new(&of);
        let answer = hyper::service::Service::call(&router, request);
        async move {
            let answer: Response<Body> = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Answering { body, _busy: busy }))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
        .serve_connection(TokioIo::new(held), service);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            // Whatever ended it, nobody is left to be told.
            _ = &mut serving => return,
            () = client.leave.notified() => {
                if lock(&client.idle_since).is_some() {
                    return;
                }
            }
            _ = ending.wait_for(|ending| *ending) => break,
        }
    }
    if lock(&client.idle_since).is_some() {
        return;
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// A connection's place in the list; dropped with the connection, however that ends.
struct Entry {
    number: u64,
    clients: Clients,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.clients).remove(&self.number);
    }
}

/// Something is under way on a connection, until dropped.
struct Busy(Arc<Client>);

impl Busy {
    fn new(client: &Arc<Client>) -> Self {
        *lock(&client.idle_since) = None;
        Self(Arc::clone(client))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.idle_since) = Some(Instant::now());
    }
}

/// An answer's body; its connection is busy until it has ended.
struct Answering {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
