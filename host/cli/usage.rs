//! `insula usage`: what tenants have used, and what that costs.

use crate::client::Answer;
use crate::failure::{Exit, Failure};
use crate::host_args::HostArgs;
use crate::moment::Moment;
use crate::table::{self, number, text as words};
use crate::{out, text};
use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::ValueHint;
use insula_model::TenantName;
use insula_model::api::{UsageReport, UsageRow};
use insula_model::prices::{Cost, Prices};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a table of prices.
const PRICES_BYTES_MAX: u64 = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  insula usage                                       all that is kept, by tenant
  insula usage shop blog --since 1d
  insula usage --by namespace --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z
  insula usage --since 30d --prices prices.toml --csv > bill.csv

prices.toml:
  currency = \"EUR\"
  per_million_requests = 0.20
  per_cpu_second = 0.00002
  per_gib_second = 0.0000025
  per_gib_egress = 0.09
  decimals = 2                     # that each row is rounded to; 2 is the default

Usage is kept by the hour, for 400 days; tenants that were removed stay under their name. Requests that
were shed cost nothing. OUT is what clients got, OUTBOUND what calls sent over the network: both are egress.";

/// Show what tenants have used, and what it costs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only these tenants, deployed or gone [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<TenantName>,
    /// Only from this time on, down to its hour: 1d, 12h, or RFC 3339 [default: all that is kept]
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only before this time, up to a whole hour [default: up to now]
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// What makes a row
    #[arg(long, value_enum, default_value_t = By::Tenant)]
    by: By,
    /// Add a cost by the prices in this file (TOML)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    prices: Option<PathBuf>,
    /// Print comma-separated values, in exact units
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print the API's JSON; with --prices, a cost in each row and in total
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Tenant,
    Namespace,
}

/// What rows cost, in order, and all together.
struct Bill {
    currency: String,
    rows: Vec<Cost>,
    total: Cost,
}

/// Prints usage.
pub(crate) async fn run(args: Args) -> Result<()> {
    // A wrong file is told before anything is asked for.
    let prices = args.prices.as_deref().map(read).transpose()?;
    let by = match args.by {
        By::Tenant => "tenant",
        By::Namespace => "namespace",
    };
    let mut query = format!("/v1/usage?by={by}");
    let names: Vec<String> = args.names.iter().map(ToString::to_string).collect();
    let asked = [
        ("since", args.since.map(Moment::text)),
        ("until", args.until.map(Moment::text)),
        ("tenant", Some(names.join(",")).filter(|names| !names.is_empty())),
    ];
    for (key, value) in asked {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={value}"));
        }
    }
    let answer = args.host.client()?.get(&query).await?;
    let report: UsageReport = answer.read()?;
    let bill = prices.map(|prices| bill(&prices, &report.rows)).transpose()?;
    if args.json {
        return json(&answer, bill.as_ref());
    }
    if args.csv {
        return csv(&report, bill.as_ref());
    }
    if report.rows.is_empty() {
        out::note(&format!("nothing was used between {} and {}", report.since, report.until));
        return Ok(());
    }
    show(&report, bill.as_ref())
}

fn read(path: &Path) -> Result<Prices> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let read = file.take(PRICES_BYTES_MAX).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Prices::parse(&text).map_err(|error| {
        let message = format!("{} is not a table of prices", path.display());
        Failure::new(Exit::Usage, message)
            .hint("`insula usage --help` has an example")
            .caused_by(error)
            .into()
    })
}

fn bill(prices: &Prices, rows: &[UsageRow]) -> Result<Bill> {
    let costs: Result<Vec<Cost>, _> = rows.iter().map(|row| prices.cost(row)).collect();
    let rows = costs.context("cannot compute the cost")?;
    Ok(Bill { currency: prices.currency.clone(), total: prices.sum(&rows), rows })
}

fn json(answer: &Answer, bill: Option<&Bill>) -> Result<()> {
    let Some(bill) = bill else { return out::json(answer.json()) };
    let mut report: serde_json::Value = answer.read()?;
    if let Some(rows) = report["rows"].as_array_mut() {
        for (row, cost) in rows.iter_mut().zip(&bill.rows) {
            row["cost"] = cost.to_string().into();
        }
    }
    report["total"] = bill.total.to_string().into();
    report["currency"] = bill.currency.clone().into();
    out::json(&serde_json::to_vec(&report)?)
}

