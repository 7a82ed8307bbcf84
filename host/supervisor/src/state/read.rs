//! Reading state: everything at start-up, and the history of one tenant for the API.

use super::{State, StateError, rollouts, secrets};
use crate::registry::Tenant;
use crate::vault::Vault;
use insula_model::api::{GuestKind, RevisionInfo};
use insula_model::manifest::Resolved;
use insula_model::wire::TenantEntry;
use insula_model::{Digest, Manifest, TenantName};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashSet;

/// One revision in full.
#[derive(Debug)]
pub(crate) struct Revision {
    /// What was written.
    pub(crate) manifest: Manifest,
    /// Bytes of its artifact.
    pub(crate) artifact_bytes: u64,
}

/// Reads a column that this program wrote as JSON or text.
pub(super) fn parsed<T, E: ToString>(tenant: &str, value: Result<T, E>) -> Result<T, StateError> {
    value.map_err(|error| StateError::Damaged { tenant: tenant.into(), what: error.to_string() })
}

pub(super) fn kind_from(tenant: &str, text: &str) -> Result<GuestKind, StateError> {
    let kind = GuestKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    parsed(tenant, kind.ok_or_else(|| format!("unknown kind `{text}`")))
}

/// The columns of a tenant's revision, in the order of [`COLUMNS`].
pub(super) const COLUMNS: &str =
    "t.slot, t.name, r.number, r.artifact, a.kind, r.resolved, t.deployed_at, t.stopped_at";

/// Builds a tenant from [`COLUMNS`], without its secrets.
fn bare_tenant_from(row: &Row<'_>) -> Result<Tenant, StateError> {
    let name: String = row.get(1)?;
    let artifact: String = row.get(3)?;
    let kind: String = row.get(4)?;
    // Borrowed: a hundred thousand of these are read at start-up.
    let resolved = row.get_ref(5)?.as_bytes().map_err(rusqlite::Error::from)?;
    let resolved: Resolved = parsed(&name, serde_json::from_slice(resolved))?;
    let stopped_at: Option<String> = row.get(7)?;
    Ok(Tenant {
        entry: TenantEntry {
            slot: row.get(0)?,
            revision: row.get(2)?,
            digest: parsed(&name, artifact.parse())?,
            kind: kind_from(&name, &kind)?,
            routes: resolved.routes,
            limits: resolved.limits,
            job: resolved.schedule.is_some(),
            stopped: stopped_at.is_some(),
            access_log: resolved.access_log,
            canary: None,
            grants: (!resolved.grants.is_empty()).then(|| Box::new(resolved.grants)),
            secrets: Vec::new(),
            name: parsed(&name, name.parse())?,
        },
        schedule: resolved.schedule,
        namespace: resolved.namespace,
        deployed_at: row.get(6)?,
        stopped_at,
    })
}

/// Builds a tenant from [`COLUMNS`], with the secrets that it is granted.
pub(super) fn tenant_from(
    connection: &Connection,
    vault: &Vault,
    row: &Row<'_>,
) -> Result<Tenant, StateError> {
    let mut tenant = bare_tenant_from(row)?;
    if let Some(grants) = &tenant.entry.grants {
        let name = tenant.entry.name.as_str();
        tenant.entry.secrets = secrets::values(connection, vault, name, &grants.secrets)?;
    }
    Ok(tenant)
}

/// A tenant's id, active and previous revision, and last number.
pub(super) struct Head {
    pub(super) id: i64,
    pub(super) active: u32,
    pub(super) previous: Option<u32>,
    pub(super) last: u32,
}

/// The head of a tenant, if it is deployed.
pub(super) fn head(connection: &Connection, name: &TenantName) -> Result<Option<Head>, StateError> {
    let mut statement = connection
        .prepare_cached("SELECT id, active, previous, last FROM tenants WHERE name = ?1")?;
    let head = statement.query_row([name.as_str()], |row| {
        Ok(Head { id: row.get(0)?, active: row.get(1)?, previous: row.get(2)?, last: row.get(3)? })
    });
    Ok(head.optional()?)
}

impl State {
    /// Every tenant with its active revision, in the order of the file. One query. Blocks.
    pub(crate) fn load(&self, to: &mut dyn FnMut(Tenant)) -> Result<(), StateError> {
        self.load_all(to).map_err(|error| super::located(error, &self.path))
    }

