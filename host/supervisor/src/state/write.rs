//! Changing state: publish, roll back, remove. Each is one transaction.
//!
//! All three return the artifacts that nothing refers to any more. Their files are removed after the
//! commit, when no worker can need them: a crash in between leaves a file too many, never one too few,
//! and the sweep finds it.

use super::read::{COLUMNS, head, parsed, tenant_from};
use super::rollouts::refuse_canary;
use super::{State, StateError};
use crate::clock;
use crate::registry::Tenant;
use crate::vault::Vault;
use insula_model::api::{GuestKind, REVISIONS_KEPT_MAX};
use insula_model::manifest::Resolved;
use insula_model::{Digest, Manifest, Route, TenantName};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

/// A revision that is about to be published.
#[derive(Debug, Clone)]
pub(crate) struct NewRevision {
    /// What was written.
    pub(crate) manifest: Manifest,
    /// The same with defaults and ceilings applied; it names the tenant.
    pub(crate) resolved: Resolved,
    /// The artifact.
    pub(crate) artifact: Digest,
    /// Its bytes.
    pub(crate) artifact_bytes: u64,
    /// What it is.
    pub(crate) kind: GuestKind,
    /// The tenant's slot, or the one it gets if it is new.
    pub(crate) slot: u32,
}

/// What a publish or rollback did.
#[derive(Debug)]
pub(crate) enum Published {
    /// This very revision was active already.
    Unchanged,
    /// The tenant as it is now.
    Changed {
        /// To be put in force.
        tenant: Box<Tenant>,
        /// Artifacts without a reference now.
        forgotten: Vec<Digest>,
    },
}

impl State {
    /// Publishes a revision: all of it, durably, or nothing. Manifests and artifacts that are equal to
    /// the active revision's change nothing.
    pub(crate) async fn publish(&self, new: NewRevision) -> Result<Published, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let published = publish(&transaction, &vault, &new)?;
            transaction.commit()?;
            Ok(published)
        })
        .await
    }

    /// Makes an older revision active: `number`, or the one that was active before.
    pub(crate) async fn roll_back(
        &self,
        name: TenantName,
        number: Option<u32>,
    ) -> Result<Published, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let published = roll_back(&transaction, &vault, name, number)?;
            transaction.commit()?;
            Ok(published)
        })
        .await
    }

    /// Forgets a tenant with all its revisions, routes and secrets; returns the artifacts without a reference.
    pub(crate) async fn remove(&self, name: TenantName) -> Result<Vec<Digest>, StateError> {
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let Some(head) = head(&transaction, &name)? else {
                return Err(StateError::NoTenant(name));
            };
            let artifacts = column(
                &transaction,
                "SELECT DISTINCT artifact FROM revisions WHERE tenant = ?1",
                head.id,
            )?;
            transaction.execute("DELETE FROM tenants WHERE id = ?1", [head.id])?;
            transaction.execute("DELETE FROM secrets WHERE tenant = ?1", [name.as_str()])?;
            transaction.execute("DELETE FROM arriving WHERE tenant = ?1", [name.as_str()])?;
            let forgotten = forget_artifacts(&transaction, name.as_str(), artifacts)?;
            transaction.commit()?;
            Ok(forgotten)
        })
        .await
    }
}

fn publish(
    transaction: &Transaction<'_>,
    vault: &Vault,
    new: &NewRevision,
) -> Result<Published, StateError> {
    let name = &new.resolved.name;
    let written = Written::of(new)?;
    let head = head(transaction, name)?;
    if let Some(head) = &head {
        if is_revision(transaction, head.id, head.active, &written)? {
            return Ok(Published::Unchanged);
        }
        refuse_canary(transaction, head.id, name)?;
    }
    let now = clock::now();
    let number = head.as_ref().map_or(1, |head| head.last + 1);
    let id = match &head {
        Some(head) => {
            transaction
                .prepare_cached(
                    "UPDATE tenants SET previous = active, active = ?2, last = ?2, deployed_at = ?3
                     WHERE id = ?1",
                )?
                .execute(params![head.id, number, now])?;
            head.id
        }
        None => {
            transaction
                .prepare_cached(
                    "INSERT INTO tenants (name, slot, active, last, deployed_at)
                     VALUES (?1, ?2, ?3, ?3, ?4)",
                )?
                .execute(params![name.as_str(), new.slot, number, now])?;
            transaction.last_insert_rowid()
        }
    };
    insert_revision(transaction, id, number, new, &written)?;
    take_routes(transaction, id, &new.resolved.routes)?;
    let forgotten = forget_revisions(transaction, id, name.as_str())?;
    Ok(Published::Changed { tenant: active(transaction, vault, id)?, forgotten })
}

/// A revision as it stands in the database.
pub(super) struct Written {
    digest: String,
    manifest: String,
    resolved: String,
}

impl Written {
    pub(super) fn of(new: &NewRevision) -> Result<Self, StateError> {
        let name = new.resolved.name.as_str();
        Ok(Self {
            digest: new.artifact.to_string(),
            manifest: parsed(name, serde_json::to_string(&new.manifest))?,
            resolved: parsed(name, serde_json::to_string(&new.resolved))?,
        })
    }
}

