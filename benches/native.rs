//! The native twin of `hello` (`benches/peer`): found, or built.

use crate::containers;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Names a twin that is built already.
pub const VARIABLE: &str = "INSULA_BENCH_PEER";

/// A static binary that plays the roles of `benches/peer`: the one that [`VARIABLE`] names, or one built from
/// this repository.
pub fn twin() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(VARIABLE) {
        let given = std::path::absolute(given)?;
        ensure!(given.is_file(), "{VARIABLE} names {}, which is no file", given.display());
        return Ok(given);
    }
    let peer = containers::build_peer().with_context(|| {
        format!("the native twin is built with cargo from Insula's sources, or named by {VARIABLE}")
    })?;
    Ok(peer)
}
