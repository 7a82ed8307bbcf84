//! Times as people and the API read them.

use jiff::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in RFC 3339 with seconds.
pub(crate) fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// A time that a worker took, in RFC 3339 with milliseconds. A value that is no time (a worker's clock
/// is not trusted to be sane) becomes now.
pub(crate) fn from_millis(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", at.unwrap_or_else(Timestamp::now))
}

/// A time in Unix milliseconds, in RFC 3339 with seconds.
pub(crate) fn from_seconds_of(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.0}", at.unwrap_or_else(Timestamp::now))
}

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The Unix milliseconds of a time in RFC 3339; none if it is none.
pub(crate) fn to_millis(at: &str) -> Option<u64> {
    u64::try_from(at.parse::<Timestamp>().ok()?.as_millisecond()).ok()
}