/// Whether the revision of this number is this very one.
pub(super) fn is_revision(
    connection: &Connection,
    id: i64,
    number: u32,
    written: &Written,
) -> Result<bool, StateError> {
    let Written { digest, manifest, resolved } = written;
    let same = connection
        .prepare_cached(
            "SELECT 1 FROM revisions WHERE tenant = ?1 AND number = ?2
             AND artifact = ?3 AND manifest = ?4 AND resolved = ?5",
        )?
        .exists(params![id, number, digest, manifest, resolved])?;
    Ok(same)
}

/// Writes a revision, and its artifact if that is new.
pub(super) fn insert_revision(
    transaction: &Transaction<'_>,
    id: i64,
    number: u32,
    new: &NewRevision,
    written: &Written,
) -> Result<(), StateError> {
    let Written { digest, manifest, resolved } = written;
    let now = clock::now();
    transaction
        .prepare_cached("INSERT INTO artifacts VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
        .execute(params![
            digest,
            i64::try_from(new.artifact_bytes).unwrap_or(i64::MAX),
            new.kind.as_str(),
            now
        ])?;
    transaction
        .prepare_cached("INSERT INTO revisions VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![id, number, digest, manifest, resolved, now])?;
    Ok(())
}

fn roll_back(
    transaction: &Transaction<'_>,
    vault: &Vault,
    name: TenantName,
    number: Option<u32>,
) -> Result<Published, StateError> {
    let Some(head) = head(transaction, &name)? else {
        return Err(StateError::NoTenant(name));
    };
    let Some(number) = number.or(head.previous) else {
        return Err(StateError::NoPrevious(name));
    };
    if number == head.active {
        return Ok(Published::Unchanged);
    }
    refuse_canary(transaction, head.id, &name)?;
    let known = transaction
        .prepare_cached("SELECT 1 FROM revisions WHERE tenant = ?1 AND number = ?2")?
        .exists(params![head.id, number])?;
    if !known {
        return Err(StateError::NoRevision { name, number });
    }
    transaction
        .prepare_cached(
            "UPDATE tenants SET previous = active, active = ?2, deployed_at = ?3 WHERE id = ?1",
        )?
        .execute(params![head.id, number, clock::now()])?;
    let tenant = active(transaction, vault, head.id)?;
    take_routes(transaction, head.id, &tenant.entry.routes)?;
    Ok(Published::Changed { tenant, forgotten: Vec::new() })
}

/// The tenant as the transaction has it now.
pub(super) fn active(
    connection: &Connection,
    vault: &Vault,
    id: i64,
) -> Result<Box<Tenant>, StateError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM tenants t
         JOIN revisions r ON r.tenant = t.id AND r.number = t.active
         JOIN artifacts a ON a.digest = r.artifact WHERE t.id = ?1"
    ))?;
    let mut rows = statement.query([id])?;
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    tenant_from(connection, vault, row).map(Box::new)
}

/// Makes these, and no others, the routes of a tenant.
pub(super) fn take_routes(
    transaction: &Transaction<'_>,
    id: i64,
    routes: &[Route],
) -> Result<(), StateError> {
    transaction.prepare_cached("DELETE FROM routes WHERE tenant = ?1")?.execute([id])?;
    let mut owner = transaction.prepare_cached(
        "SELECT t.name FROM routes r JOIN tenants t ON t.id = r.tenant
         WHERE r.host = ?1 AND r.prefix = ?2",
    )?;
    let mut take = transaction.prepare_cached("INSERT INTO routes VALUES (?1, ?2, ?3)")?;
    for route in routes {
        let key = params![route.host(), route.prefix()];
        let owner: Option<String> = owner.query_row(key, |row| row.get(0)).optional()?;
        if let Some(owner) = owner {
            return Err(StateError::RouteTaken { route: route.to_string(), owner });
        }
        take.execute(params![route.host(), route.prefix(), id])?;
    }
    Ok(())
}

/// Keeps the active revision, the one before it, and the newest of the others.
pub(super) fn forget_revisions(
    transaction: &Transaction<'_>,
    id: i64,
    name: &str,
) -> Result<Vec<Digest>, StateError> {
    let sql = format!(
        "DELETE FROM revisions WHERE tenant = ?1 AND number NOT IN (
            SELECT r.number FROM revisions r JOIN tenants t ON t.id = r.tenant WHERE r.tenant = ?1
            ORDER BY r.number = t.active DESC, r.number IS t.previous DESC, r.number DESC
            LIMIT {REVISIONS_KEPT_MAX})
         RETURNING artifact"
    );
    let artifacts = column(transaction, &sql, id)?;
    forget_artifacts(transaction, name, artifacts)
}

/// Of these artifacts, removes those that no revision refers to.
pub(super) fn forget_artifacts(
    transaction: &Transaction<'_>,
    name: &str,
    artifacts: Vec<String>,
) -> Result<Vec<Digest>, StateError> {
    let mut forget = transaction.prepare_cached(
        "DELETE FROM artifacts WHERE digest = ?1
         AND NOT EXISTS (SELECT 1 FROM revisions WHERE artifact = ?1)",
    )?;
    let mut forgotten = Vec::new();
    for digest in artifacts {
        if forget.execute([&digest])? > 0 {
            forgotten.push(parsed(name, digest.parse())?);
        }
    }
    Ok(forgotten)
}

fn column(connection: &Connection, sql: &str, id: i64) -> Result<Vec<String>, StateError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([id], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
