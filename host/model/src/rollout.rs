//! How a new revision takes over: at once, or as a canary, which gets a part of the requests until it is
//! promoted or rolled back.

mod judge;
mod spread;

pub use judge::{ERRORS_MIN, LATENCY_REQUESTS_MIN, REQUESTS_MIN, SLOW_MIN, Seen, Verdict};
pub use spread::Spread;

use crate::Ceilings;
use crate::manifest::{ManifestError, within};
use crate::quantity::DurationMs;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The longest `rollout.for`, in milliseconds: a week.
pub const FOR_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// The longest name of a header or cookie that requests stick by, in bytes.
pub const STICKY_NAME_BYTES_MAX: usize = 128;

/// `rollout = { canary = "5%", for = "2m", max_errors = "1%" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutSpec {
    /// The part of the requests that a new revision gets at first.
    #[schema(value_type = String)]
    pub canary: Percent,
    /// How long it is tried before it gets all of them. Default: until `insula promote`.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub lasts: Option<DurationMs>,
    /// The part of its requests that may fail (by its own fault, or with a status of 500 or above)
    /// before it is rolled back. Default 5%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub max_errors: Option<Percent>,
    /// What 99% of its requests must not take longer than. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub max_latency: Option<DurationMs>,
    /// By what a client always gets the same revision: `header:NAME` or `cookie:NAME`. Default: each
    /// request for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sticky: Option<Sticky>,
}

/// The same with its defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// The part of the requests that the canary gets.
    #[schema(value_type = String)]
    pub share: Percent,
    /// Milliseconds after which it is promoted; none for never by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// The part of its requests that may fail.
    #[schema(value_type = String)]
    pub max_errors: Percent,
    /// Milliseconds that 99% of its requests must not take longer than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<u64>,
    /// By what requests stick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sticky: Option<Sticky>,
}

/// A part of a whole, in steps of a hundredth of a percent: `5%`, `0.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(u16);

impl Percent {
    /// All of it.
    pub const WHOLE: Self = Self(10_000);
    /// What may fail if nobody says otherwise.
    pub const MAX_ERRORS_DEFAULT: Self = Self(500);

    /// In hundredths of a percent: 0 to 10,000.
    pub fn hundredths(self) -> u16 {
        self.0
    }
}

/// Why a percentage could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a part of a whole: write 0% to 100%, such as `5%` or `0.25%`")]
pub struct NotAPercent(String);

impl FromStr for Percent {
    type Err = NotAPercent;

