//! Repave, stop and start: what runs changes, and no revision does.

use super::{DeployError, Deployer, detached};
use crate::registry::Tenant;
use crate::state::StateError;
use insula_model::api::{RepaveResponse, StartResponse, StopResponse};
use insula_model::wire::{REPAVE_SLOTS_MAX, Retired};
use insula_model::{Namespace, TenantName};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a stopped tenant is looked at while its last requests run.
const DRAIN_RECHECK: Duration = Duration::from_millis(10);

/// Which tenants are meant.
#[derive(Debug)]
pub(crate) enum Chosen {
    /// These.
    Names(Vec<TenantName>),
    /// Those of a namespace.
    Of(Namespace),
    /// Every one.
    All,
}

impl Deployer {
    /// The tenants that are meant, by name; an error if one of them is not there.
    pub(crate) async fn chosen(&self, chosen: Chosen) -> Result<Vec<Arc<Tenant>>, DeployError> {
        match chosen {
            Chosen::All => Ok(self.registry.all().collect()),
            Chosen::Of(namespace) => {
                // A name that was mistyped is not a namespace without tenants.
                self.namespace(namespace.clone()).await?;
                let tenants = self.registry.all();
                Ok(tenants.filter(|tenant| tenant.namespace == namespace).collect())
            }
            Chosen::Names(names) => {
                let mut seen = HashSet::new();
                let once = names.into_iter().filter(|name| seen.insert(name.clone()));
                let found = |name| self.registry.get(&name).ok_or(StateError::NoTenant(name));
                Ok(once.map(found).collect::<Result<_, _>>()?)
            }
        }
    }

    /// Has every worker retire the instances of these tenants and load their code anew.
    pub(crate) async fn repave(
        self: Arc<Self>,
        chosen: Chosen,
    ) -> Result<RepaveResponse, DeployError> {
        self.open()?;
        detached(async move {
            let _alone = self.publishing.lock().await;
            self.open()?;
            let started = Instant::now();
            let tenants = self.chosen(chosen).await?;
            let canary = |tenant: &Arc<Tenant>| {
                self.registry.canary(&tenant.entry.name).map(|canary| canary.tenant.entry.slot)
            };
            let slots = tenants.iter().flat_map(|t| [Some(t.entry.slot), canary(t)]);
            let slots: Vec<u32> = slots.flatten().collect();
            let mut retired = Retired::default();
            for slots in slots.chunks(REPAVE_SLOTS_MAX) {
                retired += self.workers.repave(slots.to_vec()).await?;
            }
            let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (instances, code) = (retired.instances, retired.code);
            tracing::info!(tenants = tenants.len(), instances, code, took_ms, "repaved");
            Ok(RepaveResponse {
                tenants: tenants.len() as u64,
                instances,
                code,
                running: slots.iter().map(|slot| self.workers.counters(*slot).running).sum(),
                took_ms,
            })
        })
        .await
    }

    /// Stops a tenant: durably, and then in every worker. Returns when nothing of it runs any more, or
    /// when `drain` has passed.
    pub(crate) async fn stop(
        self: Arc<Self>,
        name: TenantName,
        drain: Duration,
    ) -> Result<StopResponse, DeployError> {
        self.open()?;
        let deployer = Arc::clone(&self);
        let stopped = async move { deployer.set_stopped(name, true).await };
        let (tenant, changed) = detached(stopped).await?;
        let (name, slot) = (tenant.entry.name.clone(), tenant.entry.slot);
        let until = Instant::now() + drain;
        let running = || {
            let job = u64::from(self.jobs.runs_in(slot));
            self.workers.counters_of(&tenant).running.max(job)
        };
        let is_same = || self.registry.get(&name).is_some_and(|t| t.entry.slot == slot);
        while running() > 0 && Instant::now() < until && is_same() {
            tokio::time::sleep(DRAIN_RECHECK).await;
        }
        let running = if is_same() { running() } else { 0 };
        let stopped_at = tenant.stopped_at.clone().unwrap_or_default();
        Ok(StopResponse { name, stopped_at, changed, running })
    }

    /// Has a stopped tenant served again.
    pub(crate) async fn start(
        self: Arc<Self>,
        name: TenantName,
    ) -> Result<StartResponse, DeployError> {
        self.open()?;
        detached(async move {
            let (_, changed) = self.set_stopped(name.clone(), false).await?;
            Ok(StartResponse { name, changed })
        })
        .await
    }

    /// The publish step of a stop or start; whether anything changed.
    async fn set_stopped(
        &self,
        name: TenantName,
        stopped: bool,
    ) -> Result<(Arc<Tenant>, bool), DeployError> {
        let _alone = self.publishing.lock().await;
        self.open()?;
        let before = self.registry.get(&name).ok_or(StateError::NoTenant(name.clone()))?;
        if before.entry.stopped == stopped {
            return Ok((before, false));
        }
        let tenant = self.state.set_stopped(name.clone(), stopped).await?;
        tracing::info!(tenant = %name, "{}", if stopped { "stopped" } else { "started" });
        let entry = tenant.entry.clone();
        let slot = entry.slot;
        self.registry.put(*tenant);
        if stopped {
            // Before the workers: no run begins of a tenant that is refused there.
            self.put_on_board(&name, slot).await;
        }
        self.workers.publish(vec![entry], Vec::new()).await?;
        if !stopped {
            self.put_on_board(&name, slot).await;
        }
        let tenant = self.registry.get(&name).ok_or(DeployError::Lost)?;
        Ok((tenant, true))
    }
}
