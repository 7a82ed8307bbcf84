//! When a job runs: five cron fields, or six with seconds first.

use croner::parser::{CronParser, Seconds};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest pattern, in bytes.
pub const SCHEDULE_BYTES_MAX: usize = 256;

/// A cron pattern, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule(String);

/// Not a cron pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a cron pattern: {1}; write five fields, such as `*/5 * * * *` (minute, hour, day of month, month, day of week), or six with seconds first"
)]
pub struct ScheduleError(String, String);

impl Schedule {
    /// The first time after `now_ms` that it names, both in Unix milliseconds, UTC. None if there is
    /// none within the calendar (`0 0 30 2 *`).
    pub fn next_after(&self, now_ms: u64) -> Option<u64> {
        let cron = parse(&self.0).ok()?;
        let now = jiff_02::Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let now = now.to_zoned(jiff_02::tz::TimeZone::UTC);
        let next = cron.find_next_occurrence(&now, false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn parse(text: &str) -> Result<croner::Cron, String> {
    if text.len() > SCHEDULE_BYTES_MAX {
        return Err(format!("it is longer than {SCHEDULE_BYTES_MAX} bytes"));
    }
    // The parser takes `,` for a field that names nothing, and would then search the whole calendar for it.
    if text.split_whitespace().any(|field| field.split(',').any(str::is_empty)) {
        return Err("a list in it has an empty place".into());
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    parser.parse(text).map_err(|error| error.to_string())
}

impl FromStr for Schedule {
    type Err = ScheduleError;
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        match parse(text) {
            Ok(_) => Ok(Self(text.into())),
            Err(why) => Err(ScheduleError(text.chars().take(100).collect(), why)),
        }
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;
    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.0
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_next_time_is_after_now() {
        let every_five: Schedule = "*/5 * * * *".parse().unwrap();
        assert_eq!(every_five.next_after(0), Some(300_000));
        assert_eq!(every_five.next_after(299_999), Some(300_000));
        assert_eq!(every_five.next_after(300_000), Some(600_000));
        let every_second: Schedule = "* * * * * *".parse().unwrap();
        assert_eq!(every_second.next_after(1_500), Some(2_000));
        assert_eq!("0 0 30 2 *".parse::<Schedule>().unwrap().next_after(0), None);
    }

    #[test]
    fn patterns_are_crons() {
        for good in ["*/5 * * * *", "0 3 * * MON-FRI", "*/2 * * * * *", "@daily"] {
            assert!(good.parse::<Schedule>().is_ok(), "{good}");
        }
        for bad in [", 3 1-7 3 1-7 3", "0 0 1,,2 * *", "0 , * * *", "0 0 1, * *"] {
            let error = bad.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("empty place"), "{error}");
        }
        for bad in ["", "every day", "61 * * * *", "* * * *", "* * 31 2 * * * *"] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }
}
