//! Upgrades: another binary takes the host over while it serves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for an upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The binary, by an absolute path on the host. None: the path that the host was started with, whatever
    /// lies there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

/// An upgrade that goes ahead: the binary was tried and found sound. The host is handed over when its other
/// requests are answered; [`UpgradeInfo`] with this number then says how that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradePlan {
    /// Counts the upgrades since the host was started, from 1.
    pub number: u64,
    /// The version that runs.
    pub from: String,
    /// The version that takes over.
    pub to: String,
    /// Its path.
    pub binary: String,
    /// Artifacts that were compiled for it beforehand, because its engine differs.
    pub compiled: u64,
    /// Whether it changes the state database, of which a copy is then kept.
    pub migrates: bool,
}

/// How the last upgrade went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeInfo {
    /// As in [`UpgradePlan`].
    pub number: u64,
    /// When the host was handed over (RFC 3339).
    pub at: String,
    /// The version before.
    pub from: String,
    /// The version that was to take over.
    pub to: String,
    /// Its path.
    pub binary: String,
    /// Why it did not: the version before serves on. None if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
