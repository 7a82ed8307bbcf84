//! A tenant as it is kept while nobody asks for it: its own bytes, and those that it has in common with others.
//!
//! Of 100,000 deployed tenants most are idle, and most differ in name, artifact and revision only. Each of them
//! is some fifty bytes of its own; what it may use and reach is kept once for all that are alike.

use crate::access_log::Sample;
use crate::api::GuestKind;
use crate::wire::TenantEntry;
use crate::{Digest, Grants, Limits, Route};
use serde::{Deserialize, Serialize};
use std::borrow::{Borrow, Cow};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Of those kept once, so many are there at least before it is looked whether anybody still needs them.
const SWEPT_FROM: usize = 64;

/// What is a tenant's own.
#[derive(Serialize, Deserialize)]
struct Own<'a> {
    name: &'a str,
    revision: u32,
    digest: Digest,
    /// None for [`Route::default_for`] its name, as most have it.
    routes: Option<Cow<'a, [Route]>>,
}

impl<'a> Own<'a> {
    /// And what stands behind it.
    fn of(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        postcard::take_from_bytes(bytes).ok()
    }

    fn into_routes(self) -> Option<Vec<Route>> {
        match self.routes {
            Some(routes) => Some(routes.into_owned()),
            None => Some(vec![Route::default_for(&self.name.parse().ok()?)]),
        }
    }
}

/// What many have in common.
#[derive(Serialize)]
struct Alike<'a> {
    kind: GuestKind,
    limits: &'a Limits,
    grants: Option<&'a Grants>,
    job: bool,
    stopped: bool,
    access_log: Option<Sample>,
}

/// The same, unpacked; the same fields in the same order.
#[derive(Deserialize)]
struct Unpacked {
    kind: GuestKind,
    limits: Limits,
    grants: Option<Box<Grants>>,
    job: bool,
    stopped: bool,
    access_log: Option<Sample>,
}

/// What a tenant has in common with others, encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Common(Box<[u8]>);

impl Common {
    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug)]
struct Shared(Arc<Common>);

impl Borrow<[u8]> for Shared {
    fn borrow(&self) -> &[u8] {
        &self.0.0
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}

impl Eq for Shared {}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (*self.0.0).hash(hasher);
    }
}

/// Each [`Common`] once. Bounded by twice as many as are in use.
#[derive(Debug, Default)]
pub struct Commons {
    all: HashSet<Shared>,
    swept: usize,
}

impl Commons {
    /// The one with these bytes.
    pub fn share(&mut self, bytes: &[u8]) -> Arc<Common> {
        if let Some(shared) = self.all.get(bytes) {
            return Arc::clone(&shared.0);
        }
        if self.all.len() >= SWEPT_FROM.max(2 * self.swept) {
            self.all.retain(|shared| Arc::strong_count(&shared.0) > 1);
            self.swept = self.all.len();
        }
        let common = Arc::new(Common(bytes.into()));
        self.all.insert(Shared(Arc::clone(&common)));
        common
    }
}

/// A tenant in few bytes. `B` is `Box<[u8]>`, or `Arc<[u8]>` where it is handed around.
#[derive(Debug, Clone)]
pub struct Packed<B> {
    own: B,
    common: Arc<Common>,
}

impl<B: AsRef<[u8]> + From<Vec<u8>>> Packed<B> {
    /// Packs a tenant and, behind what is its own, `rest`. None for a canary, and for whoever is granted
    /// secrets: a value that is no longer needed is erased from memory only as a
    /// [`crate::grants::secrets::SecretValue`].
    pub fn new(entry: &TenantEntry, rest: &[u8], commons: &mut Commons) -> Option<Self> {
        if !entry.secrets.is_empty() || entry.canary.is_some() {
            return None;
        }
        let usual = [Route::default_for(&entry.name)];
        let own = Own {
            name: entry.name.as_str(),
            revision: entry.revision,
            digest: entry.digest,
            routes: (entry.routes != usual).then(|| Cow::from(&entry.routes)),
        };
        let alike = Alike {
            kind: entry.kind,
            limits: &entry.limits,
            grants: entry.grants.as_deref(),
            job: entry.job,
            stopped: entry.stopped,
            access_log: entry.access_log,
        };
        let mut bytes = postcard::to_stdvec(&own).ok()?;
        bytes.extend_from_slice(rest);
        let common = commons.share(&postcard::to_stdvec(&alike).ok()?);
        Some(Self { own: bytes.into(), common })
    }

    /// From what was sent: [`Packed::bare`], and the other's [`Common::as_bytes`] shared.
    pub fn received(own: Vec<u8>, common: Arc<Common>) -> Self {
        Self { own: own.into(), common }
    }

    /// What is its own, without the rest.
    pub fn bare(&self) -> &[u8] {
        let own = self.own.as_ref();
        let rest = Own::of(own).map_or(0, |(_, rest)| rest.len());
        own.get(..own.len() - rest).unwrap_or(own)
    }

    /// Bytes of its own, the rest included.
    pub fn bytes(&self) -> usize {
        self.own.as_ref().len()
    }

