//! Times as people and the API read them.

use jiff::Timestamp;

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
