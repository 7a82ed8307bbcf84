//! Deploying: from a manifest and an artifact to a revision that every worker serves.
//!
//! ```text
//! Draft ──resolve──▶ Resolved ──find──▶ Uploaded ──compile──▶ Compiled ──publish──▶ Active
//!        manifest,            artifact is             sound code        probed by one worker;
//!        ceilings, quota,     there, and pinned       is on disk,       quota again, one transaction,
//!        mounts, secrets                              and fits          then every worker
//! ```
//! Each state is consumed by the step to the next, so nothing is published that was not compiled, and
//! nothing compiled that was not resolved. Cheap checks come first. A failure at any step leaves the
//! running revision as it was.
//!
//! Bounded by the compilers' queue and by the connections of the control API. Compiling is concurrent;
//! publishing is one at a time (see `publish`).

mod error;
mod export;
mod import;
mod namespaces;
mod operate;
mod probe;
mod publish;
mod reach;
mod repair;
mod rollouts;
mod secrets;

use crate::compile::Compiled as Code;
use crate::compilers::{Asker, Compilers};
use crate::jobs::Board;
use crate::keeper::{Keeper, Pin};
use crate::logs::Logs;
use crate::processes::Workers;
use crate::registry::{Registry, Tenant};
use crate::state::{NewRevision, State};
use crate::usage::Usage;
use insula_model::api::{CanaryChange, DeployRequest, DeployResponse, GuestKind};
use insula_model::manifest::Resolved as Plan;
use insula_model::{Ceilings, CodeId, Digest, Grants, Manifest, Route, TenantName};
use insula_sandbox::store::ArtifactStore;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, Notify, Semaphore};

pub(crate) use error::{DeployError, store_code, store_mend};
pub(crate) use export::EXPORTS_MAX;
pub(crate) use import::{Importing, adopt};
pub(crate) use operate::Chosen;
pub(crate) use reach::MountRules;
pub(crate) use repair::repair;

/// Everything that deploying needs.
pub(crate) struct Deployer {
    pub(crate) store: ArtifactStore,
    pub(crate) keeper: Keeper,
    pub(crate) compilers: Compilers,
    pub(crate) state: State,
    pub(crate) registry: Arc<Registry>,
    pub(crate) workers: Workers,
    pub(crate) jobs: Arc<Board>,
    pub(crate) usage: Usage,
    pub(crate) logs: Logs,
    pub(crate) ceilings: Ceilings,
    pub(crate) mount_rules: MountRules,
    /// Where tenants keep what is theirs.
    pub(crate) tenants_dir: PathBuf,
    /// Tenants' address, for URLs.
    pub(crate) listen: SocketAddr,
    /// Told when a canary begins.
    pub(crate) canary_begun: Notify,
    /// Somebody was deployed or removed.
    pub(crate) changed: Notify,
    /// Held by whoever changes what is in force.
    pub(crate) publishing: Mutex<()>,
    /// Exports under way.
    pub(crate) exports: Arc<Semaphore>,
    /// Held by the one import under way.
    pub(crate) importing: Mutex<()>,
    /// The host shuts down; nothing new is taken on.
    pub(crate) draining: AtomicBool,
}

/// A deploy that was asked for.
pub(crate) struct Draft {
    pub(crate) name: TenantName,
    pub(crate) request: DeployRequest,
}

/// Its manifest is in order and within the ceilings.
struct Resolved {
    manifest: Manifest,
    plan: Plan,
    artifact: Digest,
}

/// Its artifact is in the store, and stays there for as long as this lives.
struct Uploaded {
    resolved: Resolved,
    artifact_bytes: u64,
    _pin: Pin,
}

/// Sound code of its artifact is on disk.
struct Compiled {
    uploaded: Uploaded,
    code: Code,
}

/// Every worker serves it.
struct Active {
    name: TenantName,
    revision: u32,
    changed: bool,
    kind: GuestKind,
    routes: Vec<Route>,
    slot: u32,
    stopped: bool,
    canary: Option<CanaryChange>,
    note: Option<String>,
}

impl Draft {
    fn resolve(self, ceilings: &Ceilings) -> Result<Resolved, DeployError> {
        let manifest = self.request.manifest;
        if manifest.name != self.name {
            return Err(DeployError::Name { path: self.name, manifest: manifest.name });
        }
        let plan = manifest.resolve(ceilings)?;
        Ok(Resolved { manifest, plan, artifact: self.request.artifact })
    }
}

impl Resolved {
    fn code(&self) -> CodeId {
        CodeId { artifact: self.artifact, metering: self.plan.limits.metering }
    }

    fn find(self, keeper: &Keeper, store: &ArtifactStore) -> Result<Uploaded, DeployError> {
        // Pinned first, so that it cannot go between the look and the pin.
        let pin = keeper.pin(self.artifact);
        match store.artifact_bytes(&self.artifact) {
            Some(artifact_bytes) => Ok(Uploaded { resolved: self, artifact_bytes, _pin: pin }),
            None => Err(DeployError::NoArtifact(self.artifact)),
        }
    }
}

impl Uploaded {
    async fn compile(self, compilers: &Compilers) -> Result<Compiled, DeployError> {
        let code = compilers.compiled(self.resolved.code(), Asker::Deploy).await?;
        reach::check_kind(code.kind, &self.resolved.plan)?;
        Ok(Compiled { uploaded: self, code })
    }
}

impl Compiled {
    /// The revision, for the slot it will have. Its artifact is pinned for as long as this lives, which
    /// must outlive the publish.
    fn revision(&self, slot: u32) -> NewRevision {
        let Uploaded { resolved, artifact_bytes, .. } = &self.uploaded;
        NewRevision {
            manifest: resolved.manifest.clone(),
            resolved: resolved.plan.clone(),
            artifact: resolved.artifact,
            artifact_bytes: *artifact_bytes,
            kind: self.code.kind,
            slot,
        }
    }
}

