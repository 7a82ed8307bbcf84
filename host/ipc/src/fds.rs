//! The descriptors that a worker inherits, under fixed numbers.

use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// The listening socket for tenants' HTTP, shared by all workers.
pub const LISTENER_FD: RawFd = 3;
/// The worker's end of the socket pair to the supervisor.
pub const SOCKET_FD: RawFd = 4;
/// The shared table's memory.
pub const TABLE_FD: RawFd = 5;

/// What a worker inherits.
#[derive(Debug)]
pub struct Inherited {
    /// Accepts tenants' connections.
    pub listener: TcpListener,
    /// To the supervisor.
    pub socket: UnixStream,
    /// For [`crate::table::Table::attach`].
    pub table: OwnedFd,
}

/// Why the descriptors could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// A number that is not open: this process was not started by a supervisor.
    #[error("descriptor {0} is not open: workers are started by `insula serve`, not by hand")]
    Missing(RawFd),
    /// A second call.
    #[error("the inherited descriptors were taken before")]
    Taken,
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the inherited descriptors; the second call in a process fails.
pub fn inherited() -> Result<Inherited, InheritError> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(InheritError::Taken);
    }
    Ok(Inherited {
        listener: take(LISTENER_FD)?.into(),
        socket: take(SOCKET_FD)?.into(),
        table: take(TABLE_FD)?,
    })
}

#[allow(unsafe_code)]
fn take(fd: RawFd) -> Result<OwnedFd, InheritError> {
    // SAFETY: borrowed only for the fcntl below, which reports a closed number as an error.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let flags = rustix::io::fcntl_getfd(borrowed).map_err(|_| InheritError::Missing(fd))?;
    // A worker starts no processes, but nothing should leak if a later one does.
    rustix::io::fcntl_setfd(borrowed, flags | rustix::io::FdFlags::CLOEXEC)
        .map_err(|_| InheritError::Missing(fd))?;
    // SAFETY: the number is open (checked above), it was put there by the supervisor for this process
    // alone, and TAKEN makes sure that it gets one owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
