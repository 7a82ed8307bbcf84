//! Canaries: begun, promoted, rolled back, and what became of each. Each change is one transaction.
//!
//! A tenant has one at a time. Its revision is a revision like any other; the row in `rollouts` says that
//! it gets a part of the requests, and stays when it has ended, for as long as the revision is kept.

use super::read::{COLUMNS, head, parsed, tenant_from};
use super::write::{Written, active, forget_revisions, insert_revision, is_revision, take_routes};
use super::{NewRevision, State, StateError};
use crate::clock;
use crate::registry::{Canary, Done, Tenant};
use crate::rollouts::Counted;
use crate::vault::Vault;
use insula_model::api::{RolloutInfo, RolloutState};
use insula_model::rollout::Rollout;
use insula_model::wire::CanaryOf;
use insula_model::{Digest, Route, TenantName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What beginning a canary did.
pub(crate) enum Begun {
    /// The active revision is this very one.
    Active,
    /// The canary that runs is this very one.
    Unchanged,
    /// It runs.
    Changed {
        /// To be put in force.
        canary: Box<Canary>,
        /// Artifacts without a reference now.
        forgotten: Vec<Digest>,
    },
}

/// How a canary ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It becomes the active revision.
    Promoted,
    /// The active revision stays.
    RolledBack,
}

impl Ended {
    fn state(self) -> RolloutState {
        match self {
            Self::Promoted => RolloutState::Promoted,
            Self::RolledBack => RolloutState::RolledBack,
        }
    }
}

/// The canary's columns of a running rollout, behind those of its revision.
const CANARIES: &str =
    "SELECT {}, o.slot, o.rule, o.key, o.started_at, t.slot, o.counted FROM rollouts o
    JOIN tenants t ON t.id = o.tenant
    JOIN revisions r ON r.tenant = o.tenant AND r.number = o.revision
    JOIN artifacts a ON a.digest = r.artifact WHERE o.ended_at IS NULL";

fn canary_from(
    connection: &Connection,
    vault: &Vault,
    row: &Row<'_>,
) -> Result<Canary, StateError> {
    let first = COLUMNS.split(',').count();
    let mut tenant = tenant_from(connection, vault, row)?;
    let name = tenant.entry.name.to_string();
    let rule: String = row.get(first + 1)?;
    let rollout: Rollout = parsed(&name, serde_json::from_str(&rule))?;
    let key: Vec<u8> = row.get(first + 2)?;
    let key = key.try_into().map_err(|_| "the key of a canary is not 32 bytes long");
    let since: String = row.get(first + 3)?;
    let of = CanaryOf {
        slot: row.get(first + 4)?,
        share: rollout.share,
        sticky: rollout.sticky.clone(),
        key: parsed(&name, key)?,
    };
    tenant.entry.slot = row.get(first)?;
    tenant.entry.canary = Some(Box::new(of));
    tenant.deployed_at.clone_from(&since);
    let counted: Option<String> = row.get(first + 5)?;
    let before = match counted {
        Some(counted) => parsed(&name, serde_json::from_str(&counted))?,
        // It was begun by an earlier version, which writes nothing down.
        None => {
            let since_ms = clock::to_millis(&since).unwrap_or_default();
            Counted { tried_ms: clock::now_ms().saturating_sub(since_ms), ..Counted::default() }
        }
    };
    let counts_from = Instant::now();
    Ok(Canary {
        tenant: Arc::new(tenant),
        rollout,
        since,
        active_before: Done::default(),
        before,
        counts_from,
    })
}

/// The canary of a tenant, as the database has it now.
fn canary(connection: &Connection, vault: &Vault, id: i64) -> Result<Option<Canary>, StateError> {
    let sql = format!("{} AND o.tenant = ?1", CANARIES.replace("{}", COLUMNS));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(|row| canary_from(connection, vault, row)).transpose()
}

