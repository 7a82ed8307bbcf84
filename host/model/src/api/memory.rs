//! The host's memory.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What all workers hold together, and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostMemory {
    /// Bytes held now; pages of files do not count.
    pub used_bytes: u64,
    /// Bytes that they may hold; none where the kernel does not tell what there is.
    pub budget_bytes: Option<u64>,
    /// What is given up because of that.
    pub pressure: MemoryPressure,
}

/// What is given up while memory runs low; each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryPressure {
    /// Nothing.
    None,
    /// Idle instances and code that is not in use.
    Evict,
    /// Requests to best-effort tenants are refused.
    BestEffort,
    /// Requests to burstable ones.
    Burstable,
    /// Guests that compute, but for those of guaranteed tenants.
    Running,
    /// All requests.
    All,
}

impl MemoryPressure {
    /// By how much of a budget is used: from 80 parts in a hundred on, then 85, 92, 100
    /// and 110. A budget of 0 is none.
    pub fn of(used: u64, budget: u64) -> Self {
        let reached =
            |percent: u64| u128::from(used) * 100 >= u128::from(budget) * u128::from(percent);
        if budget == 0 || !reached(80) {
            Self::None
        } else if !reached(85) {
            Self::Evict
        } else if !reached(92) {
            Self::BestEffort
        } else if !reached(100) {
            Self::Burstable
        } else if !reached(110) {
            Self::Running
        } else {
            Self::All
        }
    }

    /// The word that CLI and API show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Evict => "evict",
            Self::BestEffort => "best-effort",
            Self::Burstable => "burstable",
            Self::Running => "running",
            Self::All => "all",
        }
    }
}
