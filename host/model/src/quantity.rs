//! Quantities as Kubernetes writes them (`64Mi`, `50M`) and durations as Go writes them (`2s`, `1m30s`).
//!
//! Grammar: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>, without
//! the exponent form, and only where the result is a whole number.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a quantity or duration could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// There is no digit where a number should start.
    #[error("`{0}` is not a quantity: write a number and a unit, such as `64Mi` or `50M`")]
    NotANumber(String),
    /// The unit after the number is unknown.
    #[error("`{text}`: unknown unit `{unit}`; use one of {allowed}")]
    UnknownUnit {
        /// What was written.
        text: String,
        /// The part that is not a unit.
        unit: String,
        /// The units that would have been accepted.
        allowed: &'static str,
    },
    /// The value is not a whole number, or more than 2^64 - 1.
    #[error("`{0}` is too large or not a whole number")]
    OutOfRange(String),
    /// Not an amount of CPU.
    #[error(
        "`{0}` is not an amount of CPU: write cores, such as `0.5`, or thousandths, such as `250m`"
    )]
    NotCpu(String),
    /// A duration without a unit.
    #[error("`{0}` is not a duration: write a number and a unit, such as `2s`, `500ms` or `1m30s`")]
    NotADuration(String),
}

const UNITS: &[(&str, u64)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

fn parse_quantity(text: &str) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let factor = match unit {
        "" => 1,
        _ => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(
            || {
                if number.is_empty() {
                    QuantityError::NotANumber(text.into())
                } else {
                    QuantityError::UnknownUnit {
                        text: text.into(),
                        unit: unit.into(),
                        allowed: "Ki, Mi, Gi, Ti, k, M, G, T",
                    }
                }
            },
        )?,
    };
    let out_of_range = || QuantityError::OutOfRange(text.into());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(QuantityError::NotANumber(text.into()));
    }
    let whole: u64 = whole.parse().map_err(|_| out_of_range())?;
    let whole = whole.checked_mul(factor).ok_or_else(out_of_range)?;
    if fraction.is_empty() {
        return Ok(whole);
    }
    let places = u32::try_from(fraction.len()).map_err(|_| out_of_range())?;
    let scale = 10u128.checked_pow(places).ok_or_else(out_of_range)?;
    let part: u128 = fraction.parse().map_err(|_| out_of_range())?;
    let scaled = part.checked_mul(u128::from(factor)).ok_or_else(out_of_range)?;
    if scaled % scale != 0 {
        return Err(out_of_range());
    }
    let part = u64::try_from(scaled / scale).map_err(|_| out_of_range())?;
    whole.checked_add(part).ok_or_else(out_of_range)
}

fn parse_duration_ms(text: &str) -> Result<u64, QuantityError> {
    let out_of_range = || QuantityError::OutOfRange(text.into());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(QuantityError::NotADuration(text.into()));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if number.is_empty() || unit.is_empty() {
            return Err(QuantityError::NotADuration(text.into()));
        }
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => {
                return Err(QuantityError::UnknownUnit {
                    text: text.into(),
                    unit: unit.into(),
                    allowed: "ms, s, m, h",
                });
            }
        };
        let number: u64 = number.parse().map_err(|_| out_of_range())?;
        let part = number.checked_mul(factor).ok_or_else(out_of_range)?;
        total = total.checked_add(part).ok_or_else(out_of_range)?;
        rest = tail;
    }
    Ok(total)
}

/// What TOML and JSON may hold where a quantity is expected.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

