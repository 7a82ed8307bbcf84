//! One tenant's stores, as its guests call them.
//!
//! Every call has a bound on its size, its time and its number at once; see the constants of this
//! crate. A caller that goes away gives up the answer; a write that had not begun does not happen.

use crate::entries::{Answer, Delta, Page, Read, Version, Write};
use crate::group::{Call, Operation};
use crate::{
    BATCH_BYTES_MAX, BATCH_KEYS_MAX, CALL_MAX, Database, Error, KEY_BYTES_MAX, SPACE_WORK_MAX,
    VALUE_BYTES_MAX,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::{Semaphore, oneshot};

/// The stores of one tenant.
#[derive(Clone)]
pub struct Space {
    database: Database,
    tenant: Arc<str>,
    quota_bytes: u64,
    removed: Arc<AtomicBool>,
    /// What it may have waiting or running.
    work: Arc<Semaphore>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Space").field(&self.tenant).finish()
    }
}

impl Space {
    pub(crate) fn new(
        database: Database,
        tenant: &str,
        quota_bytes: u64,
        removed: Arc<AtomicBool>,
    ) -> Self {
        let work = Arc::new(Semaphore::new(SPACE_WORK_MAX as usize));
        Self { database, tenant: tenant.into(), quota_bytes, removed, work }
    }

    /// The values of these keys, in their order.
    ///
    /// # Errors
    /// [`Error`], also if they are too large for one answer.
    pub async fn get(
        &self,
        store: &Arc<str>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        check_keys(keys.iter())?;
        match self.call(store, Operation::Read(Read::Values(keys))).await? {
            Answer::Values(values) => Ok(values),
            _ => Err(Error::Lost),
        }
    }

    /// Whether there is a value.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn exists(&self, store: &Arc<str>, key: String) -> Result<bool, Error> {
        check_keys([&key])?;
        match self.call(store, Operation::Read(Read::Exists(key))).await? {
            Answer::Exists(exists) => Ok(exists),
            _ => Err(Error::Lost),
        }
    }

    /// Keys in order, after one of them or from the first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn keys(&self, store: &Arc<str>, after: Option<String>) -> Result<Page, Error> {
        check_keys(after.iter())?;
        match self.call(store, Operation::Read(Read::Keys { after })).await? {
            Answer::Keys(page) => Ok(page),
            _ => Err(Error::Lost),
        }
    }

    /// The version of an entry, for [`Space::swap`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn version(&self, store: &Arc<str>, key: String) -> Result<Version, Error> {
        check_keys([&key])?;
        match self.call(store, Operation::Read(Read::Version(key))).await? {
            Answer::Version(version) => Ok(version),
            _ => Err(Error::Lost),
        }
    }

    /// Sets these, all or none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set(&self, store: &Arc<str>, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        check_keys(pairs.iter().map(|(key, _)| key))?;
        for (_, value) in &pairs {
            check_value(value)?;
        }
        let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge);
        }
        self.call(store, Operation::Write(Write::Set(pairs))).await.map(drop)
    }

    /// Deletes these; one that is not there is no error.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete(&self, store: &Arc<str>, keys: Vec<String>) -> Result<(), Error> {
        check_keys(keys.iter())?;
        self.call(store, Operation::Write(Write::Delete(keys))).await.map(drop)
    }

    /// Adds to a number in decimal digits, 0 where there is none; the sum.
    ///
    /// # Errors
    /// [`Error`], also if there is something else, or the sum is out of range.
    pub async fn increment(
        &self,
        store: &Arc<str>,
        key: String,
        delta: Delta,
    ) -> Result<i128, Error> {
        check_keys([&key])?;
        match self.call(store, Operation::Write(Write::Increment(key, delta))).await? {
            Answer::Number(sum) => Ok(sum),
            _ => Err(Error::Lost),
        }
    }

    /// Sets a value if the entry still has this version; otherwise, the version it has.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn swap(
        &self,
        store: &Arc<str>,
        key: String,
        expected: Version,
        value: Vec<u8>,
    ) -> Result<Result<(), Version>, Error> {
        check_keys([&key])?;
        check_value(&value)?;
        let write = Write::Swap { key, expected, value };
        match self.call(store, Operation::Write(write)).await? {
            Answer::Done => Ok(Ok(())),
            Answer::Changed(version) => Ok(Err(version)),
            _ => Err(Error::Lost),
        }
    }

    async fn call(&self, store: &Arc<str>, operation: Operation) -> Result<Answer, Error> {
        let called = async {
            let (kib, work) = operation.cost();
            let _working = self.work.acquire_many(work).await.map_err(|_| Error::Lost)?;
            let under_way = self.database.under_way().clone();
            let share = under_way.acquire_many_owned(kib).await.map_err(|_| Error::Lost)?;
            let (answer, answered) = oneshot::channel();
            let call = Call {
                tenant: self.tenant.clone(),
                store: store.clone(),
                quota: self.quota_bytes,
                removed: self.removed.clone(),
                operation,
                answer,
                work,
                share,
            };
            self.database.queue()?.send(call).await.map_err(|_| Error::Lost)?;
            answered.await.map_err(|_| Error::Lost)?
        };
        // The answer's share of the memory bound ends here: from now on it is the guest's.
        tokio::time::timeout(CALL_MAX, called).await.map_err(|_| Error::Late)?.map(|(a, _)| a)
    }
}

fn check_keys<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    for (number, key) in keys.into_iter().enumerate() {
        if number >= BATCH_KEYS_MAX {
            return Err(Error::BatchTooLarge);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLong(key.len()));
        }
    }
    Ok(())
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    if value.len() > VALUE_BYTES_MAX { Err(Error::ValueTooLarge(value.len())) } else { Ok(()) }
}
