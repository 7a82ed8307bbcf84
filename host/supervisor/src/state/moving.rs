//! Tenants on their way out, and in.
//!
//! An import is one transaction, in which the tenant is also noted as arriving: its stores and scratch
//! directory are under another name until then. Giving them to it and forgetting the note comes after the
//! commit, and at the next start if a crash comes first; both can be done again.

use super::read::{head, kind_from, parsed};
use super::secrets::check_room;
use super::write::{active, forget_artifacts, take_routes};
use super::{State, StateError};
use crate::archive::{RevisionFile, TenantFile};
use crate::registry::Tenant;
use insula_model::grants::secrets::{SecretKey, SecretValue};
use insula_model::manifest::Resolved;
use insula_model::{Digest, TenantName};
use rusqlite::{Connection, Row, TransactionBehavior, params};

/// A secret with its value, and when it was set.
pub(crate) type Secret = (SecretKey, String, SecretValue);

/// A tenant that is about to be imported.
pub(crate) struct Import {
    /// As it is to be here.
    pub(crate) tenant: TenantFile,
    /// Its revisions with defaults and ceilings applied, in the same order.
    pub(crate) resolved: Vec<Resolved>,
    pub(crate) secrets: Vec<Secret>,
    /// The tenant's slot, or the one it gets if it is new.
    pub(crate) slot: u32,
    /// The name that its stores and its scratch directory are under.
    pub(crate) staged: String,
}

fn revision_from(tenant: &str, row: &Row<'_>) -> Result<RevisionFile, StateError> {
    let (artifact, kind): (String, String) = (row.get(1)?, row.get(3)?);
    let manifest = row.get_ref(5)?.as_bytes().map_err(rusqlite::Error::from)?;
    Ok(RevisionFile {
        number: row.get(0)?,
        artifact: parsed(tenant, artifact.parse())?,
        artifact_bytes: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
        kind: kind_from(tenant, &kind)?,
        created_at: row.get(4)?,
        manifest: parsed(tenant, serde_json::from_slice(manifest))?,
    })
}

