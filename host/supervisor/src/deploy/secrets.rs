//! Secrets: setting and removing them, and telling workers.
//!
//! A set secret is in force when the call returns: it goes through the publish step as a redeploy of
//! the same revision would, so every instance made from then on has it, and pooled ones are retired.

use super::{DeployError, Deployer, detached};
use insula_model::TenantName;
use insula_model::api::SecretInfo;
use insula_model::grants::secrets::{SecretKey, SecretValue, SecretVia};
use std::sync::Arc;

impl Deployer {
    /// Sets a secret; every instance that is made afterwards gets it, if its revision is granted it.
    pub(crate) async fn set_secret(
        self: Arc<Self>,
        name: TenantName,
        key: SecretKey,
        value: SecretValue,
    ) -> Result<(), DeployError> {
        self.open()?;
        detached(async move {
            let _alone = self.publishing.lock().await;
            self.open()?;
            let tenant = self.state.set_secret(name.clone(), key.clone(), value).await?;
            tracing::info!(tenant = %name, %key, in_use = tenant.is_some(), "secret set");
            if let Some(tenant) = tenant {
                let entry = tenant.entry.clone();
                self.registry.put(*tenant);
                self.workers.publish(vec![entry], Vec::new()).await?;
            }
            self.renew_canary(&name, &key).await
        })
        .await
    }

    /// Forgets a secret that the active revision does not get.
    pub(crate) async fn remove_secret(
        self: Arc<Self>,
        name: TenantName,
        key: SecretKey,
    ) -> Result<(), DeployError> {
        self.open()?;
        detached(async move {
            let _alone = self.publishing.lock().await;
            self.open()?;
            let canary = self.registry.canary(&name).map(|canary| Arc::clone(&canary.tenant));
            let users = self.registry.get(&name).into_iter().chain(canary);
            for tenant in users {
                if tenant.entry.secrets.iter().any(|(granted, _)| *granted == key) {
                    let revision = tenant.entry.revision;
                    return Err(DeployError::SecretInUse { name, key, revision });
                }
            }
            if !self.state.remove_secret(name.clone(), key.clone()).await? {
                return Err(DeployError::NoSecret { name, key });
            }
            tracing::info!(tenant = %name, %key, "secret removed");
            Ok(())
        })
        .await
    }

    /// The secrets of a name, without their values.
    pub(crate) async fn secrets(&self, name: TenantName) -> Result<Vec<SecretInfo>, DeployError> {
        let set = self.state.secrets(name.clone()).await?;
        let tenant = self.registry.get(&name);
        if set.is_empty() && tenant.is_none() {
            return Err(DeployError::NothingOf(name));
        }
        let granted: &[(SecretKey, SecretVia)] = tenant
            .as_ref()
            .and_then(|tenant| tenant.entry.grants.as_ref())
            .map_or(&[], |grants| &grants.secrets);
        let info = |(key, set_at)| {
            let via = granted.iter().find(|(granted, _)| *granted == key).map(|(_, via)| *via);
            SecretInfo { key, set_at, via }
        };
        Ok(set.into_iter().map(info).collect())
    }
}
