//! A bound on what a guest writes into a request that it may never send.
//!
//! `wasi:http` keeps the method and the authority of a request as long as a host call can be, which is
//! megabytes, for each request that a guest makes. What is longer than [`WORD_BYTES_MAX`] is refused here as
//! malformed, in the way that the interface has for it.

use crate::state::State;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p3::bindings::http::types as p3;
use wasmtime_wasi_http::{WasiHttpView, p2 as host_p2};

/// Longer than any method or host name and port (RFC 1035 has 255 bytes for a name).
const WORD_BYTES_MAX: usize = 1 << 10;

type Words = Result<(), ()>;

fn fits(word: &str) -> bool {
    word.len() <= WORD_BYTES_MAX
}

/// In place of the functions of `wasi:http` 0.2.
pub(crate) fn bound_02(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Request = Resource<host_p2::types::HostOutgoingRequest>;
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, State>, (request, method): (Request, p2::Method)| {
            if matches!(&method, p2::Method::Other(word) if !fits(word)) {
                return Ok((Words::Err(()),));
            }
            let mut http = store.data_mut().http();
            Ok((p2::HostOutgoingRequest::set_method(&mut http, request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, State>, (request, authority): (Request, Option<String>)| {
            if authority.as_deref().is_some_and(|word| !fits(word)) {
                return Ok((Words::Err(()),));
            }
            let mut http = store.data_mut().http();
            Ok((p2::HostOutgoingRequest::set_authority(&mut http, request, authority)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The same for 0.3.
pub(crate) fn bound_03(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Request = Resource<wasmtime_wasi_http::p3::Request>;
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.3.0")?;
    types.func_wrap(
        "[method]request.set-method",
        |mut store: StoreContextMut<'_, State>, (request, method): (Request, p3::Method)| {
            if matches!(&method, p3::Method::Other(word) if !fits(word)) {
                return Ok((Words::Err(()),));
            }
            let mut http = store.data_mut().http();
            Ok((p3::HostRequest::set_method(&mut http, request, method)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-authority",
        |mut store: StoreContextMut<'_, State>, (request, authority): (Request, Option<String>)| {
            if authority.as_deref().is_some_and(|word| !fits(word)) {
                return Ok((Words::Err(()),));
            }
            let mut http = store.data_mut().http();
            Ok((p3::HostRequest::set_authority(&mut http, request, authority)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
