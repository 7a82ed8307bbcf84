//! `insula top` for scripts: tables, or JSON, one after another.

use super::columns::{Column, sort};
use super::sample::{Row, Sample};
use crate::client::Client;
use crate::follow::patiently;
use crate::table::{self, number, text};
use crate::{out, text as words};
use anyhow::{Context, Result};
use insula_model::api::{Activity, HostInfo};
use serde::Serialize;
use std::time::Duration;

/// What is printed.
pub(super) struct Tables {
    pub(super) sort: Column,
    pub(super) limit: Option<usize>,
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    interval_s: f64,
    host: &'a HostInfo,
    tenants: &'a [Row],
}

impl Tables {
    /// Prints `count` of them, or goes on until its reader is gone.
    pub(super) async fn print(
        &self,
        client: &Client,
        path: &str,
        interval: Duration,
        count: Option<u32>,
    ) -> Result<()> {
        let mut before: Activity = client.get(path).await?.read()?;
        let mut printed = 0;
        let mut ticks = tokio::time::interval(interval);
        ticks.tick().await;
        while count.is_none_or(|count| printed < count) {
            ticks.tick().await;
            let now: Activity = patiently(None, || client.get(path)).await?.read()?;
            let mut sample = Sample::between(Some(&before), &now);
            sort(&mut sample.rows, self.sort, false);
            sample.rows.truncate(self.limit.unwrap_or(usize::MAX));
            if self.json {
                out::write(&line(&now, &sample)?)?;
            } else {
                let blank = if printed == 0 { "" } else { "\n" };
                out::write(format!("{blank}{}", tables(&sample.rows)).as_bytes())?;
                if sample.rows.is_empty() && printed == 0 {
                    out::note("no tenant has had a request yet");
                }
            }
            printed += 1;
            before = now;
        }
        Ok(())
    }
}

fn line(now: &Activity, sample: &Sample) -> Result<Vec<u8>> {
    let line = Line {
        at: jiff::Timestamp::now().to_string(),
        interval_s: sample.interval_s.unwrap_or(0.0),
        host: &now.host,
        tenants: &sample.rows,
    };
    let mut json = serde_json::to_vec(&line).context("cannot write JSON")?;
    json.push(b'\n');
    Ok(json)
}

fn tables(rows: &[Row]) -> String {
    let columns = [
        text("NAME"),
        text("NAMESPACE").spare(1),
        number("REQ/S"),
        number("P50"),
        number("P99"),
        number("CPU%"),
        number("MEM"),
        number("LIMIT").spare(2),
        number("FUEL/S").spare(4),
        number("ERR/S"),
        number("SHED/S").spare(5),
        number("RUN").spare(3),
        text("STATE"),
    ];
    let row = |row: &Row| {
        [
            row.name.to_string(),
            row.namespace.to_string(),
            Column::Rate.cell(row),
            latency(row.p50_ms),
            latency(row.p99_ms),
            Column::Cpu.cell(row),
            words::bytes(row.memory_bytes),
            words::bytes(row.memory_limit_bytes),
            Column::Fuel.cell(row),
            Column::Errors.cell(row),
            Column::Shed.cell(row),
            row.running.to_string(),
            row.state.as_str().to_owned(),
        ]
    };
    table::render(columns, rows.iter().map(row).collect())
}

fn latency(ms: Option<f64>) -> String {
    ms.map_or("-".into(), words::short_ms)
}