/// Revision and rule of a tenant's canary.
fn running(
    connection: &Connection,
    id: i64,
    name: &TenantName,
) -> Result<Option<(u32, Rollout)>, StateError> {
    let found: Option<(u32, String)> = connection
        .prepare_cached(
            "SELECT revision, rule FROM rollouts WHERE tenant = ?1 AND ended_at IS NULL",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let rule = |(revision, rule): (u32, String)| {
        parsed(name.as_str(), serde_json::from_str(&rule)).map(|rule| (revision, rule))
    };
    found.map(rule).transpose()
}

/// An error if a tenant has a canary.
pub(super) fn refuse_canary(
    connection: &Connection,
    id: i64,
    name: &TenantName,
) -> Result<(), StateError> {
    match running(connection, id, name)? {
        None => Ok(()),
        Some((revision, Rollout { share, .. })) => {
            Err(StateError::CanaryRuns { name: name.clone(), revision, share })
        }
    }
}

/// What became of a revision as a canary, from the columns that `revisions` reads.
pub(super) fn info(name: &str, row: &Row<'_>) -> Result<Option<RolloutInfo>, StateError> {
    let Some(rule): Option<String> = row.get("rule")? else { return Ok(None) };
    let Rollout { share, .. } = parsed(name, serde_json::from_str(&rule))?;
    let word: String = row.get("state")?;
    let state = RolloutState::ALL.into_iter().find(|state| state.as_str() == word);
    Ok(Some(RolloutInfo {
        state: parsed(name, state.ok_or_else(|| format!("unknown state `{word}`")))?,
        share,
        started_at: row.get("started_at")?,
        ended_at: row.get("ended_at")?,
        reason: row.get("reason")?,
    }))
}

impl State {
    /// Every canary that runs. Blocks.
    pub(crate) fn load_canaries(&self) -> Result<Vec<Canary>, StateError> {
        let connection = crate::sync::lock(&self.connection);
        let mut statement = connection.prepare(&CANARIES.replace("{}", COLUMNS))?;
        let mut rows = statement.query([])?;
        let mut canaries = Vec::new();
        while let Some(row) = rows.next()? {
            canaries.push(canary_from(&connection, &self.vault, row)?);
        }
        Ok(canaries)
    }

    /// A tenant's canary, with the secrets that it has now.
    pub(crate) async fn canary(&self, name: TenantName) -> Result<Option<Canary>, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| match head(connection, &name)? {
            Some(head) => canary(connection, &vault, head.id),
            None => Ok(None),
        })
        .await
    }

    /// Whether this very revision is active, or is the canary: then deploying it changes nothing.
    pub(crate) async fn is_in_force(&self, new: NewRevision) -> Result<bool, StateError> {
        self.call(move |connection| {
            let name = &new.resolved.name;
            let Some(head) = head(connection, name)? else { return Ok(false) };
            let written = Written::of(&new)?;
            let canary = running(connection, head.id, name)?.map(|(revision, _)| revision);
            for number in [head.active].into_iter().chain(canary) {
                if is_revision(connection, head.id, number, &written)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// Writes a revision that gets a part of the requests, in a slot of its own (`new.slot`): all of it,
    /// durably, or nothing.
    pub(crate) async fn begin_canary(
        &self,
        new: NewRevision,
        rollout: Rollout,
    ) -> Result<Begun, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let begun = begin(&transaction, &vault, &new, &rollout)?;
            transaction.commit()?;
            Ok(begun)
        })
        .await
    }

    /// Writes down what was counted of these canaries, unless they have ended, or more of it is there already.
    pub(crate) async fn count_canaries(
        &self,
        counted: HashMap<(TenantName, u32), Counted>,
    ) -> Result<(), StateError> {
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut update = transaction.prepare_cached(
                "UPDATE rollouts SET counted = ?3 WHERE revision = ?2 AND ended_at IS NULL
                 AND tenant = (SELECT id FROM tenants WHERE name = ?1)
                 AND coalesce(counted ->> '$.tried_ms', 0) <= ?4",
            )?;
            for ((name, revision), counted) in counted {
                let text = parsed(name.as_str(), serde_json::to_string(&counted))?;
                let tried_ms = i64::try_from(counted.tried_ms).unwrap_or(i64::MAX);
                update.execute(params![name.as_str(), revision, text, tried_ms])?;
            }
            drop(update);
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Ends a canary: it becomes the active revision, or the one that is stays. Returns the tenant as it
    /// is then.
    pub(crate) async fn end_canary(
        &self,
        name: TenantName,
        ended: Ended,
        reason: String,
    ) -> Result<Box<Tenant>, StateError> {
        let vault = self.vault.clone();
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let tenant = end(&transaction, &vault, &name, ended, &reason)?;
            transaction.commit()?;
            Ok(tenant)
        })
        .await
    }
}