    fn from_str(text: &str) -> Result<Self, NotAPercent> {
        let wrong = || NotAPercent(text.into());
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "00"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !(1..=3).contains(&whole.len()) || !(1..=2).contains(&fraction.len()) {
            return Err(wrong());
        }
        if !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        let number: u32 = format!("{whole}{fraction:0<2}").parse().map_err(|_| wrong())?;
        match u16::try_from(number) {
            Ok(number) if number <= Self::WHOLE.0 => Ok(Self(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

/// By what a client always gets the same revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sticky {
    /// The value of this header; its name in lower case.
    Header(Box<str>),
    /// The value of this cookie.
    Cookie(Box<str>),
}

/// Why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that requests can stick by: write `header:NAME` or `cookie:NAME`, such as `header:X-User`"
)]
pub struct NotSticky(String);

impl FromStr for Sticky {
    type Err = NotSticky;

    fn from_str(text: &str) -> Result<Self, NotSticky> {
        let wrong = || NotSticky(text.into());
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        // Header and cookie names are tokens (RFC 9110, section 5.6.2; RFC 6265, section 4.1.1).
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !(1..=STICKY_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(token) {
            return Err(wrong());
        }
        match kind {
            "header" => Ok(Self::Header(name.to_ascii_lowercase().into())),
            "cookie" => Ok(Self::Cookie(name.into())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

macro_rules! as_text {
    ($type:ident, $error:ident) => {
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
as_text!(Percent, NotAPercent);
as_text!(Sticky, NotSticky);

impl RolloutSpec {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`ManifestError`]: a canary of nothing or of everything, a time beyond its bound.
    pub(crate) fn resolve(&self, c: &Ceilings) -> Result<Rollout, ManifestError> {
        let wrong = |field, why| Err(ManifestError::Grant { field, why });
        if self.canary.0 == 0 || self.canary >= Percent::WHOLE {
            let why = format!(
                "{} of the requests try nothing; write more than 0% and less than 100%, or leave out `rollout`",
                self.canary
            );
            return wrong("rollout.canary", why);
        }
        if let Some(lasts) = self.lasts
            && !(1_000..=FOR_MS_MAX).contains(&lasts.0)
        {
            let why = format!("{lasts}: write 1s to {}", DurationMs(FOR_MS_MAX));
            return wrong("rollout.for", why);
        }
        let latency =
            |latency| within("rollout.max_latency", "timeout", latency, DurationMs(1), c.timeout);
        Ok(Rollout {
            share: self.canary,
            for_ms: self.lasts.map(|lasts| lasts.0),
            max_errors: self.max_errors.unwrap_or(Percent::MAX_ERRORS_DEFAULT),
            max_latency_ms: self.max_latency.map(latency).transpose()?.map(|latency| latency.0),
            sticky: self.sticky.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Manifest;

    fn rollout(text: &str) -> Result<Rollout, String> {
        let manifest = Manifest::from_toml(&format!("name = 'a'\nrollout = {text}"));
        let resolved = manifest.map_err(|error| error.to_string())?.resolve(&Ceilings::default());
        Ok(resolved.map_err(|error| error.to_string())?.rollout.unwrap())
    }

    #[test]
    fn percentages_read_back_as_they_were_written() {
        for (text, hundredths) in [
            ("0%", 0),
            ("5%", 500),
            ("0.5%", 50),
            ("0.25%", 25),
            ("12.5%", 1_250),
            ("100%", 10_000),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!((percent.hundredths(), percent.to_string()), (hundredths, text.to_owned()));
        }
        assert_eq!("1.50%".parse::<Percent>().unwrap().to_string(), "1.5%");
        for text in ["5", "%", "-1%", "+1%", "1.%", ".5%", "0.001%", "100.01%", "101%", "5 %", ""] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        let plain = rollout("{ canary = '5%' }").unwrap();
        assert_eq!(
            (plain.share.hundredths(), plain.for_ms, plain.max_latency_ms),
            (500, None, None)
        );
        assert_eq!(plain.max_errors.to_string(), "5%");
        let full = rollout(
            "{ canary = '0.5%', for = '2m', max_errors = '1%', max_latency = '500ms', sticky = 'header:X-User' }",
        )
        .unwrap();
        assert_eq!((full.for_ms, full.max_latency_ms), (Some(120_000), Some(500)));
        assert_eq!(full.sticky, Some(Sticky::Header("x-user".into())));
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Rollout>(&json).unwrap(), full);
    }

    #[test]
    fn what_tries_nothing_is_refused() {
        for (text, says) in [
            ("{}", "missing field `canary`"),
            ("{ canary = '0%' }", "more than 0%"),
            ("{ canary = '100%' }", "less than 100%"),
            ("{ canary = 5 }", "string"),
            ("{ canary = '5%', for = '10ms' }", "1s to"),
            ("{ canary = '5%', max_latency = '1h' }", "ceiling"),
            ("{ canary = '5%', sticky = 'user' }", "header:NAME"),
            ("{ canary = '5%', sticky = 'cookie:a b' }", "cookie:NAME"),
            ("{ canary = '5%', until = '2m' }", "unknown field"),
        ] {
            let error = rollout(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let job =
            Manifest::from_toml("name = 'a'\nschedule = '* * * * *'\nrollout = { canary = '5%' }");
        let error = job.unwrap().resolve(&Ceilings::default()).unwrap_err().to_string();
        assert!(error.contains("a job answers no requests"), "{error}");
    }
}
