//! The file, its settings and its schema.
//!
//! `PRAGMA user_version` says how many of [`MIGRATIONS`] a file has been through. Entries are only ever
//! appended. Several processes may come at once: each looks again once it has the lock.

use crate::Error;
use rusqlite::{Connection, TransactionBehavior};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// How long a transaction waits for those of other processes, in pauses. A commit takes about a
/// millisecond, so the pauses are short; SQLite's own grow to 100 ms.
const LOCK_PAUSES_MAX: i32 = 4_000;
const LOCK_PAUSE: Duration = Duration::from_micros(500);
/// Bytes that the write-ahead log keeps on disk once its content is in the file.
const LOG_BYTES_KEPT: u64 = 16 << 20;

const MIGRATIONS: [&str; 1] = [
    // 1: tenants and their entries. A tenant without a name was removed; its entries are on their way
    // out. Values stand apart from the index, so that listing keys does not read them.
    "CREATE TABLE tenants (
        id      INTEGER PRIMARY KEY,
        name    TEXT UNIQUE,
        bytes   INTEGER NOT NULL,               -- of all entries, as the quota counts them
        version INTEGER NOT NULL                -- of the latest write
     ) STRICT;

     CREATE TABLE entries (
        id      INTEGER PRIMARY KEY,
        tenant  INTEGER NOT NULL,
        store   TEXT NOT NULL,
        key     TEXT NOT NULL,
        version INTEGER NOT NULL,               -- of the write that made it what it is
        value   BLOB NOT NULL,
        UNIQUE (tenant, store, key)
     ) STRICT;",
];

/// Where the database is.
pub(crate) fn file(dir: &Path) -> PathBuf {
    dir.join("keyvalue.db")
}

/// Opens or creates the database in `dir`. Blocks.
pub(crate) fn open(dir: &Path) -> Result<Connection, Error> {
    let failed = |error: io::Error| Error::Failed(format!("{}: {error}", dir.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let path = file(dir);
    let mut connection = Connection::open(&path)?;
    // By path: opening and closing the file in any other way would drop SQLite's own locks on it.
    // The log and its index get the same mode from SQLite.
    if fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    }
    connection.busy_handler(Some(|pauses| {
        sleep(LOCK_PAUSE);
        pauses < LOCK_PAUSES_MAX
    }))?;
    keep_a_log(&connection)?;
    connection
        .query_row(&format!("PRAGMA journal_size_limit = {LOG_BYTES_KEPT}"), [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Waits here for others that do the same: a new file's change to a log needs an exclusive lock, for
/// which SQLite asks nobody's busy handler, since two that hold a read lock would wait for each other.
fn keep_a_log(connection: &Connection) -> Result<(), Error> {
    for _ in 0..LOCK_PAUSES_MAX {
        // It answers with the mode that it chose, so it is a query.
        match connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(Error::from)
        {
            Err(Error::Busy) => sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    Err(Error::Busy)
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let version = |connection: &Connection| {
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))
    };
    if version(connection)? < known {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = version(&transaction)?;
        for (number, migration) in (1u32..).zip(MIGRATIONS).skip(found as usize) {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", number)?;
        }
        transaction.commit()?;
    }
    let found = version(connection)?;
    if found > known { Err(Error::Newer { found, known }) } else { Ok(()) }
}
