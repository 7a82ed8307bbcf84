//! The publish step: what is in force changes here, one change at a time.
//!
//! The order is what everything else relies on:
//! 1. the database commits: a crash from here on starts with the change;
//! 2. the registry changes: a worker that starts from here on starts with it;
//! 3. every worker is told and acknowledges: no request from here on sees what was before;
//! 4. what only the old state needed is removed: files, counters, the slot.

use super::{Active, Compiled, DeployError, Deployer, probe};
use crate::registry::Tenant;
use crate::state::Published;
use insula_ipc::channel::ChannelError;
use insula_model::TenantName;
use insula_model::grants::secrets::{SECRETS_BYTES_MAX, SECRETS_MAX};
use insula_model::wire::{MESSAGE_BYTES_MAX, TenantEntry, ToWorker};
use insula_sandbox::capabilities::directories;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;

/// How often a removed tenant's slot is looked at while its last requests run.
const SLOT_RECHECK: Duration = Duration::from_millis(100);

/// Bytes of all of a tenant's secrets in a message: values, and names of 128 bytes with two lengths.
const SECRETS_ENCODED_MAX: usize = SECRETS_BYTES_MAX + SECRETS_MAX * (128 + 8);

/// Bytes of what makes a canary of a tenant, in a message: a key, numbers, a name.
const CANARY_ENCODED_MAX: usize = 512;

impl Compiled {
    /// As workers would be told of it, without its secrets.
    fn entry(&self, slot: u32) -> TenantEntry {
        let resolved = &self.uploaded.resolved;
        probe::entry(&resolved.plan, resolved.artifact, self.code.kind, slot)
    }
}

impl Deployer {
    pub(super) async fn publish(
        self: Arc<Self>,
        compiled: Compiled,
    ) -> Result<Active, DeployError> {
        let _alone = self.publishing.lock().await;
        self.open()?;
        let plan = &compiled.uploaded.resolved.plan;
        self.check_namespace(plan).await?;
        let name = plan.name.clone();
        let before = self.registry.get(&name);
        let rollout = plan.rollout.clone();
        // A canary has a slot of its own; the first revision has nothing to be a canary of.
        let (reserved, slot) = match &before {
            Some(tenant) if rollout.is_none() => (None, tenant.entry.slot),
            _ => {
                let reserved = self.registry.reserve().ok_or(DeployError::HostFull)?;
                let slot = reserved.slot();
                (Some(reserved), slot)
            }
        };
        // Before the commit: what cannot be told to workers must not become durable.
        check_size(compiled.entry(slot))?;
        if before.is_none() {
            // A removal may have failed to, or a probe have left something: a new tenant inherits nothing.
            self.hide_stores(&name).await?;
        }
        let revision = compiled.revision(slot);
        let active = match rollout {
            Some(rollout) if before.is_some() => self.begin_canary(&name, revision, rollout).await,
            rollout => {
                let published = self.state.publish(revision).await?;
                let mut active = self.put_in_force(name.clone(), published).await?;
                active.note = rollout.filter(|_| active.changed).map(|_| {
                    format!("this is the first revision of `{name}`: there is nothing to be a canary of, so it gets all requests")
                });
                Ok(active)
            }
        };
        // Whatever was put into it keeps it.
        drop(reserved);
        active
    }

    pub(super) async fn publish_older(
        self: Arc<Self>,
        name: TenantName,
        revision: Option<u32>,
    ) -> Result<Active, DeployError> {
        let _alone = self.publishing.lock().await;
        self.open()?;
        self.check_namespace_of_older(&name, revision).await?;
        self.refuse_beside_canary(&name)?;
        let published = self.state.roll_back(name.clone(), revision).await?;
        self.put_in_force(name, published).await
    }

    async fn put_in_force(
        &self,
        name: TenantName,
        published: Published,
    ) -> Result<Active, DeployError> {
        let Published::Changed { tenant, forgotten } = published else {
            let tenant = self.registry.get(&name).ok_or(DeployError::Lost)?;
            return Ok(Active::of(&tenant, false));
        };
        let (active, entry) = (Active::of(&tenant, true), tenant.entry.clone());
        self.log_change(&tenant);
        self.registry.put(*tenant);
        let slot = entry.slot;
        let told = self.workers.publish(vec![entry], Vec::new()).await;
        // After the workers: a run that is due now is of the new revision.
        self.put_on_board(&name, slot).await;
        self.changed.notify_one();
        told?;
        self.keeper.remove(forgotten).await;
        Ok(active)
    }

    /// Has a tenant's schedule, or its absence, count from now on.
    pub(super) async fn put_on_board(&self, name: &TenantName, slot: u32) {
        let Some(tenant) = self.registry.get(name) else { return };
        let new = tenant.schedule.is_some() && !self.jobs.has(slot);
        let last = if new { self.state.last_run(name.clone()).await } else { Ok(None) };
        let last = last.unwrap_or_else(|error| {
            tracing::warn!(tenant = %name, %error, "its last run could not be read");
            None
        });
        self.jobs.put(tenant, last);
    }