impl Active {
    fn of(tenant: &Tenant, changed: bool) -> Self {
        Self {
            name: tenant.entry.name.clone(),
            revision: tenant.entry.revision,
            changed,
            kind: tenant.entry.kind,
            routes: tenant.entry.routes.clone(),
            slot: tenant.entry.slot,
            stopped: tenant.entry.stopped,
            canary: None,
            note: None,
        }
    }
}

impl Deployer {
    /// Takes a deploy all the way.
    pub(crate) async fn deploy(
        self: Arc<Self>,
        draft: Draft,
    ) -> Result<DeployResponse, DeployError> {
        self.open()?;
        let mut resolved = draft.resolve(&self.ceilings)?;
        self.check_namespace(&resolved.plan).await?;
        self.check_reach(&resolved.plan.name, &mut resolved.plan.grants).await?;
        let uploaded = resolved.find(&self.keeper, &self.store)?;
        let compiled = uploaded.compile(&self.compilers).await?;
        let compile_ms = compiled.code.took_ms;
        if !self.state.is_in_force(compiled.revision(0)).await? {
            let plan = &compiled.uploaded.resolved.plan;
            let (artifact, kind) = (compiled.uploaded.resolved.artifact, compiled.code.kind);
            self.refuse_beside_canary(&plan.name)?;
            Arc::clone(&self).probe(plan.clone(), artifact, kind).await?;
        }
        let active = detached(Arc::clone(&self).publish(compiled)).await?;
        Ok(self.response(active, compile_ms))
    }

    /// Puts an older revision in force: `revision`, or the one that was active before.
    pub(crate) async fn roll_back(
        self: Arc<Self>,
        name: TenantName,
        revision: Option<u32>,
    ) -> Result<DeployResponse, DeployError> {
        self.open()?;
        // The canary first: what is asked for may be that it ends, and no more.
        let canary = match self.registry.canary(&name) {
            Some(_) => detached(Arc::clone(&self).take_canary_back(name.clone())).await?,
            None => None,
        };
        if let Some(active) = canary
            && revision.is_none_or(|revision| revision == active.revision)
        {
            return Ok(self.response(active, None));
        }
        let (artifact, mut plan) = self.state.rollback_target(name.clone(), revision).await?;
        self.check_namespace(&plan).await?;
        // A directory may have gone since, or a ceiling been lowered.
        self.check_reach(&name, &mut plan.grants).await?;
        // Its code may be of an engine before an upgrade.
        let code = CodeId { artifact, metering: plan.limits.metering };
        let code = self.compilers.compiled(code, Asker::Deploy).await?;
        let active = self.registry.get(&name).map(|tenant| tenant.entry.revision);
        if revision.is_none() || revision != active {
            Arc::clone(&self).probe(plan, artifact, code.kind).await?;
        }
        let active = detached(Arc::clone(&self).publish_older(name, revision)).await?;
        Ok(self.response(active, code.took_ms))
    }

    /// Whether what a revision is granted is there: its secrets are set, its directories can be opened.
    async fn check_reach(&self, name: &TenantName, grants: &mut Grants) -> Result<(), DeployError> {
        // Looked at again within the publish; this one spares a compiler.
        self.state.secrets_are_set(name.clone(), grants.secrets.clone()).await?;
        if grants.mounts.is_empty() {
            return Ok(());
        }
        let (rules, mut mounts) = (self.mount_rules.clone(), std::mem::take(&mut grants.mounts));
        let checked =
            tokio::task::spawn_blocking(move || rules.check(&mut mounts).map(|()| mounts));
        grants.mounts = checked.await.map_err(|_| DeployError::Lost)??;
        Ok(())
    }

    /// Removes a tenant with everything that is only its own.
    pub(crate) async fn remove(self: Arc<Self>, name: TenantName) -> Result<(), DeployError> {
        self.open()?;
        detached(self.unpublish(name)).await
    }

    /// The URLs of these routes on this host.
    pub(crate) fn urls(&self, routes: &[Route]) -> Vec<String> {
        let port = self.listen.port();
        let url = |route: &Route| {
            let host = match route.host() {
                address if address.contains(':') => format!("[{address}]"),
                name => name.to_owned(),
            };
            match port {
                80 => format!("http://{host}{}", route.prefix()),
                _ => format!("http://{host}:{port}{}", route.prefix()),
            }
        };
        routes.iter().map(url).collect()
    }

    /// Refuses what is new when the host is shutting down.
    pub(crate) fn open(&self) -> Result<(), DeployError> {
        match self.draining.load(Ordering::SeqCst) {
            true => Err(DeployError::Draining),
            false => Ok(()),
        }
    }

    fn response(&self, active: Active, compile_ms: Option<u64>) -> DeployResponse {
        DeployResponse {
            urls: self.urls(&active.routes),
            name: active.name,
            revision: active.revision,
            changed: active.changed,
            kind: active.kind,
            compile_ms,
            stopped: active.stopped,
            job: self.jobs.status(active.slot),
            canary: active.canary,
            note: active.note,
        }
    }
}

/// Runs a publish to its end even if the client that asked for it goes away: between the commit and the
/// last acknowledgement there is no place to stop.
async fn detached<T: Send + 'static>(
    publish: impl Future<Output = Result<T, DeployError>> + Send + 'static,
) -> Result<T, DeployError> {
    tokio::spawn(publish).await.map_err(|_| DeployError::Lost)?
}
