//! The host's configuration file (`--config FILE`, TOML).

use crate::access_log::Sample;
use crate::{ByteSize, Ceilings, DurationMs};
use serde::{Deserialize, Serialize};

/// Everything that `insula serve` can be told in a file. Each key is also a flag and a variable; flag
/// wins over variable, variable over file, file over default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// `--listen`, `INSULA_LISTEN`: address and port for tenants' HTTP. Default 127.0.0.1:8080.
    pub listen: Option<String>,
    /// `--data`, `INSULA_DATA`: directory of state, artifacts and compiled code.
    pub data: Option<String>,
    /// `--workers`, `INSULA_WORKERS`: worker processes. Default: the cores this process may use.
    pub workers: Option<u32>,
    /// `--instances`, `INSULA_INSTANCES`: live instances that each worker has room for. Default 4096.
    pub instances: Option<u32>,
    /// `--memory`, `INSULA_MEMORY`: memory that all workers may hold. Default: 80% of what this machine, or
    /// its cgroup, has.
    pub memory: Option<ByteSize>,
    /// `--drain`, `INSULA_DRAIN`: how long running requests may take to finish at shutdown.
    /// Default 10s.
    pub drain: Option<DurationMs>,
    /// `--log`, `INSULA_LOG`: the host log's filter (`info`, `debug`, `insula_worker=trace` …).
    pub log: Option<String>,
    /// `--access-log`, `INSULA_ACCESS_LOG`: requests that the access log gets of tenants that do not say so
    /// themselves: true, false or a percentage. Default false.
    pub access_log: Option<Sample>,
    /// `--secrets-key`: file with the key that secrets are encrypted with; `INSULA_SECRETS_KEY` holds the
    /// key itself. Default: `secrets.key` in the data directory, made when needed.
    pub secrets_key: Option<String>,
    /// Metrics.
    pub metrics: MetricsConfig,
    /// The collector of traces and metrics. `[traces]` is the table's older name.
    #[serde(alias = "traces")]
    pub otlp: OtlpConfig,
    /// What manifests may ask for.
    pub ceilings: Ceilings,
    /// How hard the compiler may work on one artifact.
    pub compiler: CompilerLimits,
    /// HTTP calls of tenants.
    pub outbound: OutboundConfig,
}

/// `[metrics]`: where they are served, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// `--metrics`, `INSULA_METRICS`: address and port for `/metrics`. Default: the control socket alone.
    pub listen: Option<String>,
    /// `--metrics-tenants`, `INSULA_METRICS_TENANTS`: tenants, or namespaces, with series of their own.
    pub tenants: Option<u32>,
    /// `--metrics-by`, `INSULA_METRICS_BY`: what has series of its own.
    pub by: Option<MetricsBy>,
}

/// `[otlp]`: where traces and metrics are sent, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpConfig {
    /// `--otlp`, `INSULA_OTLP`: URL of a collector that takes OTLP over HTTP. Default: none, and nothing is
    /// recorded or exported. `otlp` is the key's older name.
    #[serde(alias = "otlp")]
    pub url: Option<String>,
    /// `--otlp-signals`, `INSULA_OTLP_SIGNALS`: what is sent. Default: traces and metrics.
    pub signals: Option<Vec<OtlpSignal>>,
    /// `--otlp-sample`, `INSULA_OTLP_SAMPLE`: the part of all traces that begin here which is recorded, 0 to 1.
    pub sample: Option<SampleRatio>,
    /// `--otlp-interval`, `INSULA_OTLP_INTERVAL`: time between two exports of metrics. Default 1m.
    pub interval: Option<DurationMs>,
}

/// What a collector can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpSignal {
    /// Spans of requests.
    Traces,
    /// Figures of tenants and the host.
    Metrics,
}

/// A part of all, from 0 to 1, kept in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct SampleRatio(pub u32);

/// Not a part of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a number from 0 to 1, such as 0.01")]
pub struct NotARatio;

impl TryFrom<f64> for SampleRatio {
    type Error = NotARatio;

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn try_from(ratio: f64) -> Result<Self, NotARatio> {
        // At most a million: nothing is lost.
        (0.0..=1.0).contains(&ratio).then(|| Self((ratio * 1e6).round() as u32)).ok_or(NotARatio)
    }
}

impl From<SampleRatio> for f64 {
    fn from(ratio: SampleRatio) -> Self {
        Self::from(ratio.0) / 1e6
    }
}

impl std::str::FromStr for SampleRatio {
    type Err = NotARatio;

    fn from_str(text: &str) -> Result<Self, NotARatio> {
        text.parse::<f64>().map_err(|_| NotARatio)?.try_into()
    }
}

/// What has series of its own in the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsBy {
    /// Each tenant that had a request, up to a bound.
    #[default]
    Tenant,
    /// Each namespace.
    Namespace,
}

/// `[outbound]`: what holds for the HTTP calls of every tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundConfig {
    /// File of certificates (PEM) that outbound TLS trusts beside the public ones.
    pub ca: Option<String>,
}

/// `[compiler]`: hard limits on one compiler process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompilerLimits {
    /// Compilers at work at once. Default 1.
    pub at_once: u32,
    /// Deploys that may wait for a compiler; more are refused. Default 64.
    pub queue: u32,
    /// Wall-clock time for one artifact. Default 120s: a JavaScript or Python engine takes 30 s of CPU
    /// time at the lowest priority, which on a busy machine is more than a minute.
    pub timeout: DurationMs,
    /// CPU time for one artifact, over all threads. Default 60s.
    pub cpu: DurationMs,
    /// Memory of the compiler process. Default 4Gi.
    pub memory: ByteSize,
}

impl Default for CompilerLimits {
    fn default() -> Self {
        Self {
            at_once: 1,
            queue: 64,
            timeout: DurationMs(120_000),
            cpu: DurationMs(60_000),
            memory: ByteSize(4 << 30),
        }
    }
}
