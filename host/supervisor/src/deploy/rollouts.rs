//! Canaries: begun by a deploy, promoted or taken back by whoever asks or by what was seen of them.
//!
//! All of it is done while `publishing` is held, in the order of `publish`. A canary has a slot of its own;
//! its requests may finish in it after it has ended, and what they did then becomes its tenant's.

use super::{Active, DeployError, Deployer, detached};
use crate::clock;
use crate::processes::Workers;
use crate::registry::{Canary, Tenant};
use crate::rollouts::Counted;
use crate::state::{Begun, Ended, NewRevision, StateError};
use insula_model::TenantName;
use insula_model::api::{ActiveStatus, CanaryChange, CanaryStatus, DeployResponse, LogStream};
use insula_model::breaker::BreakerState;
use insula_model::grants::secrets::SecretKey;
use insula_model::rollout::{Rollout, Seen, Verdict};
use insula_model::wire::{LogLine, TenantEntry};
use std::sync::Arc;

impl Canary {
    /// Milliseconds for which it was tried so far.
    pub(crate) fn tried_ms(&self) -> u64 {
        let here_ms = u64::try_from(self.counts_from.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before.tried_ms.saturating_add(here_ms)
    }

    /// What was counted of it so far, by this host and by those before.
    pub(crate) fn counted(&self, workers: &Workers) -> Counted {
        let here = workers.done(self.tenant.entry.slot);
        Counted { done: here.with(&self.before.done), tried_ms: self.tried_ms() }
    }

    /// What was seen of it so far.
    pub(crate) fn seen(&self, workers: &Workers) -> Seen {
        self.seen_by(&self.counted(workers), workers)
    }

    fn seen_by(&self, counted: &Counted, workers: &Workers) -> Seen {
        let max_us = self.rollout.max_latency_ms.map(|max_ms| max_ms.saturating_mul(1_000));
        Seen {
            requests: counted.done.requests,
            errors: counted.done.errors,
            slow: max_us.map_or(0, |max_us| counted.done.latency.above(max_us)),
            age_ms: counted.tried_ms,
            circuit_open: workers.breaker(self.tenant.entry.slot) != BreakerState::Closed,
        }
    }

    /// How the API shows it, beside its tenant's active revision.
    pub(crate) fn status(&self, workers: &Workers, active: &Tenant) -> CanaryStatus {
        let slot = self.tenant.entry.slot;
        let counted = self.counted(workers);
        // Not what stands in the active revision's own slot: an earlier canary's last requests are added to
        // that once they have ended.
        let rest = workers.done_by(active.entry.slot).without(&workers.done(slot));
        let rest = rest.without(&self.active_before);
        let seen = self.seen_by(&counted, workers);
        let verdict = match self.rollout.judge(&seen) {
            Verdict::TooFew(needed) => {
                format!("too few requests to tell: {} of {needed}", seen.requests)
            }
            Verdict::Well => "well".into(),
            Verdict::Promote => "well, about to be promoted".into(),
            Verdict::RollBack(why) => format!("about to be rolled back: {why}"),
        };
        CanaryStatus {
            revision: self.tenant.entry.revision,
            artifact: self.tenant.entry.digest,
            rollout: self.rollout.clone(),
            since: self.since.clone(),
            running: workers.counters(slot).running,
            requests: seen.requests,
            errors: seen.errors,
            latency: counted.done.latency.quantiles(),
            tried_ms: counted.tried_ms,
            requests_min: self.rollout.requests_min(),
            verdict,
            active: ActiveStatus {
                revision: active.entry.revision,
                requests: rest.requests,
                errors: rest.errors,
                latency: rest.latency.quantiles(),
            },
        }
    }

    fn change(&self, running: bool) -> CanaryChange {
        let Rollout { share, .. } = self.rollout;
        CanaryChange { revision: self.tenant.entry.revision, share, running }
    }
}

impl Deployer {
    /// An error if the tenant has a canary: what it is held against must not change meanwhile. Spares a
    /// probe; within the publish, the database says so.
    pub(super) fn refuse_beside_canary(&self, name: &TenantName) -> Result<(), DeployError> {
        match self.registry.canary(name) {
            None => Ok(()),
            Some(canary) => Err(DeployError::State(StateError::CanaryRuns {
                name: name.clone(),
                revision: canary.tenant.entry.revision,
                share: canary.rollout.share,
            })),
        }
    }

    /// Gives a revision a part of the requests. `publishing` is held.
    pub(super) async fn begin_canary(
        &self,
        name: &TenantName,
        new: NewRevision,
        rollout: Rollout,
    ) -> Result<Active, DeployError> {
        let begun = self.state.begin_canary(new, rollout).await?;
        let stable = self.registry.get(name).ok_or(DeployError::Lost)?;
        let mut active = Active::of(&stable, false);
        let (mut canary, forgotten) = match begun {
            Begun::Active => return Ok(active),
            Begun::Unchanged => {
                active.canary = self.registry.canary(name).map(|canary| canary.change(true));
                return Ok(active);
            }
            Begun::Changed { canary, forgotten } => (canary, forgotten),
        };
        let entry = canary.tenant.entry.clone();
        (active.changed, active.canary) = (true, Some(canary.change(true)));
        let Rollout { share, .. } = canary.rollout;
        tracing::info!(tenant = %name, revision = entry.revision, %share, "canary begun");
        let (revision, before) = (entry.revision, active.revision);
        canary.active_before = self.workers.done_by(stable.entry.slot);
        self.registry.put_canary(*canary);
        self.tell(&stable, revision, format!(
            "revision {revision} is a canary: it gets {share} of the requests, revision {before} the others"
        ));
        self.workers.publish(vec![entry], Vec::new()).await?;
        self.keeper.remove(forgotten).await;
        self.canary_begun.notify_one();
        Ok(active)
    }

