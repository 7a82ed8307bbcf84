//! What usage costs, by a table of prices. All in whole numbers: a bill adds up.
//!
//! A row's cost is exact until it is rounded, once, half up, to the currency's decimals. A total is the sum
//! of rounded rows, so whoever adds a bill up comes to its last line.

use crate::api::UsageRow;
use serde::Deserialize;
use std::fmt;

/// Decimals of a price that are read.
const PRICE_DECIMALS: u32 = 12;
/// Decimals that a cost may be rounded to.
const COST_DECIMALS_MAX: u32 = 9;
const MILLION: u128 = 1_000_000;
const GIB: u128 = 1 << 30;

/// Why prices cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a table of prices.
    #[error("{0}")]
    Read(String),
    /// A price that is none.
    #[error(
        "`{0}` is not a price: write a number of at least 0 with at most {PRICE_DECIMALS} decimals"
    )]
    Price(String),
    /// More than fits.
    #[error("the cost is beyond what can be computed; is a price too high?")]
    TooMuch,
}

/// The file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    currency: String,
    #[serde(default = "two")]
    decimals: u32,
    per_million_requests: Option<toml::Value>,
    per_cpu_second: Option<toml::Value>,
    per_gib_second: Option<toml::Value>,
    per_gib_egress: Option<toml::Value>,
}

fn two() -> u32 {
    2
}

/// A table of prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    /// `EUR`, `USD` …
    pub currency: String,
    decimals: u32,
    per_million_requests: u128,
    per_cpu_second: u128,
    per_gib_second: u128,
    per_gib_egress: u128,
}

/// An amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// In the smallest unit that is shown.
    units: u128,
    decimals: u32,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10u128.pow(self.decimals);
        let (whole, part) = (self.units / scale, self.units % scale);
        match self.decimals {
            0 => write!(f, "{whole}"),
            places => write!(f, "{whole}.{part:0width$}", width = places as usize),
        }
    }
}

