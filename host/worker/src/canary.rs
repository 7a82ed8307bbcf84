//! A revision that gets a part of its tenant's requests, to be tried.
//!
//! It is a [`Tenant`] of its own, in a slot of its own, so everything that is counted is counted apart;
//! it has no routes, and hangs on the tenant whose requests it shares. A tenant without one pays a look
//! at an empty cell; one with one pays a multiplication, or the hash of one value, for each request. No
//! lock, no allocation.

use crate::tenant::Tenant;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName};
use insula_model::rollout::{Spread, Sticky};
use insula_model::wire::CanaryOf;
use std::cell::Cell;
use std::rc::Rc;

pub(crate) struct Canary {
    pub(crate) tenant: Rc<Tenant>,
    spread: Spread,
    sticky: Option<By>,
    key: [u8; 32],
    /// Requests so far that stick by nothing.
    count: Cell<u64>,
}

enum By {
    Header(HeaderName),
    Cookie(Box<str>),
}

impl Canary {
    pub(crate) fn new(tenant: Rc<Tenant>, of: &CanaryOf) -> Self {
        let sticky = of.sticky.as_ref().and_then(|sticky| match sticky {
            // The model lets only names through that HTTP has.
            Sticky::Header(name) => name.parse().ok().map(By::Header),
            Sticky::Cookie(name) => Some(By::Cookie(name.clone())),
        });
        let spread = Spread::new(of.share);
        Self { tenant, spread, sticky, key: of.key, count: Cell::new(0) }
    }

    /// Whether it gets the request with these fields. One without the header or cookie that requests stick
    /// by is spread as any other.
    fn takes(&self, fields: &HeaderMap) -> bool {
        let value = match &self.sticky {
            None => None,
            Some(By::Header(name)) => fields.get(name).map(http::HeaderValue::as_bytes),
            Some(By::Cookie(name)) => cookie(fields, name),
        };
        match value {
            Some(value) => {
                let hash = blake3::keyed_hash(&self.key, value);
                let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
                self.spread.takes(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            None => {
                let number = self.count.get().wrapping_add(1);
                self.count.set(number);
                self.spread.takes_nth(number)
            }
        }
    }
}

/// The revision that answers a request for `tenant`.
pub(crate) fn chosen(tenant: Rc<Tenant>, fields: &HeaderMap) -> Rc<Tenant> {
    let canary = {
        let canary = tenant.canary.borrow();
        let canary = canary.as_ref().filter(|_| !tenant.stopped.get());
        canary.filter(|canary| canary.takes(fields)).map(|canary| canary.tenant.clone())
    };
    canary.unwrap_or(tenant)
}

/// The value of a cookie; the first, if there are several (RFC 6265, section 5.4).
fn cookie<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs =
        fields.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|b| *b == b';'));
    let mut values = pairs.filter_map(|pair| {
        let rest = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=").map(<[u8]>::trim_ascii_end)
    });
    values.next()
}
