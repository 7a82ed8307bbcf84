//! What every guest is linked with: all of WASI, with nothing behind what was not granted.
//!
//! Standard libraries import environment, arguments, preopens, stdio and even sockets whether or not
//! the program uses them. They find an empty environment, no directory and no network. Anything else
//! that a component imports is missing, and its deploy fails by name.

use crate::capabilities::{config, keyvalue};
use crate::engine::Flavour;
use crate::files;
use crate::state::State;
use crate::words;
use wasmtime::Engine;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi_io::bindings::wasi::io;

/// Host state that is the resource table alone.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

pub(crate) fn baseline(engine: &Engine, flavour: Flavour) -> wasmtime::Result<Linker<State>> {
    let mut linker: Linker<State> = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // Streams and pollables need the resource table only. Bound to that, they do not make a request
    // pay for a WASI context it never uses (see `state`).
    linker.allow_shadowing(true);
    io::error::add_to_linker::<_, Table>(&mut linker, |state| &mut state.table)?;
    io::poll::add_to_linker::<_, Table>(&mut linker, |state| &mut state.table)?;
    io::streams::add_to_linker::<_, Table>(&mut linker, |state| &mut state.table)?;
    files::link_02(&mut linker)?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    words::bound_02(&mut linker)?;
    config::add_to_linker::<_, config::Data>(&mut linker, State::config)?;
    keyvalue::add_to_linker(&mut linker)?;
    if flavour == Flavour::Wasi03 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        linker.allow_shadowing(true);
        files::link_03(&mut linker)?;
        linker.allow_shadowing(false);
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        words::bound_03(&mut linker)?;
    }
    Ok(linker)
}
