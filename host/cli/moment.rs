//! Times on the command line: how long ago (`10m`, `1d`, `1d12h`), or RFC 3339.

use insula_model::DurationMs;
use jiff::{SignedDuration, Timestamp};
use std::str::FromStr;

/// A time, taken when the command line was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(Timestamp);

impl Moment {
    /// As the API takes it, and as a query may hold it.
    pub(crate) fn text(self) -> String {
        format!("{:.3}", self.0)
    }
}

impl FromStr for Moment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is neither a duration before now, such as 10m, 2h or 1d, nor a time such as 2026-01-31T12:00:00Z"
            )
        };
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self(at));
        }
        let (days, rest) = match text.split_once('d') {
            Some((days, rest)) => (days.parse::<u64>().map_err(|_| wrong())?, rest),
            None => (0, text),
        };
        let rest_ms = match rest {
            "" if days > 0 => 0,
            rest => rest.parse::<DurationMs>().map_err(|_| wrong())?.0,
        };
        let ms = days.checked_mul(86_400_000).and_then(|ms| ms.checked_add(rest_ms));
        let ms = ms.and_then(|ms| i64::try_from(ms).ok()).ok_or_else(wrong)?;
        let at = Timestamp::now().checked_sub(SignedDuration::from_millis(ms));
        at.map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_before_now_and_times_are_themselves() {
        let at = |text: &str| text.parse::<Moment>().map(|moment| moment.0);
        let ago = |text: &str| Timestamp::now().as_second() - at(text).unwrap().as_second();
        for (text, seconds) in [("10m", 600), ("1d", 86_400), ("1d12h", 129_600), ("90s", 90)] {
            assert!((seconds..seconds + 5).contains(&ago(text)), "{text}");
        }
        assert_eq!(at("2026-01-31T12:00:00Z").unwrap().as_second(), 1_769_860_800);
        assert_eq!(at("2026-01-31T13:00:00+01:00"), at("2026-01-31T12:00:00Z"));
        for text in ["", "d", "10", "-1d", "yesterday", "999999999999d", "2026-01-31"] {
            assert!(at(text).is_err(), "{text}");
        }
    }
}
