//! What a tenant may reach beyond its own memory: everything a manifest grants, resolved.
//!
//! Nothing is granted by default, and [`Grants::default`] is exactly that. The parts:
//! [`mounts`] (directories), [`outbound`] (HTTP to other hosts and tenants), [`sockets`], [`secrets`],
//! [`schedule`] (when a job runs), and here the plain ones.

pub mod mounts;
pub mod outbound;
mod resolve;
pub mod schedule;
pub mod secrets;
pub mod sockets;

use crate::quantity::{ByteSize, DurationMs};
use mounts::{Mount, Scratch};
use outbound::Outbound;
use secrets::{SecretKey, SecretVia};
use serde::{Deserialize, Serialize};
use sockets::SocketRule;
use utoipa::ToSchema;

/// Bytes of all arguments, variables and configuration together that a manifest may grant.
pub const TEXT_BYTES_MAX: usize = 32 << 10;
/// Precision of clocks where no other was granted: coarse, because fine clocks let a guest time what
/// its neighbours do (workerd and browsers coarsen theirs for the same reason).
pub const CLOCK_PRECISION_NS_DEFAULT: u64 = 1_000_000;
/// Stores that a manifest may name.
pub const STORES_MAX: usize = 16;

/// Everything one revision is granted. Empty is the default: a guest reaches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Grants {
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Environment variables, by name.
    pub env: Vec<(String, String)>,
    /// `wasi:config/store`, by key.
    pub config: Vec<(String, String)>,
    /// Secrets, and how each arrives. Names only: values are never here.
    #[schema(value_type = Vec<(String, SecretVia)>)]
    pub secrets: Vec<(SecretKey, SecretVia)>,
    /// Directories of the host.
    pub mounts: Vec<Mount>,
    /// A private directory.
    pub scratch: Option<Scratch>,
    /// HTTP calls.
    pub outbound: Option<Outbound>,
    /// `wasi:keyvalue`.
    pub keyvalue: Option<KeyValue>,
    /// What clocks show.
    pub clock: Clock,
    /// If set, all randomness is drawn from this seed: the same in every instance.
    pub seed: Option<u64>,
    /// Raw sockets.
    #[schema(value_type = Vec<String>)]
    pub sockets: Vec<SocketRule>,
}

impl Grants {
    /// Whether nothing at all is granted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `wasi:keyvalue`: which stores a tenant may open, and how much they may hold together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyValue {
    /// Identifiers that `open` accepts.
    pub stores: Vec<String>,
    /// Bytes of keys and values over all of the tenant's stores.
    pub quota_bytes: u64,
}

/// What `wasi:clocks` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Clock {
    /// Nanoseconds to which all clocks are rounded down.
    pub precision_ns: u64,
    /// Unix time in milliseconds at which all clocks stand still, for reproducible runs. A monotonic
    /// clock then shows 0; waiting still takes its time.
    pub fixed_ms: Option<u64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { precision_ns: CLOCK_PRECISION_NS_DEFAULT, fixed_ms: None }
    }
}

/// `[keyvalue]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyValueSpec {
    /// Stores that the guest may open. Default: `["default"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<Vec<String>>,
    /// Bytes over all of them. Default 16Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub quota: Option<ByteSize>,
}

/// `[clock]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClockSpec {
    /// `"1ms"` (the default), `"exact"` for all that the machine has, or any duration of milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub precision: Option<Precision>,
    /// A time (RFC 3339) at which the clocks stand still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
}

/// How fine a clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Precision {
    /// A nanosecond.
    Exact,
    /// Milliseconds.
    Rounded(DurationMs),
}

impl Precision {
    pub(crate) fn nanoseconds(self) -> u64 {
        match self {
            Self::Exact => 1,
            Self::Rounded(duration) => duration.0.max(1).saturating_mul(1_000_000),
        }
    }
}

impl TryFrom<String> for Precision {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text == "exact" {
            return Ok(Self::Exact);
        }
        let duration = text.parse().map_err(|error| format!("{error}; or write `exact`"))?;
        Ok(Self::Rounded(duration))
    }
}

impl From<Precision> for String {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Exact => "exact".into(),
            Precision::Rounded(duration) => duration.to_string(),
        }
    }
}

/// `[build]`: how the component is made, for `insula dev` and `insula build`. Never sent to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// A shell command, run in the manifest's directory.
    pub command: String,
    /// Files and directories, relative to the manifest, whose changes start a build. Default: the
    /// manifest's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Vec<String>>,
}
