//! `--otlp` and what belongs to it.

use clap::Args;
use insula_model::config::{SampleRatio, TracesConfig};
use insula_supervisor::{Collector, TraceOptions};

/// Everything, if nobody says otherwise: what is too much is dropped and counted.
const SAMPLE_DEFAULT: SampleRatio = SampleRatio(1_000_000);

/// As written; nothing filled in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces")]
pub(crate) struct TraceFlags {
    /// URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318 [default: none, and
    /// nothing is recorded]
    #[arg(long, value_name = "URL", env = "INSULA_OTLP", value_parser = parse_collector)]
    otlp: Option<Collector>,
    /// The part of all traces that begin here which is recorded, from 0 to 1 [default: 1]
    #[arg(long, value_name = "RATIO", env = "INSULA_OTLP_SAMPLE")]
    otlp_sample: Option<SampleRatio>,
}

fn parse_collector(text: &str) -> Result<Collector, String> {
    text.parse().map_err(|error: insula_supervisor::CollectorError| error.to_string())
}

impl TraceFlags {
    /// Flag over variable over file over default; the key that is wrong, and why.
    pub(crate) fn resolve(
        self,
        file: TracesConfig,
    ) -> Result<Option<TraceOptions>, (&'static str, String)> {
        let from_file = file.otlp.as_deref().filter(|text| !text.is_empty()).map(parse_collector);
        let from_file = from_file.transpose().map_err(|why| ("traces.otlp", why))?;
        let sample = self.otlp_sample.or(file.sample).unwrap_or(SAMPLE_DEFAULT);
        let options = |collector| TraceOptions { collector, sampled_ppm: sample.0 };
        Ok(self.otlp.or(from_file).map(options))
    }
}
