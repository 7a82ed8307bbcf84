//! The probe: one worker tries a revision before anybody else gets to see it.
//!
//! Not within the publish step, which is one at a time: a guest that takes its time over an answer would
//! hold up everybody's deploys. Bounded by the probe's timeout and what a worker may take beyond it.

use super::{DeployError, Deployer, Plan, detached};
use crate::processes::{ProbeAsked, Unprobed};
use insula_model::api::GuestKind;
use insula_model::probe::{Expect, PROBE_TIMEOUT_MS_DEFAULT, Probe};
use insula_model::wire::{ProbeEnd, ProbeReport, TenantEntry};
use insula_model::{Digest, Fault};
use std::fmt::Write;
use std::sync::Arc;

/// Why a revision is not fit to be published.
#[derive(Debug, thiserror::Error)]
#[error("{}", told(.asked.as_deref(), .why, .log))]
pub(crate) struct ProbeFailed {
    /// The path that was asked for.
    asked: Option<String>,
    why: Why,
    /// What was written to its log meanwhile.
    log: Vec<String>,
}

/// What went wrong.
#[derive(Debug)]
enum Why {
    Status { seen: u16, expect: Expect },
    Fault { fault: String, detail: String },
    Unprobed(Unprobed),
}

fn told(asked: Option<&str>, why: &Why, log: &[String]) -> String {
    let mut told = match asked {
        Some(path) => format!("the revision failed its probe, GET {path}: "),
        None => "the revision cannot be instantiated: ".into(),
    };
    // Writing to a text does not fail.
    let _ = match why {
        Why::Status { seen, expect } => write!(told, "it answered {seen}, not {expect}"),
        Why::Fault { fault, detail } if detail.is_empty() => write!(told, "{fault}"),
        Why::Fault { fault, detail } => write!(told, "{fault}: {detail}"),
        Why::Unprobed(error) => write!(told, "{error}"),
    };
    if !log.is_empty() {
        let _ = write!(told, "\nwhat it wrote meanwhile:");
    }
    for line in log {
        let _ = write!(told, "\n  {line}");
    }
    told
}

impl ProbeFailed {
    /// What to do about it.
    pub(super) fn mend(&self) -> &'static str {
        match (&self.why, &self.asked) {
            (Why::Status { .. }, _) => {
                "what was in force still is; mend what the guest depends on, or `probe.expect`"
            }
            (Why::Fault { fault, .. }, Some(_)) if *fault == Fault::Deadline.code() => {
                "what was in force still is; let it answer sooner, or raise `probe.timeout` (`--probe-timeout`)"
            }
            (Why::Fault { .. }, Some(_)) => {
                "what was in force still is; mend the guest, or ask for another `probe.path`"
            }
            (Why::Fault { .. }, None) => {
                "what was in force still is; mend the guest, or raise the limit that it met"
            }
            (Why::Unprobed(_), _) => {
                "what was in force still is; `insula ps --workers` shows how the workers do"
            }
        }
    }
}

/// A revision as a worker is told of it, without its secrets.
pub(super) fn entry(plan: &Plan, digest: Digest, kind: GuestKind, slot: u32) -> TenantEntry {
    TenantEntry {
        slot,
        name: plan.name.clone(),
        revision: u32::MAX,
        digest,
        kind,
        routes: plan.routes.clone(),
        limits: plan.limits.clone(),
        grants: Some(Box::new(plan.grants.clone())),
        secrets: Vec::new(),
        job: plan.schedule.is_some(),
        stopped: false,
        access_log: plan.access_log,
        canary: None,
    }
}

impl Deployer {
    /// Has one worker try a revision; an error if it is not fit to be published. Goes on to its end even
    /// if whoever asked has gone: the slot that it happens in is given back only then.
    pub(super) async fn probe(
        self: Arc<Self>,
        plan: Plan,
        digest: Digest,
        kind: GuestKind,
    ) -> Result<(), DeployError> {
        detached(async move {
            if plan.grants.keyvalue.is_some() {
                let _alone = self.publishing.lock().await;
                if !self.registry.has(&plan.name) {
                    // What an earlier tenant of this name stored is not for this one to see.
                    self.hide_stores(&plan.name).await?;
                }
            }
            let granted = plan.grants.secrets.clone();
            let secrets = self.state.secret_values(plan.name.clone(), granted).await?;
            let reserved = self.registry.reserve_for_probe();
            // A host without a free slot has the tenant's own, if it has one.
            let own = self.registry.get(&plan.name).map(|tenant| tenant.entry.slot);
            let slot = reserved.as_ref().map(|reserved| reserved.slot()).or(own);
            let slot = slot.ok_or(DeployError::HostFull)?;
            let entry = TenantEntry { secrets, ..entry(&plan, digest, kind, slot) };
            let default_ms = plan.limits.timeout_ms.min(PROBE_TIMEOUT_MS_DEFAULT);
            let asked = ProbeAsked {
                entry,
                path: plan.probe.as_ref().map(|probe| probe.path.clone()),
                timeout_ms: plan.probe.as_ref().map_or(default_ms, |probe| probe.timeout_ms),
            };
            let probed = self.workers.probe(asked).await;
            if let Some(reserved) = reserved {
                self.quarantine(reserved.take());
            }
            judge(&plan, probed)
        })
        .await
    }
}

/// Whether a revision may be published after this. Where nobody asked for a probe, only what says something
/// about the revision counts.
fn judge(plan: &Plan, probed: Result<ProbeReport, Unprobed>) -> Result<(), DeployError> {
    let asked = plan.probe.as_ref().map(|probe| probe.path.clone());
    let failed = |why, log| Err(ProbeFailed { asked, why, log }.into());
    match (probed, &plan.probe) {
        (Err(Unprobed::Channel(error)), _) => Err(DeployError::TooLarge(error)),
        (Err(error @ Unprobed::Died(_)), _) | (Err(error), Some(_)) => {
            failed(Why::Unprobed(error), Vec::new())
        }
        (Err(error), None) => {
            tracing::warn!(tenant = %plan.name, %error, "published without having been tried");
            Ok(())
        }
        (Ok(ProbeReport { end: ProbeEnd::Sound, .. }), _) => Ok(()),
        (Ok(ProbeReport { end: ProbeEnd::Answered(seen), log }), probe) => match probe {
            Some(Probe { expect, .. }) if !expect.takes(seen) => {
                failed(Why::Status { seen, expect: *expect }, log)
            }
            _ => Ok(()),
        },
        (Ok(ProbeReport { end: ProbeEnd::Failed { fault, is_hosts: true, .. }, .. }), None) => {
            tracing::warn!(tenant = %plan.name, fault, "published without having been tried");
            Ok(())
        }
        (Ok(ProbeReport { end: ProbeEnd::Failed { fault, detail, .. }, log }), _) => {
            failed(Why::Fault { fault, detail }, log)
        }
    }
}
