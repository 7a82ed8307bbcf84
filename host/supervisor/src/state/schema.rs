//! The schema and its migrations.
//!
//! `PRAGMA user_version` says how many of [`MIGRATIONS`] a file has been through; the rest are applied
//! at start-up, each in a transaction of its own together with its number. Entries are only ever
//! appended.

use super::StateError;
use rusqlite::{Connection, TransactionBehavior};

const MIGRATIONS: [&str; 8] = [
    // 1: artifacts, tenants, revisions, routes.
    "CREATE TABLE artifacts (
        digest      TEXT PRIMARY KEY,           -- sha256:…
        bytes       INTEGER NOT NULL,
        kind        TEXT NOT NULL,              -- http-0.2, http-0.3
        created_at  TEXT NOT NULL               -- RFC 3339, as all times
     ) STRICT, WITHOUT ROWID;

     CREATE TABLE tenants (
        id          INTEGER PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        slot        INTEGER NOT NULL UNIQUE,    -- row of the shared table
        active      INTEGER NOT NULL,           -- revision that requests go to
        previous    INTEGER,                    -- revision that was active before
        last        INTEGER NOT NULL,           -- highest number given; numbers are never reused
        deployed_at TEXT NOT NULL,              -- when `active` became so
        FOREIGN KEY (id, active) REFERENCES revisions (tenant, number)
            DEFERRABLE INITIALLY DEFERRED
     ) STRICT;

     CREATE TABLE revisions (
        tenant      INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
        number      INTEGER NOT NULL,
        artifact    TEXT NOT NULL REFERENCES artifacts (digest),
        manifest    TEXT NOT NULL,              -- JSON, as written
        resolved    TEXT NOT NULL,              -- JSON, defaults filled in
        created_at  TEXT NOT NULL,
        PRIMARY KEY (tenant, number)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX revisions_by_artifact ON revisions (artifact);

     CREATE TABLE routes (                      -- of active revisions
        host        TEXT NOT NULL,
        prefix      TEXT NOT NULL,
        tenant      INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
        PRIMARY KEY (host, prefix)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX routes_by_tenant ON routes (tenant);",
    // 2: secrets. By name, since they may be set before the tenant's first deploy.
    "CREATE TABLE secrets (
        tenant      TEXT NOT NULL,
        key         TEXT NOT NULL,
        sealed      BLOB NOT NULL,              -- nonce, ciphertext, tag; see vault.rs
        set_at      TEXT NOT NULL,
        PRIMARY KEY (tenant, key)
     ) STRICT, WITHOUT ROWID;",
    // 3: what jobs did.
    "CREATE TABLE job_runs (
        tenant      INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
        run         INTEGER NOT NULL,           -- 1, 2, 3 … of each tenant; never reused
        revision    INTEGER NOT NULL,
        cause       TEXT NOT NULL,              -- schedule, request
        started_at  TEXT NOT NULL,
        ended_at    TEXT,                       -- none while it runs
        result      TEXT,                       -- exit N, or why it was ended
        PRIMARY KEY (tenant, run)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX job_runs_unended ON job_runs (tenant) WHERE ended_at IS NULL;",
    // 4: namespaces. Which one a tenant is in stands in its revisions: `$.namespace` of `resolved`, or
    // else `default`.
    "CREATE TABLE namespaces (
        name          TEXT PRIMARY KEY,
        cpu_m         INTEGER,                  -- sums over its tenants; none is no bound
        memory_bytes  INTEGER,
        tenants       INTEGER,
        storage_bytes INTEGER,
        created_at    TEXT NOT NULL
     ) STRICT, WITHOUT ROWID;
     INSERT INTO namespaces (name, created_at)
        VALUES ('default', strftime('%Y-%m-%dT%H:%M:%SZ', 'now'));",
    // 5: canaries, those that run and what became of the others.
    "CREATE TABLE rollouts (
        tenant      INTEGER NOT NULL,
        revision    INTEGER NOT NULL,
        slot        INTEGER UNIQUE,             -- row of the shared table; none when it has ended
        rule        TEXT NOT NULL,              -- JSON: its part of the requests, and its bounds
        key         BLOB NOT NULL,              -- of the hash by which requests stick
        state       TEXT NOT NULL,              -- running, promoted, rolled-back
        started_at  TEXT NOT NULL,
        ended_at    TEXT,                       -- none while it runs
        reason      TEXT,                       -- why it ended
        PRIMARY KEY (tenant, revision),
        FOREIGN KEY (tenant, revision) REFERENCES revisions (tenant, number) ON DELETE CASCADE
     ) STRICT, WITHOUT ROWID;
     CREATE UNIQUE INDEX rollouts_running ON rollouts (tenant) WHERE ended_at IS NULL;",
    // 6: tenants that were stopped.
    "ALTER TABLE tenants ADD COLUMN stopped_at TEXT; -- none while it may run",
    // 7: imported tenants that are yet to be given their stores and scratch directories.
    "CREATE TABLE arriving (
        tenant      TEXT PRIMARY KEY,
        staged      TEXT NOT NULL               -- the name that these are under
     ) STRICT, WITHOUT ROWID;",
    // 8: what was counted of canaries, so that they go on where they were.
    "ALTER TABLE rollouts ADD COLUMN counted TEXT; -- JSON; none if an earlier version began it",
];

/// The latest version that this program knows.
pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// How many migrations a file lacks.
pub(super) fn missing(connection: &Connection) -> Result<usize, StateError> {
    let known = known();
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StateError::Newer { found, known });
    }
    Ok((known - found) as usize)
}

/// Sets the connection up and applies the migrations that the file has not seen.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StateError> {
    // `journal_mode` answers with the mode it chose, so it is a query.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    let applied = MIGRATIONS.len() - missing(connection)?;
    for (number, migration) in (1u32..).zip(MIGRATIONS).skip(applied) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_database_of_before_namespaces_gets_the_default_one() {
        let mut connection = Connection::open_in_memory().unwrap();
        for migration in &MIGRATIONS[..3] {
            connection.execute_batch(migration).unwrap();
        }
        connection.pragma_update(None, "user_version", 3).unwrap();
        let tenant = "BEGIN;
            INSERT INTO artifacts VALUES ('sha256:0', 8, 'http-0.2', '2026-01-01T00:00:00Z');
            INSERT INTO tenants VALUES (1, 'old', 0, 1, NULL, 1, '2026-01-01T00:00:00Z');
            INSERT INTO revisions VALUES (1, 1, 'sha256:0', '{}', '{}', '2026-01-01T00:00:00Z');
            COMMIT;";
        connection.execute_batch(tenant).unwrap();
        // A second start changes nothing more.
        for _ in 0..2 {
            prepare(&mut connection).unwrap();
            let namespaces: (String, Option<i64>, u32) = connection
                .query_row(
                    "SELECT name, memory_bytes, (SELECT count(*) FROM namespaces) FROM namespaces",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                )
                .unwrap();
            assert_eq!(namespaces, ("default".into(), None, 1));
            let old: String =
                connection.query_row("SELECT name FROM tenants", [], |row| row.get(0)).unwrap();
            assert_eq!(old, "old");
        }
    }
}
