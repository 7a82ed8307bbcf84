//! The control socket: made privately, bounded, removed at the end.

use super::connections::STALL_MS_MAX;
use axum::serve::Listener;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Bytes of a Unix socket's path, without the terminating zero (`unix(7)`).
const PATH_BYTES_MAX: usize = 107;
/// What a socket is called until its mode is set.
const NEW: &str = "control.new";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel's bound on such paths.
    #[error("the control socket's path {} is longer than {PATH_BYTES_MAX} bytes; choose a shorter `--data`", .0.display())]
    TooLong(PathBuf),
    /// It cannot be made.
    #[error("the control socket {} cannot be made: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A listening control socket; its file is removed when this is dropped, unless somebody else made it.
pub(crate) struct Socket {
    listener: std::os::unix::net::UnixListener,
    file: Option<SocketFile>,
}

/// The socket's name in the file system, while it is ours.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already: somebody cleaned up.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens on `path` with mode 0600. Whoever calls holds the lock of the data directory, so a file
    /// that is there was left by a host that is gone.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(SocketError::TooLong(path.to_path_buf()));
        }
        let io = |source| SocketError::Io { path: path.to_path_buf(), source };
        // Under another name until its mode is right: a client never sees an open door.
        let new = path.with_file_name(NEW);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&new).map_err(io)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).map_err(io)?;
        fs::rename(&new, path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        Ok(Self { listener, file: Some(SocketFile(path.to_path_buf())) })
    }

    /// A socket that listens already: the one of the host before, or a service manager's. Its file is
    /// somebody else's affair, until it is [`Socket::own`]ed.
    pub(crate) fn adopt(listener: OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self { listener, file: None })
    }

    /// The file at `path` is ours from now on.
    pub(crate) fn own(&mut self, path: &Path) {
        self.file = Some(SocketFile(path.to_path_buf()));
    }

    /// Whether its file goes with it.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// The listening socket itself.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// At most so many connections at once.
    pub(super) fn bounded(&self, connections_max: usize) -> io::Result<Bounded<UnixListener>> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        Ok(Bounded::new(listener, connections_max))
    }
}

/// Accepts while there are places.
pub(super) struct Bounded<L> {
    listener: L,
    places: Arc<Semaphore>,
}

impl<L> Bounded<L> {
    /// At most so many connections at once.
    pub(super) fn new(listener: L, connections_max: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections_max)) }
    }

    /// Whether another connection may be taken.
    pub(super) fn has_place(&self) -> bool {
        self.places.available_permits() > 0
    }

    /// Waits for a place.
    pub(super) async fn place(&self) {
        // Given back at once: only one task accepts. The semaphore is never closed.
        drop(self.places.acquire().await);
    }
}

impl<L: Listener> Bounded<L> {
    /// The next connection, once there is a place for it.
    pub(super) async fn accept(&mut self) -> Held<L::Io> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // axum's own accept backs off when descriptors run out; connections wait in the backlog.
        let (stream, _) = Listener::accept(&mut self.listener).await;
        Held { stream, stalled: None, _place: place }
    }
}

/// A connection and its place. One whose client reads nothing of an answer for too long fails.
pub(super) struct Held<S> {
    stream: S,
    /// Runs while the client does not take what is written.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<S> Held<S> {
    /// Passes on what a write came to, and keeps the time while it comes to nothing.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let sleep = || Box::pin(tokio::time::sleep(Duration::from_millis(STALL_MS_MAX)));
        let stalled = self.stalled.get_or_insert_with(sleep);
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Held<UnixStream> {
    /// Who opened the connection; none if the kernel does not say.
    pub(super) fn peer(&self) -> Option<UCred> {
        self.stream.peer_cred().ok()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
