//! A tenant as the registry keeps it: in some hundred bytes, because most of what is deployed is idle.
//!
//! Whoever asks for a tenant gets it unpacked, a microsecond's work. Kept whole are those with a schedule
//! (the board of jobs has them anyway), and those that [`Packed::new`] does not take.

use super::Tenant;
use insula_model::Namespace;
use insula_model::packed::{Commons, Packed};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// A slot's tenant, and which one it is of those that the registry has had, in order.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Packed { version: u32, packed: Packed<Arc<[u8]>> },
    Whole { version: u32, tenant: Arc<Tenant> },
}

/// What workers are not told.
#[derive(Serialize, Deserialize)]
struct Rest<'a> {
    /// None for the default one.
    namespace: Option<Cow<'a, Namespace>>,
    #[serde(borrow)]
    deployed_at: Time<'a>,
    #[serde(borrow)]
    stopped_at: Option<Time<'a>>,
}

/// A time in RFC 3339, in few bytes if it is one that this program writes.
#[derive(Serialize, Deserialize)]
enum Time<'a> {
    Second(i64),
    Text(&'a str),
}

impl<'a> Time<'a> {
    fn of(text: &'a str) -> Self {
        let second = text.parse::<Timestamp>().map(Timestamp::as_second);
        match second.map(Self::Second) {
            Ok(time) if time.text() == text => time,
            _ => Self::Text(text),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Second(second) => {
                Timestamp::from_second(*second).map(|at| format!("{at:.0}")).unwrap_or_default()
            }
        }
    }
}

impl Kept {
    pub(super) fn new(tenant: Tenant, version: u32, commons: &mut Commons) -> Self {
        let rest = Rest {
            namespace: (!tenant.namespace.is_default()).then_some(Cow::Borrowed(&tenant.namespace)),
            deployed_at: Time::of(&tenant.deployed_at),
            stopped_at: tenant.stopped_at.as_deref().map(Time::of),
        };
        let rest = postcard::to_stdvec(&rest).ok().filter(|_| tenant.schedule.is_none());
        match rest.and_then(|rest| Packed::new(&tenant.entry, &rest, commons)) {
            Some(packed) => Self::Packed { version, packed },
            None => Self::whole(Arc::new(tenant), version),
        }
    }

    pub(super) fn whole(tenant: Arc<Tenant>, version: u32) -> Self {
        Self::Whole { version, tenant }
    }

    pub(super) fn version(&self) -> u32 {
        let (Self::Packed { version, .. } | Self::Whole { version, .. }) = self;
        *version
    }

    /// The tenant, if it is kept whole.
    pub(super) fn as_whole(&self) -> Option<&Arc<Tenant>> {
        match self {
            Self::Packed { .. } => None,
            Self::Whole { tenant, .. } => Some(tenant),
        }
    }

    /// The tenant in this slot.
    pub(super) fn get(&self, slot: u32) -> Option<Arc<Tenant>> {
        let packed = match self {
            Self::Whole { tenant, .. } => return Some(tenant.clone()),
            Self::Packed { packed, .. } => packed,
        };
        let unpacked = packed.unpack(slot).and_then(|(entry, rest)| {
            let rest: Rest = postcard::from_bytes(rest).ok()?;
            Some(Arc::new(Tenant {
                entry,
                schedule: None,
                namespace: rest.namespace.map(Cow::into_owned).unwrap_or_default(),
                deployed_at: rest.deployed_at.text(),
                stopped_at: rest.stopped_at.map(|at| at.text()),
            }))
        });
        if unpacked.is_none() {
            tracing::error!(slot, "a tenant in the registry cannot be read: a bug");
        }
        unpacked
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use insula_model::api::GuestKind;
    use insula_model::wire::TenantEntry;
    use insula_model::{Ceilings, Digest, Manifest};
    use serde_json::{Value, json};

    fn tenant(manifest: Value) -> Tenant {
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let resolved = manifest.resolve(&Ceilings::default()).unwrap();
        Tenant {
            entry: TenantEntry {
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
                job: resolved.schedule.is_some(),
                access_log: resolved.access_log,
                canary: None,
            },
            schedule: resolved.schedule,
            namespace: Namespace::default(),
            deployed_at: "2026-01-02T03:04:05Z".into(),
            stopped_at: None,
        }
    }

    fn kept(tenant: Tenant) -> Kept {
        Kept::new(tenant, 5, &mut Commons::default())
    }

    #[test]
    fn what_is_asked_for_is_what_was_put_in() {
        for (namespace, deployed_at, stopped_at) in [
            ("default", "2026-01-02T03:04:05Z", None),
            ("shop", "2026-01-02T03:04:05.678901Z", Some("yesterday")),
        ] {
            let mut before = tenant(json!({"name": "plain", "component": "a.wasm"}));
            before.namespace = namespace.parse().unwrap();
            before.deployed_at = deployed_at.into();
            before.stopped_at = stopped_at.map(str::to_owned);
            let entry = before.entry.clone();
            let kept = kept(before);
            assert!(kept.as_whole().is_none());
            let after = kept.get(entry.slot).unwrap();
            assert_eq!((&after.entry, after.namespace.as_str()), (&entry, namespace));
            assert_eq!(after.deployed_at, deployed_at);
            assert_eq!((after.stopped_at.as_deref(), kept.version()), (stopped_at, 5));
        }
    }

    #[test]
    fn a_plain_tenant_is_kept_in_few_bytes() {
        let name = "a-name-of-some-length";
        let kept = kept(tenant(json!({"name": name, "component": "a.wasm"})));
        let Kept::Packed { packed, .. } = kept else { panic!("it is kept whole") };
        assert!(packed.bytes() < name.len() + 50, "{} bytes", packed.bytes());
    }

    #[test]
    fn who_has_a_schedule_is_kept_whole() {
        let nightly = json!({"name": "n", "component": "a.wasm", "schedule": "0 3 * * *"});
        assert!(kept(tenant(nightly)).as_whole().is_some());
    }
}