/// A price in 10^-12 of the currency.
fn price(value: Option<toml::Value>) -> Result<u128, PriceError> {
    let text = match value {
        None => return Ok(0),
        Some(toml::Value::Integer(number)) => number.to_string(),
        // The shortest text that means this number, without an exponent.
        Some(toml::Value::Float(number)) => format!("{number}"),
        Some(toml::Value::String(text)) => text,
        Some(other) => other.to_string(),
    };
    let wrong = || PriceError::Price(text.clone());
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let places = u32::try_from(part.len()).map_err(|_| wrong())?;
    if !digits(whole) || (text.contains('.') && !digits(part)) || places > PRICE_DECIMALS {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u128 = if part.is_empty() { 0 } else { part.parse().map_err(|_| wrong())? };
    Ok(u128::from(whole) * 10u128.pow(PRICE_DECIMALS) + part * 10u128.pow(PRICE_DECIMALS - places))
}

impl Prices {
    /// Reads a table of prices: TOML, at least with a `currency`. What has no price costs nothing.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let written: Written =
            toml::from_str(text).map_err(|error| PriceError::Read(error.to_string()))?;
        let word = |c: char| c.is_alphanumeric();
        if written.currency.is_empty() || !written.currency.chars().all(word) {
            let message = format!("`{}` is not a currency, such as `EUR`", written.currency);
            return Err(PriceError::Read(message));
        }
        if written.decimals > COST_DECIMALS_MAX {
            let message = format!("`decimals` is at most {COST_DECIMALS_MAX}");
            return Err(PriceError::Read(message));
        }
        Ok(Self {
            currency: written.currency,
            decimals: written.decimals,
            per_million_requests: price(written.per_million_requests)?,
            per_cpu_second: price(written.per_cpu_second)?,
            per_gib_second: price(written.per_gib_second)?,
            per_gib_egress: price(written.per_gib_egress)?,
        })
    }

    /// What a row costs.
    pub fn cost(&self, row: &UsageRow) -> Result<Cost, PriceError> {
        let times = |amount: u64, price: u128| u128::from(amount).checked_mul(price);
        // Over a million, and over a GiB; brought over both.
        let units = || {
            let millions = times(row.requests, self.per_million_requests)?
                .checked_add(times(row.cpu_us, self.per_cpu_second)?)?;
            let gibs = times(row.memory_byte_seconds, self.per_gib_second)?
                .checked_add(times(row.bytes_out, self.per_gib_egress)?)?
                .checked_add(times(row.bytes_outbound, self.per_gib_egress)?)?;
            let over_both = millions.checked_mul(GIB)?.checked_add(gibs.checked_mul(MILLION)?)?;
            let unit = MILLION * GIB * 10u128.pow(PRICE_DECIMALS - self.decimals);
            Some(over_both.checked_add(unit / 2)? / unit)
        };
        Ok(Cost { units: units().ok_or(PriceError::TooMuch)?, decimals: self.decimals })
    }

    /// All of them together.
    pub fn sum(&self, costs: &[Cost]) -> Cost {
        let units = costs.iter().fold(0u128, |sum, cost| sum.saturating_add(cost.units));
        Cost { units, decimals: self.decimals }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = "currency = 'EUR'
        per_million_requests = 0.20
        per_cpu_second = 0.00002
        per_gib_second = '0.0000025'
        per_gib_egress = 0.09";

    fn row(requests: u64, cpu_us: u64, memory_byte_seconds: u64, bytes_out: u64) -> UsageRow {
        UsageRow { requests, cpu_us, memory_byte_seconds, bytes_out, ..UsageRow::default() }
    }

    #[test]
    fn a_row_costs_what_its_parts_do() {
        let prices = Prices::parse(TABLE).unwrap();
        let cost = |row: UsageRow| prices.cost(&row).unwrap().to_string();
        assert_eq!(cost(row(1_000_000, 0, 0, 0)), "0.20");
        assert_eq!(cost(row(0, 1_000_000_000, 0, 0)), "0.02");
        assert_eq!(cost(row(0, 0, 400_000 << 30, 0)), "1.00");
        assert_eq!(cost(row(0, 0, 0, 10 << 30)), "0.90");
        // What calls sent leaves the host as answers do.
        let called = UsageRow { bytes_outbound: 4 << 30, ..row(0, 0, 0, 6 << 30) };
        assert_eq!(cost(called), "0.90");
        assert_eq!(cost(row(1_000_000, 1_000_000_000, 400_000 << 30, 10 << 30)), "2.12");
        // Half a cent is rounded up, once, and not part by part.
        assert_eq!(cost(row(25_000, 0, 0, 0)), "0.01");
        assert_eq!(cost(row(12_500, 125_000_000, 0, 0)), "0.01");
        assert_eq!(cost(row(24_999, 0, 0, 0)), "0.00");
        let fine = Prices::parse(&format!("decimals = 6\n{TABLE}")).unwrap();
        assert_eq!(fine.cost(&row(24_999, 0, 0, 0)).unwrap().to_string(), "0.005000");
        assert_eq!(
            Prices::parse("currency = 'JPY'\ndecimals = 0\nper_cpu_second = 3")
                .unwrap()
                .cost(&row(0, 2_500_000, 0, 0))
                .unwrap()
                .to_string(),
            "8"
        );
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for price in ["-1", "'free'", "'1e3'", "nan", "0.0000000000001", "true", "'.5'", "'1.'"] {
            let text = format!("currency = 'EUR'\nper_cpu_second = {price}");
            assert!(Prices::parse(&text).is_err(), "{price}");
        }
        for text in ["", "currency = ''", "currency = 'E,R'", "currency = 'EUR'\nper_request = 1"] {
            assert!(Prices::parse(text).is_err(), "{text}");
        }
        let dear = Prices::parse("currency = 'EUR'\nper_gib_egress = 9000000000000000000").unwrap();
        assert_eq!(dear.cost(&row(0, 0, 0, u64::MAX)), Err(PriceError::TooMuch));
    }

    proptest! {
        #[test]
        fn a_bill_adds_up(rows in proptest::collection::vec((0u64..1<<40, 0u64..1<<40, 0u64..1<<50), 0..20)) {
            let prices = Prices::parse(TABLE).unwrap();
            let costs: Vec<Cost> =
                rows.iter().map(|(n, cpu, out)| prices.cost(&row(*n, *cpu, 0, *out)).unwrap()).collect();
            let cents = |cost: &Cost| cost.to_string().replace('.', "").parse::<u128>().unwrap();
            let by_hand: u128 = costs.iter().map(cents).sum();
            prop_assert_eq!(cents(&prices.sum(&costs)), by_hand);
        }
    }
}
