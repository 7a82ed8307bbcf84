//! `--otlp` and what belongs to it.

use clap::{Args, ValueEnum};
use insula_model::DurationMs;
use insula_model::config::{OtlpConfig, OtlpSignal, SampleRatio};
use insula_model::quantity::QuantityError;
use insula_supervisor::{Collector, CollectorError, OtlpOptions};

/// Everything, if nobody says otherwise: what is too much is dropped and counted.
const SAMPLE_DEFAULT: SampleRatio = SampleRatio(1_000_000);
/// As OpenTelemetry's own exporters have it.
const INTERVAL_DEFAULT: DurationMs = DurationMs(60_000);
/// Shorter ones would cost more than they tell.
const INTERVAL_MIN: DurationMs = DurationMs(1_000);
/// Longer ones would hardly be an export.
const INTERVAL_MAX: DurationMs = DurationMs(3_600_000);

/// As written; nothing filled in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "OpenTelemetry")]
pub(crate) struct OtlpFlags {
    /// URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318 [default: none, and
    /// nothing is recorded or exported]
    #[arg(long, value_name = "URL", env = "INSULA_OTLP", value_parser = parse_collector)]
    otlp: Option<Collector>,
    /// What the collector gets [default: traces,metrics]
    #[arg(long, value_name = "LIST", env = "INSULA_OTLP_SIGNALS", value_delimiter = ',')]
    otlp_signals: Vec<Signal>,
    /// The part of all traces that begin here which is recorded, from 0 to 1 [default: 1]
    #[arg(long, value_name = "RATIO", env = "INSULA_OTLP_SAMPLE")]
    otlp_sample: Option<SampleRatio>,
    /// Time between two exports of metrics, 1s to 1h [default: 1m]
    #[arg(long, value_name = "DURATION", env = "INSULA_OTLP_INTERVAL", value_parser = parse_interval)]
    otlp_interval: Option<DurationMs>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Signal {
    Traces,
    Metrics,
}

fn parse_collector(text: &str) -> Result<Collector, String> {
    text.parse().map_err(|error: CollectorError| error.to_string())
}

fn parse_interval(text: &str) -> Result<DurationMs, String> {
    text.parse().map_err(|error: QuantityError| error.to_string()).and_then(check_interval)
}

fn check_interval(interval: DurationMs) -> Result<DurationMs, String> {
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        return Ok(interval);
    }
    Err(format!("{interval} is not within {INTERVAL_MIN} to {INTERVAL_MAX}"))
}

impl OtlpFlags {
    /// Flag over variable over file over default; the key that is wrong, and why.
    pub(crate) fn resolve(
        self,
        file: OtlpConfig,
    ) -> Result<Option<OtlpOptions>, (&'static str, String)> {
        let from_file = file.url.as_deref().filter(|text| !text.is_empty()).map(parse_collector);
        let from_file = from_file.transpose().map_err(|why| ("otlp.url", why))?;
        let interval = file.interval.map(check_interval).transpose();
        let interval = self.otlp_interval.or(interval.map_err(|why| ("otlp.interval", why))?);
        let sample = self.otlp_sample.or(file.sample).unwrap_or(SAMPLE_DEFAULT);
        let signal = |signal: &Signal| match signal {
            Signal::Traces => OtlpSignal::Traces,
            Signal::Metrics => OtlpSignal::Metrics,
        };
        let signals: Vec<OtlpSignal> = match (self.otlp_signals.as_slice(), file.signals) {
            ([], None) => vec![OtlpSignal::Traces, OtlpSignal::Metrics],
            ([], Some(signals)) if signals.is_empty() => {
                let why =
                    "an empty list; name `traces`, `metrics` or both, or leave out `otlp.url`";
                return Err(("otlp.signals", why.into()));
            }
            ([], Some(signals)) => signals,
            (signals, _) => signals.iter().map(signal).collect(),
        };
        let interval = interval.unwrap_or(INTERVAL_DEFAULT);
        let options = |collector| OtlpOptions {
            collector,
            sampled_ppm: signals.contains(&OtlpSignal::Traces).then_some(sample.0),
            metrics_ms: signals.contains(&OtlpSignal::Metrics).then_some(interval.0),
        };
        Ok(self.otlp.or(from_file).map(options))
    }
}
