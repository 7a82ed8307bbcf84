//! What one supervisor leaves to the next, across an `exec`: a message in a sealed piece of memory, and the
//! descriptors that it names, all kept open. A variable says where the message is and for which process.

use super::Origin;
use super::guard::Guard;
use crate::jobs::HandedJobs;
use crate::rollouts::HandedCanary;
use crate::usage::Billed;
use insula_ipc::fds::{InheritError, keep_open, take};
use insula_model::api::UpgradeInfo;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names the message: `PID:DESCRIPTOR`.
pub const HANDOVER_VARIABLE: &str = "INSULA_HANDOVER";
/// The form of the message. Fields may be added as long as a reader can do without; anything else is another
/// form, and a version that does not know it says so when it is tried.
pub(super) const FORMAT: u32 = 1;
/// The longest message that is read, in bytes: a run of a job takes a few hundred, and so do the figures of a
/// tenant.
const MESSAGE_BYTES_MAX: u64 = 128 << 20;

/// Why a host could not be handed over, or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The message or a descriptor.
    #[error("what the host before left cannot be taken over: {0}")]
    Inherit(#[from] InheritError),
    /// The message cannot be read or written.
    #[error("the handover cannot be passed on: {0}")]
    Io(#[from] io::Error),
    /// Not a message of this form.
    #[error("the handover cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The new version did not start, and neither did the old one again.
    #[error(
        "the host could not be upgraded ({why}), and the version before does not run any more: {error}"
    )]
    Lost {
        /// Why it was to come back.
        why: String,
        /// Why it did not.
        error: String,
    },
}

/// One supervisor's words to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) format: u32,
    /// Of the protocol that the old workers speak.
    pub(super) wire: u32,
    /// The data directory's lock.
    pub(super) lock: RawFd,
    /// Tenants' listening socket.
    pub(super) listener: RawFd,
    /// The control socket.
    pub(super) control: RawFd,
    /// Where metrics are served besides the control socket; none if they are not.
    #[serde(default)]
    pub(super) metrics: Option<RawFd>,
    /// Whether the control socket's file is the host's to remove.
    pub(super) control_has_file: bool,
    /// The shared table of the old workers.
    pub(super) table: RawFd,
    /// The binary that hands over.
    pub(super) old_binary: RawFd,
    /// … by the path that it was called by.
    pub(super) old_program: PathBuf,
    /// … with these arguments.
    pub(super) old_arguments: Vec<OsString>,
    pub(super) started_at: String,
    /// Workers started so far.
    pub(super) lives: u64,
    pub(super) workers: Vec<Worker>,
    pub(super) jobs: HandedJobs,
    /// What was written of the usage of tenants.
    pub(super) billed: Vec<Billed>,
    /// What was counted of canaries before the table.
    #[serde(default)]
    pub(super) canaries: Vec<HandedCanary>,
    pub(super) upgrade: UpgradeInfo,
    /// A copy of the state database from before, if the new version changes it.
    pub(super) copy: Option<PathBuf>,
    /// Who watches over this upgrade.
    pub(super) guard: Option<Watcher>,
}

/// The process that watches over an upgrade.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Watcher {
    pub(super) pid: u32,
    /// To talk to it through.
    pub(super) socket: RawFd,
}

/// An old worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Worker {
    pub(super) index: u32,
    pub(super) pid: u32,
    pub(super) life: u64,
    /// Between two messages in both directions.
    pub(super) socket: RawFd,
}

impl Message {
    fn numbers(&self) -> impl Iterator<Item = RawFd> {
        let one = [self.lock, self.listener, self.control, self.table, self.old_binary];
        let more = self.guard.iter().map(|guard| guard.socket).chain(self.metrics);
        one.into_iter().chain(self.workers.iter().map(|worker| worker.socket)).chain(more)
    }
}

/// A message that has come, with its descriptors: kept as they are until the new host serves, so that all of
/// it can go back.
pub(crate) struct Taken {
    pub(super) message: Message,
    descriptors: BTreeMap<RawFd, OwnedFd>,
}

