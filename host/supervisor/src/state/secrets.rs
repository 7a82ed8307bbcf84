//! Secrets of tenants, by the tenant's name. Sealed and opened here, so that a plain value is never in
//! a statement, and so in no file.
//!
//! Bounded for each name by [`SECRETS_MAX`] and [`SECRETS_BYTES_MAX`], and by [`UNDEPLOYED_MAX`] names
//! that no tenant has. They end with `insula secret rm`, or with their tenant.

use super::read::head;
use super::write::active;
use super::{State, StateError};
use crate::clock;
use crate::registry::Tenant;
use crate::vault::{SEAL_BYTES, Vault};
use insula_model::TenantName;
use insula_model::grants::secrets::{
    SECRETS_BYTES_MAX, SECRETS_MAX, SecretKey, SecretValue, SecretVia,
};
use rusqlite::{Connection, TransactionBehavior, params};

/// Names with secrets that no tenant has: deploys to come.
const UNDEPLOYED_MAX: u32 = 1_024;

/// Opens those secrets of a tenant that `granted` names; an error if one of them was never set.
pub(super) fn values(
    connection: &Connection,
    vault: &Vault,
    tenant: &str,
    granted: &[(SecretKey, SecretVia)],
) -> Result<Vec<(SecretKey, SecretValue)>, StateError> {
    if granted.is_empty() {
        return Ok(Vec::new());
    }
    let mut select =
        connection.prepare_cached("SELECT sealed FROM secrets WHERE tenant = ?1 AND key = ?2")?;
    let mut values = Vec::with_capacity(granted.len());
    let mut unset = Vec::new();
    for (key, _) in granted {
        let mut rows = select.query([tenant, key.as_str()])?;
        match rows.next()? {
            None => unset.push(key.clone()),
            Some(row) => {
                let sealed = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
                let value = vault.unseal(tenant, key.as_str(), sealed).ok_or_else(|| {
                    let what =
                        format!("secret `{key}` does not open with {}", vault.key_in_words());
                    StateError::Damaged { tenant: tenant.into(), what }
                })?;
                values.push((key.clone(), value));
            }
        }
    }
    match unset.is_empty() {
        true => Ok(values),
        false => Err(StateError::SecretsUnset { tenant: tenant.into(), keys: unset }),
    }
}

/// Whether every secret opens; an error that says how many do not.
pub(super) fn check(connection: &Connection, vault: &Vault) -> Result<(), StateError> {
    let mut select = connection.prepare("SELECT tenant, key, sealed FROM secrets")?;
    let mut rows = select.query([])?;
    let (mut all, mut unreadable) = (0_u64, 0);
    while let Some(row) = rows.next()? {
        let (tenant, key): (String, String) = (row.get(0)?, row.get(1)?);
        let sealed = row.get_ref(2)?.as_bytes().map_err(rusqlite::Error::from)?;
        all += 1;
        unreadable += u64::from(vault.unseal(&tenant, &key, sealed).is_none());
    }
    match unreadable {
        0 => Ok(()),
        _ => Err(StateError::SecretsUnreadable { unreadable, all, key: vault.key_in_words() }),
    }
}

/// Whether one more value fits.
pub(super) fn check_room(
    connection: &Connection,
    name: &TenantName,
    key: &SecretKey,
    bytes: usize,
) -> Result<(), StateError> {
    let (count, sum): (u32, u32) = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(length(sealed)), 0) FROM secrets
             WHERE tenant = ?1 AND key <> ?2",
        )?
        .query_row([name.as_str(), key.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let full = |what| Err(StateError::SecretsFull { tenant: name.clone(), what });
    let (count, sum) = (count as usize, sum as usize);
    if count >= SECRETS_MAX {
        return full(format!("{SECRETS_MAX} secrets"));
    }
    if sum.saturating_sub(count * SEAL_BYTES) + bytes > SECRETS_BYTES_MAX {
        return full(format!("{} KiB of secrets", SECRETS_BYTES_MAX >> 10));
    }
    if count == 0 && head(connection, name)?.is_none() {
        let names: u32 = connection
            .prepare_cached(
                "SELECT count(DISTINCT tenant) FROM secrets
                 WHERE tenant <> ?1 AND tenant NOT IN (SELECT name FROM tenants)",
            )?
            .query_row([name.as_str()], |row| row.get(0))?;
        if names >= UNDEPLOYED_MAX {
            return Err(StateError::SecretsUndeployed(UNDEPLOYED_MAX));
        }
    }
    Ok(())
}

impl State {
    /// Sets a secret. Returns the tenant as it has to be put in force, if its active revision gets it.
    pub(crate) async fn set_secret(
        &self,
        name: TenantName,
        key: SecretKey,
        value: SecretValue,
    ) -> Result<Option<Box<Tenant>>, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            check_room(&transaction, &name, &key, value.reveal().len())?;
            let sealed = vault.seal(&name, &key, &value)?;
            transaction
                .prepare_cached(
                    "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
                     SET sealed = excluded.sealed, set_at = excluded.set_at",
                )?
                .execute(params![name.as_str(), key.as_str(), sealed, clock::now()])?;
            let tenant = match head(&transaction, &name)? {
                Some(head) => Some(active(&transaction, &vault, head.id)?),
                None => None,
            };
            transaction.commit()?;
            let gets = |tenant: &Tenant| tenant.entry.secrets.iter().any(|(got, _)| *got == key);
            Ok(tenant.filter(|tenant| gets(tenant)))
        })
        .await
    }

    /// Forgets a secret; whether there was one. Whoever calls has made sure that it is not in use.
    pub(crate) async fn remove_secret(
        &self,
        name: TenantName,
        key: SecretKey,
    ) -> Result<bool, StateError> {
        self.call(move |connection| {
            let removed = connection
                .prepare_cached("DELETE FROM secrets WHERE tenant = ?1 AND key = ?2")?
                .execute([name.as_str(), key.as_str()])?;
            Ok(removed > 0)
        })
        .await
    }

    /// The secrets that were set for a name, and when.
    pub(crate) async fn secrets(
        &self,
        name: TenantName,
    ) -> Result<Vec<(SecretKey, String)>, StateError> {
        self.call(move |connection| {
            let mut select = connection
                .prepare_cached("SELECT key, set_at FROM secrets WHERE tenant = ?1 ORDER BY key")?;
            let mut rows = select.query([name.as_str()])?;
            let mut secrets = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                secrets.push((super::read::parsed(name.as_str(), key.parse())?, row.get(1)?));
            }
            Ok(secrets)
        })
        .await
    }

    /// The values of these secrets of `name`; an error if one of them was never set.
    pub(crate) async fn secret_values(
        &self,
        name: TenantName,
        granted: Vec<(SecretKey, SecretVia)>,
    ) -> Result<Vec<(SecretKey, SecretValue)>, StateError> {
        if granted.is_empty() {
            return Ok(Vec::new());
        }
        let vault = self.vault.clone();
        self.call(move |connection| values(connection, &vault, name.as_str(), &granted)).await
    }

    /// An error if one of these secrets was never set for `name`.
    pub(crate) async fn secrets_are_set(
        &self,
        name: TenantName,
        granted: Vec<(SecretKey, SecretVia)>,
    ) -> Result<(), StateError> {
        self.secret_values(name, granted).await.map(drop)
    }
}
