//! Upgrades in place: another binary becomes this host, and no client notices.
//!
//! ```text
//!  supervisor (old)                                  supervisor (new, same process)
//!  try the binary ─▶ answer what was asked ─▶ exec ─▶ start workers ─▶ they serve ─▶ open the control socket
//!        │ unsound: nothing happens             │          │ they do not: exec the old one again
//!  ──────┴── old workers serve all the while ───┴──────────┴──────────▶ drain ─▶ gone
//! ```
//! The process stays the same, so whoever supervises it (a service manager, a container's runtime) has
//! nothing to follow. It keeps open, across the `exec`: the listening sockets, the lock of the data directory,
//! the sockets to the workers, and the shared table. Connections wait in the backlog of a socket that is never
//! closed, and at every moment some worker accepts them.
//!
//! Owns the one upgrade that may be under way. Bounded by the waits that are named in [`trial`], [`leaving`]
//! and [`taking`]. Whatever fails before the `exec` leaves the host as it was; whatever fails after it, until
//! the new workers serve, brings the old binary back, by the descriptor that is kept of it, and the reason
//! stands in the log and in `insula ps --workers`. A new version that ends or hangs cannot do that itself; a
//! process of the old one watches over it ([`guard()`]).

mod guard;
mod handover;
mod leaving;
mod preflight;
mod taking;
mod trial;

use crate::audit::{Audit, by_host};
use crate::notify::Notify;
use crate::processes::Workers;
use insula_model::api::{AuditEvent, AuditStage, ErrorCode, UpgradeInfo, UpgradePlan};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use guard::{Watch, guard};
pub(crate) use handover::Taken;
pub use handover::{HANDOVER_VARIABLE, HandoverError};
pub use preflight::{Said, preflight};
pub(crate) use taking::{Before, resume};

/// How long an upgrade waits for the workers of the one before to be gone, in milliseconds.
const RETIRE_MS_MAX: u64 = 30_000;

/// How this process was started, so that another binary can be started the same way in its place.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The binary, by the absolute path that it was called by: links unresolved, so that one that is
    /// changed leads to another binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Why there is no upgrade. The host serves on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Not from the root.
    #[error("`{}` is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// One at a time.
    #[error("an upgrade is under way already")]
    UnderWay,
    /// Part of another program.
    #[error("this host cannot be upgraded: it is part of a command that ends with it")]
    Unmovable,
    /// Two generations of workers are enough.
    #[error("{0} workers from the upgrade before still finish what runs in them")]
    Retiring(usize),
    /// It is on its way out.
    #[error("the host is shutting down")]
    Draining,
    /// The binary does not do.
    #[error("not upgraded: {} {why}", binary.display())]
    Unsound {
        /// Which.
        binary: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl UpgradeError {
    /// What the API and the audit log call it.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Relative(_) => ErrorCode::BadRequest,
            Self::UnderWay | Self::Unmovable => ErrorCode::Conflict,
            Self::Retiring(_) => ErrorCode::Busy,
            Self::Draining => ErrorCode::Draining,
            Self::Unsound { .. } => ErrorCode::InvalidArtifact,
        }
    }
}

/// An upgrade that goes ahead.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) binary: PathBuf,
    pub(crate) plan: UpgradePlan,
}

/// Takes requests for an upgrade, and passes on those that can go ahead.
pub(crate) struct Upgrader {
    origin: Option<Origin>,
    last: Option<UpgradeInfo>,
    /// Time for one artifact, in milliseconds.
    compile_ms_max: u64,
    workers: Workers,
    under_way: AtomicBool,
    /// Whether the control socket takes no more connections, because another supervisor will.
    held: watch::Sender<bool>,
    plans: mpsc::Sender<Plan>,
    notify: Arc<Notify>,
}

/// The one upgrade that is under way; dropped, another may be.
struct UnderWay<'a>(&'a AtomicBool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Upgrader {
    /// Plans go to the receiver.
    pub(crate) fn new(
        origin: Option<Origin>,
        last: Option<UpgradeInfo>,
        compile_ms_max: u64,
        workers: Workers,
        notify: Notify,
    ) -> (Self, mpsc::Receiver<Plan>) {
        let (plans, planned) = mpsc::channel(1);
        let under_way = AtomicBool::new(false);
        let held = watch::Sender::new(false);
        let notify = Arc::new(notify);
        (Self { origin, last, compile_ms_max, workers, under_way, held, plans, notify }, planned)
    }

