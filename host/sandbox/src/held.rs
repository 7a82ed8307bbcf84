//! How much memory the host's side of a guest's resources takes.
//!
//! Known types are asked; what cannot be asked counts as the most that it may hold, and copies of one set of fields
//! as if each were its own. Looked at while the guest computes, at each tick of the epoch's clock: between two, a
//! guest can make some thousand small resources, or a few large ones.

use crate::state::{BODY_CHUNK_BYTES, FIELDS_BYTES_MAX};
use std::any::Any;
use wasmtime_wasi_http::p2::bindings::http::types::Method;
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::{FieldMap, p3};

/// A resource by itself, and its place in the table: streams, pollables, requests and responses are some tens of
/// bytes each, in allocations of their own.
const ENTRY_BYTES: usize = 256;
/// Fields beyond which they are not looked at one by one.
const FIELDS_ASKED_MAX: usize = 64;
/// A header map's own bytes for a field, its index included.
const FIELD_BYTES: usize = 128;

/// Bytes of one entry of a resource table.
pub(crate) fn bytes(entry: &dyn Any) -> usize {
    let more = if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        fields_bytes(fields)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let method = match &request.method {
            Method::Other(name) => name.len(),
            _ => 0,
        };
        let texts = [&request.authority, &request.path_with_query];
        let texts = texts.into_iter().flatten().map(String::len).sum::<usize>();
        fields_bytes(&request.headers) + method + texts
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        fields_bytes(&response.headers)
    } else if let Some(request) = entry.downcast_ref::<p3::Request>() {
        let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
        let authority = request.authority.as_ref().map_or(0, |name| name.as_str().len());
        fields_bytes(&request.headers) + request.method.as_str().len() + authority + path
    } else if let Some(response) = entry.downcast_ref::<p3::Response>() {
        fields_bytes(&response.headers)
    } else if entry.is::<HostOutgoingBody>() {
        // What was written and not yet taken.
        BODY_CHUNK_BYTES
    } else {
        0
    };
    ENTRY_BYTES + more
}

fn fields_bytes(fields: &http::HeaderMap) -> usize {
    if fields.len() > FIELDS_ASKED_MAX {
        return FIELDS_BYTES_MAX;
    }
    let each = fields.iter().map(|(name, value)| FIELD_BYTES + name.as_str().len() + value.len());
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn fields_count_by_what_is_in_them() {
        let mut map = HeaderMap::new();
        map.insert("a", HeaderValue::from_static("12345"));
        assert_eq!(fields_bytes(&map), FIELD_BYTES + 1 + 5);
        for n in 0..FIELDS_ASKED_MAX {
            map.append("many", HeaderValue::from(n));
        }
        assert_eq!(fields_bytes(&map), FIELDS_BYTES_MAX);
        assert_eq!(bytes(&7u32), ENTRY_BYTES);
    }
}
