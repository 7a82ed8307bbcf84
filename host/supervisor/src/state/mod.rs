//! What is durable: tenants, revisions, routes, which artifacts they use, what jobs did, and namespaces
//! with their quotas, in `DATA/state.db`.
//!
//! Owns the one connection of the one writer. SQLite in WAL mode with `synchronous=FULL`: what was
//! acknowledged has been synced, and a kill at any instant leaves the old or the new state. Anyone may
//! read the file with `sqlite3` while the host runs.
//!
//! Every call runs on a blocking thread, one at a time; callers wait for the lock there, and there are
//! as many as the control API lets in. Ends with [`State::close`], which folds the log into the file.

mod copy;
mod moving;
mod namespaces;
mod read;
mod rollouts;
mod runs;
mod schema;
mod secrets;
mod stopped;
mod survey;
mod trial;
mod write;

use crate::sync::lock;
use crate::vault::{Vault, VaultError};
use insula_model::TenantName;
use insula_model::grants::secrets::SecretKey;
use insula_model::rollout::Percent;
use rusqlite::{Connection, ErrorCode, ffi};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use copy::restore;
pub(crate) use copy::{check_database, copy_path, database_path, is_large};
pub(crate) use moving::{Import, Secret};
pub(crate) use namespaces::Kept;
pub(crate) use rollouts::{Begun, Ended};
pub(crate) use runs::{Began, Begin, End};
pub(crate) use survey::survey;
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
    /// No room.
    #[error("the state database could not be written: {0}")]
    Full(rusqlite::Error),
    /// The disk refuses to write or to read: it is read-only, or fails.
    #[error("the state database could not be written: the disk refuses ({0})")]
    Disk(rusqlite::Error),
    /// The file is not as it was written.
    #[error("the state database {} is damaged ({what}); nothing was changed: {}", path.display(), restore_mend(path))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        what: String,
    },
    /// It is gone, or empty, although there are tenants' artifacts or a copy of it.
    #[error("the state database {} is gone, although this directory has held tenants; nothing was changed: {}", path.display(), gone_mend(path, *has_copy))]
    Gone {
        /// Where it should be.
        path: PathBuf,
        /// Whether `state.db.bak` is there.
        has_copy: bool,
    },
    /// There is nothing to restore from.
    #[error("there is no copy of the state database at {}", .0.display())]
    NoCopy(PathBuf),
    /// Somebody removed or replaced the file while the host ran. What was in force still is.
    #[error("the state database {} was removed or replaced while the host runs; nothing can be changed until it is restarted", .0.display())]
    Vanished(PathBuf),
    /// Somebody else holds a lock on the file.
    #[error("the state database is locked by another program; end what has {} open", .0.display())]
    Locked(PathBuf),
    /// A row that this version cannot have written.
    #[error(
        "the state database is damaged at tenant `{tenant}` ({what}); put its last good copy back with `insula doctor --restore`, or remove that tenant's rows with `sqlite3`"
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
    /// Something that would change what the canary is held against. Nothing was changed.
    #[error("revision {revision} of `{name}` is a canary and gets {share} of its requests")]
    CanaryRuns {
        /// The tenant.
        name: TenantName,
        /// The canary's.
        revision: u32,
        /// Its part.
        share: Percent,
    },
    /// There is no canary. Nothing was changed.
    #[error("tenant `{0}` has no canary")]
    NoCanary(TenantName),
    /// A canary that asks for routes of its own. Nothing was changed.
    #[error(
        "a canary answers where the active revision does: the routes of `{name}` cannot change from {before} to {asked}"
    )]
    CanaryRoutes {
        /// The tenant.
        name: TenantName,
        /// Those of the active revision.
        before: String,
        /// Those that were asked for.
        asked: String,
    },
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

fn restore_mend(path: &Path) -> String {
    let data = path.parent().unwrap_or(path).display();
    format!(
        "put its last good copy back with `insula doctor --restore --data {data}`, while no host runs"
    )
}

fn gone_mend(path: &Path, has_copy: bool) -> String {
    match has_copy {
        true => restore_mend(path),
        false => "put it back from a backup; to begin anew, remove the data directory".into(),
    }
}

fn unset(tenant: &str, keys: &[SecretKey]) -> String {
    let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let (secrets, were) = if keys.len() == 1 { ("secret", "was") } else { ("secrets", "were") };
    format!("{secrets} {} of tenant `{tenant}` {were} never set", names.join(", "))
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(error),
            Some(ErrorCode::SystemIoFailure) if is_no_room(&error) => Self::Full(error),
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly) => Self::Disk(error),
            _ => Self::Sqlite(error),
        }
    }
}

/// Growing the log's index says this where there is no room for it.
fn is_no_room(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHMSIZE)
}

/// A handle on the state database; clones share the connection.
#[derive(Clone)]
pub(crate) struct State {
    connection: Arc<Mutex<Connection>>,
    vault: Arc<Vault>,
    path: Arc<Path>,
    /// Which file it was at the start.
    identity: Option<(u64, u64)>,
    /// What was found wrong with it; from then on nothing is changed.
    damage: Arc<Mutex<Option<String>>>,
}

impl State {
    /// Opens or creates `DATA/state.db` (mode 0600) and brings it to this version's schema. Fails if
    /// `vault` does not open what it holds, or if the file is damaged or gone. Blocks.
    pub(crate) fn open(data: &Path, vault: Vault) -> Result<Self, StateError> {
        let path = database_path(data);
        copy::is_there(data)?;
        Self::open_there(&path, vault).map_err(|error| located(error, &path))
    }

    fn open_there(path: &Path, vault: Vault) -> Result<Self, StateError> {
        // SQLite would create it with the process's umask.
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_millis(BUSY_MS_MAX))?;
        schema::prepare(&mut connection).map_err(|error| match error {
            StateError::Sqlite(rusqlite::Error::SqliteFailure(
                ffi::Error { code: ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, .. },
                _,
            )) => StateError::Locked(path.to_path_buf()),
            other => other,
        })?;
        copy::is_sound(&connection, path)?;
        secrets::check(&connection, &vault)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            vault: Arc::new(vault),
            path: path.into(),
            identity: copy::identity(path),
            damage: Arc::default(),
        })
    }

    /// Runs `call` on a blocking thread, alone. It runs to its end even if the caller goes away.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let this = self.clone();
        let called = tokio::task::spawn_blocking(move || {
            let mut connection = lock(&this.connection);
            this.is_usable()?;
            call(&mut connection).map_err(|error| located(error, &this.path))
        });
        called.await.map_err(|_| StateError::Lost)?
    }

    /// Fails if what is written would be written to a file that nobody will find again, or that is
    /// damaged already. One look at a name, against a disk that is synced afterwards.
    fn is_usable(&self) -> Result<(), StateError> {
        if let Some(what) = &*lock(&self.damage) {
            let path = self.path.to_path_buf();
            return Err(StateError::Corrupt { path, what: what.clone() });
        }
        if copy::identity(&self.path) != self.identity {
            return Err(StateError::Vanished(self.path.to_path_buf()));
        }
        Ok(())
    }

    /// Forgets the pages that SQLite keeps of the file: the next statement reads what it needs again.
    pub(crate) async fn release_memory(&self) -> Result<(), StateError> {
        self.call(|connection| Ok(connection.execute_batch("PRAGMA shrink_memory")?)).await
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

/// Which file is damaged.
fn located(error: StateError, path: &Path) -> StateError {
    match error {
        StateError::Sqlite(error) if copy::is_damage(&error) => {
            StateError::Corrupt { path: path.to_path_buf(), what: error.to_string() }
        }
        other => other,
    }
}
