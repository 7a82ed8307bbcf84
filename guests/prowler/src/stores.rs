//! Doors to configuration and to key-value stores.

use crate::Door;
use config::wasi::config::store as settings;
use keyvalue::wasi::keyvalue::store;

#[path = "../../settings/src/bindings.rs"]
mod config;
#[path = "../../counter/src/bindings.rs"]
mod keyvalue;

pub fn configuration() -> Door {
    let all = settings::get_all().map_err(|why| format!("{why:?}"))?;
    crate::several(all.into_iter().map(|(key, value)| format!("{key}={value}")))
}

pub fn key(key: &str) -> Door {
    let value = settings::get(key).map_err(|why| format!("{why:?}"))?;
    value.ok_or_else(|| "it is not set".into())
}

pub fn open(name: &str) -> Door {
    let bucket = store::open(name).map_err(|why| format!("{why:?}"))?;
    bucket.set("prowler", b"was here").map_err(|why| format!("{why:?}"))?;
    Ok(name.into())
}
