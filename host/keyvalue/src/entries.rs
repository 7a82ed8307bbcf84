//! What can be done with entries, as SQL. Blocks; runs on the database's thread alone.

use crate::{BATCH_BYTES_MAX, ENTRY_BYTES, Error, KEY_BYTES_MAX, PAGE_KEYS_MAX, VALUE_BYTES_MAX};
use rusqlite::{Connection, OptionalExtension, params};

/// Which write made an entry what it is; 0 for none. Never the same twice in a tenant.
pub type Version = i64;

/// What is added to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta {
    /// The number is an `i64`.
    Signed(i64),
    /// The number is a `u64`.
    Unsigned(u64),
}

/// Keys of a store, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most [`PAGE_KEYS_MAX`].
    pub keys: Vec<String>,
    /// Whether there are more, after the last of these.
    pub more: bool,
}

/// A question.
#[derive(Debug)]
pub(crate) enum Read {
    Values(Vec<String>),
    Exists(String),
    Keys { after: Option<String> },
    Version(String),
}

/// A change.
#[derive(Debug)]
pub(crate) enum Write {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
    Increment(String, Delta),
    Swap { key: String, expected: Version, value: Vec<u8> },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Values(Vec<Option<Vec<u8>>>),
    Exists(bool),
    Keys(Page),
    Version(Version),
    Done,
    Number(i128),
    /// The entry had changed; its version now.
    Changed(Version),
}

impl Read {
    /// How many keys it looks for, and the most bytes that its answer may have.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Values(keys) => (keys.len(), BATCH_BYTES_MAX.min(keys.len() * VALUE_BYTES_MAX)),
            Self::Exists(_) | Self::Version(_) => (1, 0),
            Self::Keys { .. } => (PAGE_KEYS_MAX, PAGE_KEYS_MAX * KEY_BYTES_MAX),
        }
    }
}

impl Write {
    /// How many keys it changes, and the bytes that it carries.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Set(pairs) => {
                (pairs.len(), pairs.iter().map(|(key, value)| key.len() + value.len()).sum())
            }
            Self::Delete(keys) => (keys.len(), keys.iter().map(String::len).sum()),
            Self::Increment(key, _) => (1, key.len()),
            Self::Swap { key, value, .. } => (1, key.len() + value.len()),
        }
    }
}

impl Answer {
    /// What it holds in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Values(values) => values.iter().flatten().map(Vec::len).sum(),
            Self::Keys(page) => page.keys.iter().map(String::len).sum(),
            _ => 0,
        }
    }
}

pub(crate) fn read(
    connection: &Connection,
    tenant: &str,
    store: &str,
    read: &Read,
) -> Result<Answer, Error> {
    let id = tenant_id(connection, tenant)?;
    Ok(match read {
        Read::Values(keys) => {
            let mut left = BATCH_BYTES_MAX;
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                let value = value(connection, id, store, key)?;
                let bytes = value.as_ref().map_or(0, Vec::len);
                left = left.checked_sub(bytes).ok_or(Error::BatchTooLarge)?;
                values.push(value);
            }
            Answer::Values(values)
        }
        Read::Exists(key) => Answer::Exists(entry(connection, id, store, key)?.is_some()),
        Read::Version(key) => {
            Answer::Version(entry(connection, id, store, key)?.map_or(0, |entry| entry.version))
        }
        Read::Keys { after } => Answer::Keys(page(connection, id, store, after.as_deref())?),
    })
}

/// Does all of it or, with an error, nothing: the caller's savepoint sees to that.
pub(crate) fn write(
    connection: &Connection,
    tenant: &str,
    store: &str,
    quota: u64,
    write: &Write,
) -> Result<Answer, Error> {
    let mut account = Account::open(connection, tenant)?;
    let before = account.bytes;
    let answer = match write {
        Write::Set(pairs) => {
            for (key, value) in pairs {
                account.put(connection, store, key, value)?;
            }
            Answer::Done
        }
        Write::Delete(keys) => {
            for key in keys {
                account.delete(connection, store, key)?;
            }
            Answer::Done
        }
        Write::Increment(key, delta) => {
            let old = value(connection, account.id, store, key)?;
            let sum = sum(old.as_deref(), *delta)?;
            account.put(connection, store, key, sum.to_string().as_bytes())?;
            Answer::Number(sum)
        }
        Write::Swap { key, expected, value } => {
            let found = entry(connection, account.id, store, key)?.map_or(0, |entry| entry.version);
            if found != *expected {
                return Ok(Answer::Changed(found));
            }
            account.put(connection, store, key, value)?;
            Answer::Done
        }
    };
    // Whoever is above a quota that was lowered may still make things smaller.
    let would = u64::try_from(account.bytes).unwrap_or(0);
    if would > quota && account.bytes > before {
        return Err(Error::Quota { would, quota });
    }
    account.close(connection)?;
    Ok(answer)
}

fn sum(old: Option<&[u8]>, delta: Delta) -> Result<i128, Error> {
    let old = match old {
        None => 0,
        Some(digits) => std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<i128>().ok())
            .ok_or(Error::NotANumber)?,
    };
    let (delta, range) = match delta {
        Delta::Signed(delta) => (i128::from(delta), i128::from(i64::MIN)..=i128::from(i64::MAX)),
        Delta::Unsigned(delta) => (i128::from(delta), 0..=i128::from(u64::MAX)),
    };
    let sum = old.checked_add(delta).ok_or(Error::Overflow)?;
    if range.contains(&sum) { Ok(sum) } else { Err(Error::Overflow) }
}

