//! The end of a tenant's stores: hidden at once, erased afterwards in small steps.
//!
//! For the supervisor. A removed tenant loses its name in one short transaction, so a new tenant of
//! that name starts empty; what it held is then erased a few entries at a time, between the workers'
//! own transactions. A crash in between leaves nameless entries for the next [`purge`].

use crate::{Error, schema};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::path::Path;

/// Entries erased in one transaction.
const ERASED_AT_ONCE: u32 = 64;

/// Hides everything that this tenant stored. Blocks for one transaction.
///
/// # Errors
/// [`Error`]: the database cannot be opened or written.
pub fn hide(dir: &Path, tenant: &str) -> Result<(), Error> {
    let Some(connection) = existing(dir)? else { return Ok(()) };
    connection.execute("UPDATE tenants SET name = NULL WHERE name = ?1", [tenant])?;
    Ok(())
}

/// Hides what is stored for anybody but these tenants: a removal that a crash cut short. Blocks.
///
/// # Errors
/// [`Error`]: the database cannot be opened or written.
pub fn hide_others(dir: &Path, tenants: &BTreeSet<&str>) -> Result<(), Error> {
    let Some(connection) = existing(dir)? else { return Ok(()) };
    let mut list = connection.prepare("SELECT name FROM tenants WHERE name IS NOT NULL")?;
    let stored: Vec<String> =
        list.query_map([], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    for name in stored.iter().filter(|name| !tenants.contains(name.as_str())) {
        connection.execute("UPDATE tenants SET name = NULL WHERE name = ?1", [name])?;
    }
    Ok(())
}

/// Erases what is hidden. Blocks for as long as that takes, and nobody else for long.
///
/// # Errors
/// [`Error`]: the database cannot be opened or written. Tried again, it goes on where it was.
pub fn purge(dir: &Path) -> Result<(), Error> {
    let Some(connection) = existing(dir)? else { return Ok(()) };
    let mut list = connection.prepare("SELECT id FROM tenants WHERE name IS NULL")?;
    let hidden: Vec<i64> =
        list.query_map([], |row| row.get(0))?.collect::<Result<_, rusqlite::Error>>()?;
    let mut erase = connection.prepare(
        "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE tenant = ?1 LIMIT ?2)",
    )?;
    for tenant in hidden {
        while erase.execute(params![tenant, ERASED_AT_ONCE])? > 0 {}
        connection.execute("DELETE FROM tenants WHERE id = ?1", [tenant])?;
    }
    Ok(())
}

/// The database, if there is one.
fn existing(dir: &Path) -> Result<Option<Connection>, Error> {
    if schema::file(dir).exists() { schema::open(dir).map(Some) } else { Ok(None) }
}