/// Names are of letters, digits and hyphens, so nothing needs quotes.
fn csv(report: &UsageReport, bill: Option<&Bill>) -> Result<()> {
    let mut lines = String::from(
        "since,until,namespace,tenant,requests,responses,client_faults,guest_faults,host_faults,shed,\
         fuel,cpu_us,memory_byte_seconds,bytes_in,bytes_out,bytes_outbound",
    );
    lines.push_str(if bill.is_some() { ",cost,currency\n" } else { "\n" });
    for (index, row) in report.rows.iter().enumerate() {
        let figures = [
            row.requests,
            row.responses,
            row.client_faults,
            row.guest_faults,
            row.host_faults,
            row.shed,
            row.fuel,
            row.cpu_us,
            row.memory_byte_seconds,
            row.bytes_in,
            row.bytes_out,
            row.bytes_outbound,
        ];
        let tenant = row.tenant.as_deref().unwrap_or("");
        lines.push_str(&format!("{},{},{},{tenant}", report.since, report.until, row.namespace));
        for figure in figures {
            lines.push_str(&format!(",{figure}"));
        }
        if let Some(bill) = bill
            && let Some(cost) = bill.rows.get(index)
        {
            lines.push_str(&format!(",{cost},{}", bill.currency));
        }
        lines.push('\n');
    }
    out::write(lines.as_bytes())
}

/// Seconds with three decimals.
fn seconds(us: u64) -> String {
    let ms = us / 1_000 + u64::from(us % 1_000 >= 500);
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// `3.250`: GiB times seconds.
fn gib_seconds(byte_seconds: u64) -> String {
    let milli = (u128::from(byte_seconds) * 1_000 + (1 << 29)) >> 30;
    format!("{}.{:03}", milli / 1_000, milli % 1_000)
}

fn cells(row: &UsageRow, names: [String; 2], cost: String) -> [String; 12] {
    let faults = row.client_faults + row.guest_faults + row.host_faults;
    let [namespace, tenant] = names;
    [
        namespace,
        tenant,
        row.requests.to_string(),
        faults.to_string(),
        row.shed.to_string(),
        text::count(row.fuel),
        seconds(row.cpu_us),
        gib_seconds(row.memory_byte_seconds),
        text::bytes(row.bytes_in),
        text::bytes(row.bytes_out),
        match row.bytes_outbound {
            0 => String::new(),
            bytes => text::bytes(bytes),
        },
        cost,
    ]
}

fn show(report: &UsageReport, bill: Option<&Bill>) -> Result<()> {
    let columns = [
        words("NAMESPACE").spare(5),
        words("TENANT").optional(),
        number("REQUESTS"),
        number("FAULTS").spare(2),
        number("SHED").spare(1),
        number("FUEL").spare(3),
        number("CPU s"),
        number("MEMORY GiB·s"),
        number("IN").spare(4),
        number("OUT"),
        number("OUTBOUND").optional(),
        number("COST").optional(),
    ];
    let money = |cost: &Cost, bill: &Bill| format!("{cost} {}", bill.currency);
    let mut rows: Vec<[String; 12]> = Vec::new();
    let mut sum = UsageRow::default();
    for (index, row) in report.rows.iter().enumerate() {
        let cost = bill.and_then(|bill| Some(money(bill.rows.get(index)?, bill)));
        let tenant = row.tenant.clone().unwrap_or_default();
        let names = [text::printable(&row.namespace), text::printable(&tenant)];
        rows.push(cells(row, names, cost.unwrap_or_default()));
        add(&mut sum, row);
    }
    if rows.len() > 1 {
        let total = bill.map(|bill| money(&bill.total, bill)).unwrap_or_default();
        let by_tenant = report.rows.iter().any(|row| row.tenant.is_some());
        let names = ["TOTAL".into(), if by_tenant { "TOTAL".into() } else { String::new() }];
        rows.push(cells(&sum, names, total));
    }
    out::line(&out::stdout_paint().dim(&format!("{} to {}", report.since, report.until)))?;
    out::write(table::render(columns, rows).as_bytes())
}

fn add(sum: &mut UsageRow, row: &UsageRow) {
    sum.requests += row.requests;
    sum.client_faults += row.client_faults;
    sum.guest_faults += row.guest_faults;
    sum.host_faults += row.host_faults;
    sum.shed += row.shed;
    sum.fuel = sum.fuel.saturating_add(row.fuel);
    sum.cpu_us = sum.cpu_us.saturating_add(row.cpu_us);
    sum.memory_byte_seconds = sum.memory_byte_seconds.saturating_add(row.memory_byte_seconds);
    sum.bytes_in = sum.bytes_in.saturating_add(row.bytes_in);
    sum.bytes_out = sum.bytes_out.saturating_add(row.bytes_out);
    sum.bytes_outbound = sum.bytes_outbound.saturating_add(row.bytes_outbound);
}
