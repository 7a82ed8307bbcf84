//! The copy: `DATA/state.db.bak`, a whole database that was checked, for the day when the disk damages
//! the one in use; and what is looked for before that one is used at all.
//!
//! The copy is made by a connection and a thread of its own, so nobody waits for it. It appears by rename, so
//! there always is one that was whole. Bounded: one file, as large as what the database holds.

use super::{State, StateError};
use crate::sync::lock;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::oneshot;

/// A database up to this size is checked whenever a host starts, in bytes: it takes milliseconds. A
/// larger one is checked by the first copy.
const CHECKED_AT_START_BYTES_MAX: u64 = 8 << 20;
/// How many findings are told; the first says most.
const FINDINGS_MAX: u32 = 3;

/// Where the copy lies.
pub(crate) fn copy_path(data: &Path) -> PathBuf {
    data.join("state.db.bak")
}

/// Where the database lies.
pub(crate) fn database_path(data: &Path) -> PathBuf {
    data.join("state.db")
}

/// What is wrong with a database, in SQLite's words; none if nothing is. Only reads, and may be called
/// while a host uses it. Blocks for as long as reading all of it takes.
pub(crate) fn check_database(path: &Path) -> Result<Option<String>, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, read_only())?;
    connection.busy_timeout(Duration::from_millis(super::BUSY_MS_MAX))?;
    found(&connection)
}

pub(super) fn read_only() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

pub(super) fn found(connection: &Connection) -> Result<Option<String>, rusqlite::Error> {
    let mut check = connection.prepare(&format!("PRAGMA quick_check({FINDINGS_MAX})"))?;
    let said = check.query_map([], |row| row.get::<_, String>(0))?;
    let said = match said.collect::<Result<Vec<_>, _>>() {
        Ok(said) => said,
        Err(error) if is_damage(&error) => return Ok(Some(error.to_string())),
        Err(error) => return Err(error),
    };
    Ok((said != ["ok"]).then(|| said.join("; ").replace('\n', " ")))
}

/// Whether SQLite says that the file is not as it was written.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Fails if the database is gone or empty although this directory has held tenants: SQLite would begin a
/// new one, and what the tenants had would then be removed as nobody's.
pub(super) fn is_there(data: &Path) -> Result<(), StateError> {
    let path = database_path(data);
    let bytes = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    let has_copy = copy_path(data).is_file();
    let held_tenants = || {
        let artifacts = fs::read_dir(data.join("artifacts")).into_iter().flatten().flatten();
        artifacts
            .map(|entry| entry.path())
            .any(|path| path.extension().is_some_and(|e| e == "wasm"))
    };
    if bytes == 0 && (has_copy || held_tenants()) {
        return Err(StateError::Gone { path, has_copy });
    }
    Ok(())
}

/// Whether the database is too large to be checked at each start.
pub(crate) fn is_large(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > CHECKED_AT_START_BYTES_MAX)
}

/// Fails if a database of ordinary size is damaged.
pub(super) fn is_sound(connection: &Connection, path: &Path) -> Result<(), StateError> {
    if is_large(path) {
        return Ok(());
    }
    match found(connection)? {
        None => Ok(()),
        Some(what) => Err(StateError::Corrupt { path: path.to_path_buf(), what }),
    }
}

impl State {
    /// How often anything was changed since the start.
    pub(crate) async fn changes(&self) -> Result<u64, StateError> {
        self.call(|connection| Ok(connection.total_changes())).await
    }

    /// Checks the database and replaces the copy. From the first damage on, every change is refused.
    pub(crate) async fn copy(&self, data: &Path) -> Result<(), StateError> {
        let (from, to) = (database_path(data), copy_path(data));
        let (done, copied) = oneshot::channel();
        // A thread of its own, which gives way to requests: of a large host it is seconds of work.
        std::thread::Builder::new().name("copy".into()).spawn(move || {
            give_way();
            // Nobody waits any more for a host that ends.
            let _ = done.send(copy(&from, &to));
        })?;
        let copied = copied.await.map_err(|_| StateError::Lost)?;
        if let Err(StateError::Corrupt { what, .. }) = &copied {
            *lock(&self.damage) = Some(what.clone());
        }
        copied
    }
}

