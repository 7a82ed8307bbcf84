//! `DATA/usage.db`: a row for each hour in which a tenant used something.
//!
//! A database of its own, so that no deploy waits for a bill. SQLite in WAL mode with `synchronous=FULL`: what
//! is written stays written. Calls run on a blocking thread, one at a time.

use super::{Key, Query};
use crate::sync::lock;
use insula_model::api::{UsageBy, UsageRow};
use insula_model::usage::{FIGURES, Used};
use rusqlite::{
    Connection, OptionalExtension, TransactionBehavior, params_from_iter, types::Value,
};
use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a statement waits for somebody who reads the file with another tool.
const BUSY_MS_MAX: u64 = 5_000;
/// `PRAGMA user_version` of the tables below.
const VERSION: u32 = 2;
/// What the first version lacks.
const MIGRATION: &str = "ALTER TABLE usage ADD COLUMN bytes_outbound INTEGER NOT NULL DEFAULT 0";
/// A sum of these may pass what SQLite can hold, so it is made of two parts: this many lower bits, and the rest.
const LOW_BITS: u32 = 20;

/// Why usage could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Written by a later Insula.
    #[error(
        "the usage database {} has version {found}, this Insula knows {VERSION}; start the newer version that wrote it, or move it away",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Any failure of the database.
    #[error(
        "the usage database, usage.db, failed: {0}; if it is damaged, move it out of the data directory: a new one is begun"
    )]
    Sqlite(#[from] rusqlite::Error),
    /// The file itself.
    #[error("the usage database could not be opened: {0}")]
    Io(#[from] std::io::Error),
    /// The thread that ran the call is gone: a bug.
    #[error("a call to the usage database was lost")]
    Lost,
}

#[derive(Clone)]
pub(super) struct Ledger(Arc<Mutex<Connection>>);

fn schema() -> String {
    let figures = Used::NAMES.map(|name| format!("{name} INTEGER NOT NULL, ")).concat();
    format!(
        "CREATE TABLE usage (
            hour INTEGER NOT NULL,      -- since 1970
            tenant TEXT NOT NULL,
            namespace TEXT NOT NULL,
            {figures}
            PRIMARY KEY (hour, tenant, namespace)
         ) STRICT, WITHOUT ROWID"
    )
}

/// Brings the tables to this version. Not when they are opened: a host that is upgraded and gives everything
/// back leaves them as the version before knows them, and nobody reads or writes them until one goes on.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == VERSION {
        return Ok(());
    }
    let change = if found == 0 { schema() } else { MIGRATION.into() };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(&change)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// SQLite's whole numbers are signed; what passes 2^63 in one hour is cut.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Ledger {
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        // SQLite would create it with the process's umask.
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > VERSION {
            return Err(LedgerError::Newer { path: path.to_path_buf(), found });
        }
        if found == 0 {
            migrate(&mut connection)?;
        }
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let connection = Arc::clone(&self.0);
        let called = tokio::task::spawn_blocking(move || call(&mut lock(&connection)));
        Ok(called.await.map_err(|_| LedgerError::Lost)??)
    }

    /// Adds to the rows of these hours: all of it, or nothing.
    pub(super) async fn add(&self, grown: HashMap<Key, Used>) -> Result<(), LedgerError> {
        let places = vec!["?"; FIGURES + 3].join(", ");
        let added = Used::NAMES.map(|name| format!("{name} = {name} + excluded.{name}")).join(", ");
        let sql = format!("INSERT INTO usage VALUES ({places}) ON CONFLICT DO UPDATE SET {added}");
        self.call(move |connection| {
            migrate(connection)?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut statement = transaction.prepare_cached(&sql)?;
                for (key, used) in grown {
                    let names = [key.tenant.to_string(), key.namespace.to_string()];
                    let row = [Value::Integer(number(key.hour))]
                        .into_iter()
                        .chain(names.map(Value::Text))
                        .chain(used.figures().map(|figure| Value::Integer(number(figure))));
                    statement.execute(params_from_iter(row))?;
                }
            }
            transaction.commit()
        })
        .await
    }

    /// Sums, by name.
    pub(super) async fn sums(&self, query: Query) -> Result<Vec<UsageRow>, LedgerError> {
        let sums = Used::NAMES
            .map(|name| {
                format!("sum({name} >> {LOW_BITS}), sum({name} & {})", (1u64 << LOW_BITS) - 1)
            })
            .join(", ");
        let group = match query.by {
            UsageBy::Tenant => "namespace, tenant",
            UsageBy::Namespace => "namespace",
        };
        let tenant = if query.by == UsageBy::Tenant { "tenant" } else { "NULL" };
        let some = vec!["?"; query.tenants.len()].join(", ");
        let only = if query.tenants.is_empty() {
            String::new()
        } else {
            format!("AND tenant IN ({some})")
        };
        let sql = format!(
            "SELECT namespace, {tenant}, {sums} FROM usage WHERE hour >= ? AND hour < ? {only}
             GROUP BY {group} ORDER BY {group}"
        );
        self.call(move |connection| {
            migrate(connection)?;
            let hours = [query.from, query.until].map(|hour| Value::Integer(number(hour)));
            let names = query.tenants.iter().map(|name| Value::Text(name.to_string()));
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(hours.into_iter().chain(names)))?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let mut figures = [0u128; FIGURES];
                for (figure, at) in figures.iter_mut().zip((2usize..).step_by(2)) {
                    let (high, low): (i64, i64) = (row.get(at)?, row.get(at + 1)?);
                    let part = |part: i64| u128::try_from(part).unwrap_or(0);
                    *figure = (part(high) << LOW_BITS) + part(low);
                }
                all.push(shown(row.get(0)?, row.get(1)?, figures));
            }
            Ok(all)
        })
        .await
    }

    pub(super) async fn first_hour(&self) -> Result<Option<u64>, LedgerError> {
        self.call(|connection| {
            let first: Option<Option<i64>> = connection
                .query_row("SELECT min(hour) FROM usage", [], |row| row.get(0))
                .optional()?;
            Ok(first.flatten().and_then(|hour| u64::try_from(hour).ok()))
        })
        .await
    }

    pub(super) async fn forget_before(&self, hour: u64) -> Result<(), LedgerError> {
        self.call(move |connection| {
            connection.execute("DELETE FROM usage WHERE hour < ?1", [number(hour)]).map(drop)
        })
        .await
    }

    /// Folds the write-ahead log into the file.
    pub(super) async fn close(&self) -> Result<(), LedgerError> {
        self.call(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
        .await
    }
}

