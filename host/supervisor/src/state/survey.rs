//! Reading a state database without being its host: no lock that anybody waits for, nothing written.

use super::copy::{found, read_only};
use super::read::parsed;
use super::{StateError, located, schema, secrets};
use crate::survey::Contents;
use crate::vault::Vault;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

/// Checks all of it and says what it holds. Without a vault, secrets are counted and not opened.
pub(crate) fn survey(path: &Path, vault: Option<&Vault>) -> Result<Contents, StateError> {
    read(path, vault).map_err(|error| located(error, path))
}

fn read(path: &Path, vault: Option<&Vault>) -> Result<Contents, StateError> {
    let connection = Connection::open_with_flags(path, read_only())?;
    connection.busy_timeout(Duration::from_millis(super::BUSY_MS_MAX))?;
    let (version, known) =
        (connection.query_row("PRAGMA user_version", [], |row| row.get(0))?, schema::known());
    if version > known {
        return Err(StateError::Newer { found: version, known });
    }
    if let Some(what) = found(&connection)? {
        return Err(StateError::Corrupt { path: path.to_path_buf(), what });
    }
    if version < known {
        // A start migrates it; its tables may not be those that are asked for here.
        return Ok(Contents { version, ..Contents::default() });
    }
    let tenants: i64 =
        connection.query_row("SELECT count(*) FROM tenants", [], |row| row.get(0))?;
    let mut contents = Contents {
        version,
        tenants: u64::try_from(tenants).unwrap_or(0),
        newest: newest(&connection)?,
        ..Contents::default()
    };
    let mut statement = connection.prepare(
        "SELECT r.artifact, t.name FROM revisions r JOIN tenants t ON t.id = r.tenant
         GROUP BY r.artifact",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (artifact, name): (String, String) = (row.get(0)?, row.get(1)?);
        contents.artifacts.insert(parsed(&name, artifact.parse())?, name);
    }
    let count: i64 = connection.query_row("SELECT count(*) FROM secrets", [], |row| row.get(0))?;
    contents.secrets = u64::try_from(count).unwrap_or(0);
    match vault.map(|vault| secrets::check(&connection, vault)) {
        None | Some(Ok(())) => {}
        Some(Err(error @ StateError::SecretsUnreadable { .. })) => {
            contents.unreadable = Some(error.to_string());
        }
        Some(Err(error)) => return Err(error),
    }
    Ok(contents)
}

/// The newest time that anything was done. RFC 3339 in UTC sorts as text.
fn newest(connection: &Connection) -> Result<Option<String>, StateError> {
    let sql = "SELECT max(at) FROM (
        SELECT max(deployed_at) AS at FROM tenants UNION ALL
        SELECT max(created_at) FROM revisions UNION ALL
        SELECT max(set_at) FROM secrets UNION ALL
        SELECT max(started_at) FROM job_runs)";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}