impl Taken {
    /// Takes the message behind this number, and what it names.
    pub(crate) fn receive(number: RawFd) -> Result<Self, HandoverError> {
        let message = parse(File::from(take(number)?))?;
        let descriptors = message.numbers().map(|number| Ok((number, take(number)?)));
        let descriptors = descriptors.collect::<Result<_, InheritError>>()?;
        let taken = Self { message, descriptors };
        if let Some(mut guard) = taken.guard() {
            guard.begun();
        }
        Ok(taken)
    }

    /// Who watches over this upgrade, if anybody does.
    pub(super) fn guard(&self) -> Option<Guard> {
        let Watcher { pid, socket } = self.message.guard.clone()?;
        Some(Guard { pid, socket: self.descriptor(socket).ok()?.into() })
    }

    /// A copy of one of the descriptors.
    pub(super) fn descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        let found = self.descriptors.get(&number);
        found.ok_or_else(|| io::Error::other("no such descriptor"))?.try_clone()
    }

    /// Makes this process the host before again, as it was left, and tells it why. Returns only if that
    /// fails; or at once, if this is that host already and cannot go on either.
    pub(super) fn give_back(mut self, why: String) -> HandoverError {
        let lost = |error: String| HandoverError::Lost { why: why.clone(), error };
        if let Some(first) = &self.message.upgrade.error {
            return HandoverError::Lost { why: first.clone(), error: why };
        }
        tracing::error!(why, "the upgrade failed; the version before takes over again");
        self.message.upgrade.error = Some(why.clone());
        let binary = PathBuf::from(format!("/proc/self/fd/{}", self.message.old_binary));
        let origin = Origin {
            program: self.message.old_program.clone(),
            arguments: self.message.old_arguments.clone(),
        };
        let descriptors = self.descriptors.values().map(AsFd::as_fd);
        lost(exec(&binary, &origin.program, &origin, &self.message, descriptors).to_string())
    }
}

/// The message behind a number that stays open.
pub(super) fn read(number: RawFd) -> io::Result<Message> {
    let file = File::open(format!("/proc/self/fd/{number}"))?;
    parse(file).map_err(io::Error::other)
}

fn parse(mut file: File) -> Result<Message, HandoverError> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A place for the message, open to any `exec` as are the descriptors that it will name.
pub(super) fn open<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<File> {
    for descriptor in descriptors {
        keep_open(descriptor)?;
    }
    let memory = File::from(memfd_create("insula-handover", MemfdFlags::CLOEXEC)?);
    keep_open(&memory)?;
    Ok(memory)
}

/// Becomes `binary`, called as `program` with the arguments that this process has, and leaves it the message
/// and the descriptors. Returns only if that fails; the descriptors are then open to any `exec`.
pub(super) fn exec<'a>(
    binary: &Path,
    program: &Path,
    origin: &Origin,
    message: &Message,
    descriptors: impl Iterator<Item = BorrowedFd<'a>>,
) -> io::Error {
    match open(descriptors) {
        Ok(memory) => exec_with(binary, program, origin, message, &memory),
        Err(error) => error,
    }
}

/// The same with a place that was made before.
pub(super) fn exec_with(
    binary: &Path,
    program: &Path,
    origin: &Origin,
    message: &Message,
    mut memory: &File,
) -> io::Error {
    let written = serde_json::to_vec(message).map_err(io::Error::from);
    if let Err(error) = written.and_then(|bytes| memory.write_all(&bytes)) {
        return error;
    }
    let place = format!("{}:{}", std::process::id(), memory.as_raw_fd());
    Command::new(binary)
        .arg0::<&OsStr>(program.as_ref())
        .args(&origin.arguments)
        .env(HANDOVER_VARIABLE, place)
        // These came with descriptors that are passed on in the message now.
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_FDNAMES")
        .exec()
}
