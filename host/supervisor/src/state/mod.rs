//! What is durable: tenants, revisions, routes, which artifacts they use, what jobs did, and namespaces
//! with their quotas, in `DATA/state.db`.
//!
//! Owns the one connection of the one writer. SQLite in WAL mode with `synchronous=FULL`: what was
//! acknowledged has been synced, and a kill at any instant leaves the old or the new state. Anyone may
//! read the file with `sqlite3` while the host runs.
//!
//! Every call runs on a blocking thread, one at a time; callers wait for the lock there, and there are
//! as many as the control API lets in. Ends with [`State::close`], which folds the log into the file.

mod namespaces;
mod read;
mod runs;
mod schema;
mod secrets;
mod trial;
mod write;

use crate::sync::lock;
use crate::vault::{Vault, VaultError};
use insula_model::TenantName;
use insula_model::grants::secrets::SecretKey;
use rusqlite::{Connection, ErrorCode, ffi};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use namespaces::Kept;
pub(crate) use runs::{Began, Begin, End};
pub(crate) use trial::COPY;
pub(crate) use write::{NewRevision, Published};

/// How long a statement waits for somebody who reads the file with another tool.
const BUSY_MS_MAX: u64 = 5_000;

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Written by a later Insula.
    #[error(
        "the state database has version {found}, this Insula knows up to {known}; \
         start the newer version that wrote it, or restore a copy from before the upgrade"
    )]
    Newer {
        /// `PRAGMA user_version` of the file.
        found: u32,
        /// The latest version this binary can read.
        known: u32,
    },
    /// No room, or the disk refuses to write.
    #[error("the state database could not be written: {0}")]
    Disk(rusqlite::Error),
    /// Somebody else holds a lock on the file.
    #[error("the state database is locked by another program; end what has {} open", .0.display())]
    Locked(PathBuf),
    /// A row that this version cannot have written.
    #[error(
        "the state database is damaged at tenant `{tenant}` ({what}); restore a copy, or remove that tenant's rows with `sqlite3`"
    )]
    Damaged {
        /// Whose row.
        tenant: String,
        /// What could not be read.
        what: String,
    },
    /// Any other failure of the database.
    #[error("the state database failed: {0}")]
    Sqlite(rusqlite::Error),
    /// The file itself.
    #[error("the state database could not be opened: {0}")]
    Io(#[from] io::Error),
    /// The thread that ran the call is gone: a bug.
    #[error("a call to the state database was lost")]
    Lost,
    /// A route of the new revision belongs to somebody else. Nothing was changed.
    #[error("route `{route}` belongs to tenant `{owner}`")]
    RouteTaken {
        /// The route.
        route: String,
        /// Who has it.
        owner: String,
    },
    /// No such tenant. Nothing was changed.
    #[error("no tenant is named `{0}`")]
    NoTenant(TenantName),
    /// No such revision. Nothing was changed.
    #[error("tenant `{name}` has no revision {number}")]
    NoRevision {
        /// The tenant.
        name: TenantName,
        /// What was asked for.
        number: u32,
    },
    /// Nothing was active before. Nothing was changed.
    #[error("tenant `{0}` has had one revision only, there is nothing to go back to")]
    NoPrevious(TenantName),
    /// Secrets cannot be sealed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Secrets that this host's key does not open.
    #[error(
        "{unreadable} of {all} secrets cannot be read with {key}; nothing is lost: start the host with the key that they were set with (`--secrets-key FILE`, `INSULA_SECRETS_KEY`, or `secrets.key` in the data directory)"
    )]
    SecretsUnreadable {
        /// How many.
        unreadable: u64,
        /// Of how many.
        all: u64,
        /// Which key was tried.
        key: String,
    },
    /// A revision is granted secrets without a value. Nothing was changed.
    #[error("{}", unset(tenant, keys))]
    SecretsUnset {
        /// Whose.
        tenant: String,
        /// Which; at least one.
        keys: Vec<SecretKey>,
    },
    /// No room for another secret. Nothing was changed.
    #[error("tenant `{tenant}` would have more than {what}, the most that is possible")]
    SecretsFull {
        /// Whose.
        tenant: TenantName,
        /// What there is a bound on.
        what: String,
    },
    /// Too many names have secrets and no tenant. Nothing was changed.
    #[error("{0} names that no tenant has have secrets already, as many as may wait for a deploy")]
    SecretsUndeployed(u32),
    /// No room for another namespace. Nothing was changed.
    #[error("this host has {0} namespaces, as many as it can")]
    NamespacesFull(u32),
}

fn unset(tenant: &str, keys: &[SecretKey]) -> String {
    let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let (secrets, were) = if keys.len() == 1 { ("secret", "was") } else { ("secrets", "were") };
    format!("{secrets} {} of tenant `{tenant}` {were} never set", names.join(", "))
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly) => {
                Self::Disk(error)
            }
            _ => Self::Sqlite(error),
        }
    }
}

/// A handle on the state database; clones share the connection.
#[derive(Clone)]
pub(crate) struct State {
    connection: Arc<Mutex<Connection>>,
    vault: Arc<Vault>,
}

impl State {
    /// Opens or creates `DATA/state.db` (mode 0600) and brings it to this version's schema. Fails if
    /// `vault` does not open what it holds. Blocks.
    pub(crate) fn open(data: &Path, vault: Vault) -> Result<Self, StateError> {
        let path = data.join("state.db");
        // SQLite would create it with the process's umask.
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let mut connection = Connection::open(&path)?;
        connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
        schema::prepare(&mut connection).map_err(|error| match error {
            StateError::Sqlite(rusqlite::Error::SqliteFailure(
                ffi::Error { code: ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, .. },
                _,
            )) => StateError::Locked(path),
            other => other,
        })?;
        secrets::check(&connection, &vault)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), vault: Arc::new(vault) })
    }

    /// Runs `call` on a blocking thread, alone. It runs to its end even if the caller goes away.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || call(&mut lock(&connection)))
            .await
            .map_err(|_| StateError::Lost)?
    }

    /// Folds the write-ahead log into the file, so that a copy of the file alone is whole. Everything
    /// acknowledged is durable without it.
    pub(crate) async fn close(&self) -> Result<(), StateError> {
        self.call(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            Ok(())
        })
        .await
    }
}
