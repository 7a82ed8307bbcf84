//! Telling a service manager how the host fares: sd_notify(3), a line or two of text in a datagram.
//!
//! Nothing waits for an answer, and a manager that is gone is no reason to fail. Bounded by one datagram for
//! each thing that is said, and one each half of the time after which the manager would give the host up.

use crate::passed::Passed;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The shortest time between two signs of life, in microseconds.
const WATCHDOG_US_MIN: u64 = 10_000;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog_us: Option<u64>,
}

impl Notify {
    pub(crate) fn new(passed: &Passed) -> Self {
        let Some(path) = &passed.notify else { return Self::default() };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(path),
        };
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok((socket, address?))
        });
        if let Err(error) = &socket {
            tracing::warn!(%error, "the service manager cannot be told anything");
        }
        Self { to: socket.ok(), watchdog_us: passed.watchdog_us }
    }

    /// Says something, if anybody wants to know.
    pub(crate) fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager was not reached");
        }
    }

    /// The host serves.
    pub(crate) fn ready(&self, status: &str) {
        let status = status.replace('\n', " ");
        self.say(&format!("READY=1\nMAINPID={}\nSTATUS={status}", std::process::id()));
    }

    /// The host is being upgraded, until it is ready again.
    pub(crate) fn reloading(&self) {
        let now_us = insula_sandbox::epoch::monotonic_ns() / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=upgrading"));
    }

    /// Gives signs of life from the event loop, if they are wanted.
    pub(crate) fn watchdog(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let pause = Duration::from_micros((self.watchdog_us? / 2).max(WATCHDOG_US_MIN));
        let notify = Arc::clone(self);
        Some(tokio::spawn(async move {
            loop {
                notify.say("WATCHDOG=1");
                tokio::time::sleep(pause).await;
            }
        }))
    }
}