    /// What it has in common with others.
    pub fn common(&self) -> &Arc<Common> {
        &self.common
    }

    /// Its name; empty if these bytes are no tenant.
    pub fn name(&self) -> &str {
        Own::of(self.own.as_ref()).map_or("", |(own, _)| own.name)
    }

    /// Where it answers; nowhere if these bytes are no tenant.
    pub fn routes(&self) -> Vec<Route> {
        Own::of(self.own.as_ref()).and_then(|(own, _)| own.into_routes()).unwrap_or_default()
    }

    /// What was packed, and the rest; none if these bytes are no tenant. The slot is not in them.
    pub fn unpack(&self, slot: u32) -> Option<(TenantEntry, &[u8])> {
        let (own, rest) = Own::of(self.own.as_ref())?;
        let alike: Unpacked = postcard::from_bytes(&self.common.0).ok()?;
        let entry = TenantEntry {
            slot,
            name: own.name.parse().ok()?,
            revision: own.revision,
            digest: own.digest,
            kind: alike.kind,
            routes: own.into_routes()?,
            limits: alike.limits,
            grants: alike.grants,
            secrets: Vec::new(),
            job: alike.job,
            stopped: alike.stopped,
            access_log: alike.access_log,
            canary: None,
        };
        Some((entry, rest))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Ceilings, Manifest};
    use serde_json::{Value, json};

    fn entry(manifest: Value) -> TenantEntry {
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let resolved = manifest.resolve(&Ceilings::default()).unwrap();
        TenantEntry {
            slot: 70_000,
            name: resolved.name,
            revision: 3,
            digest: Digest([9; 32]),
            kind: GuestKind::Http02,
            routes: resolved.routes,
            limits: resolved.limits,
            grants: (!resolved.grants.is_empty()).then(|| Box::new(resolved.grants)),
            secrets: Vec::new(),
            stopped: false,
            job: false,
            access_log: resolved.access_log,
            canary: None,
        }
    }

    fn rich() -> TenantEntry {
        entry(json!({
            "name": "rich", "component": "a.wasm", "routes": ["example.org/a", "example.org/b"],
            "env": {"A": "B"}, "reuse": {"requests": 10, "idle": "1s"}, "access_log": "1%",
            "cpu": {"request": "100m", "limit": "500m"}, "keyvalue": {"quota": "1Mi"},
        }))
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let mut commons = Commons::default();
        let mut stopped = entry(json!({"name": "stopped", "component": "a.wasm"}));
        (stopped.stopped, stopped.job) = (true, true);
        let elsewhere =
            entry(json!({"name": "elsewhere", "component": "a.wasm", "routes": ["example.net"]}));
        for entry in
            [entry(json!({"name": "plain", "component": "a.wasm"})), rich(), stopped, elsewhere]
        {
            let packed = Packed::<Arc<[u8]>>::new(&entry, b"and more", &mut commons).unwrap();
            assert_eq!(packed.unpack(70_000).unwrap(), (entry.clone(), &b"and more"[..]));
            assert_eq!(
                (packed.name(), packed.routes()),
                (entry.name.as_str(), entry.routes.clone())
            );
            // … on the other side as well.
            let common = Commons::default().share(packed.common().as_bytes());
            let there = Packed::<Box<[u8]>>::received(packed.bare().to_vec(), common);
            assert_eq!(there.unpack(70_000).unwrap(), (entry, &b""[..]));
        }
    }

    #[test]
    fn a_plain_tenant_has_few_bytes_of_its_own() {
        let mut commons = Commons::default();
        let name = "a-name-of-some-length";
        let mut pack = |name: &str| {
            let entry = entry(json!({"name": name, "component": "a.wasm"}));
            Packed::<Box<[u8]>>::new(&entry, b"", &mut commons).unwrap()
        };
        let (one, other) = (pack(name), pack("another"));
        assert!(one.bare().len() <= name.len() + 36, "{} bytes", one.bare().len());
        assert!(Arc::ptr_eq(one.common(), other.common()));
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let mut commons = Commons::default();
        let kept = commons.share(b"kept");
        for number in 0..10_000u32 {
            commons.share(&number.to_le_bytes());
        }
        assert!(commons.all.len() <= 2 * SWEPT_FROM, "{}", commons.all.len());
        assert!(Arc::ptr_eq(&kept, &commons.share(b"kept")));
    }

    #[test]
    fn bytes_that_are_no_tenant_are_nobody() {
        let packed =
            Packed::<Box<[u8]>>::received(vec![0xff; 9], Commons::default().share(&[0xff]));
        assert_eq!((packed.name(), packed.routes(), packed.bare().len()), ("", Vec::new(), 9));
        assert!(packed.unpack(0).is_none());
    }

    #[test]
    fn whoever_has_secrets_is_not_packed() {
        let mut entry = entry(json!({"name": "n", "component": "a.wasm"}));
        let value = crate::grants::secrets::SecretValue::new("value".into());
        entry.secrets.push(("KEY".parse().unwrap(), value));
        assert!(Packed::<Box<[u8]>>::new(&entry, b"", &mut Commons::default()).is_none());
    }
}
