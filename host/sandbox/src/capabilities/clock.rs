//! Clocks: real ones, rounded down to what was granted, or ones that stand still.

use insula_model::grants::Clock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

pub(super) fn apply(clock: &Clock, builder: &mut WasiCtxBuilder) {
    match clock.fixed_ms {
        Some(at_ms) => {
            let still = Still(Duration::from_millis(at_ms), clock.precision_ns);
            builder.wall_clock(still.clone()).monotonic_clock(still);
        }
        None if clock.precision_ns > 1 => {
            builder
                .wall_clock(RoundedWall(clock.precision_ns))
                .monotonic_clock(RoundedMonotonic(Instant::now(), clock.precision_ns));
        }
        None => {}
    }
}

fn round(nanoseconds: u128, precision_ns: u64) -> u64 {
    let precision = u128::from(precision_ns.max(1));
    u64::try_from(nanoseconds - nanoseconds % precision).unwrap_or(u64::MAX)
}

struct RoundedWall(u64);

impl HostWallClock for RoundedWall {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(self.0)
    }

    fn now(&self) -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_nanos(round(since.as_nanos(), self.0))
    }
}

struct RoundedMonotonic(Instant, u64);

impl HostMonotonicClock for RoundedMonotonic {
    fn resolution(&self) -> u64 {
        self.1
    }

    fn now(&self) -> u64 {
        round(self.0.elapsed().as_nanos(), self.1)
    }
}

/// A wall clock at one time, and a monotonic one at zero.
#[derive(Clone)]
struct Still(Duration, u64);

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(self.1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        self.1
    }

    fn now(&self) -> u64 {
        0
    }
}
