//! What a guest's computing is measured by, and what that makes of its compiled code.

use crate::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// How a guest's computing is measured and bounded. Part of the compiled code: counting is done by
/// instructions of its own.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Metering {
    /// Every executed instruction is counted, and a request ends when its fuel is used up: the same
    /// request ends at the same instruction on any machine.
    #[default]
    Fuel,
    /// Nothing is counted. The clock alone bounds a request: its timeout, and the tenant's share and
    /// limit of CPU.
    Time,
}

impl Metering {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fuel, Self::Time];

    /// The word in manifests, in CLI and API, and between our own processes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fuel => "fuel",
            Self::Time => "time",
        }
    }
}

/// A text that names no metering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write `fuel` or `time`")]
pub struct MeteringError;

impl std::str::FromStr for Metering {
    type Err = MeteringError;
    fn from_str(text: &str) -> Result<Self, MeteringError> {
        Self::ALL.into_iter().find(|metering| metering.as_str() == text).ok_or(MeteringError)
    }
}

/// Names compiled code: an artifact under both meterings has code twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CodeId {
    /// What was compiled.
    pub artifact: Digest,
    /// For which metering.
    pub metering: Metering,
}

impl fmt::Display for CodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.metering {
            Metering::Fuel => self.artifact.fmt(f),
            Metering::Time => write!(f, "{} (metered by time)", self.artifact),
        }
    }
}
