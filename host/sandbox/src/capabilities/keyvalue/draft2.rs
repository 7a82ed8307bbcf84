//! `wasi:keyvalue@0.2.0-draft2`: the proposal as it stands, with compare-and-swap.

use super::{Bucket, Cas, Refused, View};
use insula_keyvalue::{Delta, Error as Failure};
use wasmtime::Result;
use wasmtime::component::Resource;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::capabilities::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::capabilities::keyvalue::Cas,
        },
    });
}

use atomics::CasError;
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

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<Result<KeyResponse, Error>> {
        let bucket = self.bucket(&bucket)?;
        let page = bucket.space.keys(&bucket.store, cursor).await;
        Ok(page.map_err(Error::from).map(|page| KeyResponse {
            cursor: page.keys.last().filter(|_| page.more).cloned(),
            keys: page.keys,
        }))
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
        delta: i64,
    ) -> Result<Result<i64, Error>> {
        let bucket = self.bucket(&bucket)?;
        let sum = bucket.space.increment(&bucket.store, key, Delta::Signed(delta)).await;
        Ok(sum.and_then(|sum| sum.try_into().map_err(|_| Failure::Overflow)).map_err(Error::from))
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<Result<(), CasError>> {
        let mut cas = self.table.delete(cas)?;
        let bucket = &cas.bucket;
        let swapped = bucket.space.swap(&bucket.store, cas.key.clone(), cas.version, value).await;
        Ok(match swapped {
            Ok(Ok(())) => Ok(()),
            Ok(Err(version)) => {
                cas.version = version;
                Err(CasError::CasFailed(self.table.push(cas)?))
            }
            Err(failure) => Err(CasError::StoreError(failure.into())),
        })
    }
}

impl atomics::HostCas for View<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Resource<Cas>, Error>> {
        let bucket = self.bucket(&bucket)?;
        match bucket.space.version(&bucket.store, key.clone()).await {
            Ok(version) => Ok(Ok(self.table.push(Cas { bucket, key, version })?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    /// What is there now. If that is not what `new` saw, `swap` will fail.
    async fn current(&mut self, cas: Resource<Cas>) -> Result<Result<Option<Vec<u8>>, Error>> {
        let cas = self.table.get(&cas)?.clone();
        Ok(cas.bucket.get(cas.key).await.map_err(Error::from))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<(String, Option<Vec<u8>>)>, Error>> {
        let values = self.bucket(&bucket)?.get_many(&keys).await;
        Ok(values.map_err(Error::from).map(|values| keys.into_iter().zip(values).collect()))
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
