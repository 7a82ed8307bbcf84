//! The columns of `insula top`: what they show, how wide they are, and how they order the rows.

use super::sample::Row;
use crate::text::short_ms;
use clap::ValueEnum;
use std::cmp::Ordering;

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    Name,
    Rate,
    P50,
    P99,
    Cpu,
    Memory,
    Fuel,
    Errors,
    Shed,
    State,
}

impl Column {
    /// As they stand on the screen.
    pub(crate) const ALL: [Self; 10] = [
        Self::Name,
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::Cpu,
        Self::Memory,
        Self::Fuel,
        Self::Errors,
        Self::Shed,
        Self::State,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Rate => "REQ/S",
            Self::P50 => "P50",
            Self::P99 => "P99",
            Self::Cpu => "CPU%",
            Self::Memory => "MEM",
            Self::Fuel => "FUEL/S",
            Self::Errors => "ERR/S",
            Self::Shed => "SHED/S",
            Self::State => "STATE",
        }
    }

    /// The key that sorts by it.
    pub(crate) fn key(self) -> char {
        match self {
            Self::Name => 'n',
            Self::Rate => 'r',
            Self::P50 => '5',
            Self::P99 => '9',
            Self::Cpu => 'c',
            Self::Memory => 'm',
            Self::Fuel => 'f',
            Self::Errors => 'e',
            Self::Shed => 's',
            Self::State => 't',
        }
    }

    /// Cells of the terminal; the name has the rest.
    pub(crate) fn width(self) -> u16 {
        match self {
            Self::Name => 0,
            Self::Rate | Self::P50 | Self::P99 | Self::Cpu | Self::Errors => 5,
            Self::Memory | Self::Fuel | Self::Shed => 6,
            Self::State => 7,
        }
    }

    /// Numbers stand under the ends of their titles.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Name | Self::State)
    }

    pub(crate) fn cell(self, row: &Row) -> String {
        match self {
            Self::Name => row.name.to_string(),
            Self::Rate => short(row.requests_per_s),
            Self::P50 => ms(row.p50_ms),
            Self::P99 => ms(row.p99_ms),
            Self::Cpu => short(row.cpu_percent),
            Self::Memory => bytes(row.memory_bytes),
            Self::Fuel => short(row.fuel_per_s),
            Self::Errors => short(row.errors_per_s),
            Self::Shed => short(row.shed_per_s),
            Self::State => row.state.as_str().into(),
        }
    }

    /// The largest first; names and states in their order. Rows that are alike stand by name.
    pub(crate) fn compare(self, a: &Row, b: &Row) -> Ordering {
        let by = |of: fn(&Row) -> f64| of(b).total_cmp(&of(a));
        let order = match self {
            Self::Name => Ordering::Equal,
            Self::Rate => by(|row| row.requests_per_s),
            Self::P50 => by(|row| row.p50_ms.unwrap_or(-1.0)),
            Self::P99 => by(|row| row.p99_ms.unwrap_or(-1.0)),
            Self::Cpu => by(|row| row.cpu_percent),
            Self::Memory => b.memory_bytes.cmp(&a.memory_bytes),
            Self::Fuel => by(|row| row.fuel_per_s),
            Self::Errors => by(|row| row.errors_per_s),
            Self::Shed => by(|row| row.shed_per_s),
            Self::State => a.state.cmp(&b.state),
        };
        order.then_with(|| a.name.cmp(&b.name))
    }
}

/// Rows in the order of a column.
pub(crate) fn sort(rows: &mut [Row], by: Column, reversed: bool) {
    rows.sort_unstable_by(|a, b| {
        let order = by.compare(a, b);
        if reversed { order.reverse() } else { order }
    });
}

/// At most five characters: `0`, `0.4`, `12.3`, `999`, `1.2k`, `45.6M`.
pub(crate) fn short(value: f64) -> String {
    scaled(value, 1_000.0, &["", "k", "M", "G", "T", "P"])
}

/// At most six: `0`, `512`, `1.2M`, `123M`.
pub(crate) fn bytes(value: u64) -> String {
    scaled(super::sample::as_f64(value), 1_024.0, &["", "K", "M", "G", "T", "P"])
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    // What would be shown as a whole step is one of the next unit.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if value == 0.0 {
        "0".into()
    } else if value < 99.95 && (unit > 0 || value.fract() != 0.0) {
        format!("{value:.1}{}", units[unit])
    } else {
        format!("{value:.0}{}", units[unit])
    }
}

/// Milliseconds without their unit; seconds with it.
pub(crate) fn ms(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".into() };
    let text = short_ms(value);
    match text.strip_suffix(" ms") {
        Some(ms) => ms.into(),
        None => text.replace(' ', ""),
    }
}
