//! Namespaces and their quotas. What tenants have of them is not here: the registry sums it.

use super::read::parsed;
use super::{State, StateError};
use crate::clock;
use insula_model::Namespace;
use insula_model::api::NAMESPACES_MAX;
use insula_model::quota::Quota;
use rusqlite::{Row, TransactionBehavior, params};

/// A namespace as it is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) name: Namespace,
    pub(crate) quota: Quota,
    pub(crate) created_at: String,
}

const COLUMNS: &str = "name, cpu_m, memory_bytes, tenants, storage_bytes, created_at";

fn kept_from(row: &Row<'_>) -> Result<Kept, StateError> {
    let name: String = row.get(0)?;
    let bound = |column| -> Result<Option<u64>, StateError> {
        let bound: Option<i64> = row.get(column)?;
        Ok(bound.map(|bound| u64::try_from(bound).unwrap_or(0)))
    };
    Ok(Kept {
        quota: Quota {
            cpu_m: bound(1)?,
            memory_bytes: bound(2)?,
            tenants: bound(3)?,
            storage_bytes: bound(4)?,
        },
        created_at: row.get(5)?,
        name: parsed(&format!("(namespace {name})"), name.parse())?,
    })
}

impl State {
    /// All of them, by name.
    pub(crate) async fn namespaces(&self) -> Result<Vec<Kept>, StateError> {
        self.call(|connection| {
            let mut select = connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM namespaces ORDER BY name"))?;
            let mut rows = select.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(kept_from(row)?);
            }
            Ok(all)
        })
        .await
    }

    /// One of them; none if it does not exist.
    pub(crate) async fn namespace(&self, name: Namespace) -> Result<Option<Kept>, StateError> {
        self.call(move |connection| {
            let mut select = connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM namespaces WHERE name = ?1"))?;
            let mut rows = select.query([name.as_str()])?;
            rows.next()?.map(kept_from).transpose()
        })
        .await
    }

    /// Makes a namespace, or gives one another quota.
    pub(crate) async fn set_namespace(
        &self,
        name: Namespace,
        quota: Quota,
    ) -> Result<Kept, StateError> {
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // SQLite's numbers are signed; nobody has more than they can count.
            let bound = |bound: Option<u64>| bound.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
            let kept = transaction
                .prepare_cached(&format!(
                    "INSERT INTO namespaces ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT DO UPDATE SET cpu_m = excluded.cpu_m,
                         memory_bytes = excluded.memory_bytes, tenants = excluded.tenants,
                         storage_bytes = excluded.storage_bytes
                     RETURNING {COLUMNS}"
                ))?
                .query_row(
                    params![
                        name.as_str(),
                        bound(quota.cpu_m),
                        bound(quota.memory_bytes),
                        bound(quota.tenants),
                        bound(quota.storage_bytes),
                        clock::now()
                    ],
                    |row| Ok(kept_from(row)),
                )??;
            let count: u32 =
                transaction.query_row("SELECT count(*) FROM namespaces", [], |row| row.get(0))?;
            if count > NAMESPACES_MAX {
                return Err(StateError::NamespacesFull(NAMESPACES_MAX));
            }
            transaction.commit()?;
            Ok(kept)
        })
        .await
    }

    /// Forgets a namespace; whether there was one. Whoever calls has made sure that it has no tenants.
    pub(crate) async fn remove_namespace(&self, name: Namespace) -> Result<bool, StateError> {
        self.call(move |connection| {
            let removed = connection
                .prepare_cached("DELETE FROM namespaces WHERE name = ?1")?
                .execute([name.as_str()])?;
            Ok(removed > 0)
        })
        .await
    }
}