fn tenant_file(
    connection: &Connection,
    name: &TenantName,
) -> Result<Option<TenantFile>, StateError> {
    let Some(head) = head(connection, name)? else { return Ok(None) };
    let (deployed_at, stopped_at) = connection
        .prepare_cached("SELECT deployed_at, stopped_at FROM tenants WHERE id = ?1")?
        .query_row([head.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut select = connection.prepare_cached(
        "SELECT r.number, r.artifact, a.bytes, a.kind, r.created_at, r.manifest FROM revisions r
         JOIN artifacts a ON a.digest = r.artifact WHERE r.tenant = ?1 ORDER BY r.number",
    )?;
    let mut rows = select.query([head.id])?;
    let mut revisions = Vec::new();
    while let Some(row) = rows.next()? {
        revisions.push(revision_from(name.as_str(), row)?);
    }
    // The one before may have been forgotten; then there is nothing to go back to.
    let previous = head.previous.filter(|number| revisions.iter().any(|r| r.number == *number));
    Ok(Some(TenantFile {
        name: name.clone(),
        active: head.active,
        previous,
        last: head.last,
        deployed_at,
        stopped_at,
        revisions,
    }))
}

impl State {
    /// A tenant with all its revisions; none if it is not there.
    pub(crate) async fn exported(
        &self,
        name: TenantName,
    ) -> Result<Option<TenantFile>, StateError> {
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            tenant_file(&transaction, &name)
        })
        .await
    }

    /// All secrets that were set for a name.
    pub(crate) async fn all_secrets(&self, name: TenantName) -> Result<Vec<Secret>, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT key, set_at, sealed FROM secrets WHERE tenant = ?1 ORDER BY key",
            )?;
            let mut rows = select.query([name.as_str()])?;
            let mut secrets = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                let sealed = row.get_ref(2)?.as_bytes().map_err(rusqlite::Error::from)?;
                let value = vault.unseal(name.as_str(), &key, sealed);
                let value = parsed(
                    name.as_str(),
                    value.ok_or_else(|| format!("secret `{key}` does not open")),
                )?;
                secrets.push((parsed(name.as_str(), key.parse())?, row.get(1)?, value));
            }
            Ok(secrets)
        })
        .await
    }

    /// Makes a tenant what an archive says, in place of one of that name: all of it, durably, or nothing.
    /// The tenant as it is to be put in force, and artifacts without a reference now.
    pub(crate) async fn import(
        &self,
        import: Import,
    ) -> Result<(Box<Tenant>, Vec<Digest>), StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let tenant = &import.tenant;
            let name = tenant.name.as_str();
            let mut before = Vec::new();
            if let Some(head) = head(&transaction, &tenant.name)? {
                let mut artifacts = transaction
                    .prepare_cached("SELECT DISTINCT artifact FROM revisions WHERE tenant = ?1")?;
                let rows = artifacts.query_map([head.id], |row| row.get(0))?;
                before = rows.collect::<Result<Vec<String>, _>>()?;
                transaction.execute("DELETE FROM tenants WHERE id = ?1", [head.id])?;
            }
            transaction.execute(
                "INSERT INTO tenants (name, slot, active, previous, last, deployed_at, stopped_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    name,
                    import.slot,
                    tenant.active,
                    tenant.previous,
                    tenant.last,
                    tenant.deployed_at,
                    tenant.stopped_at
                ],
            )?;
            let id = transaction.last_insert_rowid();
            let mut artifact = transaction.prepare_cached(
                "INSERT INTO artifacts VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?;
            let mut insert = transaction
                .prepare_cached("INSERT INTO revisions VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            for (revision, resolved) in tenant.revisions.iter().zip(&import.resolved) {
                let digest = revision.artifact.to_string();
                let bytes = i64::try_from(revision.artifact_bytes).unwrap_or(i64::MAX);
                let at = &revision.created_at;
                artifact.execute(params![digest, bytes, revision.kind.as_str(), at])?;
                let manifest = parsed(name, serde_json::to_string(&revision.manifest))?;
                let plan = parsed(name, serde_json::to_string(resolved))?;
                insert.execute(params![id, revision.number, digest, manifest, plan, at])?;
                if revision.number == tenant.active {
                    take_routes(&transaction, id, &resolved.routes)?;
                }
            }
            drop((artifact, insert));
            for (key, set_at, value) in &import.secrets {
                check_room(&transaction, &tenant.name, key, value.reveal().len())?;
                let sealed = vault.seal(&tenant.name, key, value)?;
                transaction.execute(
                    "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
                     SET sealed = excluded.sealed, set_at = excluded.set_at",
                    params![name, key.as_str(), sealed, set_at],
                )?;
            }
            let arriving = params![name, import.staged];
            transaction.execute("INSERT OR REPLACE INTO arriving VALUES (?1, ?2)", arriving)?;
            let forgotten = forget_artifacts(&transaction, name, before)?;
            let tenant = active(&transaction, &vault, id)?;
            transaction.commit()?;
            Ok((tenant, forgotten))
        })
        .await
    }

    /// An imported tenant has its stores and its scratch directory.
    pub(crate) async fn arrived(&self, name: TenantName) -> Result<(), StateError> {
        self.call(move |connection| {
            connection.execute("DELETE FROM arriving WHERE tenant = ?1", [name.as_str()])?;
            Ok(())
        })
        .await
    }

    /// At start-up: tenants whose import a crash cut short after the commit, with the name that their
    /// stores are under. `finish` is called for each; those that it is done with are forgotten. Blocks.
    pub(crate) fn recover_imports<E>(
        &self,
        mut finish: impl FnMut(&TenantName, &str) -> Result<(), E>,
    ) -> Result<Result<(), E>, StateError> {
        let connection = crate::sync::lock(&self.connection);
        let mut select = connection.prepare("SELECT tenant, staged FROM arriving")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (name, staged) in rows.collect::<Result<Vec<(String, String)>, _>>()? {
            let tenant = parsed(&name, name.parse())?;
            if let Err(error) = finish(&tenant, &staged) {
                return Ok(Err(error));
            }
            connection.execute("DELETE FROM arriving WHERE tenant = ?1", [name])?;
        }
        Ok(Ok(()))
    }
}
