//! `wasi:keyvalue`: the stores that a tenant is granted, in both drafts that toolchains know.
//!
//! Linked for every component. Without a grant `open` is refused, and a request that never opens a
//! store pays nothing. What a call may hold and how long it may take is bounded by `insula-keyvalue`;
//! open buckets and handles by the instance's resource table. One call is under way in an instance at
//! a time, so a tenant's concurrency bounds what guests have the host hold.

mod draft;
mod draft2;

use crate::state::State;
use insula_keyvalue::{Error, Space, Version};
use insula_model::grants::KeyValue;
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

/// The stores of one tenant.
#[derive(Clone)]
pub(crate) struct Granted {
    stores: Arc<[Arc<str>]>,
    /// None where there is no host behind the guest, as in `insula run`.
    space: Option<Arc<Space>>,
}

impl Granted {
    pub(super) fn new(grant: &KeyValue) -> Self {
        Self {
            stores: grant.stores.iter().map(|store| store.as_str().into()).collect(),
            space: None,
        }
    }

    pub(super) fn with(self, space: Space) -> Self {
        Self { space: Some(Arc::new(space)), ..self }
    }
}

/// An open store.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the generated bindings export it again")]
pub struct Bucket {
    space: Arc<Space>,
    store: Arc<str>,
    /// Where the listing of the older draft goes on: its cursor is a number, and this what it means.
    listed: Option<(u64, String)>,
}

/// What `swap` compares with.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the generated bindings export it again")]
pub struct Cas {
    bucket: Bucket,
    key: String,
    version: Version,
}

/// What the host functions work on.
pub(crate) struct View<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) granted: Option<&'a Granted>,
}

/// Names [`View`] to the linker.
struct Data;

impl HasData for Data {
    type Data<'a> = View<'a>;
}

/// Why `open` failed.
enum Refused {
    AccessDenied,
    NoSuchStore,
    Other(String),
}

impl View<'_> {
    fn bucket(&self, bucket: &Resource<Bucket>) -> Result<Bucket, ResourceTableError> {
        self.table.get(bucket).cloned()
    }

    fn find(&self, identifier: &str) -> Result<Bucket, Refused> {
        let granted = self.granted.ok_or(Refused::AccessDenied)?;
        let store = granted.stores.iter().find(|store| ***store == *identifier);
        let store = store.ok_or(Refused::NoSuchStore)?.clone();
        let space = granted.space.clone().ok_or_else(|| {
            Refused::Other("key-value stores belong to a host: deploy the component there".into())
        })?;
        Ok(Bucket { space, store, listed: None })
    }
}

impl Bucket {
    async fn get(&self, key: String) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.space.get(&self.store, vec![key]).await?.pop().flatten())
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.space.get(&self.store, keys.to_vec()).await
    }

    async fn set(&self, key: String, value: Vec<u8>) -> Result<(), Error> {
        self.set_many(vec![(key, value)]).await
    }

    async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        self.space.set(&self.store, pairs).await
    }

    async fn delete_many(&self, keys: Vec<String>) -> Result<(), Error> {
        self.space.delete(&self.store, keys).await
    }
}

/// Adds both drafts to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    draft2::store::add_to_linker::<_, Data>(linker, State::keyvalue)?;
    draft2::atomics::add_to_linker::<_, Data>(linker, State::keyvalue)?;
    draft2::batch::add_to_linker::<_, Data>(linker, State::keyvalue)?;
    draft::store::add_to_linker::<_, Data>(linker, State::keyvalue)?;
    draft::atomics::add_to_linker::<_, Data>(linker, State::keyvalue)?;
    draft::batch::add_to_linker::<_, Data>(linker, State::keyvalue)
}
