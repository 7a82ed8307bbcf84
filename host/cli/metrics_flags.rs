//! `--metrics` and what belongs to it.

use anyhow::Result;
use clap::{Args, ValueEnum};
use insula_model::config::{MetricsBy, MetricsConfig};
use insula_supervisor::MetricsOptions;
use std::net::SocketAddr;

/// Tenants with series of their own, if nobody says otherwise: some 40 samples each.
const TENANTS_DEFAULT: u32 = 1_000;
/// As many as a host can have.
const TENANTS_MAX: u32 = 131_072;

/// As written; nothing filled in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Metrics")]
pub(crate) struct MetricsFlags {
    /// Address and port for `GET /metrics`, and nothing else [default: the control socket alone]
    #[arg(long, value_name = "ADDR", env = "INSULA_METRICS", value_parser = parse_addr)]
    metrics: Option<SocketAddr>,
    /// Tenants (or namespaces) with series of their own; all others are one, `_other` [default: 1000]
    #[arg(long, value_name = "N", env = "INSULA_METRICS_TENANTS")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(TENANTS_MAX)))]
    metrics_tenants: Option<u32>,
    /// What has series of its own [default: tenant]
    #[arg(long, value_name = "WHAT", env = "INSULA_METRICS_BY")]
    metrics_by: Option<By>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Tenant,
    Namespace,
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:9100".into())
}

impl MetricsFlags {
    /// Flag over variable over file over default; the key that is wrong, and why.
    pub(crate) fn resolve(
        self,
        file: MetricsConfig,
    ) -> Result<MetricsOptions, (&'static str, String)> {
        let from_file = file.listen.as_deref().filter(|text| !text.is_empty()).map(parse_addr);
        let from_file = from_file.transpose().map_err(|why| ("metrics.listen", why))?;
        if let Some(tenants) = file.tenants.filter(|tenants| *tenants > TENANTS_MAX) {
            return Err(("metrics.tenants", format!("{tenants} is more than {TENANTS_MAX}")));
        }
        let by = self.metrics_by.map(|by| match by {
            By::Tenant => MetricsBy::Tenant,
            By::Namespace => MetricsBy::Namespace,
        });
        let tenants = self.metrics_tenants.or(file.tenants).unwrap_or(TENANTS_DEFAULT);
        Ok(MetricsOptions {
            listen: self.metrics.or(from_file),
            series_max: tenants as usize,
            by: by.or(file.by).unwrap_or_default(),
        })
    }
}
