//! How new revisions take over.

use crate::rollout::{Percent, Rollout};
use crate::{Digest, LatencyQuantiles};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A canary that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryStatus {
    /// Its revision.
    pub revision: u32,
    /// Its artifact's digest.
    #[schema(value_type = String)]
    pub artifact: Digest,
    /// Its part of the requests, and its bounds.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// Since when (RFC 3339).
    pub since: String,
    /// Requests of it that run now.
    pub running: u64,
    /// Requests that ended since then. A host that was killed may have lost the last seconds of them.
    pub requests: u64,
    /// Of those, what ended by the guest's fault or with a status of 500 or above.
    pub errors: u64,
    /// How long they took.
    pub latency: LatencyQuantiles,
    /// Requests that it must have had before anything is decided by their figures.
    #[serde(default)]
    pub requests_min: u64,
    /// Milliseconds for which it was tried so far, which `for` is held against: those in which a host ran.
    #[serde(default)]
    pub tried_ms: u64,
    /// How it does, in words.
    pub verdict: String,
    /// What it is held beside.
    #[serde(default)]
    pub active: ActiveStatus,
}

/// What the active revision did since its canary began; after a restart or an upgrade of the host, since then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActiveStatus {
    /// The active revision.
    pub revision: u32,
    /// Requests that ended.
    pub requests: u64,
    /// Of those, what ended by the guest's fault or with a status of 500 or above.
    pub errors: u64,
    /// How long they took.
    pub latency: LatencyQuantiles,
}

/// What a deploy began or a rollback ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanaryChange {
    /// The canary's revision.
    pub revision: u32,
    /// Its part of the requests.
    #[schema(value_type = String)]
    pub share: Percent,
    /// Whether it runs now.
    pub running: bool,
}

/// What became of a revision that was a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutInfo {
    /// Where it is.
    pub state: RolloutState,
    /// Its part of the requests.
    #[schema(value_type = String)]
    pub share: Percent,
    /// When it began (RFC 3339).
    pub started_at: String,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A canary's life: running → promoted, or rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// It gets its part of the requests.
    Running,
    /// It became the active revision.
    Promoted,
    /// It was taken back.
    RolledBack,
}

impl RolloutState {
    /// The word that state database, API and CLI show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled-back",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Running, Self::Promoted, Self::RolledBack];
}
