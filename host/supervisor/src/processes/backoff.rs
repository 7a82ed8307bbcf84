//! How long to wait before a dead worker is replaced.
//!
//! A worker that did its work and died (killed by an operator or by the kernel for want of memory, or
//! crashed once in a while) is replaced at once, every time: waiting would only take service away. Two
//! things are worth slowing down, each after [`FREE_RESTARTS`] in a row:
//! - workers that die before they ever serve. Nothing is served either way, so the pause grows to
//!   [`UNSTARTED_PAUSE_MS_MAX`];
//! - workers that crash at once or over the same tenant again and again. They do serve others in
//!   between, so the pause stays below [`CRASH_PAUSE_MS_MAX`]: enough to stop a storm of forks.
//!
//! Connections wait in the listener's backlog meanwhile.

use insula_model::TenantName;
use std::time::Duration;

/// Deaths in a row that are repaired without a pause.
pub(super) const FREE_RESTARTS: u32 = 5;
/// The first pause, in milliseconds; each further one doubles.
const PAUSE_MS_MIN: u64 = 100;
/// The longest pause of a worker that does not get as far as serving, in milliseconds.
const UNSTARTED_PAUSE_MS_MAX: u64 = 5_000;
/// The longest pause of a worker that crashes while serving, in milliseconds.
const CRASH_PAUSE_MS_MAX: u64 = 500;
/// A worker that has served this long was sound, in milliseconds.
const SOUND_MS_MIN: u64 = 100;
/// After serving this long, what went before is forgotten, in milliseconds.
const CALM_MS_MIN: u64 = 10_000;

/// What of a death matters here.
pub(super) struct Death<'a> {
    /// How long it served, if it got that far.
    pub(super) served: Option<Duration>,
    /// Whether it was killed from outside (SIGKILL: an operator, or the kernel short of memory). That
    /// is not the doing of the guest that happened to run.
    pub(super) from_outside: bool,
    /// Whose guest ran.
    pub(super) tenant: Option<&'a TenantName>,
}

/// The memory of one worker's deaths.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    unstarted: u32,
    crashes: u32,
    last_tenant: Option<TenantName>,
}

impl Backoff {
    /// How long to wait after this death; zero for "replace at once".
    pub(super) fn after(&mut self, death: &Death<'_>) -> Duration {
        let Some(served) = death.served else {
            self.unstarted = self.unstarted.saturating_add(1);
            return pause(self.unstarted, UNSTARTED_PAUSE_MS_MAX);
        };
        self.unstarted = 0;
        if death.from_outside {
            return Duration::ZERO;
        }
        let same_tenant = death.tenant.is_some() && death.tenant == self.last_tenant.as_ref();
        self.last_tenant = death.tenant.cloned();
        let calm = served >= Duration::from_millis(CALM_MS_MIN);
        let sound = served >= Duration::from_millis(SOUND_MS_MIN);
        if calm || (sound && !same_tenant) {
            self.crashes = 0;
            return Duration::ZERO;
        }
        self.crashes = self.crashes.saturating_add(1);
        pause(self.crashes, CRASH_PAUSE_MS_MAX)
    }

    /// Deaths in a row without ever serving.
    pub(super) fn unstarted(&self) -> u32 {
        self.unstarted
    }
}

fn pause(deaths: u32, pause_ms_max: u64) -> Duration {
    let Some(doublings) = deaths.checked_sub(FREE_RESTARTS + 1) else {
        return Duration::ZERO;
    };
    // 100 ms doubled 16 times is above every bound.
    Duration::from_millis((PAUSE_MS_MIN << doublings.min(16)).min(pause_ms_max))
}
