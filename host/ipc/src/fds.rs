//! Descriptors that come from outside, under numbers: a worker's, a service manager's, and those that a
//! supervisor keeps open for the one that takes its place.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

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
    /// A number that is not open.
    #[error("descriptor {0} is not open: whoever started this process did not pass it on")]
    Missing(RawFd),
    /// A second call.
    #[error("descriptor {0} was taken before")]
    Taken(RawFd),
}

/// Numbers that have an owner in this process.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes what a worker inherits; the second call in a process fails.
pub fn inherited() -> Result<Inherited, InheritError> {
    Ok(Inherited {
        listener: take(LISTENER_FD)?.into(),
        socket: take(SOCKET_FD)?.into(),
        table: take(TABLE_FD)?,
    })
}

/// Takes a descriptor that was open when this process began, as its parent or the program before it said;
/// closed by an `exec` from now on. A number is given out once. To be called before anything else in the
/// process could own it: numbers that were open at the beginning are nobody's.
#[allow(unsafe_code)]
pub fn take(fd: RawFd) -> Result<OwnedFd, InheritError> {
    if fd <= 2 || !TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(fd) {
        return Err(InheritError::Taken(fd));
    }
    // SAFETY: borrowed only for the fcntl below, which reports a closed number as an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    close_on_exec(borrowed).map_err(|_| InheritError::Missing(fd))?;
    // SAFETY: the number is open (checked above), it was put there for this process by whoever started it,
    // and TAKEN makes sure that it gets one owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a descriptor closed by an `exec`, and so not leak into other programs.
pub fn close_on_exec(fd: impl AsFd) -> std::io::Result<()> {
    let flags = rustix::io::fcntl_getfd(&fd)? | rustix::io::FdFlags::CLOEXEC;
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

/// Has a descriptor stay open across an `exec`.
pub fn keep_open(fd: impl AsFd) -> std::io::Result<()> {
    let flags = rustix::io::fcntl_getfd(&fd)? - rustix::io::FdFlags::CLOEXEC;
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_number_has_one_owner_and_a_closed_one_none() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = take(number).unwrap();
        let flags = || rustix::io::fcntl_getfd(&owned).unwrap();
        assert!(flags().contains(rustix::io::FdFlags::CLOEXEC));
        keep_open(&owned).unwrap();
        assert!(!flags().contains(rustix::io::FdFlags::CLOEXEC));
        assert!(matches!(take(number), Err(InheritError::Taken(_))));
        assert!(matches!(take(0), Err(InheritError::Taken(0))));
        assert!(matches!(take(1_000_000), Err(InheritError::Missing(_))));
    }
}