fn begin(
    transaction: &Transaction<'_>,
    vault: &Vault,
    new: &NewRevision,
    rollout: &Rollout,
) -> Result<Begun, StateError> {
    let name = &new.resolved.name;
    let Some(head) = head(transaction, name)? else {
        return Err(StateError::NoTenant(name.clone()));
    };
    let written = Written::of(new)?;
    if is_revision(transaction, head.id, head.active, &written)? {
        return Ok(Begun::Active);
    }
    if let Some((revision, _)) = running(transaction, head.id, name)?
        && is_revision(transaction, head.id, revision, &written)?
    {
        return Ok(Begun::Unchanged);
    }
    refuse_canary(transaction, head.id, name)?;
    let before = active(transaction, vault, head.id)?.entry.routes;
    let asked = &new.resolved.routes;
    if before.len() != asked.len() || !before.iter().all(|route| asked.contains(route)) {
        let (before, asked) = (listed(&before), listed(asked));
        return Err(StateError::CanaryRoutes { name: name.clone(), before, asked });
    }
    let number = head.last + 1;
    transaction
        .prepare_cached("UPDATE tenants SET last = ?2 WHERE id = ?1")?
        .execute(params![head.id, number])?;
    insert_revision(transaction, head.id, number, new, &written)?;
    let rule = parsed(name.as_str(), serde_json::to_string(rollout))?;
    let nothing = parsed(name.as_str(), serde_json::to_string(&Counted::default()))?;
    transaction
        .prepare_cached(
            "INSERT INTO rollouts (tenant, revision, slot, rule, key, state, started_at, counted)
             VALUES (?1, ?2, ?3, ?4, randomblob(32), 'running', ?5, ?6)",
        )?
        .execute(params![head.id, number, new.slot, rule, clock::now(), nothing])?;
    let forgotten = forget_revisions(transaction, head.id, name.as_str())?;
    let canary = canary(transaction, vault, head.id)?;
    let canary = canary.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok(Begun::Changed { canary: Box::new(canary), forgotten })
}

fn end(
    transaction: &Transaction<'_>,
    vault: &Vault,
    name: &TenantName,
    ended: Ended,
    reason: &str,
) -> Result<Box<Tenant>, StateError> {
    let Some(head) = head(transaction, name)? else {
        return Err(StateError::NoTenant(name.clone()));
    };
    let Some((revision, _)) = running(transaction, head.id, name)? else {
        return Err(StateError::NoCanary(name.clone()));
    };
    let now = clock::now();
    transaction
        .prepare_cached(
            "UPDATE rollouts SET slot = NULL, state = ?3, ended_at = ?4, reason = ?5
             WHERE tenant = ?1 AND revision = ?2",
        )?
        .execute(params![head.id, revision, ended.state().as_str(), now, reason])?;
    if ended == Ended::Promoted {
        transaction
            .prepare_cached(
                "UPDATE tenants SET previous = active, active = ?2, deployed_at = ?3 WHERE id = ?1",
            )?
            .execute(params![head.id, revision, now])?;
    }
    let tenant = active(transaction, vault, head.id)?;
    take_routes(transaction, head.id, &tenant.entry.routes)?;
    Ok(tenant)
}

fn listed(routes: &[Route]) -> String {
    routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
