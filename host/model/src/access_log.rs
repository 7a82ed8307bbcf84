//! How many requests the access log gets: all, none, or a sample.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// All of it.
const WHOLE: u32 = 10_000;

/// A share of all requests, in hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample(u32);

/// Not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no share of requests: write true, false, or a percentage from 0.01% to 100%, such as 1%"
)]
pub struct SampleError(String);

impl Sample {
    /// Whether nothing is logged.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether the next request is logged; `due` is kept from one to the next, and begins with 0. Of 1% it is
    /// every hundredth.
    pub fn takes(self, due: &mut u32) -> bool {
        *due += self.0;
        let takes = *due >= WHOLE;
        if takes {
            *due -= WHOLE;
        }
        takes
    }
}

impl FromStr for Sample {
    type Err = SampleError;
    fn from_str(text: &str) -> Result<Self, SampleError> {
        let wrong = || SampleError(text.to_owned());
        match text {
            "true" => return Ok(Self(WHOLE)),
            "false" => return Ok(Self(0)),
            _ => {}
        }
        let number = text.strip_suffix('%').ok_or_else(wrong)?.trim_end();
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 2 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let tens = if part.len() == 1 { 10 } else { 1 };
        let part = part.parse::<u32>().map_err(|_| wrong())? * tens;
        let parts = whole.checked_mul(100).and_then(|whole| whole.checked_add(part));
        parts.filter(|parts| (1..=WHOLE).contains(parts)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (0, 0) => f.write_str("false"),
            (100, _) => f.write_str("true"),
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

/// What TOML and JSON may hold.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    All(bool),
    Share(String),
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (serializer.is_human_readable(), self.0) {
            (false, parts) => serializer.serialize_u32(parts),
            (true, 0 | WHOLE) => serializer.serialize_bool(self.0 == WHOLE),
            (true, _) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u32::deserialize(deserializer).map(|parts| Self(parts.min(WHOLE)));
        }
        match Written::deserialize(deserializer) {
            Ok(Written::All(all)) => Ok(Self(if all { WHOLE } else { 0 })),
            Ok(Written::Share(text)) => text.parse().map_err(D::Error::custom),
            Err(_) => Err(D::Error::custom("write true, false, or a percentage such as \"1%\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_share_is_taken_evenly() {
        for (text, of_thousand) in
            [("true", 1_000), ("false", 0), ("1%", 10), ("33.3%", 333), ("0.5%", 5)]
        {
            let sample: Sample = text.parse().unwrap();
            let mut due = 0;
            let taken = (0..1_000).filter(|_| sample.takes(&mut due)).count();
            assert_eq!(taken, of_thousand, "{text}");
            let json = serde_json::to_string(&sample).unwrap();
            assert_eq!(serde_json::from_str::<Sample>(&json).unwrap(), sample, "{json}");
            assert_eq!(sample.to_string().parse::<Sample>().unwrap(), sample);
        }
        for text in ["0%", "101%", "1", "1.234%", "-1%", "%", ".5%", "yes"] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
    }
}
