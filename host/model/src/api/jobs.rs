//! Jobs as the control API shows them.

use crate::grants::schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// A tenant that runs by a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    /// When it runs, in UTC.
    #[schema(value_type = String)]
    pub schedule: Schedule,
    /// The next time (RFC 3339); none if its schedule names no more.
    pub next_at: Option<String>,
    /// The run that goes on now.
    pub running: Option<JobRun>,
    /// The run that ended last.
    pub last: Option<JobRun>,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobRun {
    /// 1, 2, 3 … for each tenant.
    pub run: u64,
    /// The revision that ran.
    pub revision: u32,
    /// Why it ran.
    pub cause: JobCause,
    /// When it started (RFC 3339).
    pub started_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// How it ended; none while it runs.
    pub result: Option<JobResult>,
}

/// Why a job ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobCause {
    /// Its schedule.
    Schedule,
    /// Somebody asked for it.
    Request,
}

impl JobCause {
    /// The word that CLI and API show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Request => "request",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobResult {
    /// The program ended by itself.
    Exited {
        /// Its exit code.
        code: u8,
    },
    /// It was ended, or never started.
    Failed {
        /// A word as in `insula-fault`, or `worker-died`, or `host-died`.
        fault: String,
    },
}

impl JobResult {
    /// Ended for this reason.
    pub fn failed(fault: impl Into<String>) -> Self {
        Self::Failed { fault: fault.into() }
    }

    /// Whether the program ended by itself and was content.
    pub fn is_success(&self) -> bool {
        *self == Self::Exited { code: 0 }
    }
}

/// `exit 3`, or the fault's word.
impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit {code}"),
            Self::Failed { fault } => f.write_str(fault),
        }
    }
}

/// What [`JobResult`]'s `Display` writes.
impl From<&str> for JobResult {
    fn from(text: &str) -> Self {
        match text.strip_prefix("exit ").and_then(|code| code.parse().ok()) {
            Some(code) => Self::Exited { code },
            None => Self::failed(text),
        }
    }
}
