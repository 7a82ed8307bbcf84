//! Who watches over an upgrade: a process of the old binary that holds everything that is handed over, until
//! the new version says that it serves.
//!
//! ```text
//!            BEGUN in time                  SERVES in time
//!  watching ──────────────▶ watching still ───────────────▶ (gone)
//!      └───── late, or the process has ended ──┴──▶ kills it, and is the host
//! ```
//! The old supervisor is the new one from the `exec` on, so nobody would be left if the new version ended or
//! hung although it was sound when it was tried. Then this process takes the host over as it was left: the
//! one case in which the host's process id changes. Bounded by the two waits below.

use super::Origin;
use super::handover::{Message, exec, read};
use crate::notify::Notify;
use crate::passed::Passed;
use crate::processes::Process;
use insula_ipc::fds::take;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the new version may take to say that it goes on, in milliseconds.
const BEGIN_MS_MAX: u64 = 10_000;
/// How long it, or the old one if it gives the host back, may take to serve, in milliseconds.
const SERVE_MS_MAX: u64 = 150_000;
/// How long a process that has let go of everything, or was killed, may take to end, in milliseconds.
const END_MS_MAX: u64 = 2_000;
/// What is said to it.
const BEGUN: u8 = b'b';
const SERVES: u8 = b's';

/// The line to the process that watches.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) pid: u32,
    pub(super) socket: UnixStream,
}

impl Guard {
    /// Starts it. Everything that is handed over must be open to an `exec`; the message behind `memory` may
    /// be written later.
    pub(super) fn start(origin: &Origin, memory: RawFd) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        insula_ipc::fds::keep_open(&theirs)?;
        let child = Command::new("/proc/self/exe")
            .arg0("insula")
            .arg("__guard")
            .arg(std::process::id().to_string())
            .arg(memory.to_string())
            .arg(theirs.as_raw_fd().to_string())
            .arg(&origin.program)
            .args(&origin.arguments)
            .spawn()?;
        Ok(Self { pid: child.id(), socket })
    }

    /// The new version goes on from the message.
    pub(super) fn begun(&mut self) {
        self.say(BEGUN);
    }

    /// It serves: there is nothing to watch over any more. Takes the process's end in the background.
    pub(super) fn serves(mut self) {
        self.say(SERVES);
        match Process::of(self.pid) {
            Ok(process) => drop(tokio::spawn(async move {
                process.ended().await;
                process.reap();
            })),
            Err(error) => tracing::warn!(%error, "whoever watched over the upgrade is lost"),
        }
    }

    fn say(&mut self, what: u8) {
        if let Err(error) = self.socket.write_all(&[what]) {
            tracing::warn!(%error, "nobody watches over the upgrade");
        }
    }
}

/// What the watching process is told.
#[derive(Debug)]
pub struct Watch {
    /// The process that is upgraded.
    pub pid: u32,
    /// The descriptor of the message.
    pub memory: i32,
    /// The descriptor to hear through.
    pub socket: i32,
    /// How the host was started.
    pub origin: Origin,
    /// Of which only the way to the service manager counts.
    pub passed: Passed,
}

/// Watches over an upgrade, as a process of its own: returns when the new version serves. Otherwise this
/// process becomes the host, or says why it cannot.
pub fn guard(watch: Watch) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let pid = i32::try_from(watch.pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let mut socket = UnixStream::from(take(watch.socket).map_err(|error| error.to_string())?);
    let begun = hear(&mut socket, BEGIN_MS_MAX);
    let served = match begun {
        Some(BEGUN) => loop {
            match hear(&mut socket, SERVE_MS_MAX) {
                // The old version, to which the new one gave the host back.
                Some(BEGUN) => {}
                other => break other,
            }
        },
        other => other,
    };
    if served == Some(SERVES) {
        return Ok(());
    }
    let ended = ends(&process, END_MS_MAX);
    let notify = Notify::new(&watch.passed);
    notify.say(&format!("MAINPID={}", std::process::id()));
    if !ended {
        let _ = pidfd_send_signal(&process, Signal::KILL);
        ends(&process, END_MS_MAX);
    }
    let mut message: Message = read(watch.memory).map_err(text)?;
    let how = if ended { "ended" } else { "hung" };
    let when = if begun == Some(BEGUN) { "before it served" } else { "at once" };
    let why = format!("{} {how} {when}", message.upgrade.binary);
    message.upgrade.error = Some(why);
    message.guard = None;
    let own = PathBuf::from("/proc/self/exe");
    // What is handed over is open to an `exec` already, as it came here.
    let none = std::iter::empty::<BorrowedFd<'_>>();
    Err(exec(&own, &watch.origin.program, &watch.origin, &message, none).to_string())
}

/// What is said within the time; none if nothing is, or nobody is there to say it.
fn hear(socket: &mut UnixStream, within_ms: u64) -> Option<u8> {
    socket.set_read_timeout(Some(Duration::from_millis(within_ms))).ok()?;
    let mut said = [0];
    socket.read_exact(&mut said).ok().map(|()| said[0])
}

/// Whether a process ends within the time.
fn ends(process: &OwnedFd, within_ms: u64) -> bool {
    let until = Instant::now() + Duration::from_millis(within_ms);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
