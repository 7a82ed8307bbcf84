//! Header fields at the edge: what belongs to the connection, and what a client may not claim.
//!
//! RFC 9110, section 7.6.1: fields named by `Connection`, and those that concern one hop, are not
//! passed on. RFC 7239 for `Forwarded`. What a client says about itself in those fields is dropped,
//! since the next reader could not tell it from ours.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::{IpAddr, SocketAddr};

/// Fields of one hop that `Connection` need not name (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// What only a proxy may say; here that is us.
const CLAIMED: [HeaderName; 6] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
];

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const FAULT: HeaderName = HeaderName::from_static("insula-fault");

/// Removes what concerns one hop only.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            // Naming `Host` or the body's length in `Connection` is an attack, not a request.
            if name != header::HOST && name != header::CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes a request's fields fit for a guest.
pub(crate) fn prepare_request(headers: &mut HeaderMap, id: &HeaderValue, forwarded: &HeaderValue) {
    strip_hop_by_hop(headers);
    for name in CLAIMED {
        headers.remove(name);
    }
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(header::FORWARDED, forwarded.clone());
}

/// `Forwarded` for one connection; addresses with colons are quoted (RFC 7239, section 6).
pub(crate) fn forwarded(peer: SocketAddr) -> HeaderValue {
    let text = match peer.ip() {
        IpAddr::V4(ip) => format!("for={ip};proto=http"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto=http"),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("for=unknown;proto=http"))
}

/// Bytes of a request's head as a tenant's limit counts them.
pub(crate) fn head_bytes(parts: &http::request::Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
    target + field_bytes(&parts.headers)
}

/// Bytes of all fields.
pub(crate) fn field_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// The length a response declares: none, or one number. A second value, or anything else, would let
/// two readers disagree about where the body ends (RFC 9112, section 6.3).
pub(crate) fn one_content_length(headers: &HeaderMap) -> Option<Option<u64>> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(_), None) => content_length(headers).map(Some),
        (Some(_), Some(_)) => None,
    }
}

/// The declared length of a body, if it is declared and readable.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    // `parse` alone would take a sign.
    value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok())?
}