macro_rules! written {
    ($type:ident, $parse:ident) => {
        impl FromStr for $type {
            type Err = QuantityError;
            fn from_str(text: &str) -> Result<Self, QuantityError> {
                $parse(text).map(Self)
            }
        }
        impl TryFrom<Written> for $type {
            type Error = QuantityError;
            fn try_from(written: Written) -> Result<Self, QuantityError> {
                match written {
                    Written::Number(value) => $type::from_number(value),
                    Written::Text(text) => text.parse(),
                }
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

/// A number of bytes, written `64Mi`, `1.5Gi`, `10M` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "String")]
pub struct ByteSize(pub u64);

/// A plain count (fuel, for one), written `50M` or `50000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Count(pub u64);

/// A duration in milliseconds, written `2s`, `500ms` or `1m30s`; a bare number is refused, because
/// nobody can tell seconds from milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "String")]
pub struct DurationMs(pub u64);

/// CPU in thousandths of a core, written `250m`, `0.5` or `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "WrittenCpu", into = "String")]
pub struct MilliCpu(pub u32);

/// What TOML and JSON may hold where CPU is expected; Kubernetes takes numbers of cores as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenCpu {
    Cores(f64),
    Text(String),
}

impl FromStr for MilliCpu {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let out_of_range = || QuantityError::OutOfRange(text.into());
        let (number, cores) = match text.trim().strip_suffix('m') {
            Some(milli) => (milli, false),
            None => (text.trim(), true),
        };
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(QuantityError::NotCpu(text.into()));
        }
        let unit = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !unit.is_empty() {
            let (text, unit) = (text.into(), unit.into());
            return Err(QuantityError::UnknownUnit { text, unit, allowed: "m, or none for cores" });
        }
        // A whole core is a thousand of what is counted.
        let milli =
            if cores { parse_quantity(&format!("{number}k"))? } else { parse_quantity(number)? };
        u32::try_from(milli).map(Self).map_err(|_| out_of_range())
    }
}

impl TryFrom<WrittenCpu> for MilliCpu {
    type Error = QuantityError;
    fn try_from(written: WrittenCpu) -> Result<Self, QuantityError> {
        match written {
            WrittenCpu::Cores(cores) => cores.to_string().parse(),
            WrittenCpu::Text(text) => text.parse(),
        }
    }
}

impl From<MilliCpu> for String {
    fn from(cpu: MilliCpu) -> String {
        cpu.to_string()
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{}", self.0 / 1_000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl ByteSize {
    fn from_number(value: u64) -> Result<Self, QuantityError> {
        Ok(Self(value))
    }
}
impl Count {
    fn from_number(value: u64) -> Result<Self, QuantityError> {
        Ok(Self(value))
    }
}
impl DurationMs {
    fn from_number(value: u64) -> Result<Self, QuantityError> {
        Err(QuantityError::NotADuration(value.to_string()))
    }
}
written!(ByteSize, parse_quantity);
written!(Count, parse_quantity);
written!(DurationMs, parse_duration_ms);

fn write_largest(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let unit =
        units.iter().rev().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => write!(f, "{}{name}", value / factor),
        None => write!(f, "{value}"),
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest(f, self.0, &UNITS[..4])
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_largest(f, self.0, &UNITS[4..])
    }
}

impl fmt::Display for DurationMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let (h, rest) = (self.0 / 3_600_000, self.0 % 3_600_000);
        let (m, rest) = (rest / 60_000, rest % 60_000);
        let (s, ms) = (rest / 1_000, rest % 1_000);
        for (value, unit) in [(h, "h"), (m, "m"), (s, "s"), (ms, "ms")] {
            if value > 0 {
                write!(f, "{value}{unit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kubernetes_examples_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("64Mi", 64 << 20),
            ("1.5Gi", 3 << 29),
            ("128974848", 128_974_848),
            ("129M", 129_000_000),
            ("0.5k", 500),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused_with_its_reason() {
        for (text, says) in [
            ("", "not a quantity"),
            ("Mi", "not a quantity"),
            ("64MiB", "unknown unit `MiB`"),
            ("-1", "not a quantity"),
            ("1.", "not a quantity"),
            ("1.5", "whole number"),
            ("99999999Ti", "too large"),
            ("1e3", "unknown unit"),
        ] {
            let error = text.parse::<ByteSize>();
            let error = error.map_or_else(|e| e.to_string(), |v| format!("accepted as {v}"));
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!("2".parse::<DurationMs>().is_err());
        assert!("2 s".parse::<DurationMs>().is_err());
    }

    #[test]
    fn cpu_reads_as_kubernetes_reads_it() {
        for (text, milli) in [("250m", 250), ("0.5", 500), ("2", 2_000), ("1.25", 1_250), ("0", 0)]
        {
            assert_eq!(text.parse::<MilliCpu>().unwrap().0, milli, "{text}");
        }
        for (text, says) in [
            ("", "not an amount"),
            ("m", "not an amount"),
            ("-1", "not an amount"),
            ("1.0001", "whole number"),
            ("0.5m", "whole number"),
            ("2 cores", "unknown unit"),
            ("9999999", "too large"),
        ] {
            let error = text.parse::<MilliCpu>();
            let error = error.map_or_else(|e| e.to_string(), |v| format!("accepted as {v}"));
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!(serde_json::from_str::<MilliCpu>("0.25").unwrap(), MilliCpu(250));
        assert_eq!(serde_json::from_str::<MilliCpu>("3").unwrap(), MilliCpu(3_000));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value: u64, cpu: u32) {
            prop_assert_eq!(MilliCpu(cpu).to_string().parse::<MilliCpu>().unwrap().0, cpu);
            prop_assert_eq!(ByteSize(value).to_string().parse::<ByteSize>().unwrap().0, value);
            prop_assert_eq!(Count(value).to_string().parse::<Count>().unwrap().0, value);
            prop_assert_eq!(DurationMs(value).to_string().parse::<DurationMs>().unwrap().0, value);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<DurationMs>();
        }
    }
}
