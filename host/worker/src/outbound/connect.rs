//! From a URL to a connection: resolve once, check every address, connect to exactly those.
//!
//! A name's answers are used for this one connection and never looked up again, so a name cannot pass
//! the check with one address and be connected to at another. Bounds: [`LOOKUP_MAX`], [`CONNECT_MAX`],
//! [`ADDRESSES_MAX`]; look-ups at once per tenant ([`LOOKUPS_TENANT_MAX`]) and worker.

use super::{CONNECTIONS_MAX, Failure, Meter, Outbound, Policy, Url};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use insula_model::grants::outbound::{CallScheme, Target};
use insula_sandbox::outbound::CallError;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// For a name to be looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// For a connection to be made over all addresses, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Names that one tenant looks up at once.
const LOOKUPS_TENANT_MAX: usize = 4;

/// Makes one tenant's connections.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    policy: Arc<Policy>,
    outbound: Arc<Outbound>,
    meter: Arc<Meter>,
    lookups: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
}

impl Connector {
    pub(super) fn new(policy: Arc<Policy>, outbound: Arc<Outbound>, meter: Arc<Meter>) -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_TENANT_MAX));
        Self(Arc::new(Inner { policy, outbound, meter, lookups, open: Arc::default() }))
    }

    pub(super) fn connections(&self) -> usize {
        self.0.open.load(Relaxed)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Io;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Io, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { inner.connect(&uri).await })
    }
}

impl Inner {
    async fn connect(&self, uri: &Uri) -> Result<Io, Failure> {
        let url = Url::of(uri).ok_or(CallError::Uri)?;
        let slot = self.slot().await?;
        let addresses = self.resolve(&url).await?;
        let until = Instant::now() + CONNECT_MAX;
        let stream = reach(&addresses, until).await?;
        // Small requests must not wait for the server's acknowledgements.
        let _ = stream.set_nodelay(true);
        if url.scheme == CallScheme::Http {
            return Ok(self.io(Box::new(stream), false, slot));
        }
        let late = |_| Failure::from(CallError::ConnectionTimeout);
        let shake = self.outbound.tls.connect(&url.host, stream);
        let stream = timeout_at(until, shake).await.map_err(late)??;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(self.io(Box::new(stream), is_h2, slot))
    }

    fn io(&self, stream: Box<dyn Duplex>, is_h2: bool, slot: Slot) -> Io {
        Io { stream: TokioIo::new(stream), is_h2, meter: self.meter.clone(), _slot: slot }
    }

    /// A place among the worker's connections. When all are taken, idle ones make room.
    async fn slot(&self) -> Result<Slot, Failure> {
        let all = &self.outbound.connections;
        if all.load(Relaxed) >= CONNECTIONS_MAX {
            self.outbound.close_idle();
            // Connections close in tasks of their own.
            tokio::task::yield_now().await;
        }
        if all.load(Relaxed) >= CONNECTIONS_MAX {
            let detail = format!("refused: this worker has {CONNECTIONS_MAX} connections open");
            return Err(Failure::new(CallError::TooManyCalls, detail));
        }
        Ok(Slot::take([all, &self.open]))
    }

    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, Failure> {
        let target = Target::of(&url.host);
        let found = match target {
            Target::Address(ip) => vec![SocketAddr::new(ip, url.port)],
            Target::Name(name) => self.look_up(name, url.port).await?,
            Target::Tenant(_) => return Err(CallError::Denied.into()),
        };
        let may = |ip| self.policy.may_connect(url.scheme, &target, url.port, ip);
        let allowed = found.iter().filter(|to| may(to.ip()));
        let allowed: Vec<SocketAddr> = allowed.take(ADDRESSES_MAX).copied().collect();
        if allowed.is_empty() {
            let mut refused: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
            refused.dedup();
            let refused: Vec<String> =
                refused.iter().take(ADDRESSES_MAX).map(IpAddr::to_string).collect();
            let detail = format!(
                "refused, since its address is not a public one ({}); add the network to \
                 outbound.private in this tenant's manifest",
                refused.join(", ")
            );
            return Err(Failure::new(CallError::AddressDenied, detail));
        }
        Ok(allowed)
    }

    /// The system's resolver, on a thread, since it blocks. What takes too long is left to itself, and
    /// keeps its place until it ends.
    async fn look_up(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let name = name.to_owned();
        let looked_up = async {
            let own = self.lookups.clone().acquire_owned().await;
            let all = self.outbound.lookups.clone().acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _places = (own, all);
                (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
            })
            .await
        };
        match timeout(LOOKUP_MAX, looked_up).await {
            Err(_) => Err(CallError::DnsTimeout.into()),
            Ok(Err(join)) => Err(CallError::Internal(join.to_string()).into()),
            Ok(Ok(Ok(found))) if found.is_empty() => Err(CallError::NoSuchName.into()),
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(error))) => {
                let why = error.to_string();
                // The standard library tells this only in words.
                let temporary = why.contains("Temporary failure");
                let kind = if temporary { CallError::DnsTimeout } else { CallError::NoSuchName };
                Err(Failure::new(kind, format!("the name does not resolve: {why}")))
            }
        }
    }
}

/// The first address that answers, in the resolver's order; each gets its share of the time.
async fn reach(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, Failure> {
    let mut last = Failure::from(CallError::ConnectionTimeout);
    for (index, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    ErrorKind::TimedOut => CallError::ConnectionTimeout,
                    _ => CallError::ConnectionRefused,
                };
                last = Failure::new(kind, format!("cannot connect to {address}: {error}"));
            }
            Err(_) => {
                let detail = format!("cannot connect to {address}: no answer in time");
                last = Failure::new(CallError::ConnectionTimeout, detail);
            }
        }
    }
    Err(last)
}

/// Counts an open connection, for its tenant and for the worker.
struct Slot([Arc<AtomicUsize>; 2]);

impl Slot {
    fn take(counts: [&Arc<AtomicUsize>; 2]) -> Self {
        Self(counts.map(|count| {
            count.fetch_add(1, Relaxed);
            count.clone()
        }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Relaxed);
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// An open connection, with TLS or without.
pub(super) struct Io {
    stream: TokioIo<Box<dyn Duplex>>,
    is_h2: bool,
    meter: Arc<Meter>,
    _slot: Slot,
}

impl Io {
    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.meter.sent(*bytes);
        }
        written
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
