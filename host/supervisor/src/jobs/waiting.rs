//! A run on its way to a worker, and why one that was asked for does not start.

use crate::state::{Begin, End, StateError};
use insula_model::TenantName;
use insula_model::api::{JobCause, JobRun};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A run that wants to start.
pub(super) struct Waiting {
    pub(super) slot: u32,
    pub(super) cause: JobCause,
    pub(super) until: Instant,
    pub(super) answer: Option<oneshot::Sender<Result<JobRun, Refused>>>,
}

impl Waiting {
    /// Tells whoever asked.
    pub(super) fn refuse(self, why: Refused) {
        if let Some(answer) = self.answer {
            let _ = answer.send(Err(why));
        }
    }
}

/// Why a run that was asked for does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It is served, and has no schedule.
    #[error("`{0}` is not a job: its manifest has no `schedule`")]
    NoJob(TenantName),
    /// One at a time.
    #[error("run {1} of `{0}` has not ended yet")]
    Runs(TenantName, u64),
    /// One at a time.
    #[error("a run of `{0}` is due and about to start")]
    Waits(TenantName),
    /// Every worker has as many runs as it may.
    #[error("no worker has room for a run of `{0}`")]
    Busy(TenantName),
    /// Removed meanwhile.
    #[error("no tenant is named `{0}`")]
    Gone(TenantName),
    /// The host is shutting down.
    #[error("the host is shutting down")]
    Draining,
    /// The run could not be recorded.
    #[error(transparent)]
    State(Arc<StateError>),
}

/// A worker that could take a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Which process, among all that there ever were.
    pub(crate) life: u64,
    /// Requests and runs in it.
    pub(crate) running: u64,
}

/// What is to be written and started now.
pub(super) struct Turn {
    pub(super) ends: Vec<End>,
    pub(super) starts: Vec<(Waiting, Begin)>,
}
