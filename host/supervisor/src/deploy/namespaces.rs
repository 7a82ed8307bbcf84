//! Namespaces: whether a revision fits into the quota of its own, and the quotas themselves.
//!
//! The sums are the registry's, which changes only while `publishing` is held. So whoever holds it sees
//! them as the last change left them, and two deploys cannot both take what is left for one. Quotas
//! change under it as well.

use super::{DeployError, Deployer, detached};
use crate::state::Kept;
use insula_model::api::NamespaceInfo;
use insula_model::manifest::Resolved;
use insula_model::quota::{Quota, Share};
use insula_model::{Namespace, TenantName};
use std::sync::Arc;

impl Deployer {
    /// Whether a revision may be what its tenant has in its namespace. Holds for as long as `publishing`
    /// is held; before that it only spares work.
    pub(super) async fn check_namespace(&self, plan: &Resolved) -> Result<(), DeployError> {
        let Resolved { name, namespace, .. } = plan;
        let before = self.registry.get(name);
        if let Some(before) = &before
            && before.namespace != *namespace
        {
            return Err(DeployError::NamespaceFixed {
                name: name.clone(),
                namespace: before.namespace.clone(),
                asked: namespace.clone(),
            });
        }
        let quota = self.kept(namespace.clone()).await?.quota;
        let asked = Share::of(&plan.limits, Some(&plan.grants));
        let before = before.map(|tenant| tenant.share());
        let excesses = quota.excesses(self.registry.sums(namespace), before, asked);
        match excesses.is_empty() {
            true => Ok(()),
            false => Err(DeployError::Quota {
                name: name.clone(),
                namespace: namespace.clone(),
                excesses,
            }),
        }
    }

    /// The same for the revision that a rollback would put in force.
    pub(super) async fn check_namespace_of_older(
        &self,
        name: &TenantName,
        revision: Option<u32>,
    ) -> Result<(), DeployError> {
        let (_, plan) = self.state.rollback_target(name.clone(), revision).await?;
        self.check_namespace(&plan).await
    }

    async fn kept(&self, name: Namespace) -> Result<Kept, DeployError> {
        let kept = self.state.namespace(name.clone()).await?;
        kept.ok_or(DeployError::NoNamespace(name))
    }

    fn info(&self, kept: Kept) -> NamespaceInfo {
        let Kept { name, quota, created_at } = kept;
        NamespaceInfo { used: self.registry.sums(&name).used(), name, quota, created_at }
    }

    /// All namespaces, by name.
    pub(crate) async fn namespaces(&self) -> Result<Vec<NamespaceInfo>, DeployError> {
        let all = self.state.namespaces().await?;
        Ok(all.into_iter().map(|kept| self.info(kept)).collect())
    }

    /// One namespace.
    pub(crate) async fn namespace(&self, name: Namespace) -> Result<NamespaceInfo, DeployError> {
        Ok(self.info(self.kept(name).await?))
    }

    /// Makes a namespace, or gives one another quota. Tenants that are above it stay.
    pub(crate) async fn set_namespace(
        self: Arc<Self>,
        name: Namespace,
        quota: Quota,
    ) -> Result<NamespaceInfo, DeployError> {
        self.open()?;
        detached(async move {
            let _alone = self.publishing.lock().await;
            self.open()?;
            let kept = self.state.set_namespace(name, quota).await?;
            tracing::info!(namespace = %kept.name, ?quota, "namespace set");
            Ok(self.info(kept))
        })
        .await
    }

    /// Removes a namespace that has no tenants.
    pub(crate) async fn remove_namespace(
        self: Arc<Self>,
        name: Namespace,
    ) -> Result<(), DeployError> {
        self.open()?;
        if name.is_default() {
            return Err(DeployError::NamespaceStays(name));
        }
        detached(async move {
            let _alone = self.publishing.lock().await;
            self.open()?;
            let tenants = self.registry.sums(&name).used().tenants;
            if tenants > 0 {
                return Err(DeployError::NamespaceInUse { namespace: name, tenants });
            }
            if !self.state.remove_namespace(name.clone()).await? {
                return Err(DeployError::NoNamespace(name));
            }
            tracing::info!(namespace = %name, "namespace removed");
            Ok(())
        })
        .await
    }
}
