//! The flags that say how a new revision takes over: its probe, and its time as a canary.

use crate::failure::{Exit, Failure};
use anyhow::Result;
use clap::Args;
use insula_model::probe::Expect;
use insula_model::rollout::{Percent, RolloutSpec, Sticky};
use insula_model::{DurationMs, Manifest};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rollout")]
pub(crate) struct RolloutFlags {
    /// GET this path from the new revision first; if it does not answer as it should, the deploy fails
    /// [default: it is loaded and instantiated, but asked nothing]
    #[arg(long, value_name = "PATH")]
    probe: Option<String>,
    /// The status that it should answer with: 200, 2xx or 200-399 [default: 200-399]
    #[arg(long, value_name = "STATUS")]
    probe_expect: Option<Expect>,
    /// How long that may take [default: 5s]
    #[arg(long, value_name = "DURATION")]
    probe_timeout: Option<DurationMs>,
    /// Give the new revision only this part of the requests, such as 5%, until it is promoted or rolled back
    #[arg(long, value_name = "PERCENT")]
    canary: Option<Percent>,
    /// Promote it when it has been well for so long [default: only `insula promote` does]
    #[arg(long, value_name = "DURATION")]
    canary_for: Option<DurationMs>,
    /// Roll it back when more of its requests than this fail [default: 5%]
    #[arg(long, value_name = "PERCENT")]
    canary_max_errors: Option<Percent>,
    /// Roll it back when more than 1% of its requests take longer than this [default: no bound]
    #[arg(long, value_name = "DURATION")]
    canary_max_latency: Option<DurationMs>,
    /// Give a client the same revision each time, by `header:NAME` or `cookie:NAME` [default: each request
    /// for itself]
    #[arg(long, value_name = "BY")]
    canary_sticky: Option<Sticky>,
}

impl RolloutFlags {
    /// Writes what was given over `manifest`.
    pub(crate) fn apply(self, manifest: &mut Manifest) -> Result<()> {
        let Self { probe, probe_expect, probe_timeout, .. } = self;
        if probe.is_some() || probe_expect.is_some() || probe_timeout.is_some() {
            let spec = manifest.probe.get_or_insert_default();
            spec.path = probe.or(spec.path.take());
            spec.expect = probe_expect.or(spec.expect);
            spec.timeout = probe_timeout.or(spec.timeout);
        }
        let bounds = self.canary_for.is_some()
            || self.canary_max_errors.is_some()
            || self.canary_max_latency.is_some()
            || self.canary_sticky.is_some();
        if self.canary.is_none() && !bounds {
            return Ok(());
        }
        let before = manifest.rollout.take();
        let Some(canary) = self.canary.or(before.as_ref().map(|before| before.canary)) else {
            let message = "the other flags of a canary do nothing without `--canary`";
            return Err(Failure::new(Exit::Usage, message)
                .hint("say which part of the requests it gets: `--canary 5%`")
                .into());
        };
        let before = before.unwrap_or(RolloutSpec {
            canary,
            lasts: None,
            max_errors: None,
            max_latency: None,
            sticky: None,
        });
        manifest.rollout = Some(RolloutSpec {
            canary,
            lasts: self.canary_for.or(before.lasts),
            max_errors: self.canary_max_errors.or(before.max_errors),
            max_latency: self.canary_max_latency.or(before.max_latency),
            sticky: self.canary_sticky.or(before.sticky),
        });
        Ok(())
    }
}