/// Has the calling thread run when nobody else of its core wants to (SCHED_IDLE). Where the kernel does not
/// have it so, the work is done all the same.
fn give_way() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    if let Err(error) = set {
        tracing::debug!(?error, "the copy competes with requests");
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), StateError> {
    if let Some(what) = check_database(from)? {
        return Err(StateError::Corrupt { path: from.to_path_buf(), what });
    }
    let settled = settled_at(from);
    if settled.is_some() && settled == modified_at(to) {
        return Ok(());
    }
    let tmp = to.with_extension("bak.tmp");
    let copied = write_copy(from, &tmp, settled);
    if copied.is_err() {
        // Half a copy takes room on what may be a full disk.
        let _ = fs::remove_file(&tmp);
        return copied;
    }
    fs::rename(&tmp, to)?;
    to.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
    Ok(())
}

/// When the database was last changed, if its log holds nothing. A copy that was made of it then has the same
/// time, and needs not be made again: a host of 100,000 tenants that is only restarted has a hundred megabytes
/// less to write while it is asked the first requests.
fn settled_at(path: &Path) -> Option<SystemTime> {
    let log = fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    modified_at(path).filter(|_| log == 0)
}

fn modified_at(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

fn write_copy(from: &Path, tmp: &Path, settled: Option<SystemTime>) -> Result<(), StateError> {
    // SQLite takes an empty file, and would make one that others may read.
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(tmp)?;
    let connection = Connection::open_with_flags(from, read_only())?;
    connection.busy_timeout(Duration::from_millis(super::BUSY_MS_MAX))?;
    connection.execute("VACUUM INTO ?1", [tmp.to_string_lossy()])?;
    drop(connection);
    let file = File::open(tmp)?;
    if let Some(at) = settled.filter(|_| settled_at(from) == settled) {
        file.set_modified(at)?;
    }
    file.sync_all()?;
    match check_database(tmp)? {
        None => Ok(()),
        Some(what) => Err(StateError::Corrupt { path: tmp.to_path_buf(), what }),
    }
}

/// Puts the copy in the place of the database, which is kept beside it under the name that is returned;
/// none if there was none. To be called by whoever holds the data directory.
pub(crate) fn restore(data: &Path, suffix: &str) -> Result<Option<PathBuf>, StateError> {
    let (database, copy) = (database_path(data), copy_path(data));
    match fs::metadata(&copy) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StateError::NoCopy(copy));
        }
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    if let Some(what) = check_database(&copy)? {
        return Err(StateError::Corrupt { path: copy, what });
    }
    let kept = data.join(format!("state.db.damaged-{suffix}"));
    let there = database.exists();
    // The log first: a database without its log is older, a log without its database is nothing. Until
    // the last rename a host refuses to start, or starts with the old database.
    for ending in ["-wal", "-shm"] {
        let of = data.join(format!("state.db{ending}"));
        if of.exists() {
            fs::rename(&of, data.join(format!("state.db.damaged-{suffix}{ending}")))?;
        }
    }
    if there {
        fs::rename(&database, &kept)?;
    }
    let tmp = data.join("state.db.restored.tmp");
    fs::copy(&copy, &tmp)?;
    File::open(&tmp)?.sync_all()?;
    fs::rename(&tmp, &database)?;
    File::open(data)?.sync_all()?;
    Ok(there.then_some(kept))
}

/// Which file a path names: it tells a file from another that has taken its place.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_is_made_again_only_of_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (database_path(dir.path()), copy_path(dir.path()));
        let opened = || {
            let connection = Connection::open(&from).unwrap();
            connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
            connection
        };
        let add = "CREATE TABLE IF NOT EXISTS t (n INTEGER); INSERT INTO t VALUES (1)";
        let copied = || {
            copy(&from, &to).unwrap();
            fs::metadata(&to).unwrap().ino()
        };
        let rows = || {
            let connection = Connection::open_with_flags(&to, read_only()).unwrap();
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0)).unwrap()
        };
        opened().execute_batch(add).unwrap();
        let first = copied();
        assert_eq!((copied(), rows()), (first, 1));
        // A file system's clock may tick only every few milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        opened().execute_batch(add).unwrap();
        let second = copied();
        assert_eq!((second == first, rows()), (false, 2));
        // What is still in the log has not changed the file.
        let open = opened();
        open.execute_batch(add).unwrap();
        assert_eq!((copied() == second, rows()), (false, 3));
        open.execute_batch(add).unwrap();
        copied();
        assert_eq!(rows(), 4);
    }
}