    fn load_all(&self, to: &mut dyn FnMut(Tenant)) -> Result<(), StateError> {
        let connection = crate::sync::lock(&self.connection);
        let mut statement = connection.prepare(&format!(
            "SELECT {COLUMNS} FROM tenants t
             JOIN revisions r ON r.tenant = t.id AND r.number = t.active
             JOIN artifacts a ON a.digest = r.artifact ORDER BY t.id"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            to(tenant_from(&connection, &self.vault, row)?);
        }
        Ok(())
    }

    /// Every artifact that a revision refers to.
    pub(crate) async fn artifacts(&self) -> Result<HashSet<Digest>, StateError> {
        self.call(|connection| {
            let mut statement = connection.prepare("SELECT digest FROM artifacts")?;
            let mut rows = statement.query([])?;
            let mut digests = HashSet::new();
            while let Some(row) = rows.next()? {
                let digest: String = row.get(0)?;
                digests.insert(parsed("(any)", digest.parse())?);
            }
            Ok(digests)
        })
        .await
    }

    /// The active revision of a tenant in full; `None` if it is not deployed.
    pub(crate) async fn active(&self, name: TenantName) -> Result<Option<Revision>, StateError> {
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT r.manifest, a.bytes FROM tenants t
                 JOIN revisions r ON r.tenant = t.id AND r.number = t.active
                 JOIN artifacts a ON a.digest = r.artifact WHERE t.name = ?1",
            )?;
            let mut rows = statement.query([name.as_str()])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let manifest = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
            Ok(Some(Revision {
                manifest: parsed(name.as_str(), serde_json::from_slice(manifest))?,
                artifact_bytes: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
            }))
        })
        .await
    }

    /// The revisions of a tenant, newest first.
    pub(crate) async fn revisions(
        &self,
        name: TenantName,
    ) -> Result<Vec<RevisionInfo>, StateError> {
        self.call(move |connection| {
            let Some(head) = head(connection, &name)? else {
                return Err(StateError::NoTenant(name));
            };
            let mut statement = connection.prepare_cached(
                "SELECT number, artifact, created_at, resolved,
                     rule, state, started_at, ended_at, reason
                 FROM revisions r LEFT JOIN rollouts o
                     ON o.tenant = r.tenant AND o.revision = r.number
                 WHERE r.tenant = ?1 ORDER BY number DESC",
            )?;
            let mut rows = statement.query(params![head.id])?;
            let mut revisions = Vec::new();
            while let Some(row) = rows.next()? {
                let (revision, artifact): (u32, String) = (row.get(0)?, row.get(1)?);
                let resolved = row.get_ref(3)?.as_bytes().map_err(rusqlite::Error::from)?;
                let resolved: Resolved = parsed(name.as_str(), serde_json::from_slice(resolved))?;
                revisions.push(RevisionInfo {
                    revision,
                    active: revision == head.active,
                    artifact: parsed(name.as_str(), artifact.parse())?,
                    created_at: row.get(2)?,
                    routes: resolved.routes,
                    limits: resolved.limits,
                    grants: resolved.grants,
                    rollout: rollouts::info(name.as_str(), row)?,
                });
            }
            Ok(revisions)
        })
        .await
    }

    /// Artifact and plan of the revision that a rollback would put in force: `number`, or the one that
    /// was active before.
    pub(crate) async fn rollback_target(
        &self,
        name: TenantName,
        number: Option<u32>,
    ) -> Result<(Digest, Resolved), StateError> {
        self.call(move |connection| {
            let Some(head) = head(connection, &name)? else {
                return Err(StateError::NoTenant(name));
            };
            let Some(number) = number.or(head.previous) else {
                return Err(StateError::NoPrevious(name));
            };
            let mut statement = connection.prepare_cached(
                "SELECT artifact, resolved FROM revisions WHERE tenant = ?1 AND number = ?2",
            )?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let found: Option<(String, String)> =
                statement.query_row(params![head.id, number], row).optional()?;
            let Some((artifact, resolved)) = found else {
                return Err(StateError::NoRevision { name, number });
            };
            let resolved: Resolved = parsed(name.as_str(), serde_json::from_str(&resolved))?;
            Ok((parsed(name.as_str(), artifact.parse())?, resolved))
        })
        .await
    }
}
