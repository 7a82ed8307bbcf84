//! What a process is passed at its start: by a service manager, sockets that listen already
//! (sd_listen_fds(3)) and where to say how it fares (sd_notify(3)); or by the host that it goes on from.

use insula_ipc::fds::{InheritError, take};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};

/// The number of the first socket that is passed.
const FIRST: RawFd = 3;
/// What the sockets are called in messages, and may be called by who passes them.
const HTTP: &str = "http";
const CONTROL: &str = "control";

/// What this process was passed. Libraries do not read the environment, so this is told.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    /// The descriptor of a handover.
    pub handover: Option<RawFd>,
    /// Names of the sockets that are passed, in order; empty where one has none.
    pub sockets: Vec<String>,
    /// The socket of the service manager.
    pub notify: Option<OsString>,
    /// Within how many microseconds it wants signs of life.
    pub watchdog_us: Option<u64>,
}

/// Why what was passed does not do.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// A number that is not open.
    #[error("socket activation: {0}")]
    Inherit(#[from] InheritError),
    /// Neither of the two that a host can use.
    #[error(
        "socket activation: descriptor {number} ({name}) is {what}; a host takes one TCP socket that listens \
         (`http`, ListenStream=ADDRESS:PORT) and one Unix socket that listens (`control`, ListenStream=/PATH)"
    )]
    Kind {
        /// Which.
        number: RawFd,
        /// Its name.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// Two of a kind.
    #[error(
        "socket activation: descriptor {number} is a second `{kind}` socket; a host takes one: \
         keep one ListenStream= of that kind"
    )]
    Second {
        /// Which.
        number: RawFd,
        /// Of what kind.
        kind: &'static str,
    },
}

/// The sockets that were passed.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// For tenants.
    pub(crate) http: Option<TcpListener>,
    /// For the control API.
    pub(crate) control: Option<OwnedFd>,
}

impl Passed {
    /// Takes the sockets: each is what its kind says, and its name may not say otherwise.
    pub(crate) fn sockets(&self) -> Result<Sockets, PassedError> {
        let mut sockets = Sockets::default();
        for (number, name) in (FIRST..).zip(&self.sockets) {
            let socket = take(number)?;
            let wrong = |what| PassedError::Kind { number, name: name.clone(), what };
            let kind = kind(&socket).map_err(wrong)?;
            if [HTTP, CONTROL].contains(&name.as_str()) && name != kind {
                let what = if kind == HTTP { "a TCP socket" } else { "a Unix socket" };
                return Err(wrong(what));
            }
            let second = PassedError::Second { number, kind };
            let before = match kind {
                HTTP => sockets.http.replace(socket.into()).is_some(),
                _ => sockets.control.replace(socket).is_some(),
            };
            if before {
                return Err(second);
            }
        }
        Ok(sockets)
    }
}

/// Which of the two a descriptor is, or what else.
fn kind(socket: &OwnedFd) -> Result<&'static str, &'static str> {
    let Ok(domain) = sockopt::socket_domain(socket) else { return Err("not a socket") };
    let kind = match domain {
        AddressFamily::INET | AddressFamily::INET6 => HTTP,
        AddressFamily::UNIX => CONTROL,
        _ => return Err("a socket of another kind"),
    };
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return Err("a socket for datagrams");
    }
    match sockopt::socket_acceptconn(socket) {
        Ok(true) => Ok(kind),
        _ => Err("a socket that does not listen"),
    }
}
