//! `wasi:config/store`: the manifest's `config`, and secrets delivered there. Read only.
//!
//! Linked for every component; empty where nothing is granted. Values are never shown by the host.

use wasmtime::component::HasData;

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit/p3",
        world: "wasi:config/imports",
        imports: { default: trappable },
    });
}

pub(crate) use generated::wasi::config::store::add_to_linker;
use generated::wasi::config::store::{Error, Host};

/// The tenant's configuration, by key. At most what a manifest may hold, so a walk finds it soonest.
pub(crate) struct View<'a>(pub(crate) &'a [(String, String)]);

/// Names [`View`] to the linker.
pub(crate) struct Data;

impl HasData for Data {
    type Data<'a> = View<'a>;
}

impl Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        let found = self.0.iter().find(|(granted, _)| *granted == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.0.to_vec()))
    }
}