/// A tenant's row, during one write.
pub(crate) struct Account {
    id: i64,
    bytes: i64,
    version: Version,
}

impl Account {
    pub(crate) fn open(connection: &Connection, tenant: &str) -> Result<Self, Error> {
        let mut find =
            connection.prepare_cached("SELECT id, bytes, version FROM tenants WHERE name = ?1")?;
        let found = find
            .query_row([tenant], |row| {
                Ok(Self { id: row.get(0)?, bytes: row.get(1)?, version: row.get(2)? })
            })
            .optional()?;
        if let Some(account) = found {
            return Ok(account);
        }
        let mut insert = connection
            .prepare_cached("INSERT INTO tenants (name, bytes, version) VALUES (?1, 0, 0)")?;
        Ok(Self { id: insert.insert([tenant])?, bytes: 0, version: 0 })
    }

    pub(crate) fn put(
        &mut self,
        connection: &Connection,
        store: &str,
        key: &str,
        value: &[u8],
    ) -> Result<(), Error> {
        self.version += 1;
        let old = entry(connection, self.id, store, key)?;
        match old {
            Some(old) => {
                let mut update = connection
                    .prepare_cached("UPDATE entries SET version = ?2, value = ?3 WHERE id = ?1")?;
                update.execute(params![old.id, self.version, value])?;
                self.bytes -= old.bytes;
            }
            None => {
                let mut insert = connection.prepare_cached(
                    "INSERT INTO entries (tenant, store, key, version, value)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                insert.execute(params![self.id, store, key, self.version, value])?;
            }
        }
        self.bytes += counted(key, value.len());
        Ok(())
    }

    fn delete(&mut self, connection: &Connection, store: &str, key: &str) -> Result<(), Error> {
        if let Some(old) = entry(connection, self.id, store, key)? {
            let mut delete = connection.prepare_cached("DELETE FROM entries WHERE id = ?1")?;
            delete.execute([old.id])?;
            self.bytes -= old.bytes;
        }
        Ok(())
    }

    pub(crate) fn close(self, connection: &Connection) -> Result<(), Error> {
        let mut update = connection
            .prepare_cached("UPDATE tenants SET bytes = ?2, version = ?3 WHERE id = ?1")?;
        update.execute(params![self.id, self.bytes, self.version])?;
        Ok(())
    }
}

/// An entry without its value.
struct Entry {
    id: i64,
    version: Version,
    /// As the quota counts it.
    bytes: i64,
}

fn counted(key: &str, value_bytes: usize) -> i64 {
    i64::try_from(ENTRY_BYTES + key.len() + value_bytes).unwrap_or(i64::MAX)
}

fn entry(
    connection: &Connection,
    tenant: i64,
    store: &str,
    key: &str,
) -> Result<Option<Entry>, Error> {
    let mut find = connection.prepare_cached(
        "SELECT id, version, length(value) FROM entries
         WHERE tenant = ?1 AND store = ?2 AND key = ?3",
    )?;
    let found = find.query_row(params![tenant, store, key], |row| {
        let value_bytes = usize::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        Ok(Entry { id: row.get(0)?, version: row.get(1)?, bytes: counted(key, value_bytes) })
    });
    Ok(found.optional()?)
}

fn value(
    connection: &Connection,
    tenant: i64,
    store: &str,
    key: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let mut find = connection.prepare_cached(
        "SELECT value FROM entries WHERE tenant = ?1 AND store = ?2 AND key = ?3",
    )?;
    Ok(find.query_row(params![tenant, store, key], |row| row.get(0)).optional()?)
}

fn page(
    connection: &Connection,
    tenant: i64,
    store: &str,
    after: Option<&str>,
) -> Result<Page, Error> {
    // No key is before the empty one, so `>=` from it begins at the beginning.
    let sql = match after {
        None => {
            "SELECT key FROM entries WHERE tenant = ?1 AND store = ?2 AND key >= ?3 ORDER BY key LIMIT ?4"
        }
        Some(_) => {
            "SELECT key FROM entries WHERE tenant = ?1 AND store = ?2 AND key > ?3 ORDER BY key LIMIT ?4"
        }
    };
    let mut list = connection.prepare_cached(sql)?;
    let limit = i64::try_from(PAGE_KEYS_MAX + 1).unwrap_or(i64::MAX);
    let rows = list.query_map(params![tenant, store, after.unwrap_or(""), limit], |row| {
        row.get::<_, String>(0)
    })?;
    let mut keys = rows.collect::<Result<Vec<_>, _>>()?;
    let more = keys.len() > PAGE_KEYS_MAX;
    keys.truncate(PAGE_KEYS_MAX);
    Ok(Page { keys, more })
}

/// The row of a tenant that has written something; one that nobody has, otherwise.
fn tenant_id(connection: &Connection, tenant: &str) -> Result<i64, Error> {
    let mut find = connection.prepare_cached("SELECT id FROM tenants WHERE name = ?1")?;
    Ok(find.query_row([tenant], |row| row.get(0)).optional()?.unwrap_or(-1))
}
