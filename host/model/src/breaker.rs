//! When a tenant that keeps failing is taken out of service for a while.

use crate::Ceilings;
use crate::manifest::{ManifestError, within};
use crate::quantity::DurationMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The rule, resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Breaker {
    /// Requests that ended by the guest's fault within the window, in one worker, and were at least half
    /// of all.
    pub faults: u32,
    /// Milliseconds in which they are counted.
    pub window_ms: u64,
    /// Milliseconds for which requests are refused at first; twice as long after each probe that fails,
    /// up to 64 times.
    pub open_ms: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { faults: 100, window_ms: 10_000, open_ms: 1_000 }
    }
}

/// `breaker = { faults = 100, window = "10s", open = "1s" }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerSpec {
    /// Requests that the guest failed, at least half of all, within the window, in one worker. Default
    /// 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<u32>,
    /// In which they are counted. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub window: Option<DurationMs>,
    /// How long requests are refused at first. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub open: Option<DurationMs>,
}

impl BreakerSpec {
    pub(crate) fn resolve(self, c: &Ceilings) -> Result<Breaker, ManifestError> {
        let default = Breaker::default();
        let time = |field, asked: Option<DurationMs>, default: u64| {
            let asked = asked.unwrap_or(DurationMs(default).min(c.breaker_time));
            within(field, "breaker_time", asked, DurationMs(1), c.breaker_time)
        };
        let faults = self.faults.unwrap_or(default.faults.min(c.breaker_faults));
        Ok(Breaker {
            faults: within("breaker.faults", "breaker_faults", faults, 1, c.breaker_faults)?,
            window_ms: time("breaker.window", self.window, default.window_ms)?.0,
            open_ms: time("breaker.open", self.open, default.open_ms)?.0,
        })
    }
}

/// What a tenant's breaker says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// They are refused.
    Open {
        /// Milliseconds until one is let through to try.
        retry_ms: u64,
    },
    /// One of them is trying.
    HalfOpen,
}