    /// Gives a tenant's canary all requests, because somebody says so.
    pub(crate) async fn promote(
        self: Arc<Self>,
        name: TenantName,
    ) -> Result<DeployResponse, DeployError> {
        self.open()?;
        let promoting = {
            let this = Arc::clone(&self);
            async move {
                let _alone = this.publishing.lock().await;
                this.open()?;
                this.end_canary(name, Ended::Promoted, "asked for".into()).await
            }
        };
        let active = detached(promoting).await?;
        Ok(self.response(active, None))
    }

    /// Takes a tenant's canary back, if it has one, because somebody says so.
    pub(super) async fn take_canary_back(
        self: Arc<Self>,
        name: TenantName,
    ) -> Result<Option<Active>, DeployError> {
        let _alone = self.publishing.lock().await;
        self.open()?;
        match self.end_canary(name, Ended::RolledBack, "asked for".into()).await {
            Ok(active) => Ok(Some(active)),
            // It ended by itself meanwhile.
            Err(DeployError::State(StateError::NoCanary(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a canary that was judged. `publishing` is held.
    pub(crate) async fn end_judged(
        &self,
        name: TenantName,
        ended: Ended,
        reason: String,
    ) -> Result<(), DeployError> {
        self.end_canary(name, ended, reason).await.map(drop)
    }

    /// Ends a tenant's canary. `publishing` is held.
    async fn end_canary(
        &self,
        name: TenantName,
        ended: Ended,
        reason: String,
    ) -> Result<Active, DeployError> {
        let canary = self.registry.canary(&name);
        let stable = self.registry.get(&name);
        let (canary, before) = match (canary, stable) {
            (Some(canary), Some(stable)) => (canary, stable.entry.revision),
            (_, None) => return Err(StateError::NoTenant(name).into()),
            (None, _) => return Err(StateError::NoCanary(name).into()),
        };
        let (number, slot) = (canary.tenant.entry.revision, canary.tenant.entry.slot);
        if ended == Ended::Promoted {
            // The quota may have been lowered since the canary began.
            self.check_namespace_of_older(&name, Some(number)).await?;
        }
        let tenant = self.state.end_canary(name.clone(), ended, reason.clone()).await?;
        tracing::info!(tenant = %name, revision = number, ?ended, reason, "canary ended");
        let mut active = Active::of(&tenant, true);
        active.canary = Some(canary.change(false));
        self.registry.end_canary(&name);
        let mut changed = Vec::new();
        if ended == Ended::Promoted {
            changed.push(tenant.entry.clone());
            self.registry.put(*tenant);
        }
        let promoted = changed.first().map(|entry: &TenantEntry| entry.slot);
        let told = self.workers.publish(changed, vec![slot]).await;
        if let Some(own) = promoted {
            self.put_on_board(&name, own).await;
        }
        let line = match ended {
            Ended::Promoted => format!(
                "canary revision {number} is promoted and gets all requests, revision {before} none any more: {reason}"
            ),
            Ended::RolledBack => format!(
                "canary revision {number} is rolled back, revision {before} gets all requests again: {reason}"
            ),
        };
        if let Some(tenant) = self.registry.get(&name) {
            self.tell(&tenant, number, line);
        }
        let entry = &canary.tenant.entry;
        self.usage.leaving(slot, &entry.name, &canary.tenant.namespace).await;
        self.quarantine(slot);
        told?;
        Ok(active)
    }

    /// Has the canary's instances get a secret that was set. `publishing` is held.
    pub(super) async fn renew_canary(
        &self,
        name: &TenantName,
        key: &SecretKey,
    ) -> Result<(), DeployError> {
        let Some(running) = self.registry.canary(name) else { return Ok(()) };
        if !running.tenant.entry.secrets.iter().any(|(granted, _)| granted == key) {
            return Ok(());
        }
        let canary = self.state.canary(name.clone()).await?.ok_or(DeployError::Lost)?;
        // What was written down is in the table still.
        let Canary { active_before, before, counts_from, .. } = *running;
        let canary = Canary { active_before, before, counts_from, ..canary };
        let entry = canary.tenant.entry.clone();
        self.registry.put_canary(canary);
        Ok(self.workers.publish(vec![entry], Vec::new()).await?)
    }

    /// A line of the host's for a tenant's log.
    fn tell(&self, tenant: &Tenant, revision: u32, text: String) {
        let line = LogLine {
            slot: tenant.entry.slot,
            name: tenant.entry.name.clone(),
            revision,
            at_ms: clock::now_ms(),
            stream: LogStream::Host,
            request: String::new(),
            trace: 0,
            text,
        };
        self.logs.push(&self.registry, line);
    }
}