    pub(super) async fn unpublish(self: Arc<Self>, name: TenantName) -> Result<(), DeployError> {
        let _alone = self.publishing.lock().await;
        self.open()?;
        let forgotten = self.state.remove(name.clone()).await?;
        tracing::info!(tenant = %name, "removed");
        if let Some((tenant, canary)) = self.registry.remove(&name) {
            let slot = tenant.entry.slot;
            self.jobs.remove(slot, &name);
            // The tenant first: it takes its canary along, which has ended by then or ends now.
            let parts = self.registry.parts(slot);
            for slot in [slot].into_iter().chain(parts) {
                self.usage.leaving(slot, &name, &tenant.namespace).await;
            }
            let canary = canary.map(|canary| canary.tenant.entry.slot);
            let slots: Vec<u32> = [slot].into_iter().chain(canary).collect();
            self.workers.publish(Vec::new(), slots.clone()).await?;
            slots.into_iter().for_each(|slot| self.quarantine(slot));
        }
        self.changed.notify_one();
        self.forget_stores(&name).await;
        self.forget_files(name.clone()).await;
        self.logs.remove(name).await;
        self.keeper.remove(forgotten).await;
        Ok(())
    }

    /// Has what a removed tenant stored erased. No worker writes any of it once it has acknowledged the
    /// removal. A failure delays it to the next start, or to the next tenant of that name.
    async fn forget_stores(&self, name: &TenantName) {
        if let Err(error) = self.hide_stores(name).await {
            tracing::error!(tenant = %name, ?error, "its stores are still there: {error}");
            return;
        }
        let dir = self.tenants_dir.clone();
        spawn_blocking(move || {
            if let Err(error) = insula_keyvalue::purge(&dir) {
                tracing::warn!(?error, "removed stores are erased by the next start: {error}");
            }
        });
    }

    /// What was stored under this name is nobody's from here on.
    pub(super) async fn hide_stores(&self, name: &TenantName) -> Result<(), DeployError> {
        let (dir, tenant) = (self.tenants_dir.clone(), name.to_string());
        let hidden = spawn_blocking(move || insula_keyvalue::hide(&dir, &tenant)).await;
        Ok(hidden.map_err(|_| DeployError::Lost)??)
    }

    /// Removes what a tenant kept in its scratch directory. No worker begins anything new in it.
    async fn forget_files(&self, name: TenantName) {
        let (of, place) = (name.clone(), self.tenants_dir.clone());
        let forgotten = tokio::task::spawn_blocking(move || directories::forget(&place, &of)).await;
        if let Err(error) = forgotten.map_err(std::io::Error::other).flatten() {
            tracing::warn!(tenant = %name, %error, "its scratch directory is left behind");
        }
    }

    /// Frees a slot once nothing runs in it any more. Requests of a removed tenant may finish, and
    /// until then they count in its slot: a new owner would inherit them. What a canary has done becomes
    /// part of its tenant's figures.
    pub(super) fn quarantine(&self, slot: u32) {
        let (workers, registry) = (self.workers.clone(), Arc::clone(&self.registry));
        let (jobs, usage) = (Arc::clone(&self.jobs), self.usage.clone());
        tokio::spawn(async move {
            // Ends with the longest deadline a manifest may have, or with the worker.
            // Instances may outlast their requests by a slice.
            loop {
                // A tenant's slot is needed until its canaries' figures have been added to it.
                if !workers.is_in_use(slot)
                    && !jobs.runs_in(slot)
                    && registry.parts(slot).is_empty()
                {
                    break;
                }
                tokio::time::sleep(SLOT_RECHECK).await;
            }
            match registry.part_of(slot) {
                Some(own) => usage.moves(slot, own, || workers.fold_slot(slot, own)).await,
                None => {
                    usage.left(slot).await;
                    workers.clear_slot(slot);
                }
            }
            registry.free(slot);
        });
    }

    /// The same for the slots that a host before this one had not freed yet when it was handed over: who they
    /// belonged to is known to the usage.
    pub(crate) fn quarantine_left(&self) {
        let left = self.workers.active().into_iter().filter(|slot| self.registry.hold(*slot));
        left.for_each(|slot| self.quarantine(slot));
    }

    fn log_change(&self, tenant: &Tenant) {
        tracing::info!(
            tenant = %tenant.entry.name,
            revision = tenant.entry.revision,
            artifact = tenant.entry.digest.short(),
            "published"
        );
    }
}

/// Whether a tenant fits into one message, with all the secrets that it may ever get.
fn check_size(entry: TenantEntry) -> Result<(), DeployError> {
    let message = ToWorker::Publish { seq: u64::MAX, tenants: vec![entry], removed: Vec::new() };
    let bytes = insula_ipc::channel::encode(&message).map_err(DeployError::TooLarge)?.len();
    match bytes + SECRETS_ENCODED_MAX + CANARY_ENCODED_MAX {
        bytes if bytes <= MESSAGE_BYTES_MAX as usize => Ok(()),
        bytes => Err(DeployError::TooLarge(ChannelError::TooLong(bytes))),
    }
}
