//! A tenant's stores on their way out of a host, and into one.
//!
//! For the supervisor. Out: one read transaction, so what is written is what the stores were at one
//! instant, and nobody waits for it. In: under another name first, a few entries in each transaction; then
//! [`adopt`] gives them to their tenant in one. What a crash leaves under another name is no tenant's, so
//! the next start hides and erases it as it does with removed ones.
//!
//! An entry is three lengths (store, key, value; little-endian, 4 bytes each) and the bytes of the three.

use crate::entries::Account;
use crate::{Error, KEY_BYTES_MAX, VALUE_BYTES_MAX, schema};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// The longest name of a store that is read, in bytes.
const STORE_BYTES_MAX: usize = 1 << 10;
/// Entries in one transaction.
const STAGED_AT_ONCE: usize = 64;

/// Writes everything that a tenant has stored; how many entries, or none if it never stored anything.
/// Blocks.
///
/// # Errors
/// [`Error`]: the database cannot be read, or `to` not be written.
pub fn export(dir: &Path, tenant: &str, to: &mut dyn Write) -> Result<Option<u64>, Error> {
    if !schema::file(dir).exists() {
        return Ok(None);
    }
    let mut connection = schema::open(dir)?;
    let transaction = connection.transaction()?;
    let id: Option<i64> = transaction
        .query_row("SELECT id FROM tenants WHERE name = ?1", [tenant], |row| row.get(0))
        .optional()?;
    let Some(id) = id else { return Ok(None) };
    let mut select = transaction
        .prepare("SELECT store, key, value FROM entries WHERE tenant = ?1 ORDER BY store, key")?;
    let mut rows = select.query([id])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let text = |column| row.get_ref(column).and_then(|value| Ok(value.as_str()?.as_bytes()));
        let value = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        put(to, [text(0)?, text(1)?, value]).map_err(|error| failed(&error))?;
        count += 1;
    }
    Ok(Some(count))
}

fn put(to: &mut dyn Write, parts: [&[u8]; 3]) -> io::Result<()> {
    for part in parts {
        let length = u32::try_from(part.len()).map_err(io::Error::other)?;
        to.write_all(&length.to_le_bytes())?;
    }
    parts.iter().try_for_each(|part| to.write_all(part))
}

/// Stores entries under the name `staged`, in place of what was there; how many. Nothing to read is an
/// empty store. Blocks.
///
/// # Errors
/// [`Error`]: the database cannot be written, or `from` is not what [`export`] writes.
pub fn stage(dir: &Path, staged: &str, from: Option<&mut dyn Read>) -> Result<u64, Error> {
    if from.is_none() && !schema::file(dir).exists() {
        return Ok(0);
    }
    let mut connection = schema::open(dir)?;
    connection.execute("UPDATE tenants SET name = NULL WHERE name = ?1", [staged])?;
    Account::open(&connection, staged)?;
    let Some(from) = from else { return Ok(0) };
    let mut count = 0;
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut account = Account::open(&transaction, staged)?;
        let mut batch = 0;
        while batch < STAGED_AT_ONCE
            && let Some((store, key, value)) = next(from).map_err(|error| failed(&error))?
        {
            account.put(&transaction, &store, &key, &value)?;
            batch += 1;
        }
        account.close(&transaction)?;
        transaction.commit()?;
        count += batch as u64;
        if batch < STAGED_AT_ONCE {
            return Ok(count);
        }
    }
}

/// The next entry; none at the end.
fn next(from: &mut dyn Read) -> io::Result<Option<(String, String, Vec<u8>)>> {
    let mut lengths = [[0; 4]; 3];
    let mut first = [0; 1];
    if from.read(&mut first)? == 0 {
        return Ok(None);
    }
    lengths[0][0] = first[0];
    from.read_exact(&mut lengths[0][1..])?;
    from.read_exact(&mut lengths[1])?;
    from.read_exact(&mut lengths[2])?;
    let mut part = |length: [u8; 4], most: usize| {
        let length = u32::from_le_bytes(length) as usize;
        if length > most {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "an entry is larger than it may be",
            ));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let store = part(lengths[0], STORE_BYTES_MAX)?;
    let key = part(lengths[1], KEY_BYTES_MAX)?;
    let value = part(lengths[2], VALUE_BYTES_MAX)?;
    let text =
        |bytes| String::from_utf8(bytes).map_err(|_| io::Error::from(ErrorKind::InvalidData));
    Ok(Some((text(store)?, text(key)?, value)))
}

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull => Error::DiskFull,
        _ => Error::Failed(error.to_string()),
    }
}

/// Gives `tenant` what is under the name `staged`, in place of what it had; nothing if nothing is there, so
/// that it can be done again. Blocks for one transaction.
///
/// # Errors
/// [`Error`]: the database cannot be opened or written.
pub fn adopt(dir: &Path, staged: &str, tenant: &str) -> Result<(), Error> {
    if !schema::file(dir).exists() {
        return Ok(());
    }
    let mut connection: Connection = schema::open(dir)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let there: bool =
        transaction.prepare("SELECT 1 FROM tenants WHERE name = ?1")?.exists([staged])?;
    if there {
        transaction.execute("UPDATE tenants SET name = NULL WHERE name = ?1", [tenant])?;
        transaction
            .execute("UPDATE tenants SET name = ?2 WHERE name = ?1", params![staged, tenant])?;
    }
    Ok(transaction.commit()?)
}