/// A row in the units of the API.
fn shown(namespace: String, tenant: Option<String>, figures: [u128; FIGURES]) -> UsageRow {
    let all = figures.map(|figure| u64::try_from(figure).unwrap_or(u64::MAX));
    let [requests, responses, client_faults, guest_faults, host_faults, shed, fuel, ..] = all;
    let [.., cpu_ns, _, bytes_in, bytes_out, bytes_outbound] = all;
    let [.., memory_kib_us, _, _, _] = figures;
    UsageRow {
        tenant,
        namespace,
        requests,
        responses,
        client_faults,
        guest_faults,
        host_faults,
        shed,
        fuel,
        cpu_us: cpu_ns / 1_000,
        memory_byte_seconds: u64::try_from(memory_kib_us * 1_024 / 1_000_000).unwrap_or(u64::MAX),
        bytes_in,
        bytes_out,
        bytes_outbound,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(hour: u64, tenant: &str, namespace: &str) -> Key {
        Key { hour, tenant: tenant.parse().unwrap(), namespace: namespace.parse().unwrap() }
    }

    #[tokio::test]
    async fn hours_add_up_by_tenant_and_by_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage.db");
        let ledger = Ledger::open(&path).unwrap();
        let used = |requests, cpu_ns| Used { requests, cpu_ns, ..Used::default() };
        for hour in [10, 11, 11] {
            let rows = [
                (key(hour, "a", "default"), used(1, 1_500)),
                (key(hour, "b", "default"), used(10, u64::MAX >> 2)),
                (key(hour, "c", "team"), used(100, 0)),
            ];
            ledger.add(rows.into_iter().collect()).await.unwrap();
        }
        let ask = |from, until, by, tenants: &[&str]| {
            let tenants = tenants.iter().map(|name| name.parse().unwrap()).collect();
            let ledger = ledger.clone();
            async move {
                let rows = ledger.sums(Query { from, until, by, tenants }).await.unwrap();
                rows.iter()
                    .map(|r| {
                        (r.tenant.clone().unwrap_or(r.namespace.clone()), r.requests, r.cpu_us)
                    })
                    .collect::<Vec<_>>()
            }
        };
        let by_tenant = ask(0, 100, UsageBy::Tenant, &[]).await;
        let three = 3 * ((u64::MAX >> 2) / 1_000);
        assert_eq!(by_tenant[0], ("a".into(), 3, 4));
        assert!(by_tenant[1].1 == 30 && by_tenant[1].2 >= three, "{by_tenant:?}");
        assert_eq!(by_tenant[2], ("c".into(), 300, 0));
        let by_namespace = ask(0, 100, UsageBy::Namespace, &[]).await;
        assert_eq!((by_namespace[0].1, by_namespace[1].1), (33, 300));
        assert_eq!(ask(11, 12, UsageBy::Tenant, &["a", "c"]).await[1].1, 200);
        assert_eq!(ask(12, 99, UsageBy::Tenant, &[]).await, []);
        ledger.forget_before(11).await.unwrap();
        assert_eq!(ledger.first_hour().await.unwrap(), Some(11));
        // Opened again, it is all there.
        drop(ledger);
        let again = Ledger::open(&path).unwrap();
        let query = Query { until: 99, ..Query::default() };
        assert_eq!(again.sums(query).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn what_an_earlier_version_wrote_is_kept_and_only_changed_when_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage.db");
        let old = Connection::open(&path).unwrap();
        let before = schema().replace("bytes_outbound INTEGER NOT NULL, ", "");
        old.execute_batch(&before).unwrap();
        let ten = "INSERT INTO usage VALUES (10, 'a', 'default', 7, 7, 0, 0, 0, 0, 1, 1, 1, 1, 99)";
        old.execute_batch(&format!("{ten}; PRAGMA user_version = 1")).unwrap();
        let version =
            || -> u32 { old.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap() };
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(version(), 1);
        let used = Used { requests: 1, bytes_outbound: 5, ..Used::default() };
        ledger.add([(key(10, "a", "default"), used)].into_iter().collect()).await.unwrap();
        assert_eq!(version(), VERSION);
        let rows = ledger.sums(Query { until: 99, ..Query::default() }).await.unwrap();
        assert_eq!((rows[0].requests, rows[0].bytes_out, rows[0].bytes_outbound), (8, 99, 5));
    }
}