    /// Who is told how the host fares.
    pub(crate) fn notify(&self) -> &Arc<Notify> {
        &self.notify
    }

    /// Says that the host serves, and how the last upgrade went if it went wrong.
    pub(crate) fn ready(&self, listen: SocketAddr) {
        let failed = self.last.as_ref().and_then(|last| last.error.as_ref());
        let failed = failed.map(|why| format!("; the last upgrade failed: {why}"));
        self.notify.ready(&format!("serves tenants on {listen}{}", failed.unwrap_or_default()));
    }

    /// How the last upgrade went.
    pub(crate) fn last(&self) -> Option<UpgradeInfo> {
        self.last.clone()
    }

    /// Becomes true when the control socket is to be left to the next supervisor.
    pub(crate) fn held(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }

    /// Tries `binary`, or what lies now where this host's lay, and has the host handed over to it if it is
    /// sound. Takes as long as the new version has to compile. Cancel-safe.
    pub(crate) async fn prepare(&self, binary: Option<&Path>) -> Result<UpgradePlan, UpgradeError> {
        let origin = self.origin.as_ref().ok_or(UpgradeError::Unmovable)?;
        let binary = binary.unwrap_or(&origin.program);
        if !binary.is_absolute() {
            return Err(UpgradeError::Relative(binary.to_path_buf()));
        }
        if self.under_way.swap(true, Ordering::SeqCst) {
            return Err(UpgradeError::UnderWay);
        }
        let under_way = UnderWay(&self.under_way);
        let retire = Duration::from_millis(RETIRE_MS_MAX);
        if tokio::time::timeout(retire, self.workers.retired()).await.is_err() {
            return Err(UpgradeError::Retiring(self.workers.retiring().len()));
        }
        let sound = trial::try_out(binary, origin, self.compile_ms_max).await;
        let sound = sound.map_err(|why| {
            tracing::warn!(binary = %binary.display(), why, "not upgraded; this version serves on");
            UpgradeError::Unsound { binary: binary.to_path_buf(), why }
        })?;
        let plan = UpgradePlan {
            number: self.last.as_ref().map_or(0, |last| last.number) + 1,
            from: env!("CARGO_PKG_VERSION").into(),
            to: sound.version,
            binary: binary.to_string_lossy().into_owned(),
            compiled: sound.compiled,
            migrates: sound.migrates,
        };
        let ahead = Plan { binary: binary.to_path_buf(), plan: plan.clone() };
        self.plans.try_send(ahead).map_err(|_| UpgradeError::Draining)?;
        // Under way until the end of this process, or rather of what it is now.
        std::mem::forget(under_way);
        Ok(plan)
    }

    /// A signal asks for an upgrade: to what lies now where this host's binary lay. The log says how that
    /// ends, and the audit log that it was asked for; whoever hands over waits for the task until that is written.
    pub(crate) fn by_signal(self: &Arc<Self>, audit: &Audit) -> JoinHandle<()> {
        let (upgrader, audit) = (Arc::clone(self), audit.clone());
        self.notify.reloading();
        tokio::spawn(async move {
            if let Err(error) = upgrader.signalled(&audit).await {
                tracing::error!("SIGHUP: {error}; this version serves on");
                upgrader.notify.ready(&error);
            }
        })
    }

    async fn signalled(&self, audit: &Audit) -> Result<(), String> {
        let asked = || AuditEvent { reason: Some("SIGHUP".into()), ..by_host("upgrade") };
        let began = audit.began(asked).await;
        let (of, event) = began.map_err(|error| format!("it cannot be recorded: {error}"))?;
        let done = self.prepare(None).await;
        let result = done.as_ref().err().map_or("ok", |error| error.code().as_str());
        let (stage, result) = (AuditStage::Ended, Some(result.into()));
        let end = AuditEvent { stage, result, of: Some(of), ..event };
        if let Err(error) = audit.ended(end).await {
            tracing::error!(%error, "the end of an upgrade could not be recorded in the audit log");
        }
        let plan = done.map_err(|error| error.to_string())?;
        tracing::info!(binary = plan.binary, "SIGHUP: the binary is sound");
        Ok(())
    }

    /// How this host was started, if it can be upgraded.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Leaves the control socket to the next supervisor.
    fn hold(&self) {
        self.held.send_replace(true);
    }
}
