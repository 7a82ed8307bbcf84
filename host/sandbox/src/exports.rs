//! Whether what a component exports under WASI's names has WASI's types.
//!
//! wasmtime's bindings look at types when an instance is made, which here would be at the first
//! request; a deploy should say it.

use insula_model::api::GuestKind;
use wasmtime::component::Resource;
use wasmtime::component::types::{Component, ComponentFunc, ComponentItem};
use wasmtime::{Engine, Result, bail};
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::p3;

/// `ty` is of a component whose imports were replaced by what the host links.
pub(crate) fn check(kind: GuestKind, engine: &Engine, ty: &Component) -> Result<()> {
    let (interface, function) = match kind {
        GuestKind::Http02 => ("wasi:http/incoming-handler@0.2.", "handle"),
        GuestKind::Http03 => ("wasi:http/handler@0.3.", "handle"),
        GuestKind::Command => ("wasi:cli/run@0.2.", "run"),
        GuestKind::Command03 => ("wasi:cli/run@0.3.", "run"),
        GuestKind::Preview1 => return Ok(()),
    };
    let Some((name, func)) = find(engine, ty, interface, function) else {
        bail!("`{interface}x` has no function `{function}`");
    };
    let cx = ty.instance_type();
    let checked = match kind {
        GuestKind::Http02 => func
            .typecheck::<(Resource<HostIncomingRequest>, Resource<HostResponseOutparam>), ()>(&cx),
        GuestKind::Http03 => func.typecheck::<(Resource<p3::Request>,), (
            Result<Resource<p3::Response>, p3::bindings::http::types::ErrorCode>,
        )>(&cx),
        _ => func.typecheck::<(), (Result<(), ()>,)>(&cx),
    };
    checked.map_err(|error| error.context(format!("`{function}` of `{name}` has another type")))
}

fn find(
    engine: &Engine,
    ty: &Component,
    interface: &str,
    function: &str,
) -> Option<(String, ComponentFunc)> {
    let (name, item) = ty.exports(engine).find(|(name, _)| name.starts_with(interface))?;
    let ComponentItem::ComponentInstance(instance) = item.ty else { return None };
    match instance.get_export(engine, function)?.ty {
        ComponentItem::ComponentFunc(func) => Some((name.to_owned(), func)),
        _ => None,
    }
}
