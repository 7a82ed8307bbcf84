//! Whether a tenant may run.

use super::read::head;
use super::write::active;
use super::{State, StateError};
use crate::clock;
use crate::registry::Tenant;
use insula_model::TenantName;
use rusqlite::{TransactionBehavior, params};

impl State {
    /// Stops a tenant, or has it run again; the tenant as it is to be put in force.
    pub(crate) async fn set_stopped(
        &self,
        name: TenantName,
        stopped: bool,
    ) -> Result<Box<Tenant>, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let Some(head) = head(&transaction, &name)? else {
                return Err(StateError::NoTenant(name));
            };
            let at = stopped.then(clock::now);
            transaction
                .prepare_cached("UPDATE tenants SET stopped_at = ?2 WHERE id = ?1")?
                .execute(params![head.id, at])?;
            let tenant = active(&transaction, &vault, head.id)?;
            transaction.commit()?;
            Ok(tenant)
        })
        .await
    }
}
