//! `wasi:keyvalue@0.2.0-draft`: the version that was tagged, and that wasmtime itself offers.
//!
//! It differs in the cursor of `list-keys` (a number), in `increment` (unsigned) and in the shape of
//! `get-many`, and has no compare-and-swap.

use super::{Bucket, Refused, View};
use insula_keyvalue::{Delta, Error as Failure};
use wasmtime::Result;
use wasmtime::component::Resource;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/older/keyvalue",
        world: "imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::capabilities::keyvalue::Bucket },
    });
}

pub(super) use generated::wasi::keyvalue::{atomics, batch, store};
use store::{Error, KeyResponse};

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Removed => Self::AccessDenied,
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::AccessDenied => Self::AccessDenied,
            Refused::NoSuchStore => Self::NoSuchStore,
            Refused::Other(why) => Self::Other(why),
        }
    }
}

impl store::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Result<Result<Resource<Bucket>, Error>> {
        match self.find(&identifier) {
            Ok(bucket) => Ok(Ok(self.table.push(bucket)?)),
            Err(refused) => Ok(Err(refused.into())),
        }
    }
}

impl store::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, Error>> {
        Ok(self.bucket(&bucket)?.get(key).await.map_err(Error::from))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), Error>> {
        Ok(self.bucket(&bucket)?.set(key, value).await.map_err(Error::from))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Result<(), Error>> {
        Ok(self.bucket(&bucket)?.delete_many(vec![key]).await.map_err(Error::from))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, Error>> {
        let bucket = self.bucket(&bucket)?;
        Ok(bucket.space.exists(&bucket.store, key).await.map_err(Error::from))
    }

    /// A cursor is how many keys came before, and holds for the page after the latest one.
    async fn list_keys(
        &mut self,
        handle: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<Result<KeyResponse, Error>> {
        let bucket = self.bucket(&handle)?;
        let (before, after) = match (cursor, bucket.listed) {
            (None, _) => (0, None),
            (Some(cursor), Some((known, after))) if cursor == known => (known, Some(after)),
            (Some(_), _) => {
                let why =
                    "the cursor is not that of this bucket's latest page; list from the start";
                return Ok(Err(Error::Other(why.into())));
            }
        };
        let page = match bucket.space.keys(&bucket.store, after).await {
            Ok(page) => page,
            Err(failure) => return Ok(Err(failure.into())),
        };
        let listed = page.keys.last().filter(|_| page.more).cloned();
        let listed = listed.map(|last| (before + page.keys.len() as u64, last));
        let cursor = listed.as_ref().map(|(cursor, _)| *cursor);
        self.table.get_mut(&handle)?.listed = listed;
        Ok(Ok(KeyResponse { keys: page.keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Result<Result<u64, Error>> {
        let bucket = self.bucket(&bucket)?;
        let sum = bucket.space.increment(&bucket.store, key, Delta::Unsigned(delta)).await;
        Ok(sum.and_then(|sum| sum.try_into().map_err(|_| Failure::Overflow)).map_err(Error::from))
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<Option<(String, Vec<u8>)>>, Error>> {
        let values = self.bucket(&bucket)?.get_many(&keys).await;
        Ok(values.map_err(Error::from).map(|values| {
            let pairs = keys.into_iter().zip(values);
            pairs.map(|(key, value)| value.map(|value| (key, value))).collect()
        }))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<Result<(), Error>> {
        Ok(self.bucket(&bucket)?.set_many(pairs).await.map_err(Error::from))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<(), Error>> {
        Ok(self.bucket(&bucket)?.delete_many(keys).await.map_err(Error::from))
    }
}
