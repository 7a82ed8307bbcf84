//! Starting one worker process.
//!
//! Owns nothing for longer than the call: the listener and the table are lent and duplicated, and of
//! the socket pair one end goes to the child and the other to the caller.

use command_fds::{CommandFdExt, FdMapping};
use insula_ipc::fds::{LISTENER_FD, SOCKET_FD, TABLE_FD};
use insula_ipc::table::Table;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use tokio::net::UnixStream;
use tokio::process::Child;

/// What every worker inherits.
pub(super) struct Inheritance {
    /// Opened once, shared by all: connections wait in its backlog while workers are replaced.
    pub(super) listener: TcpListener,
    /// The shared table.
    pub(super) table: std::sync::Arc<Table>,
    /// The log filter, the only variable in a worker's environment.
    pub(super) log: String,
}

/// Starts a worker: this very binary (whatever has replaced its file since), a clean environment, and
/// three descriptors. It ends by itself when our end of the socket closes.
pub(super) fn spawn(inherited: &Inheritance) -> io::Result<(Child, UnixStream)> {
    // Both ends are close-on-exec; only the mapped copy of theirs survives in the child.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mappings = vec![
        FdMapping {
            parent_fd: inherited.listener.as_fd().try_clone_to_owned()?,
            child_fd: LISTENER_FD,
        },
        FdMapping { parent_fd: theirs.into(), child_fd: SOCKET_FD },
        FdMapping { parent_fd: inherited.table.fd().try_clone_to_owned()?, child_fd: TABLE_FD },
    ];
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("insula")
        .arg("__worker")
        .env_clear()
        .env("INSULA_LOG", &inherited.log)
        .stdin(Stdio::null())
        // A terminal's Ctrl-C is for the supervisor, which then drains the workers.
        .process_group(0)
        .fd_mappings(mappings)
        .map_err(io::Error::other)?;
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}
