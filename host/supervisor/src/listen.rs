//! Opening the port that tenants are served on: once, for all workers and for the host's whole life.

use crate::serve::ServeError;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

/// Connections that the kernel keeps while no worker accepts, for instance while one is replaced. The
/// kernel's own bound is `net.core.somaxconn`.
const BACKLOG: u32 = 1_024;
/// How long the workers of a host that was killed may hold the port, in milliseconds.
const ORPHANS_MS_MAX: u64 = 5_000;
/// Time between two attempts, in milliseconds.
const RETRY_MS: u64 = 50;

/// Listens on `addr`. After an unclean end the last host's workers may hold the port for a moment more,
/// until they notice; then, and only then, this waits for them.
pub(crate) async fn listen(addr: SocketAddr, unclean: bool) -> Result<TcpListener, ServeError> {
    let patience = Duration::from_millis(if unclean { ORPHANS_MS_MAX } else { 0 });
    let since = Instant::now();
    loop {
        match bind(addr) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if since.elapsed() >= patience {
                    return Err(ServeError::PortTaken { addr });
                }
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
            Err(source) => return Err(ServeError::Listen { addr, source }),
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the host before to leave TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    // Out of this event loop again: the supervisor never accepts. It stays non-blocking, as the
    // workers need it.
    socket.listen(BACKLOG)?.into_std()
}

/// Listens for whoever scrapes metrics; on what the host before left, if that is this address.
pub(crate) fn listen_for_metrics(
    addr: SocketAddr,
    handed: Option<TcpListener>,
) -> Result<TcpListener, ServeError> {
    let is_there = |listener: &TcpListener| {
        listener.local_addr().is_ok_and(|own| {
            own.ip() == addr.ip() && (addr.port() == 0 || own.port() == addr.port())
        })
    };
    if let Some(listener) = handed.filter(is_there) {
        return Ok(listener);
    }
    bind(addr).map_err(|source| ServeError::Metrics { addr, source })
}
